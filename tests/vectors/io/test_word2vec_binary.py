"""word2vec binary: a header, then words and their numbers as they are in memory."""

import bz2
import gzip
import lzma
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io import word2vec_binary
from tests.properties import PROPERTY, comes_back, finite_bits, read_or_refused

WORDS = ["the", "naïve", "日本", '"', "#", "nan", "</s>", "\u00a0", "7"]
MATRIX = np.random.default_rng(1).normal(size=(len(WORDS), 5)).astype("float32")

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # of NumPy, about NaN: an error for some users


def packed(words=WORDS, matrix=MATRIX, *, newline=b"\n", count=None, last=True):
    """The file as bytes; words may be bytes already. `last` says whether the last row has its newline, too."""
    raw = [word if isinstance(word, bytes) else word.encode() for word in words]
    rows = [word + b" " + row.tobytes() + newline for word, row in zip(raw, matrix, strict=True)]
    body = b"".join(rows)
    return b"%d %d\n" % (len(words) if count is None else count, matrix.shape[1]) + (
        body if last else body.removesuffix(newline)
    )


@pytest.fixture
def written(tmp_path):
    """Write bytes to a file whose name says nothing."""

    def write(contents):
        path = tmp_path / "vectors"
        path.write_bytes(contents)
        return path

    return write


