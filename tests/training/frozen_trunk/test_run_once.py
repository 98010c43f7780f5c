"""The pass of frozen layers over the data."""

import keras
import numpy as np
import pytest

from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.keras_compat.graph import graph_of
from embkeras.training.frozen_trunk.cut import find_cut
from embkeras.training.frozen_trunk.run_once import Settings, keep_outputs


class Half(keras.layers.Layer):
    """Drops the second half of the batch, which its shape doesn't show."""

    def call(self, x):
        """The first rows."""
        return x[: keras.ops.shape(x)[0] // 2]


def kept_of(tmp_path, *layers):
    """What is kept of frozen layers below one that trains, the pass, and a model of the frozen layers alone."""
    hidden = inputs = keras.Input((4,))
    for layer in layers:
        hidden = layer(hidden)
    model, lower = keras.Model(inputs, keras.layers.Dense(1)(hidden)), keras.Model(inputs, hidden)
    model.compile("sgd", "mse")
    said = []
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    graph = graph_of(model)
    settings = Settings(tmp_path, "float32", 3, False, said.append)
    return *keep_outputs(model, graph, find_cut(model, graph), x, settings), lower.predict(x, 3, verbose=0), said


def test_rows_are_those_of_predict(tmp_path):
    """A batch that is shorter than the others too, and without dropout; an estimate comes first."""
    lower, upper = (keras.layers.Dense(2, trainable=False, name=name) for name in ("lower", "upper"))
    with pytest.warns(EmbkerasWarning, match="model.fit: drop"):
        kept, done, expected, said = kept_of(tmp_path, lower, keras.layers.Dropout(0.5, name="drop"), upper)
    assert np.array_equal(kept.records(np.arange(7)).view(np.float32), expected)
    assert (done.rows, done.computed, done.bytes, done.dropping) == (7, 7, 56, ["drop"])
    assert len(said) == 1 and said[0].startswith("Frozen layers 'lower' to 'upper' run once over 7 rows: 56 bytes in")


def test_a_layer_that_loses_rows(tmp_path):
    """It is refused: rows would belong to other rows."""
    with pytest.raises(ArgumentError, match="makes 1 of 3: one of frozen, half"):
        kept_of(tmp_path, keras.layers.Dense(2, trainable=False, name="frozen"), Half(name="half"))
