"""MultiWorkerModel on one worker, and its checks as several workers would make them."""

import json

import keras
import numpy as np
import pytest
from keras import layers, optimizers

from embkeras.errors import DistributionError
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.workers import model as module
from embkeras.training.workers.model import MultiWorkerFit, MultiWorkerModel
from tests import tiny


def _model(optimizer="sgd", kind=MultiWorkerModel, normalized=None, **arguments):
    net = tiny.model("sgd")
    outputs = net.outputs if normalized is None else layers.Dense(3)(normalized(net.layers[2].output))
    net = kind(net.inputs, outputs, name="tiny")
    net.compile(optimizer, **{"loss": "sparse_categorical_crossentropy", **arguments})
    return net


@pytest.fixture
def _several(monkeypatch):
    """The checks of several workers, without any."""
    monkeypatch.setattr(module, "spans_workers", lambda strategy: True)
    monkeypatch.setattr(module, "_is_outside", lambda variable, strategy: False)


def test_an_ordinary_model_without_workers():
    """The weights are those of keras.Model, bit for bit."""
    net, one = _model(), tiny.model("sgd")
    tiny.fit(net)
    tiny.fit(one)
    assert tiny.apart(net, one) == 0


def test_a_file_brings_the_class_back(tmp_path):
    """Without custom_objects, and it trains on."""
    net = _model(RowWiseAdam(0.1))
    tiny.fit(net, epochs=1)
    loaded = tiny.fit_on_from_a_file(net, tmp_path)
    assert type(loaded) is MultiWorkerModel and tiny.apart(loaded, net) == 0


def test_the_mixin_before_a_model_of_ones_own():
    """Its train step is the user's."""

    class Mine(MultiWorkerFit, tiny.OwnStep):
        pass

    net = _model(kind=Mine)
    net.chosen, net.optimizer_of = lambda net: net.trainable_variables, lambda net: net.optimizer
    tiny.fit(net, epochs=1)
    assert np.isfinite(net.history.history["loss"]).all()


def test_a_model_outside_the_scope_of_several_workers(monkeypatch):
    """Each would train alone; evaluating alone is fine."""
    config = {"cluster": {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    net = _model()
    net.evaluate(tiny.batches(), verbose=0)
    with pytest.raises(DistributionError, match=r"names 2 workers, but model 'tiny' .*Received: _DefaultDistribution"):
        tiny.fit(net)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: _model(optimizers.SGD(gradient_accumulation_steps=2)), r"SGD\(gradient_accumulation_steps=2\)"),
        (lambda: _model(optimizers.Adam(clipnorm=0.5)), r"Leave clipnorm out.*Received: Adam\(clipnorm=0\.5\)"),
        (lambda: _model(optimizers.Adam(clipvalue=0.5)), r"Received: Adam\(clipvalue=0\.5\)"),
        (lambda: _model(RowWiseAdam(0.1, global_clipnorm=0.5)), r"Received: RowWiseAdam\(global_clipnorm=0\.5\)"),
        (lambda: _model(steps_per_execution=2), "Received: steps_per_execution=2"),
        (lambda: _model(run_eagerly=True), "Received: run_eagerly=True"),
        (
            lambda: _model(loss=keras.losses.SparseCategoricalCrossentropy(reduction="sum")),
            r"Received: SparseCategoricalCrossentropy\(reduction='sum'\) in model 'tiny'",
        ),
        (lambda: _model(normalized=layers.BatchNormalization(name="norm")), "Received: layer 'norm' of model 'tiny'"),
    ],
)
def test_what_several_workers_cannot_train(made, named, _several):
    """Refused when fit begins, with what was received."""
    net = made()
    before = net.get_weights()
    with pytest.raises(DistributionError, match=named):
        net.fit(tiny.IDS, tiny.LABELS, verbose=0)
    for kept, now in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize(
    "made",
    [
        lambda: _model(RowWiseAdam(0.1, clipnorm=0.5)),
        lambda: _model(normalized=layers.BatchNormalization(synchronized=True)),
        lambda: _model(normalized=layers.BatchNormalization(trainable=False)),
    ],
)
def test_what_several_workers_can_train(made, _several):
    """Both checks pass."""
    net = made()
    net.check_model()
    net.check_train_step()


def test_an_own_step_without_scale_loss_is_refused(_several):
    """The loss could not be weighed."""

    class Mine(MultiWorkerFit, tiny.OwnStep):
        pass

    net = _model(kind=Mine)
    net.chosen, net.optimizer_of = lambda net: net.trainable_variables, lambda net: net.optimizer
    with pytest.raises(DistributionError, match=r"self\.optimizer\.scale_loss.*Received: Mine\.train_step"):
        net.replica_step(net.train_step)((keras.ops.convert_to_tensor(tiny.IDS), tiny.LABELS))


def test_two_outputs_with_a_mask_are_refused(_several):
    """Each loss would be a mean over other tokens."""
    ids = keras.Input((5,), dtype="int64")
    vectors = layers.Embedding(10, 4, mask_zero=True)(ids)
    net = MultiWorkerModel(ids, [layers.Dense(3)(vectors), layers.GlobalAveragePooling1D()(vectors)], name="two")
    net.compile("sgd", loss="mse")
    data = (keras.ops.convert_to_tensor(tiny.IDS), (np.ones((12, 5, 3)), np.ones((12, 4))))
    with pytest.raises(DistributionError, match="Received: model 'two' with 2 outputs, 1 of them with a mask"):
        net.replica_step(net.train_step)(data)
