"""NumPy's files: a .npy matrix and its words, and a .npz archive with both."""

import gzip
import io
import json
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, _arrays, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, MissingDependencyError, OutputError, VectorFileError
from embkeras.vectors.io import numpy_files
from tests.properties import PROPERTY, comes_back, finite_bits

MATRIX = np.arange(6, dtype="float32").reshape(3, 2)


@pytest.fixture
def path(tmp_path):
    """A matrix of three rows; the words are the test's to write."""
    np.save(tmp_path / "v.npy", MATRIX)
    return tmp_path / "v.npy"


@PROPERTY
@given(finite_bits(), st.data())
def test_npy_save_and_load_are_inverse(tmp_path, matrix, data):
    """Any words, even those that text can't hold, and every bit of the matrix."""
    words = data.draw(st.lists(st.text(max_size=5), min_size=len(matrix), max_size=len(matrix), unique=True))
    loaded = load_vectors(save_vectors(KeyedVectors(words, matrix), tmp_path / "v.npy"))
    assert loaded.words == words
    assert loaded.matrix.tobytes() == matrix.tobytes()


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("v.txt", "a b\nné\n#"),
        ("v.txt", "a b\nné\n#\n"),
        ("v.txt", "a b\r\nné\r\n#\r\n"),
        ("v.txt", "\ufeffa b\nné\n#"),
        ("v.json", json.dumps(["a b", "né", "#"])),
        ("v.json", "\ufeff" + json.dumps(["a b", "né", "#"])),
    ],
)
def test_words_beside_the_matrix(path, name, contents):
    """Lines of text or a JSON list."""
    path.with_name(name).write_bytes(contents.encode())
    assert load_vectors(path).words == ["a b", "né", "#"]


def test_lines_of_words_end_at_newlines_only(path):
    """A lone carriage return, U+0085 and U+2028 are parts of words."""
    path.with_suffix(".txt").write_bytes("a\rb\nc\x85d\ne\u2028f\n".encode())
    assert load_vectors(path).words == ["a\rb", "c\x85d", "e\u2028f"]


def test_compressed_matrix_is_refused(path):
    """It cannot be mapped; the message says what to do."""
    path.with_suffix(".txt").write_text("a\nb\nc")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(VectorFileError, match=r"v\.npy' is a \.npy file inside a \.gz file: unpack it first"):
        load_vectors(path)


