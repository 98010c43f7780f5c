"""DataFrames that pandas wrote to HDF5 in its fixed format, as ConceptNet Numberbatch's mini.h5."""

import gzip

import h5py
import numpy as np
import pytest

from embkeras import load_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError

WORDS = ["/c/en/cat", "/c/de/käse", "", "nan"]
VALUES = np.array([[1, -2], [127, -128], [0, 0], [5, 6]], "int8")


def _write(path, words=WORDS, values=VALUES, key="mat", columns=None, **storage):
    """What DataFrame.to_hdf writes, as far as it says what the frame is."""
    columns = np.arange(values.shape[1]) if columns is None else columns
    raws = [word if isinstance(word, bytes) else word.encode() for word in words]
    with h5py.File(path, "a") as file:
        file.attrs["PYTABLES_FORMAT_VERSION"] = np.bytes_("2.1")
        frame = file.create_group(key)
        frame.attrs.update({"pandas_type": np.bytes_("frame"), "ndim": 2, "nblocks": 1, "encoding": np.bytes_("UTF-8")})
        frame.create_dataset("axis0", data=np.arange(values.shape[1]))
        frame.create_dataset("axis1", data=np.array(raws, "S"), **storage).attrs["kind"] = np.bytes_("string")
        frame.create_dataset("block0_items", data=columns)
        frame.create_dataset("block0_values", data=values, **storage).attrs["transposed"] = np.uint8(1)
    return path


@pytest.fixture
def path(tmp_path):
    """Four words of Numberbatch's kind."""
    return _write(tmp_path / "mini.h5")


def test_numbers_are_not_scaled_and_words_not_changed(path):
    """int8 become the same numbers, which the provenance tells; the language stays before the word."""
    loaded = load_vectors(path)
    assert loaded.words == WORDS
    assert loaded.matrix.dtype == np.float32
    np.testing.assert_array_equal(loaded.matrix, VALUES)
    assert (loaded.provenance.format, loaded.provenance.stored, loaded.provenance.rows) == ("pandas-h5", "int8", 4)


def test_real_file_of_pandas(tmp_path):
    """The specimen above has the structure that pandas writes."""
    pytest.importorskip("tables", reason="pandas writes HDF5 with pytables")
    import pandas as pd

    pd.DataFrame(VALUES, index=WORDS).to_hdf(tmp_path / "real.h5", key="mat")
    loaded = load_vectors(tmp_path / "real.h5")
    assert loaded.words == WORDS
    np.testing.assert_array_equal(loaded.matrix, VALUES)


@pytest.mark.parametrize("storage", [{}, {"chunks": True, "compression": "gzip"}])
def test_floats_in_chunks(tmp_path, storage):
    """Compressed or not; floats are no stored type to speak of."""
    values = VALUES.astype("float64") / 3
    loaded = load_vectors(_write(tmp_path / "v.h5", values=values, **storage), dtype="float16")
    np.testing.assert_array_equal(loaded.matrix, values.astype("float16"))
    assert loaded.provenance.stored is None


def test_words_and_limit(path):
    """Only the rows asked for."""
    loaded = load_vectors(path, words=["/c/de/Käse", "nan"], limit=3)
    assert (loaded.words, loaded.matrix.tolist()) == (["/c/de/käse"], [[127, -128]])
    assert load_vectors(path, limit=2).provenance.rows == 2


def test_repeated_words_are_counted(tmp_path):
    """The first row is kept."""
    path = _write(tmp_path / "v.h5", words=["a", "b", "a", "c"])
    with pytest.warns(EmbkerasWarning, match="1 rows whose word had come before"):
        loaded = load_vectors(path)
    assert (loaded.words, loaded["a"].tolist()) == (["a", "b", "c"], [1, -2])


def test_words_that_are_not_utf8(tmp_path):
    """As in text: refused with the row, or replaced, or left out."""
    path = _write(tmp_path / "v.h5", words=["a", b"b\xff", "c", "d"])
    with pytest.raises(VectorFileError, match=r"v\.h5', row 1: the word b'b\\xff' is not utf-8"):
        load_vectors(path)
    assert load_vectors(path, errors="replace").words == ["a", "b\ufffd", "c", "d"]
    skipped = load_vectors(path, errors="skip")
    assert (skipped.words, skipped.provenance.undecodable) == (["a", "c", "d"], 1)
    np.testing.assert_array_equal(skipped.matrix, VALUES[[0, 2, 3]])
    assert load_vectors(path, encoding="latin-1").words[1] == "bÿ"


