"""What changes the fingerprint of kept outputs, and what doesn't."""

import keras
import numpy as np

from embkeras.keras_compat.graph import graph_of
from embkeras.training.frozen_trunk.cut import find_cut
from embkeras.training.frozen_trunk.fingerprint import fingerprint

X = np.arange(12.0).reshape(3, 4)


def of(x=X, units=2, axis=1, activation="relu", bias=0.0, words=("a", "b"), settings=None):
    """The fingerprint of a table, a layer and an operation, all without names."""
    inputs = [keras.Input((4,)), keras.Input((4,), dtype="string")]
    layer = keras.layers.Dense(4, activation, kernel_initializer="ones", trainable=False)
    lookup = keras.layers.StringLookup()
    lookup.set_vocabulary(list(words))
    table = keras.layers.Embedding(9, 4, embeddings_initializer="ones", trainable=False)
    joined = keras.ops.stack([layer(inputs[0]), keras.ops.sum(table(lookup(inputs[1])), axis=1)], axis=axis)
    model = keras.Model(inputs, keras.layers.Dense(units)(joined))
    layer.bias.assign_add([bias] * 4)
    return fingerprint(find_cut(model, graph_of(model)), x, settings or {"dtype": "float32"})


def test_what_changes_it():
    """Weights, data, settings, configs, arguments of operations and adapted vocabularies; not names or what is above."""
    first = of()
    assert first == of() == of(units=3)
    others = [
        of(bias=1.0),
        of(x=X + 1),
        of(x=X.astype("float32")),
        of(x={"a": X}),
        of(x=np.array([["a"], ["b"]])),
        of(axis=2),
        of(activation="tanh"),
        of(words=("a", "c")),
        of(settings={"dtype": "float16"}),
    ]
    assert len({first, *others}) == 10