@PROPERTY
@given(finite_bits(), st.data())
def test_save_and_load_are_inverse(tmp_path, matrix, data):
    """Every bit of the matrix, and any words without spaces and newlines."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters=" \n")
    words = data.draw(
        st.lists(st.text(characters, max_size=5), min_size=len(matrix), max_size=len(matrix), unique=True)
    )
    comes_back(words, matrix, tmp_path / "v.bin", format="word2vec-binary")


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("newline", [b"\n", b""])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("rows", [2, len(WORDS), 3000])
def test_layouts_are_found(written, dtype, newline, last, rows):
    """With and without newlines, the last one missing, and numbers of another length; nothing in the file says which."""
    matrix = np.random.default_rng(2).normal(size=(rows, 50)).astype(dtype)
    words = [f"word{i}" for i in range(rows)]
    loaded = load_vectors(written(packed(words, matrix, newline=newline, last=last)))
    assert (loaded.words, loaded.provenance.format, loaded.provenance.rows) == (words, "word2vec-binary", rows)
    np.testing.assert_array_equal(loaded.matrix, matrix.astype("float32"))
    assert loaded.matrix.dtype == np.float32


@pytest.mark.parametrize("newline", [b"\n", b""])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_layout_is_found_from_the_first_rows(written, monkeypatch, dtype, newline):
    """It is found without reading the whole file."""
    monkeypatch.setattr(word2vec_binary, "_BUFFER", 1 << 12)
    matrix = np.random.default_rng(2).normal(size=(900, 50)).astype(dtype)
    loaded = load_vectors(written(packed([f"word{i}" for i in range(900)], matrix, newline=newline)))
    np.testing.assert_array_equal(loaded.matrix, matrix.astype("float32"))


@pytest.mark.parametrize("newline", [b"\n", b""])
def test_one_row_is_enough(written, newline):
    """Where nothing can be compared, numbers are float32."""
    loaded = load_vectors(written(packed(["a"], MATRIX[:1], newline=newline)))
    np.testing.assert_array_equal(loaded["a"], MATRIX[0])


def test_words_keep_what_they_are(written):
    """Odd words, and control characters in some."""
    words = ["\x7f", "a\x01b", "", "\tx", "\u2028", *(f"w{i}" for i in range(40))]
    matrix = np.random.default_rng(3).normal(size=(len(words), 8)).astype("float32")
    for newline in (b"\n", b""):
        assert load_vectors(written(packed(words, matrix, newline=newline))).words == words


@pytest.mark.parametrize("size", [64, 100, 137, 1 << 12])
@pytest.mark.parametrize("newline", [b"\n", b""])
def test_blocks_do_not_matter(written, monkeypatch, size, newline):
    """Rows that lie across what is read at once, or are longer, are read as others are."""
    monkeypatch.setattr(word2vec_binary, "_BUFFER", size)
    words = [f"word{i}" * (1 + i % 3) for i in range(60)]
    matrix = np.random.default_rng(4).normal(size=(60, 12)).astype("float32")
    path = written(packed(words, matrix, newline=newline))
    loaded = load_vectors(path)
    assert loaded.words == words
    np.testing.assert_array_equal(loaded.matrix, matrix)
    np.testing.assert_array_equal(load_vectors(path, words=words[7:50:6]).matrix, matrix[7:50:6])


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_compressed_files_are_read_as_they_are(tmp_path, kind):
    """By their contents, and with the same result."""
    path = tmp_path / "v"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("v.bin", packed())
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(packed()))
    loaded = load_vectors(path)
    assert loaded.words == WORDS
    np.testing.assert_array_equal(loaded.matrix, MATRIX)


def test_words_and_limit_select(written):
    """The wanted rows come in the order of the file."""
    path = written(packed())
    some = load_vectors(path, words=["日本", "THE", "none"])
    assert some.words == ["the", "日本"]
    np.testing.assert_array_equal(some.matrix, MATRIX[[0, 2]])
    head = load_vectors(path, limit=2)
    assert (head.words, head.provenance.rows) == (WORDS[:2], 2)
    assert load_vectors(path, words=["none"]).matrix.shape == (0, 5)


def test_float16_is_rounded_once(written):
    """Half the memory."""
    loaded = load_vectors(written(packed()), dtype="float16")
    np.testing.assert_array_equal(loaded.matrix, MATRIX.astype("float16"))


def test_duplicates_are_counted(written):
    """The first row is kept, also where the words lie in different blocks."""
    path = written(packed(["a", "b", "a", "a"], MATRIX[:4]))
    with pytest.warns(EmbkerasWarning, match="has 2 rows with a repeated word"):
        loaded = load_vectors(path)
    np.testing.assert_array_equal(loaded["a"], MATRIX[0])
    assert (loaded.words, loaded.provenance.duplicates) == (["a", "b"], 2)


CUT = ["ok", "日本".encode()[:-1], b"\xff", "é"]


@pytest.mark.parametrize(
    ("errors", "words", "rows"),
    [("replace", ["ok", "日\ufffd", "\ufffd", "é"], [0, 1, 2, 3]), ("skip", ["ok", "é"], [0, 3])],
)
def test_words_cut_in_a_character(written, errors, words, rows):
    """As old word2vec.c wrote them; counted."""
    loaded = load_vectors(written(packed(CUT, MATRIX[:4])), errors=errors)
    assert (loaded.words, loaded.provenance.undecodable) == (words, 2)
    np.testing.assert_array_equal(loaded.matrix, MATRIX[rows])


def test_words_cut_in_a_character_are_refused(written):
    """The message names the byte, the word and what can be done."""
    contents = packed(CUT, MATRIX[:4])
    place = contents.index(CUT[1])
    with pytest.raises(VectorFileError, match=rf"byte {place}: the word b.*is not valid utf-8.*errors=\"replace\""):
        load_vectors(written(contents))


@pytest.mark.parametrize("encoding", ["cp852", "latin-1", "shift_jis"])
def test_other_encodings(written, encoding):
    """Words are decoded with the given encoding."""
    words = {"shift_jis": ["日本", "a"]}.get(encoding, ["übung", "é"])
    contents = packed([word.encode(encoding) for word in words], MATRIX[:2])
    assert load_vectors(written(contents), encoding=encoding).words == words


def test_unknown_encoding_is_refused(written):
    """The message names it."""
    with pytest.raises(ArgumentError, match=r"encoding must be the name of a text encoding.* Received: 'base64'"):
        load_vectors(written(packed()), encoding="base64")


@pytest.mark.parametrize("newline", [b"\n", b""])
@pytest.mark.parametrize("compressed", [False, True])
def test_cut_off_anywhere_is_refused(written, newline, compressed):
    """No part of a file passes for the whole file; only the very last newline may be missing."""
    contents = packed(newline=newline)
    for end in range(1, len(contents) - len(newline)):
        part = contents[:end]
        path = written(gzip.compress(part) if compressed else part)
        with pytest.raises(VectorFileError):
            load_vectors(path, format="word2vec-binary")
        with pytest.raises(VectorFileError):
            load_vectors(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("header", [b"1000000000000 300\n", b"2 999999999999999999\n", b"999999999999999999 1\n"])
def test_header_that_lies_allocates_nothing(written, header, compressed):
    """Claims of 10^12 rows are compared with the file, or checked as the data is read."""
    contents = header + packed().partition(b"\n")[2]
    path = written(gzip.compress(contents) if compressed else contents)
    tracemalloc.start()
    with pytest.raises(VectorFileError, match=r"vectors', byte \d+|up to row"):
        load_vectors(path, format="word2vec-binary")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_more_rows_than_said_are_refused(written):
    """The message names the place; with a limit the end is not looked at."""
    path = written(packed(count=len(WORDS) - 1))
    with pytest.raises(VectorFileError, match=r"expected the end of the file after 8 rows, .*limit=8"):
        load_vectors(path)
    assert len(load_vectors(path, limit=3)) == 3


def test_row_of_a_repeated_word_is_checked_too(written):
    """NaN in any row that is read is refused; rows that are not wanted are not looked at."""
    path = written(packed(["a", "b", "a"], np.array([[1, 2], [3, 4], [np.nan, 0]], "float32")))
    with pytest.raises(VectorFileError, match=r"expected finite float32 numbers, found NaN.* in row 2 \(word b'a'\)"):
        load_vectors(path)
    assert load_vectors(path, words=["b"])["b"].tolist() == [3, 4]


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (7e4, "float16")])
def test_numbers_that_are_not_finite_are_refused(written, value, dtype, recwarn):
    """The message names the byte, the row and the word, and NumPy adds no warning."""
    matrix = MATRIX.copy()
    matrix[2, 3] = value
    contents = packed(matrix=matrix)
    place = contents.index("日本 ".encode()) + 7
    with pytest.raises(VectorFileError, match=rf"byte {place}: expected finite {dtype} numbers.*row 2 \(word b"):
        load_vectors(written(contents), dtype=dtype)
    assert not list(recwarn)


def test_missing_newline_is_refused(written):
    """Between rows that have one."""
    words = [f"w{i}" for i in range(400)]
    matrix = np.random.default_rng(5).normal(size=(400, 100)).astype("float32")
    contents = bytearray(packed(words, matrix))
    end = contents.index(b"w300 ") - 1
    contents[end : end + 1] = b"x"
    with pytest.raises(VectorFileError, match=rf"byte {end:,}: expected a newline at the end of row 299"):
        load_vectors(written(bytes(contents)))


def test_word_without_an_end_is_refused(written):
    """A run of bytes without a space is no word."""
    contents = packed(newline=b"").replace("日本 ".encode(), b"x" * 70_000)
    with pytest.raises(VectorFileError, match="expected words of at most 65,536 bytes"):
        load_vectors(written(contents), format="word2vec-binary")


@pytest.mark.parametrize(
    "contents",
    [b"2 2\ncat 1 0.5\ndog -1e5 2\n", b"1 2\na b 1 2", b"2 3\ncat 1 2\ndog 1 2\n", b"1 1\ncat 1.50\n", b"2 2\n"],
)
def test_text_is_not_taken_for_binary(written, contents):
    """The same header may precede text, also damaged text."""
    assert not word2vec_binary.recognises(word2vec_binary.Source(written(contents)))


@pytest.mark.parametrize("newline", [b"\n", b""])
@pytest.mark.parametrize("dtype", [">f4", ">f8"])
@pytest.mark.parametrize("format", [None, "word2vec-binary"])
def test_big_endian_numbers_are_refused(written, dtype, newline, format):
    """By their sizes; the message shows the first number both ways."""
    contents = packed(WORDS, MATRIX.astype(dtype), newline=newline)
    with pytest.raises(VectorFileError, match=rf"big-endian.* the first is {MATRIX[0, 0]:.4g}, and "):
        load_vectors(written(contents), format=format)


def test_numbers_of_no_plausible_size_need_a_format(written):
    """They may be other bytes; the message shows the sizes. The format says that they are numbers."""
    path = written(packed(matrix=MATRIX * np.float32(1e-30)))
    with pytest.raises(VectorFileError, match=r"between \d.*e-3\d and \d.*e-30 in size.*format=\"word2vec-binary\""):
        load_vectors(path)
    np.testing.assert_array_equal(load_vectors(path, format="word2vec-binary").matrix, MATRIX * np.float32(1e-30))


@pytest.mark.parametrize("scale", [0, 1e-6, 1e4])
def test_zeros_small_and_large_vectors_are_read(written, scale):
    """What trainings start with, and what was never normalised."""
    matrix = (MATRIX * scale).astype("float32")
    np.testing.assert_array_equal(load_vectors(written(packed(matrix=matrix))).matrix, matrix)


@pytest.mark.parametrize("header", [b"", b"2\n", b"-1 2\n", b"2 0\n", b"two 2\n"])
def test_header_is_needed(written, header):
    """The message shows the bytes there."""
    with pytest.raises(VectorFileError, match='expected a header "rows width"'):
        load_vectors(written(header + b"cat \0\0\0\0"), format="word2vec-binary")


@pytest.mark.parametrize("word", ["a b", "a\nb", "a\ud83d", "x" * 65_537])
def test_words_that_it_cannot_hold_are_refused(tmp_path, word):
    """They would be read back as others; no file appears."""
    with pytest.raises(VectorFileError, match=r"can't hold the word .* \(row 1\)"):
        save_vectors(KeyedVectors(["ok", word], MATRIX[:2]), tmp_path / "v.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::embkeras.errors.EmbkerasWarning")
@PROPERTY
@given(st.data())
def test_damage_never_escapes(tmp_path, data):
    """Whatever bytes are put in the place of others, it is read or refused."""
    contents = packed(newline=data.draw(st.sampled_from([b"\n", b""])))
    read_or_refused(tmp_path / "v", contents, data.draw(st.integers(0, len(contents))), data, "word2vec-binary")


@pytest.fixture
def gensim():
    """What other programs wrote, and the oracle."""
    return pytest.importorskip("gensim")


@pytest.mark.parametrize("name", ["euclidean_vectors.bin", "poincare_vectors.bin", "high_precision.kv.bin"])
def test_specimens_equal_gensims(gensim, name):
    """The same words and bits."""
    path = Path(gensim.__file__).parent / "test" / "test_data" / name
    theirs = gensim.models.KeyedVectors.load_word2vec_format(path, binary=True)
    ours = load_vectors(path)
    assert (ours.words, ours.provenance.format) == (theirs.index_to_key, "word2vec-binary")
    assert ours.matrix.tobytes() == theirs.vectors.tobytes()


def test_text_specimen_is_text(gensim):
    """A header, words cut in a character, and numbers in text."""
    path = Path(gensim.__file__).parent / "test" / "test_data" / "w2v_keyedvectors_load_test.modeldata"
    assert load_vectors(path, errors="replace").provenance.format == "word2vec"


def test_gensim_reads_what_we_write(gensim, tmp_path):
    """And we what gensim writes."""
    path = save_vectors(KeyedVectors(WORDS, MATRIX), tmp_path / "v.bin")
    theirs = gensim.models.KeyedVectors.load_word2vec_format(path, binary=True)
    assert theirs.index_to_key == WORDS
    assert theirs.vectors.tobytes() == MATRIX.tobytes()
    theirs.save_word2vec_format(tmp_path / "g.bin", binary=True)
    assert load_vectors(tmp_path / "g.bin").matrix.tobytes() == MATRIX.tobytes()
