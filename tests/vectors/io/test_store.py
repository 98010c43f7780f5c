"""embkeras's own store: mapped, looked up by hash, and never trusted where it is damaged."""

import pickle
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, Vocabulary, _arrays, align, load_vectors, save_vectors
from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors import words as words_module
from embkeras.vectors.io import store
from embkeras.vectors.io.store import check_store
from tests.processes import run_python
from tests.properties import PROPERTY, TEXTS, comes_back, finite_bits

GOLDEN = Path(__file__).parent / "golden" / "store_v1.h5"
GOLDEN_WORDS = ["the", "", "naïve", "New York", "\u2028", "猫", "nan"]
WORDS = [f"wörd {i}" for i in range(50)]
MATRIX = np.random.default_rng(0).standard_normal((50, 4)).astype("float32")


@pytest.fixture
def path(tmp_path):
    """Fifty words."""
    return save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "v.h5")


def _offset(path, name):
    with h5py.File(path) as file:
        return file[name].id.get_offset()


def _flip(path, place):
    contents = bytearray(path.read_bytes())
    contents[place] ^= 1
    path.write_bytes(contents)


def test_checksum_covers_all_blocks(tmp_path, monkeypatch):
    """A matrix that is written in several blocks has the checksum of the whole."""
    monkeypatch.setattr(_arrays, "BLOCK", 4 * 20)
    check_store(save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "v.h5"))


def test_golden_file_of_version_1():
    """What version 1 wrote is read as it was, word by word and bit by bit."""
    loaded = load_vectors(GOLDEN)
    assert loaded.words == GOLDEN_WORDS
    assert loaded.matrix.tobytes() == ((np.arange(21, dtype="float32").reshape(7, 3) - 10) / 3).tobytes()
    assert [loaded.key_to_index[word] for word in GOLDEN_WORDS] == list(range(7))
    check_store(GOLDEN)


def test_golden_file_is_what_is_written(tmp_path):
    """Every dataset and attribute of the specification, so that older readers keep reading."""
    written = save_vectors(load_vectors(GOLDEN), tmp_path / "v.h5")
    with h5py.File(GOLDEN) as golden, h5py.File(written) as file:
        assert dict(file.attrs) == dict(golden.attrs) == {"format": b"embkeras.store", "version": 1}
        assert set(file) == set(golden) == {"matrix", "words", "offsets", "hashes", "rows"}
        for name in golden:
            assert (file[name].dtype, file[name].shape) == (golden[name].dtype, golden[name].shape)
            assert file[name][()].tobytes() == golden[name][()].tobytes()
            assert dict(file[name].attrs) == dict(golden[name].attrs)


@PROPERTY
@given(finite_bits(), st.data())
def test_save_and_load_are_inverse(tmp_path, matrix, data):
    """Any words that UTF-8 can hold, and every bit of the matrix."""
    words = data.draw(st.lists(TEXTS, min_size=len(matrix), max_size=len(matrix), unique=True))
    loaded = comes_back(words, matrix, tmp_path / "v.h5")
    assert loaded.rows_of(words).tolist() == list(range(len(words)))


def test_matrix_is_mapped(path):
    """It lies in the file and cannot be written; nothing is copied for the type it is stored in."""
    loaded = load_vectors(path)
    assert not loaded.matrix.flags.owndata and not loaded.matrix.flags.writeable and loaded.matrix.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        loaded.matrix[0] = 0


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_types(tmp_path, stored, dtype):
    """float16 stays so, wider types become float32; reading casts only to another type."""
    matrix = MATRIX.astype(stored)
    loaded = load_vectors(save_vectors(KeyedVectors(WORDS, matrix), tmp_path / "v.h5"), dtype=dtype)
    kept = matrix.astype("float16" if stored == "float16" else "float32")
    np.testing.assert_array_equal(loaded.matrix, kept.astype(dtype))
    assert loaded.matrix.flags.owndata == (kept.dtype != dtype)
    assert loaded["wörd 7"].tolist() == loaded.matrix[7].tolist()


def test_words_and_limit_copy_rows(path):
    """The wanted words in the order of the file, independent of the file afterwards."""
    loaded = load_vectors(path, words=["wörd 9", "WÖRD 3", "wörd 30", "none"], limit=20)
    assert (loaded.words, loaded.provenance.rows) == (["wörd 3", "wörd 9"], 20)
    np.testing.assert_array_equal(loaded.matrix, MATRIX[[3, 9]])
    assert loaded.matrix.flags.owndata
    assert load_vectors(path, limit=2).words == WORDS[:2]


def test_equal_hashes_are_told_apart(tmp_path, monkeypatch):
    """Words of one hash are found by their bytes, and a word that is not there is not found."""
    monkeypatch.setattr(words_module, "stored_hash", lambda raw: len(raw) % 2 * (2**64 - 1))
    loaded = load_vectors(save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "v.h5"))
    assert loaded.rows_of([*WORDS, "wörd 51", "x"]).tolist() == [*range(50), -1, -1]
    assert [loaded.key_to_index[word] for word in WORDS] == list(range(50))
    assert "wörd 51" not in loaded