def test_words_in_parquet(path):
    """The first column of strings."""
    pyarrow = pytest.importorskip("pyarrow", reason="reading parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="reading parquet needs pyarrow")
    parquet.write_table(pyarrow.table({"id": [0, 1, 2], "word": ["a", "b", "c"]}), path.with_suffix(".parquet"))
    assert load_vectors(path).words == ["a", "b", "c"]


def test_parquet_without_strings_is_refused(path):
    """The message names the columns."""
    pyarrow = pytest.importorskip("pyarrow", reason="reading parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="reading parquet needs pyarrow")
    parquet.write_table(pyarrow.table({"id": [0, 1, 2]}), path.with_suffix(".parquet"))
    with pytest.raises(VectorFileError, match=r"v\.parquet' has no column of strings; its columns are \['id'\]"):
        load_vectors(path)


def test_parquet_without_pyarrow_names_the_extra(path, monkeypatch):
    """The message says what to install."""
    path.with_suffix(".parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"v\.parquet' needs pyarrow: .*embkeras\[demo\]"):
        load_vectors(path)


def test_words_file_missing(path):
    """The message names the three places looked at."""
    with pytest.raises(VectorFileError, match=r"v\.txt, v\.json, v\.parquet, .*found none of them"):
        load_vectors(path)


def test_words_file_ambiguous(path):
    """The message names those found."""
    path.with_suffix(".txt").write_text("a\nb\nc")
    path.with_suffix(".parquet").write_text("")
    with pytest.raises(VectorFileError, match=r"found v\.txt, v\.parquet\. Pass words_file="):
        load_vectors(path)


def test_text_vectors_converted_to_npy_are_read_back(tmp_path):
    """The list that save_vectors writes wins over the text file of the same stem that the vectors came from."""
    vectors = KeyedVectors(["a", "b"], np.array([[1.0, 2.0], [3.0, 4.0]], "float32"))
    for name in ("g.txt", "g.npy"):
        save_vectors(vectors, tmp_path / name)
    np.testing.assert_array_equal(load_vectors(tmp_path / "g.npy")["b"], [3, 4])


def test_folder_in_the_way_leaves_the_words_alone(tmp_path):
    """A save that cannot be done touches neither file."""
    (tmp_path / "h.npy").mkdir()
    (tmp_path / "h.json").write_text("kept")
    with pytest.raises(OutputError, match=r"Cannot write '.*h\.npy': it is a folder"):
        save_vectors(KeyedVectors(["a"], np.ones((1, 2), "float32")), tmp_path / "h.npy")
    assert (tmp_path / "h.json").read_text() == "kept"


def test_words_file_given_is_missing(path):
    """The message names it."""
    with pytest.raises(VectorFileError, match=r"Cannot read the words in '.*none\.json': there is no such file"):
        load_vectors(path, words_file=path.with_name("none.json"))


def test_npy_words_of_another_length(path):
    """The message names both numbers and both files."""
    path.with_suffix(".txt").write_text("a\nb")
    with pytest.raises(VectorFileError, match=r"v\.npy' has 3 rows, but '.*v\.txt' has 2 words"):
        load_vectors(path)


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff"])
def test_words_that_are_no_json(path, contents):
    """The message names the file."""
    path.with_suffix(".json").write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"v\.json' is not a readable list of words"):
        load_vectors(path)


@pytest.mark.parametrize("contents", ['{"a": []}', '["a", "b", 3]', '["a", "b", null]'])
def test_words_that_are_no_strings(path, contents):
    """The message names the file."""
    path.with_suffix(".json").write_text(contents)
    with pytest.raises(VectorFileError, match=r"v\.json' must contain a list of strings"):
        load_vectors(path)


def test_npy_words_that_are_not_utf8(path):
    """The message names the file and the byte."""
    path.with_suffix(".txt").write_bytes(b"a\nb\xff\nc")
    with pytest.raises(VectorFileError, match=r"v\.txt' is not a readable list of words: .*0xff"):
        load_vectors(path)


def test_npy_repeated_words_are_counted(path):
    """The first row is kept."""
    path.with_suffix(".txt").write_text("a\nb\na")
    with pytest.warns(EmbkerasWarning, match=r"v\.npy' has 1 rows with a repeated word") as warned:
        loaded = load_vectors(path)
    assert (loaded.words, loaded["a"].tolist(), loaded.provenance.duplicates) == (["a", "b"], [0, 1], 1)
    assert warned[0].filename == __file__


def test_repeated_words_that_nobody_wants_are_not_counted(path):
    """Only the wanted rows are looked at."""
    path.with_suffix(".txt").write_text("a\nb\na")
    assert load_vectors(path, words=["b"]).provenance.duplicates == 0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "float64", "float16"])
def test_other_layouts_become_float32(path, dtype, order):
    """Byte order, precision and order in memory do not matter."""
    np.save(path, np.asarray(MATRIX, dtype, order=order))
    path.with_suffix(".txt").write_text("a\nb\nc")
    loaded = load_vectors(path)
    assert loaded.matrix.dtype == np.dtype("float32")
    np.testing.assert_array_equal(loaded.matrix, MATRIX)


@pytest.mark.parametrize("array", [np.ones(3), np.ones((3, 2), int), np.ones((3, 2, 1)), np.ones((3, 2), "U2")])
def test_npy_other_arrays_are_refused(path, array):
    """The message names the type and the shape."""
    np.save(path, array)
    with pytest.raises(VectorFileError, match="must contain floats") as raised:
        load_vectors(path)
    assert f"{array.dtype} {array.shape}" in str(raised.value)


def test_table_without_rows_is_refused(path):
    """There is nothing to look up."""
    np.save(path, np.ones((0, 2), "float32"))
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(VectorFileError, match=r"v\.npy' contains no vectors"):
        load_vectors(path)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e39, "float64")])
def test_npy_nonfinite_value_is_refused(path, value, dtype, recwarn):
    """The message names row and word; what float32 can't hold counts as infinity, without a warning of NumPy's."""
    matrix = MATRIX.astype(dtype)
    matrix[1, 1] = value
    np.save(path, matrix)
    path.with_suffix(".txt").write_text("a\nb\nc")
    with pytest.raises(VectorFileError, match=r"v\.npy' contains .* in row 1 \(word 'b'\)"):
        load_vectors(path)
    assert not list(recwarn)