def test_one_of_several_frames(path):
    """member= chooses; else the message names them."""
    _write(path, key="other", values=VALUES + 0.5)
    assert load_vectors(path, member="other")["nan"].tolist() == [5.5, 6.5]
    with pytest.raises(ArgumentError, match=r"holds 2 frames: .* Received: None; there are mat, other"):
        load_vectors(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.ones((4, 2, 1))}, r"expected numbers of shape \(words, width\), found float64 \(4, 2, 1\)"),
        ({"values": np.ones((4, 2), "S1")}, r"expected numbers of shape \(words, width\), found \|S1"),
        ({"words": WORDS[:3]}, r"expected an index of strings, one a row, found \|S11 \(3,\)"),
        ({"columns": np.array([1, 0])}, "expected 2 columns in their order"),
    ],
)
def test_other_frames_are_refused(tmp_path, changes, message):
    """The message says what was expected and what is there."""
    with pytest.raises(VectorFileError, match=message):
        load_vectors(_write(tmp_path / "v.h5", **changes))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("mat/block1_values", "frame 'mat': expected numbers of one type, in one block, found 2 blocks"),
        ("mat/axis2", r"neither embkeras's store nor a DataFrame of pandas in the fixed format: there are mat\."),
    ],
)
def test_frames_of_more_parts_are_refused(path, made, message):
    """Several types, or three axes."""
    with h5py.File(path, "r+") as file:
        file[made] = np.arange(2)
    with pytest.raises(VectorFileError, match=message):
        load_vectors(path)


def test_frame_in_the_table_format_is_refused(tmp_path):
    """The message says how to write it."""
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["mat/table"] = np.arange(2)
    with pytest.raises(VectorFileError, match=r'its frame is in the "table" format: .* format="fixed"'):
        load_vectors(tmp_path / "v.h5")


def test_frame_without_attributes(path):
    """Files that were made by hand in this structure are read too."""
    with h5py.File(path, "r+") as file:
        for name in list(file["mat"].attrs):
            del file["mat"].attrs[name]
    assert load_vectors(path).words == WORDS


def test_pickled_columns_are_refused(path):
    """pytables pickles names that are no text and no numbers; nothing of it is opened."""
    with h5py.File(path, "r+") as file:
        del file["mat/axis0"]
        file.create_dataset("mat/axis0", (2,), h5py.vlen_dtype(np.dtype("uint8")))[0] = np.arange(3)
    with pytest.raises(VectorFileError, match="found pickled names, which are not opened"):
        load_vectors(path)


@pytest.mark.parametrize("storage", [{}, {"chunks": (4096, 300)}])
def test_claimed_rows_allocate_nothing(path, storage):
    """10^12 rows that were never written."""
    with h5py.File(path, "r+") as file:
        del file["mat/block0_values"]
        file.create_dataset("mat/block0_values", (10**12, 2 if not storage else 300), "float32", **storage)
    with pytest.raises(VectorFileError, match=r"expected [0-9,]+ bytes of 'block0_values' .*, found 0 of"):
        load_vectors(path)


def test_nonfinite_value_is_refused(tmp_path):
    """The message names row and word."""
    values = VALUES.astype("float32")
    values[1, 0] = np.nan
    with pytest.raises(VectorFileError, match=r"in row 1 \(word '/c/de/käse'\)"):
        load_vectors(_write(tmp_path / "v.h5", values=values))


def test_truncated_file_is_refused(path):
    """Cut anywhere behind the signature."""
    whole = path.read_bytes()
    for end in [*range(8, len(whole), 101), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(VectorFileError, match=r"mini\.h5' is not a whole HDF5 file"):
            load_vectors(path)


def test_compressed_file_is_refused(path):
    """Arrays cannot be read out of a stream; the message says what to do."""
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(VectorFileError, match=r"an HDF5 file inside a \.gz file: unpack it first"):
        load_vectors(path)
