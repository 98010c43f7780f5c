"""How a file of text is read: what is inferred from its first lines, and what the arguments decide."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import load_vectors
from embkeras.errors import ArgumentError, EmbkerasError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io.reading import Header, header_of, reading_of
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.separators import INFERRED, WHITESPACE, separator_of
from embkeras.vectors.io.source import Source
from tests.properties import PROPERTY

PIECES = [
    "the",
    "a",
    "1",
    "2",
    "0.1",
    "-0.25",
    "1e-05",
    "66",
    "x1",
    "1,5",
    "nan",
    " ",
    " ",
    "  ",
    "\t",
    ",",
    "\n",
    "\n",
]
TEXT = st.lists(st.sampled_from([*PIECES, "\r\n", "\r", "2 2\n", "\u00e9", "\ufeff"]), max_size=30).map("".join)
TABLES = st.tuples(
    st.sampled_from(["", "2 2\n", "3 2\n", " 2\t2 \n"]),
    st.lists(
        st.tuples(
            st.sampled_from(["the", "new york", "web 2.0", "route 66", "7", "10,000", "a\tb", " x"]),
            st.lists(
                st.sampled_from(["0.1", "-2", "1e-05", "0.123456789012345678", "3.5e+01"]), min_size=1, max_size=3
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([(" ", " "), ("\t", "\t"), ("\t", " "), (",", ","), (",", " "), ("  ", "   "), (" ", "\t")]),
    st.sampled_from(["\n", "\r\n", " \n", "\r"]),
).map(lambda drawn: drawn[0] + "".join(word + drawn[2][0] + drawn[2][1].join(row) + drawn[3] for word, row in drawn[1]))
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "separator": st.sampled_from([each.argument for each in INFERRED]),
        "width": st.integers(1, 3),
        "header": st.sampled_from([True, False, "ignore"]),
        "words": st.just(["the", "7"]),
    },
)


def by_float(path, arguments):
    """The words and values of a file as plain Python reads them, by the reading that is inferred or stated."""
    asked = {name: arguments.get(name) for name in ("width", "header")}
    request = Request(separator=separator_of(arguments.get("separator")), **asked)
    source = Source(path)
    with source.open() as stream:
        reading = reading_of(source, stream, request, None)
    table = {}
    for line in path.read_bytes()[reading.start :].split(reading.line_end):
        line = line.removesuffix(b"\r").rstrip(b" \t")
        if line:
            word, *numbers = reading.divided(line)
            table.setdefault(word.decode(), np.array([float(number) for number in numbers]).astype(np.float32))
    return {word: table[word] for word in arguments.get("words", table) if word in table}


@PROPERTY
@given(TEXT | TABLES | st.binary(max_size=60), ARGUMENTS)
def test_values_are_those_of_float_or_the_error_is_ours(tmp_path, contents, arguments):
    """For any bytes and arguments, by the one reading."""
    path = tmp_path / "v"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbkerasWarning)
        try:
            loaded = load_vectors(path, fallbacks=(), **arguments)
        except EmbkerasError as error:
            assert "v'" in str(error)
            return
    if loaded.provenance.format in ("glove", "word2vec"):
        expected = by_float(path, arguments)
        assert set(loaded.words) == set(expected)
        assert all(loaded[word].tobytes() == expected[word].tobytes() for word in expected)


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"2 50\n", Header(2, 50, 5)),
        (b" \t2 \t 50 \t\r\nx", Header(2, 50, 12)),
        (b"\xef\xbb\xbf2 50\n", Header(2, 50, 8)),
        (b"2 50", Header(2, 50, 4)),
        (b"2 50 1\n", None),
        (b"-2 50\n", None),
        (b"2.0 50\n", None),
        (b"2,50\n", None),
    ],
)
def test_header(line, header):
    """Two whole numbers, with blanks and tabs around them, and nothing else."""
    assert header_of(line) == header


@pytest.mark.parametrize("name", ["separator", "width", "header"])
def test_arguments_are_for_text(tmp_path, name):
    """The message names argument and file."""
    np.save(tmp_path / "v.npy", np.ones((1, 2), np.float32))
    (tmp_path / "v.txt").write_text("a\n")
    value = {"separator": " ", "width": 2, "header": True}[name]
    with pytest.raises(ArgumentError, match=rf"{name}= is for text files, and .*v\.npy.*{value!r}"):
        load_vectors(tmp_path / "v.npy", **{name: value})


@pytest.mark.parametrize(
    ("argument", "value"), [("header", "yes"), ("header", 1.5), ("width", 0), ("width", "2"), ("width", True)]
)
def test_wrong_values_of_arguments(tmp_path, argument, value):
    """The message names argument and value."""
    (tmp_path / "v").write_text("a 1 2\n")
    with pytest.raises(ArgumentError, match=rf"{argument} must be .*{value!r}"):
        load_vectors(tmp_path / "v", **{argument: value})


@pytest.mark.parametrize(("start", "repeated"), [(b"", b"0.1 "), (b"2 2\n", b"x"), (2 * b"a 0.1 0.2\n", b"1")])
def test_line_of_100_mb_is_refused_soon(tmp_path, start, repeated):
    """As the only one, after a header, after rows. It takes a tenth of a second; the limit is for busy machines."""
    path = tmp_path / "v.txt"
    with path.open("wb") as file:
        file.write(start)
        for _ in range(100):
            file.write(repeated * ((1 << 20) // len(repeated)))
    started = time.process_time()
    with pytest.raises(VectorFileError, match=r"v\.txt', line [123]: expected"):
        load_vectors(path)
    assert time.process_time() - started < 10
    path.unlink()


def test_wide_rows_are_read(tmp_path):
    """A row that is longer than the part of the file from which its format is recognised."""
    path = tmp_path / "v.txt"
    path.write_text("".join(f"{word} " + " ".join(["0.25"] * 40_000) + "\n" for word in "ab"))
    assert load_vectors(path).matrix.shape == (2, 40_000)


@pytest.mark.parametrize("word", ["route 66", "x\t5", "a 0.5 0.5b", "a 0.5 0.5\rb"])
def test_row_after_the_first_lines_is_held_to_the_same_rule(tmp_path, word):
    """The line is named wherever it is."""
    path = tmp_path / "v.txt"
    path.write_bytes(b"w 0.25 0.5\n" * 9000 + f"{word} 0.25 0.5\n".encode())
    with pytest.raises(VectorFileError, match=r"line 9001: expected a word and 2 numbers, .*width=2") as raised:
        load_vectors(path)
    assert repr(f"{word} 0.25 0.5".encode()) in str(raised.value)
    with pytest.warns(EmbkerasWarning, match="repeated word"):
        assert load_vectors(path, width=2).words == ["w", word]


@pytest.mark.parametrize("row", ["x 5\t0.5", "x\t0.25\t0.5", "x 0.25 0.5"])
def test_row_with_another_separator_is_refused(tmp_path, row):
    """Where a tab ends the words, a row with as many blanks and tabs in other places is not read as another word."""
    path = tmp_path / "v.txt"
    path.write_text("w\t0.25 0.5\n" * 9000 + row + "\n")
    for words in (None, ["w"]):
        with pytest.raises(VectorFileError, match="line 9001: expected a word and 2 numbers, found") as raised:
            load_vectors(path, words=words)
        assert repr(row.encode()) in str(raised.value)


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-16", ""), ("utf-16-le", ""), ("utf-16-be", "\ufeff"), ("utf-32", "")]
)
@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_wide_encodings(tmp_path, encoding, mark, header):
    """Words and values, with and without a header; limits and words select as in UTF-8."""
    path = tmp_path / "v.txt"
    path.write_text(mark + header + "the 0.1 0.2\nна\u00efve 0.3 0.4\n日本 0.5 0.6\n", encoding=encoding)
    loaded = load_vectors(path, encoding=encoding)
    assert loaded.words == ["the", "на\u00efve", "日本"]
    assert loaded.matrix.tolist() == np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32).tolist()
    assert load_vectors(path, encoding=encoding, words=["日本"], limit=3).words == ["日本"]


def test_whitespace_keeps_the_blanks_inside_words():
    """Only those around the word and the numbers divide."""
    assert WHITESPACE.divided(b"  new  york \t 1   2 ", 2) == [b"new  york", b"1", b"2"]


def test_last_row_that_nobody_wants_is_not_judged(tmp_path):
    """Its numbers are not looked at, so there is nothing to warn of."""
    (tmp_path / "v").write_bytes(b"a 0.25 0.5\nb 0.25 \xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_vectors(tmp_path / "v", words=["a"]).words == ["a"]


def loaded(tmp_path, contents, **how):
    """What is read from a file of text."""
    path = tmp_path / "t.txt"
    path.write_bytes(contents.encode())
    return load_vectors(path, **how)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("a, 1, 2\nb, 3, 4\n", "line 1: .*b'a, 1, 2'.*pandas"),
        ("a, 1.5, 2.5\nb, 3.5, 4.5\n", "line 1: .*b'a, 1.5, 2.5'.*pandas"),
        ("a; 1.5; 2.5\nb; 3.5; 4.5\n", "line 1: .*b'a; 1.5; 2.5'"),
        ("a 1.5, 2.5\nb 3.5, 4.5\n", "line 1: .*b'a 1.5, 2.5'"),
        ("a: 1 2\nb: 3 4\n", "line 1: .*don't all end in ':'.*width=2"),
        ("a; 1\nb; 3\n", "line 1: .*don't all end in ';'.*width=1"),
        ("rt 66 36\t15\nx 62\t64\n", "line 1: .*don't all end in a number.*width=1"),
        ('"a b" 1\n"" 3\n', "line 1: .*quotation marks"),
        ("a;0,1;0,2\nb;0,3;0,4\n", "line 1: .* decimal point, found b'0,2'"),
        ('"a",1,2\n"b",3,4\n', r"line 1: .* quotation marks.*width=2.*sep=','.*from_dataframe"),
        ('"a" 1 2\n"b" 3 4\n', r"line 1: .* quotation marks.*width=2.*sep=' '"),
        ('a,1,2\n"b,c",3,4\n', "line 2: .* quotation marks"),
        ("a;1;2\nb;3;4\n", "line 1: .*separator=';' and width=2 read the word b'a' and 1, 2"),
        ("a 1,2\nb 3,4\n", r"line 1: .*separator=\(' ', ','\) and width=2"),
        ("a [1, 2]\nb [3, 4]\n", "line 1: .*brackets.*pandas"),
        ("word 0 1\na 0.5 1\n", "line 1: .*names of columns, found b'word 0 1'.*header=\"ignore\".*header=False"),
        ("node 1 2 3\na 0.5 1 2\n", "line 1: .*names of columns"),
        ("word x y\na 1 2\n", "line 1: .*found b'word x y'.*names columns"),
        ("2 2\ra 1 2\nb 3 4\n", r"line 1: expected .*found b'2 2\\ra 1 2'"),
    ],
)
def test_tables_of_other_programs_are_not_misread(tmp_path, contents, said):
    """Numbers are never left in a word, nor the names of columns taken for one; the error gives the way on."""
    with pytest.raises(VectorFileError, match=said):
        loaded(tmp_path, contents)


def test_names_are_skipped_or_taken(tmp_path):
    """As header= says."""
    contents = "word 0 1\na 0.5 1\n"
    assert loaded(tmp_path, contents, header="ignore").matrix.tolist() == [[0.5, 1]]
    assert loaded(tmp_path, contents, header=False).words == ["word", "a"]
    assert loaded(tmp_path, "a 1 2 3\nb 4 5 6\n").words == ["a", "b"]  # a small file of whole numbers


def test_a_quoted_word_far_into_a_file(tmp_path):
    """Between commas its marks are not part of it, which the first lines don't show; width= takes them as they are."""
    contents = "".join(f"w{row},0.25,-0.5\n" for row in range(9000)) + '"x, y",1,2\n'
    with pytest.raises(VectorFileError, match=r"line 9,?001: .*x, y"):
        loaded(tmp_path, contents)
    assert loaded(tmp_path, contents, width=2).words[-1] == '"x, y"'


def test_a_header_that_ends_with_a_return(tmp_path):
    """As the rows of such files do."""
    assert loaded(tmp_path, "2 2\ra 1 2\rb 3 4\r").provenance.format == "word2vec"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("rows", [2, 40_000])
def test_wide_encodings_are_named(tmp_path, encoding, rows):
    """By their marks, or by their zeros; also of a large file."""
    contents = ("word 0.5 1\n" * rows).encode(encoding)
    (tmp_path / "wide.txt").write_bytes(contents)
    with pytest.raises(VectorFileError, match=f'encoding="{encoding}"'):
        load_vectors(tmp_path / "wide.txt")
