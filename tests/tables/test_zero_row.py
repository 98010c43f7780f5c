"""The row of the padding stays zeros under any use of the table."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from embkeras.tables.combined import combine_embeddings
from embkeras.tables.zero_row import keep_zero, own_constraint
from embkeras.training.optimizers.rules import RowWiseAdam
from tests import tiny


def _pinned(**arguments):
    variable = keras.Variable(tiny.TABLE, name="table", **arguments)
    keep_zero(variable, 0)
    return variable


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.1),
    "AdamW, averaged": lambda: keras.optimizers.AdamW(0.1, use_ema=True, ema_overwrite_frequency=1),
    "accumulated": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
    "row-wise": lambda: RowWiseAdam(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_under_dense_gradients(name):
    """Every optimizer leaves zeros after each step, in a graph, and moves the other rows."""
    variable, optimizer = _pinned(), OPTIMIZERS[name]()
    optimizer.build([variable])
    step = tf.function(lambda: optimizer.apply([tf.ones((10, 4))], [variable]))
    for _ in range(4):
        step()
        if name != "AdamW, averaged":  # Keras writes the average past the variable; saving zeroes it
            assert not np.array(variable)[0].any()
    assert (np.array(variable)[1:] != tiny.TABLE[1:]).all()


def test_under_assignments():
    """Of a whole value, as `set_weights` does, and of a sum."""
    variable = _pinned()
    variable.assign(np.ones((10, 4)))
    np.testing.assert_array_equal(variable, [[0] * 4] + [[1] * 4] * 9)
    variable.assign_add(np.ones((10, 4)))
    np.testing.assert_array_equal(variable, [[0] * 4] + [[2] * 4] * 9)


def test_a_step_by_rows_stays_one():
    """The step reads and writes rows only: no operation of its graph has the shape of the table."""
    variable, optimizer = _pinned(), keras.optimizers.SGD(0.1)
    optimizer.build([variable])
    step = tf.function(lambda: optimizer.apply([tiny.slices([3, 3, 0], np.ones((3, 4)))], [variable]))
    graph = step.get_concrete_function().graph
    shapes = [tuple(out.shape) for each in graph.get_operations() for out in each.outputs if out.shape.rank]
    assert (10, 4) not in shapes
    step()
    np.testing.assert_allclose(np.array(variable)[3], tiny.TABLE[3] - 0.2, rtol=1e-6)
    assert not np.array(variable)[0].any()


def test_the_users_constraint_applies_too():
    """Keras' own constraint is kept, and can be read."""
    variable, optimizer = _pinned(), keras.optimizers.SGD(1.0)
    assert own_constraint(variable) is None and own_constraint(keras.Variable(0.0)) is None
    variable.constraint = keras.constraints.NonNeg()
    assert isinstance(own_constraint(variable), keras.constraints.NonNeg)
    optimizer.apply([tf.fill((10, 4), -0.5)], [variable])
    np.testing.assert_allclose(variable, np.maximum(tiny.TABLE + 0.5, 0) * (np.arange(10) > 0)[:, None], rtol=1e-6)


def test_no_row():
    """A table without padding is an ordinary variable."""
    variable = keras.Variable(tiny.TABLE)
    keep_zero(variable, None)
    assert variable.constraint is None and type(variable) is keras.Variable


def _tied(layer, optimizer):
    """Embedding, mean, and the scores of all rows as a matrix product: what people write."""

    class Tied(keras.Model):
        """Subclassed, since the table is read in `call`."""

        def __init__(self):
            super().__init__()
            self.embedding = layer

        def call(self, ids):
            """Scores of every row."""
            table = getattr(self.embedding, "sources", [self.embedding])[-1]
            return ops.matmul(ops.mean(self.embedding(ids), axis=1), ops.transpose(table.embeddings))

    net = Tied()
    net.compile(optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return net


def _lora():
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2)
    return layer


def _combined():
    return combine_embeddings([tiny.embedding(trainable=True, name=name) for name in ("one", "two")], combine="mean")


@pytest.mark.filterwarnings("ignore:.* gets a dense gradient", "ignore:Skipping variable loading")
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW, averaged", "row-wise"])
@pytest.mark.parametrize("make", [lambda: tiny.embedding(trainable=True), _lora, _combined])
def test_a_reload_has_the_same_logits(make, optimizer, tmp_path):
    """A table that is also an output matrix: the padding row is zeros in memory, in the file and after the load.

    When `fit` ends, Keras writes its averages past the variable; the next save zeroes the row.
    """
    net = _tied(make(), OPTIMIZERS[optimizer]())
    net.fit(tiny.IDS, tiny.LABELS + 1, epochs=2, batch_size=4, verbose=0)
    logits = net(tiny.IDS).numpy()
    net.save_weights(tmp_path / "net.weights.h5")
    if optimizer == "AdamW, averaged":
        logits = net(tiny.IDS).numpy()
    other = _tied(make(), "adam")
    other(tiny.IDS)
    other.load_weights(tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(other(tiny.IDS), logits)
    assert not net.embedding.matrix()[0].any() and np.abs(net.embedding.matrix() - tiny.TABLE).max() > 0.05
