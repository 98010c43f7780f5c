"""Names and fingerprints of weights."""

import keras
import numpy as np

from embkeras.encoders.base import base_digest, digest, fingerprint, mark_base, named_layers, named_weights


def test_each_weight_has_a_name_of_its_own():
    """Layers inside that share a path get a number, and one that is called twice appears once."""

    class Pair(keras.layers.Layer):
        def __init__(self, shared, **arguments):
            super().__init__(**arguments)
            self.parts = [keras.layers.Dense(2, name="same"), keras.layers.Dense(2, name="same"), shared]

        def build(self, shape):
            for part in self.parts:
                part.build(shape) if not part.built else None

        def call(self, x):
            return self.parts[2](self.parts[1](self.parts[0](x)))

    shared = keras.layers.Dense(2, use_bias=False, name="shared")
    net = keras.Sequential([keras.Input((2,)), shared, Pair(shared, name="pair")])
    assert list(named_weights(net)) == [
        "shared/kernel",
        *("pair/same/kernel", "pair/same/bias", "pair/same (2)/kernel", "pair/same (2)/bias"),
    ]
    assert list(named_layers(net)) == ["", "shared", "pair", "pair/same", "pair/same (2)"]


def test_fingerprints_differ():
    """By a bit, the type, the shape, a name; not by the order of names."""
    ones = np.ones((2, 3), np.float32)
    others = [np.nextafter(ones, 2), ones.astype(np.float64), ones.reshape(3, 2)]
    assert len({digest(each) for each in (ones, *others)}) == 4
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"}) != fingerprint({"a": "2", "b": "1"})
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    assert base_digest(layer.kernel) is None
    mark_base(layer)
    known = base_digest(layer.kernel)
    layer.kernel.assign(layer.kernel + 1)
    assert base_digest(layer.kernel) == known != digest(np.asarray(layer.kernel))
