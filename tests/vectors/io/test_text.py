"""Text vectors: GloVe, word2vec text, fastText .vec."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io import text_reader
from embkeras.vectors.io.rows import Table
from embkeras.vectors.io.source import Source
from tests.properties import PROPERTY, TEXTS, finite_bits

ODD_WORDS = [
    "",
    " ",
    ". . .",
    "a\u00a0b",
    "a\u0085b",
    "a\u2028b",
    '"',
    "#",
    "nan",
    "NA",
    "null",
    "1",
    "a\tb",
    "a\rb",
    "\ufeffa",
    "\0",
]
NUMBERS = st.one_of(
    st.floats(-1e38, 1e38).map(repr),
    st.floats(-10, 10).map(lambda value: f"{value:.18e}"),
    st.from_regex(r"[+-]?[0-9]{1,17}(\.[0-9]{0,17})?([eE][+-]?[0-9])?", fullmatch=True),
    st.from_regex(r"-?\.[0-9]{1,20}", fullmatch=True),
    st.sampled_from(["0", "-0.0", "1e-45", "7e-46", "3.4028235e38", "16777217", "0.1", "1e-400"]),
)


@pytest.fixture
def write(tmp_path):
    """Write bytes as v.txt and give the path."""

    def write(contents: bytes):
        path = tmp_path / "v.txt"
        path.write_bytes(contents)
        return path

    return write


@PROPERTY
@given(finite_bits(), st.data(), st.sampled_from(["glove", "word2vec"]))
def test_save_and_load_are_inverse(tmp_path, matrix, data, format):
    """Any word that can be written and every bit of float32 come back, and so does the format."""
    words = st.one_of(st.sampled_from(ODD_WORDS), TEXTS.filter(lambda word: "\n" not in word and word[-1:] != "\r"))
    words = data.draw(st.lists(words, min_size=len(matrix), max_size=len(matrix), unique=True))
    vectors = KeyedVectors(words, matrix)
    try:
        path = save_vectors(vectors, tmp_path / "v", format=format)
    except VectorFileError:
        assume(False)
    loaded = load_vectors(path)
    assert loaded.words == words
    assert loaded.matrix.tobytes() == matrix.tobytes()
    assert loaded.provenance.format == format


@pytest.mark.parametrize("word", ODD_WORDS)
@pytest.mark.parametrize("format", ["glove", "word2vec"])
def test_odd_words_can_be_written(tmp_path, word, format):
    """Words that other readers split, drop or take for missing values."""
    vectors = KeyedVectors(["the", word, "end"], np.ones((3, 2), np.float32))
    assert load_vectors(save_vectors(vectors, tmp_path / "v", format=format)).words == ["the", word, "end"]


@pytest.mark.parametrize("format", ["glove", "word2vec"])
@pytest.mark.parametrize(
    ("words", "row"),
    [(["a", "b\nc"], 1), (["a\r", "b"], 0), (["a", "\ud800"], 1), (["a", "dog 0.25"], 1), (["x .5", "a"], 0)],
)
def test_words_that_would_be_read_as_others_are_refused(tmp_path, words, row, format):
    """The message names word and row, and nothing is written."""
    with pytest.raises(VectorFileError, match=rf"can't hold the word .* \(row {row}\)") as raised:
        save_vectors(KeyedVectors(words, np.ones((2, 2), np.float32)), tmp_path / "v", format=format)
    assert repr(words[row]) in str(raised.value)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("ending", [".txt", ".vec"])
@pytest.mark.parametrize("word", ["route 66", "x 1e3", "0 0", "web 2.0"])
def test_word_that_ends_in_a_number_is_read_with_a_width(tmp_path, word, ending):
    """It is not written, since a reader would have to be told; it is refused when read, and `width=` reads it."""
    vectors = KeyedVectors(["a", "b", word], np.full((3, 2), 0.5, np.float32))
    with pytest.raises(VectorFileError, match=rf"can't hold the word '{word}' \(row 2\)"):
        save_vectors(vectors, tmp_path / f"v{ending}")
    path = tmp_path / "v"
    path.write_text(("3 2\n" if ending == ".vec" else "") + "".join(f"{each} 0.5 0.5\n" for each in vectors.words))
    with pytest.raises(VectorFileError, match=rf"found b'{word} 0.5 0.5'.*pass width=2"):
        load_vectors(path)
    assert load_vectors(path, width=2).words == vectors.words


@pytest.mark.parametrize(
    ("words", "format"), [(["1", "2"], "glove"), (["x nan", "y nan"], "glove"), ([" a", "b"], "word2vec")]
)
def test_words_that_make_the_first_rows_ambiguous_are_refused(tmp_path, words, format):
    """What save_vectors writes, load_vectors reads; the message shows the first row."""
    vectors = KeyedVectors(words, np.ones((2, 2), np.float32))
    with pytest.raises(VectorFileError, match=f"b'{words[0]} 1 1") as raised:
        save_vectors(vectors, tmp_path / "v", format=format)
    assert "write a .npy file" in str(raised.value).lower() and not list(tmp_path.iterdir())


@PROPERTY
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_each_value_is_the_nearest_float32(tmp_path, rows):
    """Bit-equal to np.float32(float(text))."""
    path = tmp_path / "v.txt"
    path.write_text("".join(f"w{i} {a} {b}\n" for i, (a, b) in enumerate(rows)))
    expected = np.array([[np.float32(float(text)) for text in row] for row in rows])
    assume(np.isfinite(expected).all())
    assert load_vectors(path).matrix.tobytes() == expected.tobytes()


@pytest.mark.parametrize("first", [b"", b"2 2\n"])
@pytest.mark.parametrize(
    "rows",
    [b"a 1 2\r\nb 3 4\r\n", b"a 1 2\nb 3 4", b"a 1 2 \nb 3 4 \n", b"a 1 2 \r\nb 3 4", b"a 1 2\nb 3 4\n\n\r\n \n"],
)
def test_line_ends(write, first, rows):
    """CRLF, a space before the newline, no final newline, blank last lines."""
    loaded = load_vectors(write(first + rows))
    assert (loaded.words, loaded.matrix.tolist()) == (["a", "b"], [[1, 2], [3, 4]])


def test_more_rows_than_a_chunk(write):
    """Rows are gathered in chunks; none is lost between them."""
    loaded = load_vectors(write(b"".join(b"w%d %d 0.5\n" % (i, i) for i in range(4100))))
    assert len(loaded) == 4100
    assert loaded["w4099"].tolist() == [4099, 0.5]


@pytest.mark.parametrize("samples", [1, 16])
def test_rows_shorter_than_the_first_ones(write, monkeypatch, samples):
    """Whether or not the file is believed to have as many as it has."""
    monkeypatch.setattr(text_reader, "_SAMPLES", samples)
    long, short = [[f"{i:0{digits}d}" for i in range(count)] for digits, count in ((400, 500), (6, 50_000))]
    expected = []
    monkeypatch.setattr(text_reader, "Table", lambda *a: expected.append(a[2]) or Table(*a))
    loaded = load_vectors(write("".join(f"{word} {i}.5\n" for i, word in enumerate(long + short)).encode()))
    assert loaded.words == long + short
    assert loaded.matrix[:, 0].tolist() == [i + 0.5 for i in range(50_500)]
    assert expected[0] < 10_000 if samples == 1 else 50_500 < expected[0] < 70_000


def test_header_with_crlf(write):
    """A Windows header is a header."""
    assert load_vectors(write(b"1 2\r\na 1 2\r\n")).provenance.format == "word2vec"


def test_first_word_that_is_a_number(write):
    """A row that begins with a number is no header."""
    loaded = load_vectors(write(b"7 0.5 1\n8 1 2\n"))
    assert (loaded.words, loaded.provenance.format) == (["7", "8"], "glove")


def test_rows_that_look_like_a_header_can_be_read_as_rows(write):
    """`header=` or `format=` decides where two integers could be either."""
    path = write(b"7 5\n8 2\n")
    assert (
        load_vectors(path, format="glove", width=1).words
        == load_vectors(path, header=False, width=1).words
        == ["7", "8"]
    )


def test_header_is_required_when_asked_for(write):
    """format="word2vec" refuses a file without a header, in line 1."""
    with pytest.raises(VectorFileError, match=r"line 1: expected a header .*found b'a 1 2"):
        load_vectors(write(b"a 1 2\n"), format="word2vec")


@pytest.mark.parametrize(("count", "rows"), [(3, 2), (1, 2), (400_000, 2)])
def test_header_with_a_wrong_count_is_refused(write, count, rows):
    """Truncated or lengthened; the message names both numbers."""
    with pytest.raises(VectorFileError, match=f"line 1: the header says {count:,} rows, but the file has {rows}"):
        load_vectors(write(b"%d 2\na 1 2\nb 3 4\n" % count))


def test_header_with_a_wrong_count_below_the_limit(write):
    """What was not read cannot be counted."""
    assert len(load_vectors(write(b"9 2\na 1 2\nb 3 4\n"), limit=2)) == 2


@pytest.mark.parametrize("width", [1, 3, 300])
@pytest.mark.parametrize("rows", [b"a 0.5 1.5\nb 3.5 4.5\n", b"a 0.5 1.5"])
def test_header_with_a_wrong_width_is_refused(write, width, rows):
    """The message names the line and the width expected."""
    with pytest.raises(VectorFileError, match=rf"line 2: expected .*\b{width} number"):
        load_vectors(write(b"2 %d\n" % width + rows))


def test_header_wider_than_rows_of_integers_is_refused(write):
    """The header is not taken for a row of width 1."""
    with pytest.raises(VectorFileError, match="line 2: expected a word and 5 numbers, found b'a 1 2 3'"):
        load_vectors(write(b"2 5\na 1 2 3\nb 4 5 6\n"))


def test_header_over_a_row_cut_off_is_refused(write):
    """A file truncated in its first row is not read as one of width 1."""
    with pytest.raises(VectorFileError, match=r"line 2: expected a word and 50 numbers, found b'the 0.4'"):
        load_vectors(write(b"400000 50\nthe 0.4"))


def test_header_of_width_0_is_refused(write):
    """The message shows the header."""
    with pytest.raises(VectorFileError, match="line 1: expected a width of at least 1, found b'2 0"):
        load_vectors(write(b"2 0\na\nb\n"), format="word2vec")


@pytest.mark.parametrize("bad", [b"c 1.5", b"c", b"c 1.5 2.5 3.5", b"c 1.5 2.5 3.5 4.5"])
def test_row_of_another_width_is_refused(write, bad):
    """Narrow and wide rows; the message names the line and shows it."""
    with pytest.raises(VectorFileError, match=r"v\.txt', line 3: expected a word and 2 numbers") as raised:
        load_vectors(write(b"a 0.5 1.5\nb 2.5 3.5\n" + bad + b"\nd 0.5 1.5\n"))
    assert repr(bad) in str(raised.value)


def test_second_row_of_another_width_is_refused(write):
    """The message names line 2 and what line 1 promised."""
    with pytest.raises(VectorFileError, match=r"line 2: expected a word and 2 numbers, found b'b 2.5"):
        load_vectors(write(b"a 0.5 1.5\nb 2.5\n"))


def test_row_of_another_width_that_nobody_wants_is_refused(write):
    """Rows that are not parsed are counted all the same."""
    with pytest.raises(VectorFileError, match=r"line 3: .*found b'c 1.5'"):
        load_vectors(write(b"a 0.5 1.5\nb 2.5 3.5\nc 1.5\n"), words=["a"])


def test_line_number_counts_the_header(write):
    """Lines are counted as an editor counts them."""
    with pytest.raises(VectorFileError, match=r"line 3: .*found b'x'"):
        load_vectors(write(b"2 2\na 1 2\nb x 4\n"))


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-Infinity", "1e39", "-3.5e38"])
def test_value_that_is_not_finite_is_refused(write, value, recwarn):
    """The message names line and value, and NumPy adds no warning."""
    with pytest.raises(VectorFileError, match=f"line 2: expected finite float32 numbers, found b'{value}'"):
        load_vectors(write(f"a 1 2\nb 3 {value}\nc 1 2\n".encode()))
    assert not list(recwarn)


@pytest.mark.parametrize("value", ["x", "1_000", "0x10", "1,5", "--1", "1.5.2", "\u0663"])
def test_value_that_is_no_number_is_refused(write, value):
    """The message names line and value."""
    with pytest.raises(VectorFileError, match=r"line 3: expected .*numbers") as raised:
        load_vectors(write(f"a 1 2\nb 3 4\nc {value} 2\n".encode()))
    assert repr(value.encode()) in str(raised.value)


def test_two_spaces_are_an_empty_number(write):
    """A missing value is not skipped."""
    with pytest.raises(VectorFileError, match="line 3: expected 2 numbers after the word, found b''"):
        load_vectors(write(b"a 1 2\nb 3 4\nc  2\n"), format="glove")


def test_blank_line_in_the_middle_is_refused(write):
    """The message names the blank line, not the next one."""
    with pytest.raises(VectorFileError, match="line 2: expected a word and 2 numbers, found b''"):
        load_vectors(write(b"a 1 2\n\nb 3 4\n"))


def test_empty_file_is_refused(write):
    """The message says that it is one."""
    with pytest.raises(VectorFileError, match=r"v\.txt' contains no word vectors: it is an empty file"):
        load_vectors(write(b""))


@pytest.mark.parametrize("contents", [b"\n", b"   \n", b"\r\na 1 2\n"])
def test_empty_first_line_is_refused(write, contents):
    """A file that does not begin with a row."""
    with pytest.raises(VectorFileError, match=r"v\.txt' contains no vectors: its first line is empty"):
        load_vectors(write(contents))


def test_header_without_rows_is_refused(write):
    """A header alone is an empty table."""
    with pytest.raises(VectorFileError, match=r"v\.txt' contains no vectors"):
        load_vectors(write(b"0 2\n"))


@pytest.mark.parametrize("contents", [b"hello world\n", b"word\n", bytes(range(256)) * 40])
def test_other_files_are_refused(write, contents):
    """Prose and binary are no text vectors; the message names the line."""
    with pytest.raises(VectorFileError, match=r"v\.txt', line \d+: expected"):
        load_vectors(write(contents))


WITH_HEADER = b"4 3\na 0.5 1.5 2.5\nb b 1.25 2 3\n7 -1 2 1e-3\nd 1.5 2.5 3.5\n"


@pytest.mark.parametrize("end", range(len(WITH_HEADER) - len(b"3.5\n") + 1))
def test_truncated_file_with_a_header_is_refused(write, end):
    """Cut anywhere before the last value, a file with a header never gives another table."""
    with pytest.raises(VectorFileError, match=r"v\.txt'"):
        load_vectors(write(WITH_HEADER[:end]))


@PROPERTY
@given(st.binary(max_size=60), st.sampled_from([b"", b"1 2\n", b"a 0.5 1\n"]))
@pytest.mark.filterwarnings("ignore::embkeras.errors.EmbkerasWarning")
def test_any_bytes_give_a_table_or_our_error(tmp_path, noise, head):
    """Noise never gives another exception."""
    (tmp_path / "v.txt").write_bytes(head + noise)
    try:
        assert np.isfinite(load_vectors(tmp_path / "v.txt").matrix).all()
    except VectorFileError as error:
        assert "v.txt" in str(error)


BAD_UTF8 = b"a 1 2\ncaf\xe9 3 4\nna\xefve 5 6\n"


def test_bad_utf8_is_refused_by_default(write):
    """The message names line, word and byte."""
    with pytest.raises(VectorFileError, match=r"line 2: the word b'caf\\xe9' is not valid utf-8 \(byte 3\)"):
        load_vectors(write(BAD_UTF8))


def test_bad_utf8_replaced(write):
    """U+FFFD replaces the bytes, and the words are counted."""
    loaded = load_vectors(write(BAD_UTF8), errors="replace")
    assert (loaded.words, loaded.provenance.undecodable) == (["a", "caf\ufffd", "na\ufffdve"], 2)


def test_bad_utf8_skipped(write):
    """The rows are left out and counted; the rows after them keep their vectors."""
    loaded = load_vectors(write(BAD_UTF8 + b"z 7 8\n"), errors="skip")
    assert (loaded.words, loaded["z"].tolist(), loaded.provenance.undecodable) == (["a", "z"], [7, 8], 2)


def test_words_that_become_equal_are_repeated(write):
    """Two words that differ in their bad bytes only are one after the replacement."""
    with pytest.warns(EmbkerasWarning, match="has 1 rows with a repeated word"):
        loaded = load_vectors(write(b"x\xe9 1 2\nx\xef 3 4\n"), errors="replace")
    assert loaded["x\ufffd"].tolist() == [1, 2]


def test_other_encoding(write):
    """Words of a Latin-1 file."""
    assert load_vectors(write(BAD_UTF8), encoding="latin-1").words == ["a", "café", "naïve"]


def test_encoding_that_is_none_of_text_is_refused(write):
    """Python knows codecs of bytes, too."""
    with pytest.raises(ArgumentError, match=r"encoding must be the name of a text encoding.* Received: 'hex'"):
        load_vectors(write(b"a 1 2\n"), encoding="hex")


def test_word_that_utf8_cannot_hold_is_refused(write):
    """Some of Python's encodings make lone surrogates."""
    with pytest.raises(VectorFileError, match=r"line 2: the word b'\\\\ud800' is not valid raw_unicode_escape"):
        load_vectors(write(b"a 1 2\n\\ud800 3 4\n"), encoding="raw_unicode_escape")


