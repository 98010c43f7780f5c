"""Text vectors: GloVe, word2vec text, fastText .vec."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import EmbkerasWarning, VectorFileError
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
    with pytest.raises(VectorFileError, match=rf"cannot hold the word .* \(row {row}\)") as raised:
        save_vectors(KeyedVectors(words, np.ones((2, 2), np.float32)), tmp_path / "v", format=format)
    assert repr(words[row]) in str(raised.value)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("word", ["route 66", "x nan", "0 0"])
def test_number_at_the_end_of_the_first_word_needs_a_header(tmp_path, word):
    """Without a header the first row tells the width; with one the word can be held."""
    vectors = KeyedVectors([word, "a"], np.ones((2, 2), np.float32))
    with pytest.raises(VectorFileError, match=rf"cannot hold the word '{word}' \(row 0\)"):
        save_vectors(vectors, tmp_path / "v.txt")
    assert load_vectors(save_vectors(vectors, tmp_path / "v.vec")).words == [word, "a"]


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


def test_header_with_crlf(write):
    """A Windows header is a header."""
    assert load_vectors(write(b"1 2\r\na 1 2\r\n")).provenance.format == "word2vec"


def test_first_word_that_is_a_number(write):
    """A row that begins with a number is no header."""
    loaded = load_vectors(write(b"7 0.5 1\n8 1 2\n"))
    assert (loaded.words, loaded.provenance.format) == (["7", "8"], "glove")


def test_rows_that_look_like_a_header_can_be_read_as_rows(write):
    """format= decides where two integers could be either."""
    assert load_vectors(write(b"7 5\n8 2\n"), format="glove").words == ["7", "8"]


def test_header_is_required_when_asked_for(write):
    """format="word2vec" refuses a file without a header, in line 1."""
    with pytest.raises(VectorFileError, match=r"line 1: expected a header .*found b'a 1 2"):
        load_vectors(write(b"a 1 2\n"), format="word2vec")


@pytest.mark.parametrize(("count", "rows"), [(3, 2), (1, 2), (400_000, 2)])
def test_header_with_a_wrong_count_is_refused(write, count, rows):
    """Truncated or lengthened; the message names both numbers."""
    with pytest.raises(VectorFileError, match=f"says in line 1 that it has {count:,} rows, but has {rows}"):
        load_vectors(write(b"%d 2\na 1 2\nb 3 4\n" % count))


def test_header_with_a_wrong_count_below_the_limit(write):
    """What was not read cannot be counted."""
    assert len(load_vectors(write(b"9 2\na 1 2\nb 3 4\n"), limit=2)) == 2


@pytest.mark.parametrize("width", [1, 3, 300])
@pytest.mark.parametrize("rows", [b"a 0.5 1.5\nb 3.5 4.5\n", b"a 0.5 1.5"])
def test_header_with_a_wrong_width_is_refused(write, width, rows):
    """The message names the line and the width expected."""
    with pytest.raises(VectorFileError, match=rf"line 2: expected .*\b{width} numbers"):
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
    with pytest.raises(VectorFileError, match=r"line 2: expected a word and 2 numbers, as in line 1, found b'b 2.5"):
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


@pytest.mark.parametrize("contents", [b"", b"\n", b"   \n", b"\r\na 1 2\n"])
def test_empty_first_line_is_refused(write, contents):
    """An empty file, or one that does not begin with a row."""
    with pytest.raises(VectorFileError, match=r"v\.txt' holds no vectors: its first line is empty"):
        load_vectors(write(contents))


def test_header_without_rows_is_refused(write):
    """A header alone is an empty table."""
    with pytest.raises(VectorFileError, match=r"v\.txt' holds no vectors"):
        load_vectors(write(b"0 2\n"))


@pytest.mark.parametrize(
    "contents", [b"a\t1\t2\n", b"hello world\n", b"word\n", bytes(range(256)) * 40, b"PK\x03\x04 \0\n"]
)
def test_other_files_are_refused(write, contents):
    """Tabs, prose and binary are no text vectors; the message names the line."""
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
    with pytest.raises(VectorFileError, match=r"line 2: the word b'caf\\xe9' is not utf-8 \(byte 3\)"):
        load_vectors(write(BAD_UTF8))


def test_bad_utf8_replaced(write):
    """U+FFFD stands for the bytes, and the words are counted."""
    loaded = load_vectors(write(BAD_UTF8), errors="replace")
    assert (loaded.words, loaded.provenance.undecodable) == (["a", "caf\ufffd", "na\ufffdve"], 2)


def test_bad_utf8_skipped(write):
    """The rows are left out and counted; those behind keep their vectors."""
    loaded = load_vectors(write(BAD_UTF8 + b"z 7 8\n"), errors="skip")
    assert (loaded.words, loaded["z"].tolist(), loaded.provenance.undecodable) == (["a", "z"], [7, 8], 2)


def test_words_that_become_equal_are_repeated(write):
    """Two words that differ in their bad bytes only are one after the replacement."""
    with pytest.warns(EmbkerasWarning, match="holds 1 rows whose word had come before"):
        loaded = load_vectors(write(b"x\xe9 1 2\nx\xef 3 4\n"), errors="replace")
    assert loaded["x\ufffd"].tolist() == [1, 2]


def test_other_encoding(write):
    """Words of a Latin-1 file."""
    assert load_vectors(write(BAD_UTF8), encoding="latin-1").words == ["a", "café", "naïve"]


def test_unknown_encoding_is_refused(write):
    """The message names it."""
    with pytest.raises(VectorFileError, match=r"Unknown encoding 'latin-99' for '.*v\.txt'"):
        load_vectors(write(b"a 1 2\n"), encoding="latin-99")


@pytest.mark.parametrize("header", ["", "2 2\n"])
def test_byte_order_mark_is_no_part_of_the_first_word(tmp_path, header):
    """Some editors put one in front of UTF-8."""
    path = tmp_path / "v.txt"
    path.write_text(header + "the 1 2\ncat 3 4\n", encoding="utf-8-sig")
    assert load_vectors(path).words == ["the", "cat"]