def test_truncated_file_is_refused(path):
    """Cut anywhere after the magic bytes, the file is refused by name."""
    path.with_suffix(".txt").write_text("a\nb\nc")
    whole = path.read_bytes()
    for end in [*range(6, len(whole), 5), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(VectorFileError, match=r"v\.npy' is not a complete \.npy file"):
            load_vectors(path)


@PROPERTY
@given(st.lists(st.tuples(st.integers(6, 127), st.integers(0, 255)), min_size=1, max_size=3))
@pytest.mark.filterwarnings("ignore")
def test_damaged_header_is_refused_or_harmless(tmp_path, changes):
    """Bytes of the header overwritten: our error or a table, never another exception."""
    path = tmp_path / "v.npy"
    np.save(path, MATRIX)
    path.with_suffix(".txt").write_text("a\nb\nc")
    contents = bytearray(path.read_bytes())
    for position, byte in changes:
        contents[position] = byte
    path.write_bytes(contents)
    try:
        assert load_vectors(path).matrix.shape[0] == 3
    except VectorFileError as error:
        assert "v.npy" in str(error)


def test_header_that_is_no_python_is_refused(path):
    """An unclosed bracket in the header is a damaged file."""
    path.with_suffix(".txt").write_text("a\nb\nc")
    path.write_bytes(path.read_bytes().replace(b"(3, 2)", b"((3,2)"))
    with pytest.raises(VectorFileError, match=r"v\.npy' is not a complete \.npy file"):
        load_vectors(path)


def test_pickled_objects_are_refused(path):
    """No code of the file is run."""
    np.save(path, np.array([["a", None]], object), allow_pickle=True)
    with pytest.raises(VectorFileError, match=r"v\.npy' is not a complete \.npy file: .*object"):
        load_vectors(path)


@pytest.mark.parametrize("contents", [b"", b"a 1 2\n", b"PK\x05\x06" + bytes(18)])
def test_other_file_under_this_format_is_refused(path, contents):
    """Text and archives are not .npy files, even if format= says so."""
    path.write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"v\.npy' is not a complete \.npy file"):
        load_vectors(path, format="npy")


WORDS = ["a b", "né", "#", "nan"]
TABLE = np.arange(8, dtype="float32").reshape(4, 2)
ENDS_IN_NUL = st.text(max_size=5).map(lambda word: word.rstrip("\0"))


@pytest.fixture
def npz(tmp_path):
    """Four words, as save_vectors writes them."""
    return save_vectors(KeyedVectors(WORDS, TABLE), tmp_path / "v.npz")


@PROPERTY
@given(finite_bits(), st.data())
def test_npz_save_and_load_are_inverse(tmp_path, matrix, data):
    """Any words that do not end in NUL, and every bit of the matrix."""
    words = data.draw(st.lists(ENDS_IN_NUL, min_size=len(matrix), max_size=len(matrix), unique=True))
    comes_back(words, matrix, tmp_path / "v.npz")


def test_numpy_reads_what_is_written(npz):
    """Under the names `vectors` and `words`, without pickles."""
    with np.load(npz, allow_pickle=False) as archive:
        assert archive["words"].tolist() == WORDS
        np.testing.assert_array_equal(archive["vectors"], TABLE)