@pytest.mark.parametrize("header", ["", "2 2\n"])
def test_byte_order_mark_is_no_part_of_the_first_word(tmp_path, header):
    """Some editors put one in front of UTF-8."""
    path = tmp_path / "v.txt"
    path.write_text(header + "the 1 2\ncat 3 4\n", encoding="utf-8-sig")
    assert load_vectors(path).words == ["the", "cat"]


@pytest.mark.parametrize("words", [None, ["cat", "dog"]])
def test_words_are_a_list_and_their_rows_a_dict(write, words):
    """Though they are kept as bytes: Keras' own layers and json take nothing else."""
    loaded = load_vectors(write(b"cat 0.1 0.2\ndog 0.3 0.4\n"), words=words)
    assert "dog" in loaded and loaded["dog"][0] == np.float32(0.3) and list(loaded) == ["cat", "dog"]
    assert json.dumps([loaded.words, loaded.key_to_index]) == '[["cat", "dog"], {"cat": 0, "dog": 1}]'
    assert keras.layers.StringLookup(vocabulary=loaded.words)(["dog"]).numpy().tolist() == [2]
    assert loaded["dog"][0] == np.float32(0.3) and loaded.rows_of(["dog", "x"]).tolist() == [1, -1]


def test_copy_in_another_process(write):
    """A pickle has each word once."""
    loaded = load_vectors(write(b"cat 0.1 0.2\ndog 0.3 0.4\n"))
    copy = pickle.loads(pickle.dumps(loaded))
    assert (copy.words, copy.key_to_index) == (["cat", "dog"], {"cat": 0, "dog": 1})
    assert all(a is b for a, b in zip(copy.words, copy.key_to_index, strict=True))


