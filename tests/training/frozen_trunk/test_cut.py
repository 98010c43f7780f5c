"""Where a graph is cut, by what trains in it."""

import keras
import pytest

from embkeras.keras_compat.graph import graph_of
from embkeras.tables.pooling import MaskedMean
from embkeras.training.frozen_trunk.cut import dropping, find_cut

layers = keras.layers


def cut_of(model):
    """Names of the layers below the cut, and how many tensors cross it; None if there is none."""
    cut = find_cut(model, graph_of(model))
    return None if cut is None else ([layer.name for layer in cut.layers], len(cut.crossing))


def chain(*between):
    """A frozen layer, others, and one that trains."""
    hidden = inputs = keras.Input((6, 4))
    for layer in (layers.Dense(4, trainable=False, name="frozen"), *between, layers.Dense(1, name="head")):
        hidden = layer(hidden)
    return keras.Model(inputs, hidden)


@pytest.mark.parametrize(
    ("between", "names"),
    [
        ([], ["frozen"]),
        ([layers.Dropout(0.5)], ["frozen"]),
        (
            [layers.Dropout(0.5, name="drop"), layers.Dense(3, trainable=False, name="upper")],
            ["frozen", "drop", "upper"],
        ),
        ([layers.GlobalAveragePooling1D(name="mean")], ["frozen", "mean"]),
        ([layers.Dense(3), layers.Dense(3, trainable=False)], ["frozen"]),
        ([layers.BatchNormalization(center=False, scale=False)], ["frozen"]),
        ([layers.BatchNormalization(trainable=False, name="norm")], ["frozen", "norm"]),
        ([layers.GRU(3, trainable=False, activity_regularizer="l2")], ["frozen"]),
    ],
)
def test_the_longest_frozen_prefix(between, names):
    """Dropout goes below only with a frozen layer that reads it; what changes in training stays above."""
    assert cut_of(chain(*between)) == (names, 1)


def test_nothing_to_cut():
    """Everything trains, nothing trains, or only a layer without weights is below."""
    model = chain()
    model.get_layer("frozen").trainable = True
    assert cut_of(model) is None
    model.trainable = False
    assert cut_of(model) is None
    assert cut_of(keras.Sequential([keras.Input((4,)), layers.Rescaling(0.1), layers.Dense(1)])) is None


def test_a_sequential_model():
    """Its graph is that of the functional model inside."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, trainable=False, name="frozen"), layers.Dense(1)])
    assert cut_of(model) == (["frozen"], 1)


class Positions(layers.Embedding):
    """A vector for each position, the same for all rows."""

    def call(self, x):
        """Of shape (length, width)."""
        return super().call(keras.ops.arange(x.shape[1]))

    def compute_output_shape(self, shape):
        """No rows."""
        return shape[1], self.output_dim


def masked(pool):
    """A table with a mask, a layer that reads both, or a mask of the user's, and one that trains."""
    ids = keras.Input((6,), dtype="int64")
    vectors = layers.Embedding(9, 4, mask_zero=True, trainable=False, name="table")(ids)
    own = layers.Lambda(lambda x: x > 3, name="own")(ids)
    pooled = MaskedMean(name="mean")(vectors, mask=own) if pool == "own" else pool(vectors)
    return keras.Model(ids, layers.Dense(1, name="head")(pooled))


@pytest.mark.parametrize(
    ("pool", "names"),
    [
        (MaskedMean(name="mean"), ["table", "mean"]),
        (layers.GlobalAveragePooling1D(name="mean"), ["table", "mean"]),
        ("own", ["table", "own", "mean"]),
        (layers.GRU(3), ["table"]),
        (layers.GRU(3, trainable=False, name="gru"), ["table", "gru"]),
    ],
    ids=["ours", "stock", "a mask of its own", "trains", "frozen"],
)
def test_a_mask_goes_below_with_what_reads_it(pool, names):
    """So a masked table that is pooled is one vector a text; where only what trains reads the mask, it stays above."""
    assert cut_of(masked(pool)) == (names, 1)


def test_what_has_no_rows_stays_above():
    """Positions are not kept, and what is made of them and of rows is."""
    inputs = keras.Input((6, 4))
    positions = Positions(6, 4, trainable=False, name="positions")(inputs)
    hidden = layers.Dense(4, trainable=False, name="frozen")(inputs)
    trained = layers.Dense(4)(hidden) + positions
    assert cut_of(keras.Model(inputs, trained)) == (["frozen"], 1)
    joined = layers.Dense(4)(hidden + positions)
    assert cut_of(keras.Model(inputs, joined)) == (["frozen", "positions"], 1)


def test_a_branch_that_is_read_twice():
    """Both tensors cross: what the branch read by a layer that trains, and the end of the frozen part."""
    inputs = keras.Input((4,))
    lower = layers.Dense(4, trainable=False, name="lower")(inputs)
    upper = layers.Dense(4, trainable=False, name="upper")(lower)
    outputs = layers.Dense(1)(layers.Concatenate()([upper, layers.Dense(2)(lower), inputs]))
    assert cut_of(keras.Model(inputs, outputs)) == (["lower", "upper"], 2)


def test_a_nested_model_is_one_layer():
    """It is below where all of it is frozen."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense"), layers.Dense(2)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(1)])
    inner.get_layer("dense").trainable = False
    assert cut_of(model) is None
    inner.trainable = False
    assert cut_of(model) == (["inner"], 1)


def test_layers_that_drop():
    """With a rate above 0, also inside another layer."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5)], name="inner")
    found = [layers.LSTM(2, name="plain"), layers.LSTM(2, dropout=0.1, name="dropping"), layers.Dropout(0), inner]
    assert dropping(found) == ["dropping", "inner"]
