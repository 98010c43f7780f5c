"""Factors of the learning rate for single layers and variables, by their addresses."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import EmbkerasWarning, OptimizerError
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseSGD
from embkeras.training.rebuild import introduce
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from tests import tiny


def _moves(optimizer, epochs=1):
    """How far the table and the head moved at most."""
    net = tiny.model(optimizer, trainable=True)
    before = net.get_layer("head").get_weights()[0]
    tiny.fit(net, epochs=epochs)
    return (
        float(np.abs(tiny.table_of(net) - tiny.TABLE).max()),
        float(np.abs(net.get_layer("head").get_weights()[0] - before).max()),
    )


def test_a_factor_scales_the_update():
    """The variables of the address move by the factor; the others as without it."""
    plain, scaled = _step(RowWiseAdam(0.01)), _step(RowWiseAdam(0.01, learning_rate_multipliers={"a": 0.1}))
    np.testing.assert_allclose(scaled[0], 0.1 * plain[0], rtol=1e-4)
    np.testing.assert_array_equal(scaled[1], plain[1])


def _step(optimizer):
    """The moves of two variables "a" and "b" in one step from zero."""
    variables = [keras.Variable(np.zeros((2, 3)), name=name) for name in ("a", "b")]
    optimizer.apply([tf.ones((2, 3))] * 2, variables)
    return [np.array(variable) for variable in variables]


def test_a_factor_scales_the_decay_too():
    """Weight decay is in units of the variable's own rate."""
    a = keras.Variable(np.ones((2, 3)), name="a")
    RowWiseSGD(0.1, weight_decay=0.5, learning_rate_multipliers={"a": 0.2}).apply([tf.zeros((2, 3))], [a])
    np.testing.assert_allclose(np.array(a), 1 - 0.1 * 0.2 * 0.5, rtol=1e-6)


def test_a_factor_of_zero_holds_a_variable():
    """Neither update nor decay reaches it."""
    optimizer = RowWiseAdam(0.01, weight_decay=0.5, learning_rate_multipliers={"embedding": 0})
    table, head = _moves(optimizer)
    assert table == 0 and head > 1e-3


def test_the_first_address_that_matches_counts():
    """Addresses are tried in their order."""
    moves = _step(RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5, "*": 0.1}))
    assert (float(moves[0][0, 0]), float(moves[1][0, 0])) == (-0.5, pytest.approx(-0.1))


def test_an_address_is_made_of_whole_names():
    """ "a" is not "ab": without a model, the address that matches no variable is named in a warning."""
    variables = [keras.Variable(np.zeros(2), name="ab")]
    with pytest.warns(EmbkerasWarning, match=r"'a' matches no variable.*Variables: ab\."):
        RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5}).apply([tf.ones(2)], variables)
    assert np.array(variables[0]).tolist() == [-1, -1]


@pytest.mark.stock_keras
def test_stock_scaling_gradients_does_nothing_under_adam():
    """Adam divides the scale out again."""
    moves = []
    for scale in (1.0, 0.1):
        a = keras.Variable(np.zeros(3))
        optimizers.Adam(0.01).apply([scale * tf.ones(3)], [a])
        moves.append(np.array(a))
    np.testing.assert_allclose(moves[0], moves[1], rtol=1e-4)


def test_set_multiplier_between_epochs_without_a_retrace():
    """The next step has the new factor, and the step is not traced again."""
    optimizer = RowWiseSGD(1.0, learning_rate_multipliers={"embedding": 0})
    net, traces, tables = tiny.model(optimizer, trainable=True), [], tiny.Tables()
    step = net.train_step
    net.train_step = lambda data: traces.append(1) or step(data)

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                optimizer.set_multiplier("embedding", 0.5)
                traces.clear()

    tiny.fit(net, callbacks=[Change(), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert (tables.kept[2] != tiny.TABLE).any() and traces == []
    assert optimizer.learning_rate_multipliers == {"embedding": 0.5}


def test_set_multiplier_of_an_unknown_address():
    """The addresses that exist are named."""
    with pytest.raises(OptimizerError, match=r"RowWiseSGD has multipliers for 'a'\. Received: 'b'"):
        RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5}).set_multiplier("b", 1.0)


@pytest.mark.parametrize("factor", [-1, float("inf"), None, True])
def test_factors_are_numbers(factor):
    """A negative, infinite or missing factor is refused with its address, at creation and later."""
    message = rf"multiplier of 'a' .*>= 0\. Received: {factor}"
    with pytest.raises(OptimizerError, match=message):
        RowWiseSGD(1.0, learning_rate_multipliers={"a": factor})
    with pytest.raises(OptimizerError, match=message):
        RowWiseSGD(1.0, learning_rate_multipliers={"a": 1.0}).set_multiplier("a", factor)


@pytest.mark.parametrize("factors", [0.1, "ab", ["a"], [("a", 0.5)], {3: 1.0}, {b"a": 1.0}, {"": 1.0}])
def test_factors_are_given_by_address(factors):
    """Anything but a mapping from strings is refused."""
    with pytest.raises(OptimizerError, match=rf"learning_rate_multipliers .*Received: {re.escape(repr(factors))}"):
        RowWiseSGD(1.0, learning_rate_multipliers=factors)


