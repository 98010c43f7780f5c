"""One adapter: what it computes, on which layers it can be."""

import re

import keras
import numpy as np
import pytest

from embkeras.encoders import bottlenecks
from embkeras.encoders.bottlenecks import Adapter, AdapterNorm

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
UP = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)


def _with_up(layer):
    layer.build(X.shape)
    layer.up.kernel.assign(UP)
    return layer


def test_a_bottleneck_beside_its_input():
    """x + up(activation(down(x)))."""
    layer = _with_up(Adapter(2, "relu"))
    down = np.maximum(X @ keras.ops.convert_to_numpy(layer.down.kernel), 0)
    np.testing.assert_allclose(layer(X), X + down @ UP, atol=1e-5)


def test_at_a_normalisation():
    """norm(x + up(activation(down(norm(x)))))."""
    layer, norm = _with_up(AdapterNorm(2, "relu", epsilon=1e-5)), keras.layers.LayerNormalization(epsilon=1e-5)
    down = np.maximum(np.asarray(norm(X)) @ keras.ops.convert_to_numpy(layer.down.kernel), 0)
    np.testing.assert_allclose(layer(X), norm(X + down @ UP), atol=1e-5)


def test_a_normalisation_begins_as_the_one_below():
    """Gamma and beta are copied; from then on those below don't count."""
    norm = keras.layers.LayerNormalization()
    norm.build(X.shape)
    for weight in norm.weights:
        weight.assign(UP[0])
    before = norm(X)
    bottlenecks.put_adapter(norm, bottlenecks.new_adapter(norm, "a", 2, "gelu"))
    bottlenecks.use(norm, "a")
    np.testing.assert_array_equal(norm(X), before)
    norm.gamma.assign(UP[1])
    np.testing.assert_array_equal(norm(X), before)


def test_half_precision():
    """The output is of the layer's compute dtype."""
    dense = keras.layers.Dense(4, dtype="mixed_float16")
    dense.build((None, 4))
    bottlenecks.put_adapter(dense, bottlenecks.new_adapter(dense, "a", 2, "gelu"))
    bottlenecks.use(dense, "a")
    assert dense(X).dtype == "float16" and dense.adapter_a.down.kernel.dtype == "float32"


def _built(layer, shape=(None, 3, 4)):
    layer.build(shape)
    return layer


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: keras.layers.Dense(3), "not built"),
        (lambda: _built(keras.layers.LSTM(3)), "is a LSTM"),
        (lambda: _built(keras.layers.LayerNormalization(axis=[1, 2])), "several axes"),
        (lambda: _built(keras.layers.EinsumDense("abc,cd->adb", (5, 3))), "an axis of its input last"),
    ],
)
def test_layers_that_cannot_have_one(make, why):
    """Each is named with its reason."""
    assert re.search(why, bottlenecks.problem(make()))