def test_align_and_neighbours_are_those_of_a_list(path):
    """The rest of the package cannot tell the difference."""
    loaded, plain = load_vectors(path), KeyedVectors(WORDS, MATRIX)
    vocabulary = Vocabulary(["", "[UNK]", "WÖRD 4", "wörd 4", "none"])
    np.testing.assert_array_equal(align(loaded, vocabulary).values, align(plain, vocabulary).values)
    assert align(loaded, vocabulary).how == align(plain, vocabulary).how
    assert loaded.most_similar("wörd 4") == plain.most_similar("wörd 4")


def test_copy_is_plain(path):
    """What goes to another process carries its words and numbers along."""
    copy = pickle.loads(pickle.dumps(load_vectors(path)))
    assert (type(copy.words), type(copy.key_to_index)) == (list, dict)
    assert copy.words == WORDS
    np.testing.assert_array_equal(copy["wörd 3"], MATRIX[3])


def test_replaced_while_it_is_open(path):
    """save_vectors renames: who has the old file open keeps reading it."""
    loaded = load_vectors(path)
    save_vectors(KeyedVectors(["a"], np.ones((1, 2), "float32")), path)
    assert loaded.words == WORDS
    np.testing.assert_array_equal(loaded.matrix, MATRIX)


def test_lone_surrogate_is_refused(tmp_path):
    """The message names the word and its row."""
    with pytest.raises(VectorFileError, match=r"v\.h5' can't hold the word '\\udc80' \(row 1\)"):
        save_vectors(KeyedVectors(["a", "\udc80"], MATRIX[:2]), tmp_path / "v.h5")


def test_float16_that_cannot_hold_a_value_is_refused(tmp_path, recwarn):
    """As in every format."""
    path = save_vectors(KeyedVectors(["a", "b"], np.array([[1], [7e4]], "float32")), tmp_path / "v.h5")
    with pytest.raises(VectorFileError, match=r"too large for float16 in row 1 \(word 'b'\)"):
        load_vectors(path, dtype="float16")
    assert not list(recwarn)


@pytest.mark.parametrize("before", [None, b"before"])
def test_killed_in_the_middle_of_the_matrix(tmp_path, before):
    """kill -9 after half of the rows: the old file stays, or none is there."""
    path = tmp_path / "v.h5"
    if before:
        path.write_bytes(before)
    code = """
        import os, signal, sys
        import numpy as np
        from embkeras import KeyedVectors, save_vectors
        from embkeras.vectors.io import store
        from embkeras import _arrays
        _arrays.BLOCK = 10
        def half_of(shape, *numbers):
            for part in _arrays.row_slices(shape, *numbers):
                if part.start >= 10:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield part
        store.row_slices = half_of
        save_vectors(KeyedVectors([str(i) for i in range(20)], np.ones((20, 2), "float32")), sys.argv[1])
    """
    run_python("-c", code, path, returncode=-signal.SIGKILL)
    assert (path.read_bytes() if path.exists() else None) == before


