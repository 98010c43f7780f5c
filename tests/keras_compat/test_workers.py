"""What makes `fit` run on several workers, where there is one; `tests/test_workers.py` has several."""

import keras
import tensorflow as tf

from embkeras.keras_compat.workers import WorkerHooks, global_seed, spans_workers
from tests import tiny


class _Watched(WorkerHooks, keras.Model):
    """Records which hooks are called."""

    def check_model(self):
        """When it begins."""
        self.called = [*getattr(self, "called", ()), "model"]

    def check_train_step(self):
        """When the train step is made."""
        self.called = [*self.called, "train step"]

    def replica_step(self, step):
        """Only on several workers."""
        raise NotImplementedError


def test_hooks_on_one_worker():
    """Both checks are made, a train step is told from a test step, and the step is Keras' own."""
    net = tiny.model("sgd")
    net = _Watched(net.inputs, net.outputs, name="watched")
    net.compile("sgd", loss="sparse_categorical_crossentropy")
    net.evaluate(tiny.batches(), verbose=0)
    assert net.called == ["model"]
    tiny.fit(net, epochs=1)
    assert net.called == ["model", "model", "train step"]


def test_other_strategies_do_not_span_workers():
    """Neither the default one nor that of several devices."""
    assert not spans_workers(tf.distribute.get_strategy())
    assert not spans_workers(tf.distribute.MirroredStrategy(["CPU:0"]))


def test_the_seed_that_was_set():
    """By TensorFlow's public function."""
    tf.random.set_seed(37)
    assert global_seed() == 37
    tf.random.set_seed(None)
    assert global_seed() is None
