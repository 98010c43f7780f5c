"""The file of a state: whole or not at all, equal to the bit, checked before use."""

import json
import random
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import OutputError, ResumeError
from embkeras.training.resume import state_file
from embkeras.training.resume.state_file import open_state, pack, unpack, write_state
from tests import tiny

DTYPES = ["float32", "float16", "bfloat16", "float64", "int8", "int64", "uint32", "bool"]


def _variable(dtype, shape=(3, 4)):
    values = np.random.default_rng(0).integers(0, 2, shape)
    return keras.Variable(values.astype(tf.as_dtype(dtype).as_numpy_dtype), dtype=dtype, trainable=False)


@pytest.fixture
def path(tmp_path):
    """A state of one variable and a description."""
    write_state(tmp_path / "state.npz", {"epoch": 3, "best": [np.arange(4.0)]}, {"model/0": _variable("float32")})
    return tmp_path / "state.npz"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 2)], ids=str)
def test_variables_come_back(tmp_path, dtype, shape):
    """Every dtype, numbers and empty ones."""
    variable = _variable(dtype, shape)
    write_state(tmp_path / "s.npz", {}, {"it": variable})
    back = keras.Variable(keras.ops.zeros(shape, dtype), dtype=dtype, trainable=False)
    with open_state(tmp_path / "s.npz") as state:
        state.fill("it", back)
    assert keras.ops.convert_to_numpy(back).tobytes() == keras.ops.convert_to_numpy(variable).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_table_comes_back_in_blocks(tmp_path, monkeypatch, dtype):
    """A table that is read by rows is never read whole, and comes back equal."""
    monkeypatch.setattr("embkeras.tables.row_io.BLOCK", 12)  # three rows
    table, back = (tiny.embedding(dtype=dtype) for _ in range(2))
    back.assign_table(np.ones((10, 4), np.float32))
    monkeypatch.setattr(state_file, "_value_of", None)
    write_state(tmp_path / "s.npz", {}, {"it": table.embeddings})
    with open_state(tmp_path / "s.npz") as state:
        state.fill("it", back.embeddings)
    np.testing.assert_array_equal(back.matrix(), table.matrix())


def test_description_comes_back(path):
    """With its arrays, bfloat16 included."""
    half = keras.ops.convert_to_numpy(_variable("bfloat16"))
    write_state(path, {"epoch": 3, "best": [np.arange(4.0), half]}, {})
    with open_state(path) as state:
        assert state.content["epoch"] == 3
        np.testing.assert_array_equal(state.content["best"][0], np.arange(4.0))
        assert state.content["best"][1].dtype == half.dtype and np.array_equal(state.content["best"][1], half)


@pytest.mark.parametrize("dtype", [">f4", "U3", [("a", "f4"), ("b", "i2")]], ids=["big-endian", "text", "structured"])
def test_arrays_of_any_dtype_come_back(path, dtype):
    """NumPy's own dtypes, in either byte order and any memory order."""
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    write_state(path, {"array": array}, {})
    with open_state(path) as state:
        back = state.content["array"]
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_numpy_reads_it(path):
    """The file is an .npz, for whoever wants to look."""
    with np.load(path) as loaded:
        assert loaded["model/0"].shape == (3, 4)


def test_state_before_survives_a_failed_write(path):
    """A value that can't be saved leaves the file as it was, and no other file beside it."""
    with pytest.raises(ResumeError, match="epoch can't be saved"):
        write_state(path, {"epoch": print}, {})
    with open_state(path) as state:
        assert state.content["epoch"] == 3
    assert [each.name for each in path.parent.iterdir()] == ["state.npz"]


def test_folder_that_is_a_file(path):
    """The system's refusal is an OutputError."""
    with pytest.raises(OutputError, match="Cannot write"):
        write_state(path / "state.npz", {}, {})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_cut_off_file_is_refused(path, share):
    """At any length."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ResumeError, match=r"state\.npz' is damaged.*Delete the folder to start over"), open_state(path):
        pass


def test_changed_byte_is_refused_before_anything_is_used(path):
    """The checksums of all entries are verified when the file is opened."""
    content = bytearray(path.read_bytes())
    place = content.index(np.arange(4.0).tobytes()) + 9
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResumeError, match="is damaged"), open_state(path):
        pass


def test_entry_that_is_not_there(path):
    """A variable that is missing from the file."""
    with open_state(path) as state, pytest.raises(ResumeError, match="is damaged"):
        state.fill("model/1", _variable("float32"))


def test_another_version_is_refused(path):
    """The message names the format of the file and that of this version."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("description.json", json.dumps({"format": 99}))
    with (
        pytest.raises(ResumeError, match=r"another version of embkeras.*Received: format 99; this version reads 2"),
        open_state(path),
    ):
        pass


def _round_trip(value):
    """Through JSON and back."""
    arrays = []
    return unpack(json.loads(json.dumps(pack(value, arrays, "it"))), arrays)


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.1, float("inf"), "ü", [], {}, (), [1, (2, [3])], {"a": {"b": (1,)}}]
)
def test_plain_values_come_back(value):
    """Tuples stay tuples, and floats are equal to the last bit."""
    assert _round_trip(value) == value


def test_nan_comes_back():
    """A loss that diverged is a history too."""
    assert np.isnan(_round_trip({"loss": [float("nan")]})["loss"][0])


@pytest.mark.parametrize("value", [np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True)])
def test_numpy_numbers_keep_their_type(value):
    """A float32 that came back as a float would change the next comparison."""
    assert type(_round_trip(value)) is type(value) and _round_trip(value) == value


def test_arrays_keep_shape_and_dtype():
    """Also inside lists; they are not copied on the way in."""
    array, arrays = np.arange(6, dtype=np.int16).reshape(2, 3), []
    pack([array], arrays, "it")
    assert arrays[0] is array
    back = _round_trip([array])[0]
    assert back.dtype == np.int16 and np.array_equal(back, array)


@pytest.mark.parametrize("make", [tf.constant, keras.Variable], ids=["tensor", "variable"])
def test_tensors_become_arrays(make):
    """A log may be a tensor."""
    np.testing.assert_array_equal(_round_trip({"x": make([1.0, 2.0])})["x"], [1, 2])


def test_state_of_pythons_generator_comes_back():
    """It holds a tuple of 625 numbers in a tuple."""
    assert _round_trip(random.getstate()) == random.getstate()


@pytest.mark.parametrize(
    ("value", "kind"),
    [({1: 2}, "dict"), ({"__embkeras__": 1}, "dict"), ({1}, "set"), (print, "builtin"), (np.array([None]), "ndarray")],
    ids=["keys", "mark", "set", "function", "objects"],
)
def test_what_cannot_be_kept_is_refused(value, kind):
    """The place in the state is named, and the type."""
    with pytest.raises(ResumeError, match=rf"it\['a'\]\[0\] can't be saved: .*Received: {kind}"):
        pack({"a": [value]}, [], "it")
