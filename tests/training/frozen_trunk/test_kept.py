"""Records of outputs on disk."""

import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import OutputError
from embkeras.training.frozen_trunk.kept import Kept, pack, slots_of, unpack

_RANDOM = np.random.default_rng(0)
VALUES = tf.constant(_RANDOM.normal(size=(5, 3, 2)), tf.float32)
MASK = tf.constant(_RANDOM.integers(0, 2, (5, 3)).astype(bool))
OUTPUTS = [(VALUES, MASK), (tf.range(5, dtype=tf.int64), None), (tf.cast(VALUES, tf.bfloat16), None)]


def test_values_and_masks_of_any_dtype_return():
    """To the bit, in the order in which they went."""
    slots = slots_of(OUTPUTS, "float32")
    records, difference = pack(OUTPUTS, slots)
    assert records.shape == (5, 6 * 4 + 3 + 8 + 6 * 2) and difference == 0
    found = unpack(tf.constant(records), slots)
    for (value, mask), (other, other_mask) in zip(OUTPUTS, found, strict=True):
        assert value.dtype == other.dtype and np.array_equal(value, other)
        assert (mask is None) == (other_mask is None) and (mask is None or np.array_equal(mask, other_mask))


def test_floats_in_half_the_space():
    """Integers and masks stay as they are."""
    slots = slots_of(OUTPUTS, "float16")
    records, difference = pack(OUTPUTS, slots)
    value = unpack(tf.constant(records), slots)[0][0]
    assert value.dtype == tf.float32 and difference == pytest.approx(np.abs(VALUES - value).max())


def test_rows_from_several_files(tmp_path):
    """In any order, also after they were opened again; what is missing is known."""
    slots = slots_of(OUTPUTS, "float32")
    records, _ = pack(OUTPUTS, slots)
    kept = Kept(tmp_path / "new", slots, 5, ["drop"])
    kept.add([records[:1], records[1:2]])
    again = Kept.found(tmp_path / "new")
    assert (again.done, again.count, again.dropping, again.slots) == (2, 5, ["drop"], slots)
    again.add([records[2:]])
    rows = np.array([4, 0, 2, 1, 4])
    assert np.array_equal(Kept.found(tmp_path / "new").records(rows), records[rows])


def test_nothing_and_damage(tmp_path):
    """An empty folder has nothing; a file that was cut off is named."""
    assert Kept.found(tmp_path) is None
    slots = slots_of(OUTPUTS, "float32")
    Kept(tmp_path, slots, 5).add([pack(OUTPUTS, slots)[0]])
    (file,) = tmp_path.glob("rows-*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(OutputError, match=f"{file.name}.*Delete this file"):
        Kept.found(tmp_path)
    np.save(file, np.zeros((5, 2), np.uint8))
    with pytest.raises(OutputError, match=rf"{file.name}.*\(5, 2\)"):
        Kept.found(tmp_path)