def test_word_that_ends_in_nul_is_refused(tmp_path):
    """NumPy would cut it off silently."""
    with pytest.raises(VectorFileError, match=r"v\.npz' can't hold the word 'b\\x00' \(row 1\)"):
        save_vectors(KeyedVectors(["a", "b\0"], TABLE[:2]), tmp_path / "v.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("words", [np.array(WORDS), np.array([word.encode() for word in WORDS])])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "float64", "float16"])
def test_archives_of_numpy(tmp_path, save, words, order, dtype):
    """Any names, byte order, precision and order in memory; words in unicode or UTF-8."""
    save(tmp_path / "v.npz", np.asarray(TABLE, dtype, order=order), labels=words, width=np.array(2))
    loaded = load_vectors(tmp_path / "v.npz")
    assert (loaded.words, loaded.matrix.dtype, loaded.provenance.format) == (WORDS, np.float32, "npz")
    np.testing.assert_array_equal(loaded.matrix, TABLE)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_blocks_and_batches(tmp_path, save, monkeypatch):
    """Rows and words that come some at a time are the same."""
    monkeypatch.setattr(_arrays, "BLOCK", 6)
    monkeypatch.setattr(numpy_files, "_WORD_BYTES", 20)
    matrix, words = np.arange(80, dtype="float32").reshape(40, 2), [f"w{i}" for i in range(40)]
    save(tmp_path / "v.npz", m=matrix, w=np.array(words))
    assert load_vectors(tmp_path / "v.npz").words == words
    np.testing.assert_array_equal(load_vectors(tmp_path / "v.npz").matrix, matrix)
    some = load_vectors(tmp_path / "v.npz", words=["w39", "w3", "w17"], limit=30)
    assert some.words == ["w3", "w17"]
    np.testing.assert_array_equal(some.matrix, matrix[[3, 17]])
    assert load_vectors(tmp_path / "v.npz", limit=7).words == words[:7]


def test_npz_words_that_are_not_utf8(tmp_path):
    """Bytes follow encoding= and errors=."""
    np.savez(tmp_path / "v.npz", m=TABLE[:2], w=np.array([b"a", b"b\xff"]))
    with pytest.raises(VectorFileError, match=r"v\.npz', row 1: the word b'b\\xff' is not valid utf-8"):
        load_vectors(tmp_path / "v.npz")
    assert load_vectors(tmp_path / "v.npz", errors="skip").provenance.undecodable == 1
    assert load_vectors(tmp_path / "v.npz", encoding="latin-1").words == ["a", "bÿ"]


def test_npz_repeated_words_are_counted(tmp_path):
    """The first row is kept."""
    np.savez(tmp_path / "v.npz", m=TABLE[:3], w=np.array(["a", "b", "a"]))
    with pytest.warns(EmbkerasWarning, match="1 rows with a repeated word"):
        loaded = load_vectors(tmp_path / "v.npz")
    assert (loaded.words, loaded["a"].tolist()) == (["a", "b"], [0, 1])


def test_words_in_a_file(tmp_path):
    """Beside the archive, or named; a file named goes before an array inside."""
    np.savez(tmp_path / "v.npz", TABLE)
    with pytest.raises(VectorFileError, match=r"v\.txt, v\.json, v\.parquet, .*found none of them"):
        load_vectors(tmp_path / "v.npz")
    (tmp_path / "v.txt").write_text("a\nb\nc\nd\n")
    assert load_vectors(tmp_path / "v.npz").words == ["a", "b", "c", "d"]
    np.savez(tmp_path / "v.npz", TABLE, np.array(WORDS))
    assert load_vectors(tmp_path / "v.npz", words_file=tmp_path / "v.txt").words == ["a", "b", "c", "d"]
    assert load_vectors(tmp_path / "v.npz").words == WORDS


def test_npz_words_of_another_length(tmp_path):
    """The message names both numbers."""
    np.savez(tmp_path / "v.npz", m=TABLE, w=np.array(WORDS[:3]))
    with pytest.raises(VectorFileError, match=r"v\.npz' has 4 rows, but 'w' \(<U3 \(3,\)\) has 3 words"):
        load_vectors(tmp_path / "v.npz")


def test_pickled_words_are_refused(tmp_path):
    """No code of the file is run; the message says how to save them."""
    np.savez(tmp_path / "v.npz", m=TABLE, w=np.array(WORDS, object))
    with pytest.raises(VectorFileError, match=r"objects are pickled, .* not opened\. .*np\.array\(words, str\)"):
        load_vectors(tmp_path / "v.npz")


def test_several_arrays(tmp_path):
    """member= says which are the vectors; of several lists of words none is guessed."""
    np.savez(tmp_path / "v.npz", m=TABLE, n=TABLE + 1, w=np.array(WORDS))
    with pytest.raises(ArgumentError, match=r"member= must name an array .*v\.npz'.* Received: None; .* 'm' \(float32"):
        load_vectors(tmp_path / "v.npz")
    with pytest.raises(ArgumentError, match="Received: 'w'"):
        load_vectors(tmp_path / "v.npz", member="w")
    assert load_vectors(tmp_path / "v.npz", member="n")["nan"].tolist() == [7, 8]
    assert load_vectors(tmp_path / "v.npz", member="n.npy")["nan"].tolist() == [7, 8]
    np.savez(tmp_path / "v.npz", m=TABLE, w=np.array(WORDS), x=np.array(WORDS))
    with pytest.raises(VectorFileError, match=r"contains 2 arrays of words: 'w' .* Pass words_file="):
        load_vectors(tmp_path / "v.npz")


@pytest.mark.parametrize("array", [np.ones(3), np.ones((3, 2), int), np.ones((3, 0))])
def test_npz_other_arrays_are_refused(tmp_path, array):
    """The message names type and shape."""
    np.savez(tmp_path / "v.npz", x=array)
    with pytest.raises(
        VectorFileError, match=r"must contain floats of shape \(words, width\)\. Received: 'x' \("
    ) as raised:
        load_vectors(tmp_path / "v.npz")
    assert f"{array.dtype} {array.shape}" in str(raised.value)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (1e39, "float64")])
