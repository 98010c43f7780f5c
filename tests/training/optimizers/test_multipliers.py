"""Factors of the learning rate for single variables."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import EmbkerasWarning, OptimizerError
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseSGD
from embkeras.training.schedule.callback import unfreeze_at
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
    """The variables of the pattern move by the factor; the others as without."""
    plain, scaled = _step(RowWiseAdam(0.01)), _step(RowWiseAdam(0.01, learning_rate_multipliers={"a.*": 0.1}))
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
    optimizer = RowWiseAdam(0.01, weight_decay=0.5, learning_rate_multipliers={"embedding/.*": 0})
    table, head = _moves(optimizer)
    assert table == 0 and head > 1e-3


def test_the_first_pattern_that_matches_counts():
    """Patterns are tried in their order."""
    moves = _step(RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5, ".*": 0.1}))
    assert (float(moves[0][0, 0]), float(moves[1][0, 0])) == (-0.5, pytest.approx(-0.1))


def test_a_pattern_matches_the_whole_path():
    """ "a" is not "ab": the pattern that matches no variable is named."""
    variables = [keras.Variable(np.zeros(2), name="ab")]
    with pytest.warns(EmbkerasWarning, match=r"no variable that trains now matches 'a'\. Variables: ab"):
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
    optimizer = RowWiseSGD(1.0, learning_rate_multipliers={"embedding/.*": 0})
    net, traces, tables = tiny.model(optimizer, trainable=True), [], tiny.Tables()
    step = net.train_step
    net.train_step = lambda data: traces.append(1) or step(data)

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                optimizer.set_multiplier("embedding/.*", 0.5)
                traces.clear()

    tiny.fit(net, callbacks=[Change(), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert (tables.kept[2] != tiny.TABLE).any() and traces == []
    assert optimizer.learning_rate_multipliers == {"embedding/.*": 0.5}


def test_set_multiplier_of_an_unknown_pattern():
    """The patterns that exist are named."""
    with pytest.raises(OptimizerError, match=r"RowWiseSGD was made with multipliers for 'a'\. Received: 'b'"):
        RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5}).set_multiplier("b", 1.0)


@pytest.mark.parametrize("factor", [-1, float("inf"), None])
def test_factors_are_numbers(factor):
    """A negative, infinite or missing factor is refused with its pattern."""
    with pytest.raises(OptimizerError, match=r"The multiplier of 'a' must be a finite number >= 0\. Received: "):
        RowWiseSGD(1.0, learning_rate_multipliers={"a": factor})


@pytest.mark.parametrize("pattern", ["(", 3, b"a", re.compile("a", re.IGNORECASE)])
def test_patterns_are_regular_expressions(pattern):
    """What does not compile is refused, and so is what is no string: the config would lose the flags."""
    with pytest.raises(OptimizerError, match=r"maps regular expressions for variable paths to factors\. Received: "):
        RowWiseSGD(1.0, learning_rate_multipliers={pattern: 1.0})


@pytest.mark.parametrize("factors", [0.1, "ab", ["a"], [("a", 0.5)]])
def test_factors_are_given_by_pattern(factors):
    """Anything but a mapping is refused."""
    with pytest.raises(OptimizerError, match=r"maps regular expressions for variable paths to factors\. Received: "):
        RowWiseSGD(1.0, learning_rate_multipliers=factors)


def test_a_variable_of_tensorflow_goes_by_its_name():
    """It has no path, and its name ends in ":0"."""
    a = tf.Variable(np.zeros(2, np.float32), name="a")
    RowWiseSGD(1.0, learning_rate_multipliers={"a": 0.5}).apply([tf.ones(2)], [a])
    assert a.numpy().tolist() == [-0.5, -0.5]


def test_check_multipliers():
    """A pattern that matches no path of the model is refused, with the paths."""
    optimizer = RowWiseSGD(1.0, learning_rate_multipliers={"embeding/.*": 0.5})
    with pytest.raises(OptimizerError, match=r"no variable matches 'embeding/\.\*'\. Variables: embedding/embeddings"):
        optimizer.check_multipliers(["embedding/embeddings"])


def test_factors_are_saved_with_the_model(tmp_path):
    """A factor changed since goes into the file and comes back."""
    net = tiny.model(RowWiseAdam(0.01, learning_rate_multipliers={"embedding/.*": 0.5}), trainable=True)
    tiny.fit(net, epochs=1)
    net.optimizer.set_multiplier("embedding/.*", 0.25)
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.learning_rate_multipliers == {"embedding/.*": 0.25}
    for each in (net, loaded):
        tiny.fit(each, epochs=1)
    assert tiny.apart(net, loaded) == 0


@pytest.mark.filterwarnings("ignore:This fit ends before")
def test_the_pattern_of_a_frozen_table_does_not_warn(tmp_path):
    """Not when the model is loaded, nor in a loop of one's own, nor before the state of a run is restored."""
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
    return tiny.model(RowWiseAdam(0.01, learning_rate_multipliers={"embedding/.*": 0.5}))


def test_factors_live_through_an_unfreeze():
    """The pattern of a frozen table comes to bear when it joins, with the factor as it stands."""
    optimizer = RowWiseSGD(1.0, learning_rate_multipliers={"embedding/.*": 0.5})
    net, plain = tiny.model(optimizer), tiny.model(RowWiseSGD(1.0))
    for each in (net, plain):
        tiny.fit(each, epochs=2, callbacks=[unfreeze_at(1, "embedding")])
    assert optimizer.learning_rate_multipliers == {"embedding/.*": 0.5}
    moved = [np.abs(tiny.table_of(each) - tiny.TABLE).max() for each in (net, plain)]
    assert 0.3 * moved[1] < moved[0] < 0.7 * moved[1]


def test_private_name_of_tensorflow_is_there():
    """The name that multipliers.py leans on; TensorFlow may rename it."""
    assert hasattr(tf.distribute.DistributedValues, "_get") or "_get" in dir(_mirrored_class())


def _mirrored_class():
    from tensorflow.python.distribute.values import DistributedValues

    return DistributedValues
