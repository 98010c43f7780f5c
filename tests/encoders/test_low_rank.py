"""LoRA on one dense layer: what it computes, stores and reads."""

import re

import keras
import numpy as np
import pytest

from embkeras.encoders import low_rank
from embkeras.encoders.low_rank import LowRankKernel
from embkeras.encoders.remembers import holders, remember
from embkeras.errors import ArgumentError

# equation, input, output without the batch, shapes of A and B for rank 2
EINSUMS = {
    "query": ("abc,cde->abde", (3, 4), (None, 2, 5), (4, 2), (2, 10)),
    "output": ("abcd,cde->abe", (3, 2, 2), (None, 4), (4, 2), (2, 4)),
    "ellipsis": ("...x,xy->...y", (3, 4), 5, (4, 2), (2, 5)),
    "order": ("abc,dec->abed", (3, 4), (None, 5, 2), (4, 2), (2, 10)),
}


def _layer(equation, shape, output, **arguments):
    layer = keras.layers.EinsumDense(equation, output, **arguments)
    layer.build((None, *shape))
    return layer


def _dense(**arguments):
    layer = keras.layers.Dense(3, name="dense", **arguments)
    layer.build((None, 4))
    return layer


def _with_lora(layer):
    low_rank.add(layer, 2, 3.0, False)
    layer.low_rank.b.assign(np.random.default_rng(1).normal(size=layer.low_rank.b.shape))
    return layer


@pytest.mark.parametrize("case", EINSUMS)
def test_an_einsum_is_a_matrix(case):
    """A is (in, rank), B (rank, out); the output is that of the kernel with alpha / rank * A @ B in it."""
    equation, shape, output, a, b = EINSUMS[case]
    layer = _with_lora(_layer(equation, shape, output, bias_axes=equation[-1], activation="tanh"))
    x = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)
    got = layer(x)
    assert (tuple(layer.low_rank.a.shape), tuple(layer.low_rank.b.shape)) == (a, b)
    low_rank.merge(layer)
    assert type(layer) is keras.layers.EinsumDense and len(layer.trainable_variables) == 2
    np.testing.assert_allclose(got, layer(x), atol=1e-6)


def test_a_dense_layer():
    """With its bias, its activation and alpha / rank."""
    layer, x = _dense(activation="relu"), np.eye(4, dtype=np.float32)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    layer.bias.assign([0.1, 0.2, 0.3])
    low = _with_lora(layer).low_rank
    change = 3.0 / 2 * keras.ops.convert_to_numpy(low.a) @ keras.ops.convert_to_numpy(low.b)
    np.testing.assert_allclose(layer(x), np.maximum(kernel + change + [0.1, 0.2, 0.3], 0), atol=1e-6)
    np.testing.assert_allclose(layer.kernel, kernel + change, atol=1e-6)


def test_half_precision():
    """A and B are float32, the output is of the layer's compute dtype."""
    layer = _with_lora(_dense(dtype="mixed_float16"))
    assert layer(np.ones((1, 4), np.float32)).dtype == "float16" and layer.low_rank.a.dtype == "float32"


def test_no_flag_reaches_the_kernel():
    """Set on the layer, or when it is frozen and thawed."""
    layer = _with_lora(_dense())
    low = layer.low_rank
    for flag in (True, False, True):
        layer.trainable = flag
        assert layer.trainable_variables == ([low.a, low.b] if flag else [])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: keras.layers.Dense(3), "not built"),
        (lambda: _dense(lora_rank=1), "Keras' own LoRA"),
        (lambda: _dense(kernel_constraint="max_norm"), "kernel_constraint"),
        (lambda: _with_lora(_dense()), "LoRA already"),
        (lambda: _quantized(), r"quantized \(int8\)"),
        (lambda: _layer("abc,bcd->abd", (3, 4), (3, 5)), "share an axis .* 'abc,bcd->abd'"),
        (lambda: _of_its_own(), "is a Own, a class of its own"),
    ],
)
def test_what_cannot_have_it(make, why):
    """Each reason is named."""
    assert re.search(why, low_rank.problem(make()))


def _quantized():
    layer = _dense()
    layer.quantize("int8")
    return layer


def _of_its_own():
    class Own(keras.layers.Dense):
        pass

    layer = Own(3)
    layer.build((None, 4))
    return layer


def test_weights_without_lora_become_the_kernel():
    """B becomes zero, so that the layer returns what the file's layer returned."""
    plain, layer, store = _dense(), _with_lora(_dense()), {}
    plain.save_own_variables(store)
    layer.load_own_variables(store)
    x = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_array_equal(plain(x), layer(x))
    store = {}
    _with_lora(plain).save_own_variables(store)
    layer.load_own_variables(store)
    np.testing.assert_array_equal(plain(x), layer(x))
    with pytest.raises(ArgumentError, match=r"'dense' has LoRA and reads 0, 1, .* The file has 0"):
        layer.load_own_variables({"0": plain.kernel})


def test_a_class_that_makes_its_layers_late():
    """Its config can't say where LoRA is, and says so before anything is written."""

    class Late(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="late")
            self.inner = keras.layers.Dense(2)

        def call(self, x):
            return self.inner(x)

    layer = Late()
    layer(np.ones((1, 4)))
    low_rank.add(layer.inner, 1, 1.0, False)
    remember(layer)
    with pytest.raises(ArgumentError, match=r"'late' can't say .* Late has no build\(\)"):
        layer.get_config()


def test_a_wrapper_stores_the_layer_itself():
    """TimeDistributed has its layer's config in its own; LoRA comes back once."""
    net = keras.Sequential([keras.Input((3, 4)), keras.layers.TimeDistributed(keras.layers.Dense(3), name="each")])
    low_rank.add(net.layers[0].layer, 2, 2.0, True)
    for layer in holders(net):
        remember(layer)
    copy = keras.models.clone_model(net)
    inner = copy.layers[0].layer
    assert isinstance(inner, LowRankKernel) and inner.low_rank.train_biases and len(copy.weights) == 4
    copy.set_weights(net.get_weights())
    np.testing.assert_array_equal(copy(np.ones((1, 3, 4))), net(np.ones((1, 3, 4))))