def test_npz_nonfinite_value_is_refused(tmp_path, value, dtype, recwarn):
    """The message names row and word."""
    matrix = TABLE.astype(dtype)
    matrix[1, 1] = value
    np.savez(tmp_path / "v.npz", matrix, np.array(WORDS))
    with pytest.raises(VectorFileError, match=r"v\.npz' contains .* in row 1 \(word 'né'\)"):
        load_vectors(tmp_path / "v.npz")
    assert not list(recwarn)


def test_truncated_archive_is_refused(npz):
    """Cut anywhere, with and without format=."""
    whole = npz.read_bytes()
    for end in [*range(4, len(whole), 13), len(whole) - 1]:
        npz.write_bytes(whole[:end])
        for format in (None, "npz"):
            with pytest.raises(VectorFileError, match=r"v\.npz' is not a complete \.(npz|zip) file"):
                load_vectors(npz, format=format)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bit_is_refused(tmp_path, save):
    """zip's checksum covers words and matrix; a flip outside of them changes nothing that is read."""
    npz = tmp_path / "v.npz"
    save(npz, m=TABLE, w=np.array(WORDS))
    whole = npz.read_bytes()
    for place in range(0, len(whole), 3):
        npz.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            loaded = load_vectors(npz, format="npz")
            assert loaded.words == WORDS and loaded.matrix.tobytes() == TABLE.tobytes()
        except VectorFileError as error:
            assert "v.npz" in str(error)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_claimed_rows_allocate_nothing(tmp_path, compression):
    """A header that claims 10^12 rows is compared with the bytes in the file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 300)})
    with zipfile.ZipFile(tmp_path / "v.npz", "w", compression) as archive:
        archive.writestr("m.npy", header.getvalue() + bytes(100))
    with pytest.raises(VectorFileError, match=r"'m' .* takes 1,200,000,000,000,\d+ bytes, but it has 228"):
        load_vectors(tmp_path / "v.npz")


def test_header_of_another_version_is_refused(tmp_path):
    """Version 3 is for named fields, which can't be vectors."""
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("m.npy", b"\x93NUMPY\x03\x00" + bytes(100))
    with pytest.raises(VectorFileError, match=r"'m\.npy' has a header of the unknown version \(3, 0\)"):
        load_vectors(tmp_path / "v.npz")


def test_compression_that_numpy_does_not_write_is_refused(tmp_path):
    """What it would take cannot be told from the size of the file."""
    with zipfile.ZipFile(tmp_path / "v.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m.npy", bytes(100))
    with pytest.raises(VectorFileError, match="compressed in a way that NumPy doesn't write"):
        load_vectors(tmp_path / "v.npz")


# ------------------------------------------------------------------------------------------- the word_index of old Keras code


@pytest.mark.parametrize("first", [0, 1])
def test_word_index(tmp_path, first):
    """{word: id} is a list of words by row; without an id 0, the first row is the padding's and has no word."""
    index = {"dog": first + 1, "cat": first, "new york": first + 2}
    matrix = np.arange(2 * (3 + first), dtype="float32").reshape(-1, 2)
    np.save(tmp_path / "m.npy", matrix)
    (tmp_path / "word_index.json").write_text(json.dumps(index))
    loaded = load_vectors(tmp_path / "m.npy", words_file=tmp_path / "word_index.json")
    assert loaded.words == ["cat", "dog", "new york"]
    np.testing.assert_array_equal(loaded.matrix, matrix[first:])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"a": 1, "b": 2, "c": 3}', r"from 0 or 1 to 2. Received: 'c' with the id 3"),
        ('{"a": 1, "b": 1}', r"Received: 'a' and 'b' with the id 1"),
        ('{"a": 1}', r"Received: no word with the id 2"),
        ('{"a": -1}', r"Received: 'a' with the id -1"),
        ('{"a": 1, "a": 2}', r"'a' occurs twice"),
        ('{"a": 1, "b": true}', r"must contain a list of strings, or a word_index"),
        ('{"a": 1, "b": 2.0}', r"must contain a list of strings, or a word_index"),
    ],
)
def test_word_index_that_does_not_fit(tmp_path, index, message):
    """The message names the word and the id."""
    np.save(tmp_path / "m.npy", np.ones((3, 2), "float32"))
    (tmp_path / "word_index.json").write_text(index)
    with pytest.raises(VectorFileError, match=rf"word_index\.json'.*{message}"):
        load_vectors(tmp_path / "m.npy", words_file=tmp_path / "word_index.json")