def test_a_variable_of_tensorflow_goes_by_its_name():
    """It has no path, and its name ends in ":0"."""
    a = tf.Variable(np.zeros(2, np.float32), name="a")
    RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5}).apply([tf.ones(2)], [a])
    assert a.numpy().tolist() == [-0.5, -0.5]


def test_factors_are_saved_with_the_model(tmp_path):
    """A factor that was changed later is saved to the file and loaded from it."""
    net = tiny.model(RowWiseAdam(0.01, learning_rate_multipliers={"embedding": 0.5}), trainable=True)
    tiny.fit(net, epochs=1)
    net.optimizer.set_multiplier("embedding", 0.25)
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.learning_rate_multipliers == {"embedding": 0.25}
    for each in (net, loaded):
        tiny.fit(each, epochs=1)
    assert tiny.apart(net, loaded) == 0


@pytest.mark.filterwarnings("ignore:This fit ends before")
def test_the_address_of_a_frozen_table_does_not_warn(tmp_path):
    """Not when the model is loaded, nor in a custom loop, nor before the state of a run is restored."""
    net, schedule = _frozen(), unfreeze_at(1, "embedding")
    tiny.fit(net, epochs=1, callbacks=[schedule])
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tiny.fit(loaded, epochs=2, initial_epoch=1, callbacks=[unfreeze_at(1, "embedding")])
    alone = _frozen()
    unfreeze_at(1, "embedding").apply(alone, 0)
    alone.train_on_batch(tiny.IDS, tiny.LABELS)
    unfreeze_at(1, "embedding").restore(_frozen(), schedule.state())


def _frozen():
    return tiny.model(RowWiseAdam(0.01, learning_rate_multipliers={"embedding": 0.5}))


def test_factors_live_through_an_unfreeze():
    """The address of a frozen table takes effect when the table joins, with its current factor."""
    optimizer = RowWiseSGD(1.0, learning_rate_multipliers={"embedding": 0.5})
    net, plain = tiny.model(optimizer), tiny.model(RowWiseSGD(1.0))
    for each in (net, plain):
        tiny.fit(each, epochs=2, callbacks=[unfreeze_at(1, "embedding")])
    assert optimizer.learning_rate_multipliers == {"embedding": 0.5}
    moved = [np.abs(tiny.table_of(each) - tiny.TABLE).max() for each in (net, plain)]
    assert 0.3 * moved[1] < moved[0] < 0.7 * moved[1]


# Two towers ----------------------------------------------------------------------------------------------------------


def _towers(optimizer, **compile_arguments):
    """Two towers "q" and "d", each with a table `embedding`: Keras calls both "embedding/embeddings"."""
    keras.utils.set_random_seed(0)
    ids, towers = keras.Input((5,), dtype="int64"), []
    for name in ("q", "d"):
        inner = keras.Input((5,), dtype="int64")
        mean = keras.layers.GlobalAveragePooling1D()(tiny.embedding(trainable=True)(inner))
        towers.append(keras.Model(inner, mean, name=name)(ids))
    scores = keras.layers.Dense(3, activation="softmax", name="head")(keras.layers.Concatenate()(towers))
    net = keras.Model(ids, scores, name="towers")
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **compile_arguments)
    return net


def _moved(net):
    """How far the tables of both towers moved at most."""
    return [float(np.abs(tiny.table_of(net, f"{name}/embedding") - tiny.TABLE).max()) for name in ("q", "d")]


def _by_schedule(net):
    tiny.fit(net, epochs=1, callbacks=[TrainabilitySchedule(Phase(0))])


def _by_hand(net):
    """A custom loop that tells the optimizer which model it trains."""
    net.optimizer.set_model(net)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(tiny.LABELS, net(tiny.IDS)))
    net.optimizer.apply(tape.gradient(loss, net.trainable_variables), net.trainable_variables)


_WAYS = {
    "fit": lambda net: tiny.fit(net, epochs=1),
    "train_on_batch": lambda net: net.train_on_batch(tiny.IDS, tiny.LABELS),
    "schedule": _by_schedule,
    "custom loop": _by_hand,
}


@pytest.mark.parametrize("how", _WAYS)
@pytest.mark.parametrize(
    ("address", "held"),
    [("q/embedding", [True, False]), ("d/embedding/embeddings", [False, True]), ("*/embedding", [True, True])],
)
def test_two_towers_are_told_apart(address, held, how):
    """The factor reaches the table of that tower alone, whether `fit`, a schedule or a custom loop trains it."""
    net = _towers(RowWiseAdam(0.01, learning_rate_multipliers={address: 0}))
    _WAYS[how](net)
    assert [moved == 0 for moved in _moved(net)] == held


