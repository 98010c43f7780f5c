"""A .npz archive with vectors and words."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io import kept_rows
from tests.properties import PROPERTY, comes_back, finite_bits

WORDS = ["a b", "né", "#", "nan"]
MATRIX = np.arange(8, dtype="float32").reshape(4, 2)
ENDS_IN_NUL = st.text(max_size=5).map(lambda word: word.rstrip("\0"))


@pytest.fixture
def path(tmp_path):
    """Four words, as save_vectors writes them."""
    return save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "v.npz")


@PROPERTY
@given(finite_bits(), st.data())
def test_save_and_load_are_inverse(tmp_path, matrix, data):
    """Any words that do not end in NUL, and every bit of the matrix."""
    words = data.draw(st.lists(ENDS_IN_NUL, min_size=len(matrix), max_size=len(matrix), unique=True))
    comes_back(words, matrix, tmp_path / "v.npz")


def test_numpy_reads_what_is_written(path):
    """Under the names `vectors` and `words`, without pickles."""
    with np.load(path, allow_pickle=False) as archive:
        assert archive["words"].tolist() == WORDS
        np.testing.assert_array_equal(archive["vectors"], MATRIX)


def test_word_that_ends_in_nul_is_refused(tmp_path):
    """NumPy would cut it off in silence."""
    with pytest.raises(VectorFileError, match=r"cannot hold 'b\\x00' \(row 1\) in '.*v\.npz': it ends in NUL"):
        save_vectors(KeyedVectors(["a", "b\0"], MATRIX[:2]), tmp_path / "v.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("words", [np.array(WORDS), np.array([word.encode() for word in WORDS])])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "float64", "float16"])
def test_archives_of_numpy(tmp_path, save, words, order, dtype):
    """Any names, byte order, precision and order in memory; words in unicode or UTF-8."""
    save(tmp_path / "v.npz", np.asarray(MATRIX, dtype, order=order), labels=words, width=np.array(2))
    loaded = load_vectors(tmp_path / "v.npz")
    assert (loaded.words, loaded.matrix.dtype, loaded.provenance.format) == (WORDS, np.float32, "npz")
    np.testing.assert_array_equal(loaded.matrix, MATRIX)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_blocks_and_batches(tmp_path, save, monkeypatch):
    """Rows and words that come some at a time are the same."""
    monkeypatch.setattr(kept_rows, "BLOCK", 6)
    monkeypatch.setattr(kept_rows, "_BYTES", 20)
    matrix, words = np.arange(80, dtype="float32").reshape(40, 2), [f"w{i}" for i in range(40)]
    save(tmp_path / "v.npz", m=matrix, w=np.array(words))
    assert load_vectors(tmp_path / "v.npz").words == words
    np.testing.assert_array_equal(load_vectors(tmp_path / "v.npz").matrix, matrix)
    some = load_vectors(tmp_path / "v.npz", words=["w39", "w3", "w17"], limit=30)
    assert some.words == ["w3", "w17"]
    np.testing.assert_array_equal(some.matrix, matrix[[3, 17]])
    assert load_vectors(tmp_path / "v.npz", limit=7).words == words[:7]


def test_words_that_are_not_utf8(tmp_path):
    """Bytes follow encoding= and errors=."""
    np.savez(tmp_path / "v.npz", m=MATRIX[:2], w=np.array([b"a", b"b\xff"]))
    with pytest.raises(VectorFileError, match=r"v\.npz', row 1: the word b'b\\xff' is not utf-8"):
        load_vectors(tmp_path / "v.npz")
    assert load_vectors(tmp_path / "v.npz", errors="skip").provenance.undecodable == 1
    assert load_vectors(tmp_path / "v.npz", encoding="latin-1").words == ["a", "bÿ"]


def test_repeated_words_are_counted(tmp_path):
    """The first row is kept."""
    np.savez(tmp_path / "v.npz", m=MATRIX[:3], w=np.array(["a", "b", "a"]))
    with pytest.warns(EmbkerasWarning, match="1 rows whose word had come before"):
        loaded = load_vectors(tmp_path / "v.npz")
    assert (loaded.words, loaded["a"].tolist()) == (["a", "b"], [0, 1])


def test_words_in_a_file(tmp_path):
    """Beside the archive, or named; a file named goes before an array inside."""
    np.savez(tmp_path / "v.npz", MATRIX)
    with pytest.raises(VectorFileError, match=r"v\.txt, v\.json, v\.parquet; found none of them"):
        load_vectors(tmp_path / "v.npz")
    (tmp_path / "v.txt").write_text("a\nb\nc\nd\n")
    assert load_vectors(tmp_path / "v.npz").words == ["a", "b", "c", "d"]
    np.savez(tmp_path / "v.npz", MATRIX, np.array(WORDS))
    assert load_vectors(tmp_path / "v.npz", words_file=tmp_path / "v.txt").words == ["a", "b", "c", "d"]
    assert load_vectors(tmp_path / "v.npz").words == WORDS


def test_words_of_another_length(tmp_path):
    """The message names both numbers."""
    np.savez(tmp_path / "v.npz", m=MATRIX, w=np.array(WORDS[:3]))
    with pytest.raises(VectorFileError, match=r"v\.npz' has 4 rows, but 'w' \(<U3 \(3,\)\) 3 words"):
        load_vectors(tmp_path / "v.npz")


def test_pickled_words_are_refused(tmp_path):
    """No code of the file is run; the message says how to save them."""
    np.savez(tmp_path / "v.npz", m=MATRIX, w=np.array(WORDS, object))
    with pytest.raises(VectorFileError, match=r"objects are pickled, .* not opened\. .*np\.array\(words, str\)"):
        load_vectors(tmp_path / "v.npz")


def test_several_arrays(tmp_path):
    """member= says which are the vectors; of several lists of words none is guessed."""
    np.savez(tmp_path / "v.npz", m=MATRIX, n=MATRIX + 1, w=np.array(WORDS))
    with pytest.raises(ArgumentError, match=r"member= says which array .* Received: None; there are 'm' \(float32"):
        load_vectors(tmp_path / "v.npz")
    with pytest.raises(ArgumentError, match="Received: 'w'"):
        load_vectors(tmp_path / "v.npz", member="w")
    assert load_vectors(tmp_path / "v.npz", member="n")["nan"].tolist() == [7, 8]
    assert load_vectors(tmp_path / "v.npz", member="n.npy")["nan"].tolist() == [7, 8]
    np.savez(tmp_path / "v.npz", m=MATRIX, w=np.array(WORDS), x=np.array(WORDS))
    with pytest.raises(VectorFileError, match=r"holds 2 arrays of words: 'w' .* Give words_file="):
        load_vectors(tmp_path / "v.npz")


@pytest.mark.parametrize("array", [np.ones(3), np.ones((3, 2), int), np.ones((3, 0))])
def test_other_arrays_are_refused(tmp_path, array):
    """The message names type and shape."""
    np.savez(tmp_path / "v.npz", x=array)
    with pytest.raises(
        VectorFileError, match=r"must hold floats of shape \(words, width\), but holds 'x' \("
    ) as raised:
        load_vectors(tmp_path / "v.npz")
    assert f"{array.dtype} {array.shape}" in str(raised.value)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (1e39, "float64")])
def test_nonfinite_value_is_refused(tmp_path, value, dtype, recwarn):
    """The message names row and word."""
    matrix = MATRIX.astype(dtype)
    matrix[1, 1] = value
    np.savez(tmp_path / "v.npz", matrix, np.array(WORDS))
    with pytest.raises(VectorFileError, match=r"v\.npz' holds .* in row 1 \(word 'né'\)"):
        load_vectors(tmp_path / "v.npz")
    assert not list(recwarn)


def test_truncated_archive_is_refused(path):
    """Cut anywhere, whatever format= says."""
    whole = path.read_bytes()
    for end in [*range(4, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:end])
        for format in (None, "npz"):
            with pytest.raises(VectorFileError, match=r"v\.npz' is not a whole \.(npz|zip) file"):
                load_vectors(path, format=format)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bit_is_refused(tmp_path, save):
    """zip's checksum covers words and matrix; a flip outside of them changes nothing that is read."""
    path = tmp_path / "v.npz"
    save(path, m=MATRIX, w=np.array(WORDS))
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            loaded = load_vectors(path, format="npz")
            assert loaded.words == WORDS and loaded.matrix.tobytes() == MATRIX.tobytes()
        except VectorFileError as error:
            assert "v.npz" in str(error)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_claimed_rows_allocate_nothing(tmp_path, compression):
    """A header that says 10^12 rows is held against the bytes that are there."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 300)})
    with zipfile.ZipFile(tmp_path / "v.npz", "w", compression) as archive:
        archive.writestr("m.npy", header.getvalue() + bytes(100))
    with pytest.raises(VectorFileError, match=r"'m' .* takes 1,200,000,000,000,\d+ bytes, but there are 228"):
        load_vectors(tmp_path / "v.npz")


def test_header_of_another_version_is_refused(tmp_path):
    """Version 3 holds named fields, which are no vectors."""
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("m.npy", b"\x93NUMPY\x03\x00" + bytes(100))
    with pytest.raises(VectorFileError, match=r"'m\.npy' has a header of version \(3, 0\)"):
        load_vectors(tmp_path / "v.npz")


def test_compression_that_numpy_does_not_write_is_refused(tmp_path):
    """What it would take cannot be told from the size of the file."""
    with zipfile.ZipFile(tmp_path / "v.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m.npy", bytes(100))
    with pytest.raises(VectorFileError, match="compressed in a way that NumPy does not write"):
        load_vectors(tmp_path / "v.npz")
