"""PadToLength, MaskedMean and MaskedConvolutions by themselves."""

import keras
import numpy as np
import pytest

from embkeras.errors import ArgumentError
from embkeras.tables.pooling import MaskedConvolutions, MaskedMean, PadToLength, with_steps

VECTORS = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
MASK = np.array([[True, True, False, False], [True, False, True, False]])


@pytest.mark.parametrize("time", [0, 1, 3, 5])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_pads_to_the_length(time, dtype):
    """Zeros are appended up to the length, in the dtype of the ids."""
    padded = PadToLength(3)(np.ones((2, time), dtype))
    np.testing.assert_array_equal(padded, [[1] * time + [0] * (3 - time)] * 2)
    assert padded.dtype.name == dtype


@pytest.mark.parametrize(("time", "expected"), [(None, None), (2, 3), (7, 7)])
def test_shape_after_padding(time, expected):
    """For a symbolic input, an unknown time stays unknown, and a known one becomes at least the length."""
    assert PadToLength(3)(keras.Input((time,), dtype="int64")).shape == (None, expected)


@pytest.mark.parametrize("steps, given", [(3, True), (2, False)])
def test_ids_known_to_be_long_are_not_padded(steps, given):
    """As in an export, which pads them itself: the graph then needs no operation."""
    ids = with_steps(keras.ops.ones((2, 4), "int64"), steps)
    assert (PadToLength(3)(ids) is ids) == given


def test_mean_counts_only_what_the_mask_keeps():
    """Masked steps are neither added nor counted."""
    mean = MaskedMean()(VECTORS, mask=MASK)
    expected = [VECTORS[0, :2].mean(axis=0), VECTORS[1, [0, 2]].mean(axis=0)]
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_mean_without_a_mask():
    """Every step counts."""
    np.testing.assert_allclose(MaskedMean()(VECTORS), VECTORS.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("layer", [MaskedMean(), MaskedConvolutions(2, (1, 2))], ids=["mean", "cnn"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_the_mask_drops_may_be_anything(layer, bad):
    """Infinity or NaN in a masked step doesn't change the result."""
    spoilt = np.where(MASK[..., None], VECTORS, bad).astype(np.float32)
    zeroed = np.where(MASK[..., None], VECTORS, 0).astype(np.float32)
    np.testing.assert_array_equal(layer(spoilt, mask=MASK), layer(zeroed, mask=MASK))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 0, 3)])
def test_mean_of_nothing_is_zero(shape):
    """With all steps masked, or no steps at all, the mean is zeros and not NaN."""
    mean = MaskedMean()(np.ones(shape, np.float32), mask=np.zeros(shape[:2], bool))
    np.testing.assert_array_equal(mean, np.zeros((2, 3)))


def test_mean_of_a_long_text_in_half_precision():
    """In float16 a count above 2048 is still the number of steps."""
    mean = MaskedMean(dtype="mixed_float16")(np.full((1, 5000, 1), 0.5, np.float16))
    np.testing.assert_allclose(np.asarray(mean, np.float32), [[0.5]], rtol=2e-3)


@pytest.mark.parametrize("layer", [MaskedMean(), MaskedConvolutions(2)], ids=["mean", "cnn"])
def test_no_mask_goes_on(layer):
    """The output of a pooling layer has no time axis."""
    assert layer.compute_mask(VECTORS, MASK) is None


@pytest.mark.parametrize(
    ("layer", "expected"), [(MaskedMean(), (None, 3)), (MaskedConvolutions(2, (1, 3)), (None, 4))], ids=["mean", "cnn"]
)
def test_symbolic_shape(layer, expected):
    """The shape that Keras infers is that of the output."""
    assert layer(keras.Input((None, 3))).shape == expected
    assert layer(VECTORS).shape == (2, expected[1])


def test_windows_across_the_end_do_not_count():
    """A window that reaches into the padding is ignored, even if its output is the largest."""
    layer = MaskedConvolutions(1, (2,))
    layer.build((None, None, 1))
    layer.set_weights([np.array([[[1.0]], [[-1.0]]], np.float32), np.zeros(1, np.float32)])
    answer = layer(np.array([[[1.0], [2.0], [5.0], [0.0]]], np.float32), mask=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(answer, [[0.0]])  # 5 - 0 would be 5; 1 - 2 and 2 - 5 are cut to 0 by relu


def test_last_whole_window_counts():
    """The one that ends with the last token, here the largest."""
    layer = MaskedConvolutions(1, (2,))
    layer.build((None, None, 1))
    layer.set_weights([np.array([[[-1.0]], [[1.0]]], np.float32), np.zeros(1, np.float32)])
    answer = layer(np.array([[[1.0], [2.0], [5.0], [0.0]]], np.float32), mask=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(answer, [[3.0]])


def test_text_shorter_than_the_window():
    """It has one window, padded with zeros."""
    layer = MaskedConvolutions(1, (3,))
    layer.build((None, None, 1))
    layer.set_weights([np.array([[[1.0]], [[10.0]], [[100.0]]], np.float32), np.zeros(1, np.float32)])
    answer = layer(np.array([[[2.0], [7.0], [7.0]]], np.float32), mask=np.array([[True, False, False]]))
    np.testing.assert_array_equal(answer, [[2.0]])


@pytest.mark.parametrize(
    ("filters", "widths", "received"),
    [
        (0, (3,), r"filters .* Received: 0"),
        (1, (), r"widths .* Received: \(\)"),
        (1, (2, 0), r"widths .* Received: 0"),
        ("3", (3,), r"filters .* Received: '3'"),
    ],
)
def test_convolutions_need_filters_and_widths(filters, widths, received):
    """The error names the argument and what was received."""
    with pytest.raises(ArgumentError, match=received):
        MaskedConvolutions(filters, widths)


@pytest.mark.parametrize(
    "layer", [PadToLength(4), MaskedMean(), MaskedConvolutions(3, (1, 2))], ids=["pad", "mean", "cnn"]
)
def test_config_round_trip(layer):
    """A layer made from a serialised config has the same settings."""
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


@pytest.mark.stock_keras
def test_stock_average_of_a_text_of_padding_is_nan():
    """Keras' masked average divides by the number of tokens, which is 0."""
    ids = keras.Input((None,), dtype="int64")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(5, 3, mask_zero=True)(ids))
    assert np.isnan(keras.Model(ids, pooled)(np.zeros((1, 4), "int64"))).all()


@pytest.mark.stock_keras
def test_stock_convolution_answers_differently_when_padded():
    """Conv1D and max-over-time read the padding, and fail for a text shorter than the window."""
    ids = keras.Input((None,), dtype="int64")
    vectors = keras.layers.Embedding(9, 4, embeddings_initializer="random_normal")(ids)
    pooled = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(8, 3)(vectors))
    model = keras.Model(ids, pooled)
    text = np.arange(1, 6)[None]
    padded = np.pad(text, [(0, 0), (0, 6)])
    assert np.abs(model(text).numpy() - model(padded).numpy()).max() > 1e-3
    with pytest.raises(Exception, match=r"Exception encountered when calling Conv1D\.call"):
        model(text[:, :2])
