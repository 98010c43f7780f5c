"""The tiny model of the training tests, and a record of its table."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.tables.embedding import PretrainedEmbedding

IDS = np.random.default_rng(1).integers(1, 9, (12, 5))  # id 9 never occurs
LABELS = np.random.default_rng(2).integers(0, 3, 12)
TABLE = np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)
TABLE[0] = 0  # padding
UNSEEN = 9
_SINCE = {"MultiOptimizer": (3, 15), "OptimizerMap": (3, 15), "ScheduleFreeAdamW": (3, 14), "Muon": (3, 13)}


KERAS = tuple(map(int, keras.__version__.split(".")[:2]))


def since(name):
    """A class of `keras.optimizers` that older versions lack; under those the test is skipped.

    Muon exists from 3.10 on, but doesn't train under TensorFlow before 3.13.
    """
    first = _SINCE[name]
    if first > KERAS:
        pytest.skip(f"{name} works from Keras {first[0]}.{first[1]}; this is Keras {keras.__version__}")
    return getattr(keras.optimizers, name)


def embedding(*, trainable=False, name="embedding", dtype=None):
    """A built layer over TABLE."""
    layer = PretrainedEmbedding(10, 4, trainable=trainable, name=name, dtype=dtype)
    layer.build()
    layer.assign_table(TABLE)
    return layer


def model(optimizer, *, trainable=False, dtype=None, **compile_arguments):
    """Embedding, mean, a dense layer "head"; the same weights each time."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int64")
    vectors = embedding(trainable=trainable, dtype=dtype)(ids)
    return _headed(ids, vectors, optimizer, dtype, compile_arguments)


def nested(optimizer, *, embedding_trainable=False, **compile_arguments):
    """The same model with the table inside an inner model: "encoder/embedding"."""
    keras.utils.set_random_seed(0)
    inner = keras.Input((5,), dtype="int64")
    encoder = keras.Model(inner, embedding(trainable=embedding_trainable)(inner), name="encoder")
    ids = keras.Input((5,), dtype="int64")
    return _headed(ids, encoder(ids), optimizer, None, compile_arguments)


def _headed(ids, vectors, optimizer, dtype, compile_arguments):
    mean = keras.layers.GlobalAveragePooling1D(dtype=dtype)(vectors)
    net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax", dtype=dtype)(mean), name="tiny")
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **compile_arguments)
    return net


class OwnStep(keras.Model):
    """A model whose own train step updates `chosen(model)` with `optimizer_of(model)`."""

    def train_step(self, data):
        """One step, as in Keras' guide to custom training."""
        ids, labels = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=ids, y=labels, y_pred=self(ids, training=True))
        variables = self.chosen(self)
        self.optimizer_of(self).apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def own_step(held, optimizer_of, *, chosen=lambda net: net.trainable_variables, trainable=False):
    """The tiny model with a train step of its own, and what it holds as the attribute `held`."""
    net = model("sgd", trainable=trainable)
    net = OwnStep(net.inputs, net.outputs, name="tiny")
    net.held, net.optimizer_of, net.chosen = held, optimizer_of, chosen
    net.compile("sgd", loss="sparse_categorical_crossentropy")
    return net


@functools.cache
def batches():
    """IDS and LABELS in three batches: made once, since Keras makes a data set of arrays anew for each fit."""
    return tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(4)


def fit(net, *, epochs=4, callbacks=(), **arguments):
    """Three steps per epoch, in order.

    Without callbacks, an optimizer of Keras is built first: fit traces a step twice that makes variables. One of ours,
    alone or loss-scaled, is built in the step, as in a user's fit; schedules and backups build it themselves.
    """
    optimizer = net.optimizer
    stock = type(optimizer).__module__.startswith("keras.") and not hasattr(optimizer, "inner_optimizer")
    if stock and not callbacks and net.built and not optimizer.built:
        optimizer.build(net.trainable_variables)
    return net.fit(batches(), epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **arguments)


def table_of(net, path="embedding"):
    """The table, as NumPy."""
    for name in path.split("/"):
        net = net.get_layer(name)
    return net.matrix()


def apart(first, second):
    """The largest difference between the weights of two models."""
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in pairs)


def fit_on_from_a_file(net, folder, *, epochs=1):
    """Save the model as .keras, load it, and train both further; returns the loaded one."""
    net.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    for each in (net, loaded):
        fit(each, epochs=epochs)
    return loaded


class Tables(keras.callbacks.Callback):
    """Records the table at the end of each epoch."""

    def __init__(self, path="embedding"):
        super().__init__()
        self.path, self.kept = path, {}

    def on_epoch_end(self, epoch, logs=None):
        """Copy it."""
        self.kept[epoch] = table_of(self.model, self.path)


class ThawByHand(keras.callbacks.Callback):
    """The reference: the optimizer knows every variable from the start, and the flag is set at an epoch."""

    def __init__(self, epoch, layer="embedding"):
        super().__init__()
        self.epoch, self.layer = epoch, layer

    def on_epoch_begin(self, epoch, logs=None):
        """Unfreeze, and trace the step again."""
        if epoch == self.epoch:
            self.model.get_layer(self.layer).trainable = True
            self.model.make_train_function(force=True)


def reference(optimizer, *, epoch=2, epochs=4, dtype=None, **compile_arguments):
    """A run whose optimizer was built over all variables, and whose table was frozen by hand before `epoch`."""
    net = model(optimizer, trainable=True, dtype=dtype, **compile_arguments)
    net.optimizer.build(net.trainable_variables)
    net.get_layer("embedding").trainable = False
    fit(net, epochs=epochs, callbacks=[ThawByHand(epoch)])
    return net


def variable(width=4):
    """TABLE as a single variable."""
    return keras.Variable(TABLE[:, :width], name="table")


def slices(rows, values):
    """A sparse gradient, as TensorFlow returns it for a lookup."""
    values = np.asarray(values, np.float32)
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(rows, tf.int64), tf.constant((10, values.shape[1]), tf.int64)
    )


def random_slices(count=20):
    """Rows with repetitions, never row 9, and their gradients."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        yield rng.integers(0, 9, 12), rng.normal(size=(12, 4)).astype(np.float32)