def test_a_factor_for_one_of_two_towers():
    """The table of the tower moves by about the factor, the other as without it; the same eagerly and loss-scaled."""
    plain = _towers(RowWiseAdam(0.01))
    tiny.fit(plain, epochs=1)
    inner = {"learning_rate_multipliers": {"q/embedding": 0.1}}
    for make, arguments in (
        (lambda: RowWiseAdam(0.01, **inner), {}),
        (lambda: RowWiseAdam(0.01, **inner), {"run_eagerly": True}),
        (lambda: optimizers.LossScaleOptimizer(RowWiseAdam(0.01, **inner), initial_scale=8), {}),
    ):
        net = _towers(make(), **arguments)
        tiny.fit(net, epochs=1)
        (q, d), (all_q, all_d) = _moved(net), _moved(plain)
        assert q == pytest.approx(0.1 * all_q, rel=0.1) and d == pytest.approx(all_d, rel=0.1)


def test_two_towers_from_a_keras_file(tmp_path):
    """Loading resolves the addresses again, and the run continues to the bit."""
    net = _towers(RowWiseAdam(0.01, learning_rate_multipliers={"q/embedding": 0.1}))
    tiny.fit(net, epochs=1)
    assert tiny.apart(net, tiny.fit_on_from_a_file(net, tmp_path)) == 0
    q, d = _moved(net)
    assert q < 0.3 * d


def test_two_towers_through_a_rebuild():
    """After both were frozen and train again, the factor still holds for the one; the first address counts here too."""
    factors = {"q/embedding": 0, "**/embedding": 0.5}
    net = _towers(RowWiseAdam(0.01, learning_rate_multipliers=factors))
    tiny.fit(net, epochs=3, callbacks=[TrainabilitySchedule([Phase(0), Phase(1, freeze=["q", "d"]), Phase(2)])])
    q, d = _moved(net)
    assert q == 0 and d > 1e-3 and net.optimizer.learning_rate_multipliers == factors


def test_several_optimizers_of_one_model():
    """The model is found too when the optimizer is another attribute than `optimizer`."""

    class Net(keras.Model):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(data[1], self(data[0])))
            self.other.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss}

    towers = _towers("sgd")
    net = Net(towers.inputs, towers.outputs)
    net.other = RowWiseAdam(0.01, learning_rate_multipliers={"q/embedding": 0})
    net.compile("sgd")
    tiny.fit(net, epochs=1)
    q, d = _moved(net)
    assert q == 0 and d > 1e-3


def test_two_towers_without_a_model():
    """A custom loop whose variables share a path raises an error with the path, rather than silently scaling both."""
    net = _towers("sgd")
    optimizer = RowWiseAdam(0.01, learning_rate_multipliers={"head": 0.5, "embedding": 0.1})
    with pytest.raises(OptimizerError, match=r"'embedding' matches 2 variables.*'embedding/embeddings'.*set_model"):
        optimizer.build(net.trainable_variables)


def test_a_model_that_comes_after_build():
    """A custom loop may build first, as long as the paths of its variables do not collide."""
    net = tiny.nested("sgd", embedding_trainable=True)
    net.optimizer = RowWiseAdam(0.01, learning_rate_multipliers={"encoder/embedding": 0})
    net.optimizer.build(net.trainable_variables)
    _by_hand(net)
    np.testing.assert_array_equal(tiny.table_of(net, "encoder/embedding"), tiny.TABLE)


def test_an_address_that_matches_nothing_fails_in_fit():
    """In the first step, with the paths that exist, also those of layers that are frozen."""
    for address in ("embeding", "q/embedding/bias", "q/embed.*"):
        net = _towers(RowWiseAdam(0.01, learning_rate_multipliers={address: 0.1}))
        net.get_layer("q").trainable = False
        with pytest.raises(OptimizerError, match=rf"{re.escape(repr(address))}.*q/embedding/embeddings, d/embedding"):
            tiny.fit(net, epochs=1)


def test_an_address_that_is_not_unique_fails():
    """A bare name that two layers have, and a layer without weights."""
    for address, reason in (("embedding", "q/embedding, d/embedding"), ("q/global*", "q/embedding/embeddings")):
        optimizer = RowWiseAdam(0.01, learning_rate_multipliers={address: 0.1})
        with pytest.raises(OptimizerError, match=rf"{re.escape(repr(address))}.*{reason}"):
            optimizer.set_model(_towers(optimizer))


def test_a_model_that_is_not_built_is_not_refused():
    """Its layers have no variables yet."""
    net = keras.Sequential([keras.layers.Dense(1, name="hidden")])
    optimizer = RowWiseAdam(0.01, learning_rate_multipliers={"hidden/kernel": 0})
    net.compile(optimizer, loss="mse")
    introduce(net)
    net.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    net.layers[0].set_weights([np.zeros((2, 1)), np.zeros(1)])
    net.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert not np.array(net.layers[0].kernel).any() and np.array(net.layers[0].bias).any()


def test_a_model_with_factors_can_be_checkpointed(tmp_path):
    """TensorFlow also saves what the optimizer knows about its variables."""
    net = _towers(RowWiseAdam(0.01, learning_rate_multipliers={"q/embedding": 0.1}))
    tiny.fit(net, epochs=2, callbacks=[TrainabilitySchedule([Phase(0, freeze="d"), Phase(1)])])
    tf.train.Checkpoint(net, optimizer=net.optimizer).save(tmp_path / "checkpoint")
    net.export(tmp_path / "export", verbose=False)
