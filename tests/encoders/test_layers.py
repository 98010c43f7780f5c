"""The layers below the first block: they need no keras-hub."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.encoders.layers import FirstToken, PaddingMask, PositionTable, SegmentTable, UnitLength, gelu_tanh
from embkeras.errors import ArgumentError

VECTORS = np.arange(24.0, dtype=np.float32).reshape(2, 4, 3)


def filled(layer, rows):
    """A built layer whose table counts from 0."""
    layer.build((None, None, 3))
    layer.set_weights([np.arange(3.0 * rows).reshape(rows, 3)])
    return layer


def test_mask_is_false_on_padding():
    """Whatever the id of the padding."""
    assert PaddingMask(1)(np.array([[0, 1, 5]])).numpy().tolist() == [[True, False, True]]


def test_positions_and_segments_are_added():
    """Row t for token t; the first segment's row for all."""
    rows = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(filled(PositionTable(5), 5)(VECTORS), VECTORS + rows)
    np.testing.assert_array_equal(filled(SegmentTable(2), 2)(VECTORS), VECTORS + rows[0])


def test_segments_begin_behind_a_separator():
    """The second separator ends segment 1; what follows is in segment 0."""
    layer = filled(SegmentTable(2, separator_id=9), 2)
    got = layer(np.zeros((2, 6, 3), np.float32), np.array([[1, 9, 2, 2, 9, 0], [9, 1, 1, 1, 1, 1]])).numpy()[..., 0]
    assert got.tolist() == [[0, 0, 3, 3, 3, 0], [0, 3, 3, 3, 3, 3]]
    with pytest.raises(ArgumentError, match=r"input_dim .*1"):
        SegmentTable(1, separator_id=9)


def test_unit_length():
    """Length 1, and zeros for zeros."""
    got = UnitLength()(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(got, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_too_many_tokens():
    """Refused by our error where the length is known, and by our message in a graph of any length."""
    layer = filled(PositionTable(3, name="p"), 3)
    with pytest.raises(ArgumentError, match=r"up to 3 tokens.*'p'.*4"):
        layer(VECTORS)
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 3))])
    assert call(VECTORS[:, :3]).shape == (2, 3, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="up to 3 tokens"):
        call(VECTORS)
    with pytest.raises(ArgumentError, match=r"up to 2 tokens.*Received: 3"):  # one vector of the four is no token
        filled(PositionTable(3, in_front=1), 3)(VECTORS)
    with pytest.raises(ArgumentError, match=r"in_front .*3"):
        PositionTable(3, in_front=3)


def test_layers_survive_a_file(tmp_path):
    """Each is made again from its config, with its table."""
    ids, vectors = keras.Input((None,), dtype="int64", name="ids"), keras.Input((None, 3), name="vectors")
    x = filled(SegmentTable(2), 2)(filled(PositionTable(5), 5)(vectors))
    x = filled(SegmentTable(2, separator_id=2), 2)(x, ids)
    x = UnitLength()(keras.layers.Activation(gelu_tanh)(x))
    model = keras.Model([ids, vectors], [FirstToken()(x), PaddingMask(7)(ids)])
    model.save(tmp_path / "m.keras")
    feeds = [np.array([[7, 1], [2, 7]]), VECTORS[:, :2] / 9]
    for got, wanted in zip(keras.models.load_model(tmp_path / "m.keras")(feeds), model(feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_gelu_tanh():
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    wanted = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(gelu_tanh(x), wanted, atol=1e-6)


SIZES = {PaddingMask: "padding_id", PositionTable: "input_dim", SegmentTable: "input_dim"}


@pytest.mark.parametrize("layer", SIZES)
def test_wrong_sizes(layer):
    """Refused with the argument's name."""
    with pytest.raises(ArgumentError, match=f"{SIZES[layer]} .*-1"):
        layer(-1)