# Blocks, threads and the words asked for

VALUES = st.one_of(NUMBERS, st.from_regex(r"-?[0-9]\.[0-9]{1,8}", fullmatch=True))
WORDS = st.one_of(st.sampled_from(ODD_WORDS), st.text("ab \u00e9\u00a0\u2028", max_size=5))
WORDS = WORDS.filter(lambda word: word == word.strip(" "))  # blanks around a word may be those of aligned columns
ENDS = st.sampled_from(["\n", "\r\n", " \n", " \r\n"])


@st.composite
def files(draw) -> tuple[str, list[str], np.ndarray]:
    """The text of a file with its words and values, as Python's float reads them."""
    width, count = draw(st.integers(2, 5)), draw(st.integers(1, 12))
    words = draw(st.lists(WORDS, min_size=count, max_size=count, unique=True))
    rows = [draw(st.lists(VALUES, min_size=width, max_size=width)) for _ in words]
    matrix = np.array([[np.float32(float(value)) for value in row] for row in rows])
    assume(np.isfinite(matrix).all())
    lines = [" ".join([word, *row]) + draw(ENDS) for word, row in zip(words, rows, strict=True)]
    lines[-1] = draw(st.sampled_from([lines[-1], lines[-1].rstrip("\r\n"), lines[-1] + "\n \r\n"]))
    return f"{count} {width}\n" + "".join(lines), words, matrix