def test_truncated_file_is_refused(path):
    """Cut anywhere, on opening."""
    whole = path.read_bytes()
    for end in [*range(8, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(VectorFileError, match=r"v\.h5' is not a complete HDF5 file"):
            load_vectors(path)


@pytest.mark.parametrize("name", ["words", "offsets", "hashes", "rows"])
def test_flipped_bit_of_the_words_is_no_wrong_answer(path, name):
    """Every word is found in its row, or the damage is reported; a word is never reported as missing."""
    start = _offset(path, name)
    for place in range(start + 8, start + 50, 7):  # behind the first offset, which is looked at on opening
        _flip(path, place)
        loaded = load_vectors(path)
        for row, word in enumerate(WORDS):
            try:
                assert loaded.key_to_index[word] == row
            except VectorFileError as error:
                assert f"expected {name!r}" in str(error)
        for ask in (lambda: "none" in loaded, lambda: list(loaded), lambda: loaded.rows_of(["none"])):  # noqa: B023
            with pytest.raises(VectorFileError, match=rf"damaged store: expected '{name}' \(bytes .* another checksum"):
                ask()
        _flip(path, place)


def test_flipped_bit_of_the_matrix_is_found_on_request(path):
    """Opening does not read the matrix; check_store does."""
    check_store(path)
    _flip(path, _offset(path, "matrix") + 100)
    load_vectors(path)
    with pytest.raises(VectorFileError, match=r"v\.h5' is a damaged store: expected 'matrix' \(bytes"):
        check_store(path)


def test_flipped_bit_of_the_headers_is_refused(path):
    """HDF5's own checksums cover what describes the arrays: no bit of it changes what is read."""
    whole = path.read_bytes()
    for place in range(0, 900, 11):
        _flip(path, place)
        try:
            loaded = load_vectors(path, format="store")
            assert loaded.words == WORDS and loaded.matrix.tobytes() == MATRIX.tobytes()
        except VectorFileError as error:
            assert "v.h5" in str(error)
        path.write_bytes(whole)


def _rewritten(path, **changes):
    """The store with other datasets or attributes; None leaves one out."""
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            if name in file:
                attributes = dict(file[name].attrs)
                del file[name]
                if value is not None:
                    file.create_dataset(name, data=value).attrs.update(attributes)
            else:
                file.attrs[name] = value
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "is a store of version 2, but this embkeras reads version 1"),
        ({"version": "1"}, r"damaged store: expected the attribute version, found no whole number"),
        ({"hashes": None}, "expected a dataset 'hashes' of <u8, found no dataset"),
        ({"matrix": np.ones((50, 4), "float64")}, "expected a dataset 'matrix' of <f4 or <f2, found float64"),
        ({"matrix": np.ones((49, 4), "float32")}, r"expected 'offsets' of shape \(50,\), found \(51,\)"),
        ({"matrix": np.ones((50,), "float32")}, r"expected 'matrix' of shape \(words, width\), found \(50,\)"),
        ({"matrix": np.ones((50, 0), "float32")}, r"expected 'matrix' of shape \(words, width\), found \(50, 0\)"),
        ({"rows": np.zeros(51, "uint32")}, r"expected 'rows' of shape \(50,\), found \(51,\)"),
        ({"offsets": np.ones(51, "uint64")}, "expected offsets from 0 to .*, found 1 to 1"),
    ],
)
def test_other_contents_are_refused(path, changes, message):
    """What is checked on every opening."""
    with pytest.raises(VectorFileError, match=message):
        load_vectors(_rewritten(path, **changes), format="store")


def test_claimed_rows_allocate_nothing(path):
    """A dataset of 10^12 rows that were never written."""
    with h5py.File(path, "r+") as file:
        del file["matrix"]
        file.create_dataset("matrix", (10**12, 300), "float32").attrs["crc32"] = np.uint32(0)
    with pytest.raises(
        VectorFileError, match=r"expected 'matrix' of shape \(1000000000000, 300\), found no bytes of it"
    ):
        load_vectors(path)


def test_dataset_in_pieces_is_refused(path):
    """Chunks cannot be mapped."""
    with h5py.File(path, "r+") as file:
        del file["matrix"]
        file.create_dataset("matrix", data=MATRIX, chunks=(5, 4)).attrs["crc32"] = np.uint32(0)
    with pytest.raises(VectorFileError, match="expected 'matrix' in one piece, found another layout"):
        load_vectors(path)


def test_link_out_of_the_file_is_refused(path, tmp_path):
    """No other file is opened on its word."""
    save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        del file["matrix"]
        file["matrix"] = h5py.ExternalLink("other.h5", "matrix")
    with pytest.raises(VectorFileError, match=r"expected a dataset 'matrix' .* found no dataset"):
        load_vectors(path)


def test_store_without_words_is_refused(tmp_path):
    """There is nothing to look up."""
    path = save_vectors(KeyedVectors([], np.empty((0, 3), "float32")), tmp_path / "v.h5")
    with pytest.raises(VectorFileError, match="contains no vectors"):
        load_vectors(path)


def test_member_is_refused(path):
    """A store has one table."""
    with pytest.raises(ArgumentError, match=r"v\.h5' is neither\. Received: 'a'"):
        load_vectors(path, member="a")


def test_other_hdf5_is_refused(tmp_path):
    """The message says how to read Numberbatch, whose small file is HDF5 written by pandas."""
    with h5py.File(tmp_path / "mini.h5", "w") as file:
        file.create_group("mat")["block0_values"] = np.ones((2, 3), "i1")
    with pytest.raises(VectorFileError, match=r"mini\.h5' is an HDF5 file, but not .* numberbatch-en\.txt\.gz"):
        load_vectors(tmp_path / "mini.h5")


def test_other_file_under_this_format_is_refused(tmp_path):
    """Text is not HDF5, even if format= says so."""
    (tmp_path / "v.h5").write_text("a 1 2\n")
    with pytest.raises(VectorFileError, match=r"v\.h5' is not a complete HDF5 file"):
        load_vectors(tmp_path / "v.h5", format="store")


def test_opening_takes_no_time_for_the_words(tmp_path, monkeypatch):
    """Neither words nor index are read: no checksum is computed until a word is missing."""
    path = save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "v.h5")
    compared = []
    monkeypatch.setattr(store.zlib, "crc32", lambda values, crc=0: compared.append(len(values)) or 0)
    loaded = load_vectors(path)
    np.testing.assert_array_equal(loaded["wörd 3"], MATRIX[3])
    assert loaded.rows_of(WORDS).tolist() == list(range(50))
    assert not compared
