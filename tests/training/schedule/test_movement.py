"""Whether layers that began to train have moved."""

import keras
import numpy as np
import pytest

from embkeras.tables import row_io
from embkeras.training.optimizers.rules import RowWiseSGD
from embkeras.training.schedule import movement
from embkeras.training.schedule.movement import Thawed, checksum, would_move
from tests import tiny

SGD = keras.optimizers.SGD(0.1)


def _dense():
    layer = keras.layers.Dense(2, name="dense")
    layer.build((None, 3))
    return layer


def test_one_variable_that_moves_is_enough():
    """A layer counts as moved if any of its variables has another value."""
    layers = tiny.embedding(trainable=True), _dense()
    joined = {id(variable) for layer in layers for variable in layer.trainable_variables}
    thawed = Thawed(layers, joined)
    assert thawed.unmoved(SGD) == list(layers)
    layers[1].bias.assign([0.0, 1e-30])
    assert thawed.unmoved(SGD) == [layers[0]]
    row_io.write_rows(layers[0].table_variable, np.array([9]), tiny.TABLE[9:] + 1e-6)
    assert thawed.unmoved(SGD) == []


def test_only_variables_that_joined_count():
    """A layer that trained before, or is frozen, isn't watched."""
    dense = _dense()
    assert Thawed([dense, tiny.embedding()], {id(dense.bias)}).unmoved(SGD) == [dense]
    assert Thawed([dense, tiny.embedding()], set()).unmoved(SGD) == []


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (RowWiseSGD(0.1, learning_rate_multipliers={"dense": 0.5}), True),
        (RowWiseSGD(0.1, learning_rate_multipliers={"dense": 0}), False),
        (keras.optimizers.SGD(0.0), False),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)), False),
        (keras.optimizers.LossScaleOptimizer(SGD), True),
    ],
)
def test_layers_that_should_not_move(optimizer, expected):
    """A learning rate or a multiplier of 0 is the user's wish."""
    dense = _dense()
    assert would_move(optimizer, dense.bias) == expected
    assert Thawed([dense], {id(dense.bias)}).unmoved(optimizer) == ([dense] if expected else [])


def test_tables_without_rows_that_train():
    """A table of which no row trains can't move."""
    assert not would_move(SGD, keras.Variable(np.zeros((0, 4))))


@pytest.mark.parametrize("shape", [(), (3,), (5, 4), (5, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_checksum_of_any_variable(monkeypatch, shape, dtype):
    """Any shape and dtype; the last value counts too, in any size of blocks."""
    variable = keras.Variable(np.zeros(shape), dtype=dtype)
    before = checksum(variable)
    monkeypatch.setattr(movement, "BLOCK", 4)
    assert checksum(variable) == before
    value = np.zeros(shape)
    value[(-1,) * len(shape)] = 1e-3
    variable.assign(value)
    assert checksum(variable) != before