@pytest.fixture(params=[1, 2])
def cut(request, monkeypatch):
    """Set the size of a block, and read with one thread or two."""
    monkeypatch.setattr(text_reader, "_threads", lambda source: request.param)

    def cut(size):
        for name in ("BLOCK", "SEARCHED", "PICKED"):
            monkeypatch.setattr(text_reader, name, size)

    return cut


@pytest.mark.filterwarnings("ignore:.*newline:embkeras.errors.EmbkerasWarning")
@PROPERTY
@given(files(), st.integers(1, 200))
def test_blocks_and_threads_change_nothing(tmp_path, cut, file, size):
    """Wherever a block ends: the words, and each value bit for bit as Python reads it."""
    contents, words, matrix = file
    (tmp_path / "v.vec").write_bytes(contents.encode())
    cut(size)
    loaded = load_vectors(tmp_path / "v.vec")
    assert loaded.words == words
    assert loaded.matrix.tobytes() == matrix.tobytes()


@pytest.mark.filterwarnings("ignore:.*newline:embkeras.errors.EmbkerasWarning")
@PROPERTY
@given(files(), st.integers(1, 200), st.sets(st.integers(0, 11)))
def test_words_asked_for_are_those_of_the_whole(tmp_path, cut, file, size, rows):
    """The same rows, bit for bit, as a full load and a selection give."""
    contents, words, matrix = file
    (tmp_path / "v.vec").write_bytes(contents.encode())
    cut(size)
    rows = sorted(row for row in rows if row < len(words))
    loaded = load_vectors(tmp_path / "v.vec", words=[words[row] for row in rows], fallbacks=())
    assert loaded.words == [words[row] for row in rows]
    assert loaded.matrix.tobytes() == matrix[rows].tobytes()
    assert loaded.provenance.rows == len(words)


@pytest.mark.parametrize("size", [100, 700])
def test_lines_of_very_different_length(write, cut, size):
    """A thread takes over the beginning of a line that is longer than its own block."""
    cut(size)
    words = ["L" * (size + 10), *(f"a{i}" for i in range(size // 9)), "s", "M" * (5 * size // 2), *"edcba"]
    words += ["N" * 8 * size, "n"]
    loaded = load_vectors(write("".join(f"{word} {i}.5\n" for i, word in enumerate(words)).encode()))
    assert loaded.words == words
    assert loaded.matrix[:, 0].tolist() == [i + 0.5 for i in range(len(words))]


def test_first_fault_is_named_where_some_words_are_asked_for(write):
    """An invalid value in them is reported before a later row that is too short."""
    rows = [f"w{i} 0.1 0.2" for i in range(5000)]
    rows[2], rows[4000] = "w2 0.1 abc", "broken 0.1"
    with pytest.raises(VectorFileError, match=r"line 3: expected 2 numbers after the word, found b'abc'"):
        load_vectors(write("\n".join(rows).encode()), words=["w2"])


REGULAR = b"".join(b"w%d 0.%04d -1.5 0.25\n" % (i, i) for i in range(40))


@pytest.mark.parametrize("size", range(20, 110))
def test_every_block_boundary(write, cut, size):
    """The end of a block falls on every byte of a row."""
    cut(size)
    loaded = load_vectors(write(REGULAR))
    assert loaded.words == [f"w{i}" for i in range(40)]
    assert loaded.matrix.tolist() == [[np.float32(float(f"0.{i:04d}")), -1.5, 0.25] for i in range(40)]


@pytest.mark.parametrize("size", [30, 100, 10_000])
@pytest.mark.parametrize("words", [None, ["w3"]])
@pytest.mark.parametrize(
    ("bad", "found"), [(b"x 0.5 1.5", "x 0.5 1.5"), (b"x 0.5 1.5 2.5 3.5", "x 0.5 1.5 2.5 3.5"), (b"", "")]
)
def test_bad_row_is_named_whatever_the_blocks(write, cut, size, words, bad, found):
    """Line and contents, in the middle of a file, even if only other words are wanted."""
    cut(size)
    lines = REGULAR.splitlines()
    lines[30] = bad
    with pytest.raises(VectorFileError, match=f"line 31: expected a word and 3 numbers, found b'{found}'"):
        load_vectors(write(b"\n".join(lines)), words=words)


@pytest.mark.parametrize("size", [30, 100, 10_000])
@pytest.mark.parametrize("value", ["1e39", "x", "1_0", "nan", "1.\t5"])
def test_first_bad_value_is_named(write, cut, size, value):
    """Of two the first of the file, whichever thread meets the other."""
    cut(size)
    lines = REGULAR.splitlines()
    lines[30] = lines[34] = f"x 0.5 {value} 1.5".encode()
    with pytest.raises(VectorFileError, match="line 31: expected ") as raised:
        load_vectors(write(b"\n".join(lines)))
    assert repr(value.encode()) in str(raised.value)


@pytest.mark.parametrize("errors", ["replace", "skip"])
@pytest.mark.parametrize("words", [None, ["w3"]])
def test_undecodable_words_are_counted_once(write, cut, errors, words):
    """Whatever the blocks, and however often a row is looked at."""
    cut(100)
    contents = REGULAR.replace(b"w7 0.0007", b"a\xff 7").replace(b"w20 0.", b"b\xfe 20.").replace(b"w3 0.0003", b"w3 3")
    loaded = load_vectors(write(contents), errors=errors, words=words)
    assert loaded.provenance.undecodable == 2
    assert loaded["w3"].tolist() == [3, -1.5, 0.25]
    if words is None:
        assert loaded["w39"].tolist() == [np.float32(0.0039), -1.5, 0.25]


@pytest.mark.filterwarnings("ignore::embkeras.errors.EmbkerasWarning")
def test_repeated_words_are_left_out_of_the_table(write, cut):
    """The rows after them move up."""
    cut(100)
    lines = REGULAR.splitlines()
    contents = b"\n".join(lines[:10] + lines[3:5] + lines[10:] + lines[:1]) + b"\n"
    loaded, whole = load_vectors(write(contents)), load_vectors(write(REGULAR))
    assert loaded.words == whole.words
    assert loaded.matrix.tobytes() == whole.matrix.tobytes()
    assert (loaded.provenance.duplicates, loaded.provenance.rows) == (3, 43)


@pytest.mark.parametrize("limit", [1, 7, 39, 40, 41])
@pytest.mark.parametrize("header", [b"", b"40 3\n"])
def test_limit_whatever_the_blocks(write, cut, limit, header):
    """Rows after it are not looked at."""
    cut(100)
    loaded = load_vectors(write(header + REGULAR + b"bad" * (limit < 40)), limit=limit)
    assert loaded.words == [f"w{i}" for i in range(min(limit, 40))]


@pytest.mark.parametrize("words", [None, ["a"]])
@pytest.mark.parametrize("header", [b"1000000000000 2\n", b"2 1000000000000\n", b"1000000000000 1000000000000\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_header_that_lies_allocates_nothing(write, words, header, pack):
    """Rows or a width that the file can't hold: refused, with no more memory than the file needs."""
    path = write(pack(header + b"a 0.5 1.5\nb 2.5 3.5\n"))
    tracemalloc.start()
    try:
        with pytest.raises(
            VectorFileError, match=r"line 2: expected a word and 10+ numbers|1,000,000,000,000 rows, but the file has 2"
        ):
            load_vectors(path, words=words)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rows", [b"", b"\n", b" \n\n"])
@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("words", [None, ["a"]])
def test_wide_header_without_rows_is_refused(write, count, rows, words):
    """A width that no array can have, and no row to hold it against."""
    with pytest.raises(
        VectorFileError, match=r"contains no vectors|says 2 rows, but the file has 0|line 2: expected a word and 9+ num"
    ):
        load_vectors(write(b"%d %s\n" % (count, 18 * b"9") + rows), words=words, format="word2vec")


def test_header_of_thousands_of_digits_is_none(write):
    """Python refuses to read such a number; it is a word then."""
    assert load_vectors(write(5000 * b"1" + b" 2\nb 3\n")).words == [5000 * "1", "b"]


def test_memory_follows_the_words_asked_for(write):
    """Neither with the words of the file, nor with the number of wanted words that are missing from it."""
    path = write(b"".join(b"w%d" % i + b" 0.25" * 200 + b"\n" for i in range(5000)))
    tracemalloc.start()
    try:
        loaded = load_vectors(path, words=[f"w{i}" for i in range(4000, 40_000)][::20])
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()
    assert len(loaded) == 50


# Compressed

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def only_member(path: Path):
    """The one file in a zip archive."""
    archive = zipfile.ZipFile(path)
    (name,) = archive.namelist()
    assert name == path.stem and archive.getinfo(name).compress_type == zipfile.ZIP_DEFLATED
    return archive.open(name)


WRITTEN = OPENERS | {".zip": only_member}


def zipped(path: Path, contents: bytes) -> Path:
    """A zip archive with one member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glove.txt", contents)
    return path


@pytest.mark.parametrize("words", [None, ["w39", "w0"]])
@pytest.mark.parametrize("kind", [".gz", ".bz2", ".xz", ".zip"])
@pytest.mark.parametrize("header", [b"", b"40 3\n"])
def test_compressed_text(tmp_path, write, cut, kind, words, header):
    """Read like an uncompressed file, under any name."""
    cut(100)
    expected = load_vectors(write(REGULAR), words=words)
    path = tmp_path / "packed"
    if kind == ".zip":
        zipped(path, header + REGULAR)
    else:
        path.write_bytes(PACKERS[kind](header + REGULAR))
    loaded = load_vectors(path, words=words)
    assert loaded.words == expected.words
    assert loaded.matrix.tobytes() == expected.matrix.tobytes()


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_file_cut_off_is_refused(tmp_path, kind):
    """Nothing of it is returned."""
    packed = PACKERS[kind](np.random.default_rng(0).bytes(50).hex().encode() + b" 0.5 1.5\n" + REGULAR * 100)
    for end in range(len(packed) // 2, len(packed), 41):
        (tmp_path / "v.txt").write_bytes(packed[:end])
        with pytest.raises(VectorFileError, match=r"v\.txt' is not a complete"):
            load_vectors(tmp_path / "v.txt")


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize(("ending", "format"), [(".txt", "glove"), (".vec", "word2vec")])
def test_compressed_text_is_written(tmp_path, kind, ending, format):
    """The ending before that of the compression tells the format."""
    vectors = KeyedVectors(["the", "cat"], np.array([[0.1, -2], [1e-7, 3]], np.float32))
    path = save_vectors(vectors, tmp_path / f"v{ending}{kind}")
    with WRITTEN[kind](path) as file:
        assert file.readline() == {"glove": b"the 0.100000001 -2\n", "word2vec": b"2 2\n"}[format]
    loaded = load_vectors(path)
    assert (loaded.words, loaded.provenance.format) == (vectors.words, format)
    assert loaded.matrix.tobytes() == vectors.matrix.tobytes()


def test_compressed_text_is_the_same_every_time(tmp_path):
    """Neither time nor folder goes into the file."""
    vectors = KeyedVectors(["the"], np.ones((1, 2), np.float32))
    first = save_vectors(vectors, tmp_path / "a" / "v.txt.gz").read_bytes()
    assert first == save_vectors(vectors, tmp_path / "b" / "w.txt.gz").read_bytes()
    with zipfile.ZipFile(save_vectors(vectors, tmp_path / "v.txt.zip")) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize("name", ["v.gz", "v.npy.gz", "v.dat.xz", "v.zip", "v.h5.zip"])
def test_compressed_name_that_tells_no_format_is_refused(tmp_path, name):
    """Only text is written compressed; the message names the file."""
    with pytest.raises(ArgumentError, match=f"from the name '{name}'"):
        save_vectors(KeyedVectors(["the"], np.ones((1, 2), np.float32)), tmp_path / name)


# Real files, with gensim as the oracle

SPECIMENS = [
    ("crime-and-punishment.vec", "utf-8", "strict"),
    ("lee_fasttext.vec", "utf-8", "strict"),
    ("pang_lee_polarity_fasttext.vec", "utf-8", "replace"),
    ("pang_lee_polarity_fasttext.vec", "cp1252", "strict"),
    ("high_precision.kv.txt", "utf-8", "strict"),
    ("w2v_keyedvectors_load_test.modeldata", "utf-8", "replace"),
]


@pytest.fixture(scope="module")
def specimens():
    """The folder of gensim's real files."""
    gensim = pytest.importorskip("gensim", reason="the specimens come with gensim")
    return Path(gensim.__file__).parent / "test" / "test_data"


@pytest.mark.parametrize(("name", "encoding", "errors"), SPECIMENS)
def test_specimens_with_a_header_are_what_gensim_reads(specimens, name, encoding, errors):
    """Words and values, bit for bit."""
    from gensim.models import KeyedVectors as Oracle

    loaded = load_vectors(specimens / name, encoding=encoding, errors=errors)
    expected = Oracle.load_word2vec_format(specimens / name, encoding=encoding, unicode_errors=errors)
    assert loaded.words == expected.index_to_key
    assert loaded.matrix.tobytes() == expected.vectors.tobytes()


def test_specimen_without_a_header_is_what_gensim_reads(specimens):
    """GloVe text."""
    from gensim.models import KeyedVectors as Oracle

    loaded = load_vectors(specimens / "test_glove.txt")
    expected = Oracle.load_word2vec_format(specimens / "test_glove.txt", no_header=True)
    assert loaded.words == expected.index_to_key
    assert loaded.matrix.tobytes() == expected.vectors.tobytes()


def test_specimen_with_fewer_rows_than_it_says_is_refused(specimens):
    """Its header says 3, it has 1."""
    with pytest.raises(VectorFileError, match="line 1: the header says 3 rows, but the file has 1"):
        load_vectors(specimens / "pretrained.vec")


@pytest.mark.parametrize("name", ["pang_lee_polarity_fasttext.vec", "w2v_keyedvectors_load_test.modeldata"])
def test_specimen_that_is_not_utf8_is_refused(specimens, name):
    """The message names the line and the word."""
    with pytest.raises(VectorFileError, match=r"line \d+: the word b'.*' is not valid utf-8"):
        load_vectors(specimens / name)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="asks for the processors of this process")
@pytest.mark.parametrize(("processors", "size", "threads"), [(2, 100, 2), (8, 100, 2), (1, 100, 1), (2, 10**9, 1)])
def test_threads(monkeypatch, write, processors, size, threads):
    """Two where there are processors for them and the file is large enough."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)))
    monkeypatch.setattr(text_reader, "WORTH_A_THREAD", size)
    assert text_reader._threads(Source(write(b"a 1 2\n" * 20))) == threads
