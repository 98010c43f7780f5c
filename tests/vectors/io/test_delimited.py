"""CSV and TSV tables: which column is what, rows by lines, and what is refused."""

import contextlib
import csv
import io

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import load_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io import delimited
from tests.properties import PROPERTY, TEXTS, comes_back, finite_bits

FRAME = pandas.DataFrame([[0.5, 1], [2, 0.25]], index=["the", 'a "b", c'])


def load(tmp_path, contents, name="t.csv", **how):
    """What is read from these contents."""
    path = tmp_path / name
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return load_vectors(path, **how)


@pytest.mark.parametrize("sep", [",", "\t"])
@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME.rename_axis("word"),
        FRAME.rename(columns="dim_{}".format).reset_index(names="token"),
        FRAME.rename(columns=lambda place: place + 1),
        FRAME.assign(word=FRAME.index).reset_index(drop=True),
    ],
)
@pytest.mark.parametrize("index", [True, False])
def test_what_pandas_writes(tmp_path, frame, sep, index):
    """The words as index or in a column anywhere, under any name that says so; the index that counts the rows is left out."""
    if not index and frame.index.dtype != np.int64:
        pytest.skip("no words without the index")
    path = tmp_path / "t.dat"
    frame.to_csv(path, sep=sep, index=index)
    loaded = load_vectors(path)
    assert (loaded.words, loaded.matrix.tolist()) == (list(FRAME.index), [[0.5, 1], [2, 0.25]])
    assert loaded.provenance.format == {",": "csv", "\t": "tsv"}[sep] and loaded.matrix.dtype == np.float32


@pytest.mark.parametrize("name", ["v.csv", "v.tsv", "v.csv.gz", "v.tsv.zip"])
def test_round_trip(tmp_path, name):
    """Bit for bit, also compressed, with words that need quotation marks, and with words that are numbers."""
    words = ["the", 'a "b"', "a,b", "a\tb", "a\nb", "", "nan", "1984", "naïve", " x ", "\ufeff", "a\r\nb"]
    matrix = np.random.default_rng(0).normal(size=(len(words), 3)).astype("float32")
    comes_back(words, matrix, tmp_path / name)
    comes_back(["1", "2"], matrix[:2], tmp_path / name)


@PROPERTY
@given(finite_bits(), st.lists(TEXTS, min_size=6, max_size=6, unique=True))
def test_round_trip_of_any_word(tmp_path, matrix, words):
    """Whatever UTF-8 can hold."""
    comes_back(words[: len(matrix)], matrix, tmp_path / "v.csv")


def test_selection_and_limit(tmp_path):
    """Only the numbers of wanted words are parsed."""
    contents = "word,0,1\na,1,2\nb,x,y\nc,5,6\n"
    assert load(tmp_path, contents, words=["C"]).matrix.tolist() == [[5, 6]]
    assert load(tmp_path, contents, limit=1).words == ["a"]


def test_repeated_words(tmp_path):
    """The first row is kept, with a warning."""
    with pytest.warns(EmbkerasWarning, match="1 rows with a repeated word"):
        assert load(tmp_path, "word,0\na,1\na,2\n")["a"].tolist() == [1]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("word,0,1\na,1,2\nb,3\n", "line 3: expected 3 fields, found 2"),
        ("word,0,1\na,1,2\n\nb,3,4\n", "line 3: expected 3 fields, found 0"),
        ("word,0,1\na,1,2\nb,3,x\n", "line 3: expected a number, found 'x'"),
        ("word,0,1\na,1,2\nb,3,1_0\n", "line 3: expected a number, found '1_0'"),
        ("word,0,1\na,1,2\nb,3,\n", "line 3: expected a number, found ''"),
        ("word,0,1\na,1,2\nb,3,nan\n", r"expected a number, found 'nan'"),
        ("word,0,1\na,1,2\nb,3,1e39\n", r"too large for float32 in row 1 \(word 'b'\)"),
        ('word,0,1\na,1,2\n"b,3,4\n', "up to line 3: unexpected end of data"),
        (",word,0,1\n0,a,1,2\n7,b,3,4\n", "line 3: expected 1, as the column '' counts the rows, found '7'"),
        ("word,count,0,1\na,17,1,2\n", "numbered from 0 or 1.* the columns 'word', 'count', '0', '1'"),
        ("word,0,2\na,1,2\n", "numbered from 0 or 1"),
        ("word,pos,0,1\na,noun,1,2\n", "numbered from 0 or 1"),
        ("x,y,0\na,b,1\n", "one column of words.* Received: 2 of its columns 'x', 'y', '0'.*from_dataframe"),
        ("text,stars\ngood film,5\n", "from_dataframe"),
        ("word,0,1\n", "contains no vectors"),
        ("\nword,0,1\na,1,2\n", "line 1: .* a blank line"),
    ],
)
def test_what_is_refused(tmp_path, contents, message):
    """The message names the line, what was expected and what was found."""
    with pytest.raises(VectorFileError, match=message):
        load(tmp_path, contents, format="csv")


def test_counts_are_no_dimension(tmp_path):
    """By the contents too."""
    with pytest.raises(VectorFileError, match="'count'"):
        load(tmp_path, "word,count,0,1\na,17,1,2\nb,18,1,2\n")


def test_undecodable_words(tmp_path):
    """As in text: refused with the row, replaced or left out, and counted."""
    contents = b"word,0\na,1\nb\xff,2\n"
    with pytest.raises(VectorFileError, match=r"row 1: the word b'b\\xff' is not valid utf-8"):
        load(tmp_path, contents)
    replaced = load(tmp_path, contents, errors="replace")
    assert (replaced.words, replaced.provenance.undecodable) == (["a", "b\ufffd"], 1)
    assert load(tmp_path, contents, errors="skip").words == ["a"]
    assert load(tmp_path, contents, encoding="latin-1").words == ["a", "bÿ"]
    assert load(tmp_path, "word,0\nä,1\n".encode("utf-16"), format="csv", encoding="utf-16").words == ["ä"]


@pytest.mark.parametrize(
    "contents",
    [
        "cat\t0.1\t0.2\ndog\t0.3\t0.4\n",  # words and numbers, without names
        "the\t0.1 0.2 0.3\nENTITY/New York\t0.4 0.5 0.6\n",
        "cat\t0\t1\ndog\t2\t3\n",
        "2\t1\ncat\t0.5\n",
        "a,1 0 0\nb,0 1 0\n",
        ", 0.1 0.2\n1,000 0.3 0.4\n",
        "v2.0\t-1.5 0.5\r3.14\t-1 0.25\r",
    ],
)
def test_text_is_not_taken_for_a_table(tmp_path, contents):
    """Text vectors whose words have commas or tabs stay what they are."""
    with contextlib.suppress(VectorFileError):
        assert load(tmp_path, contents).provenance.format not in ("csv", "tsv")


def test_arguments_of_text_decide(tmp_path):
    """Who says how the rows are divided gets text."""
    contents = "word,0,1\na,1,2\n"
    loaded = load(tmp_path, contents, separator=",", width=2, header=False)
    assert (loaded.provenance.format, list(loaded.words)) == ("glove", ["word", "a"])


PLAIN = st.one_of(st.sampled_from(["word", "0", "1", "a", "1.5", "-2e3", "", '"x"', "nan", "\r", "\n", " "]), TEXTS)


@PROPERTY
@given(st.lists(st.lists(PLAIN, max_size=4), max_size=5))
def test_any_table_is_plain_float_or_refused(tmp_path, rows):
    """Of any rows, the numbers are float() of the fields, or there is an error."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    try:
        loaded = load(tmp_path, text.getvalue().encode("utf-8"), format="csv")
    except (VectorFileError, ArgumentError):
        return
    except EmbkerasWarning:  # of repeated words
        return
    names, *fields = [row for row in csv.reader(io.StringIO(text.getvalue(), newline="")) if row]
    place = next((place for place, name in enumerate(names) if name.lower() == "word"), None)
    for row, vector in zip(fields, loaded.matrix.tolist(), strict=True):
        assert (place is None or row[place] in loaded) and set(vector) <= {
            float(np.float32(each)) for each in row if _is(each)
        }


def _is(field):
    try:
        return bool(np.isfinite(np.float32(field)))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("word,0,1\na,1\nb,2,3\n", "line 2: expected 3 fields, found 2"),
        ('word,0,1\n"a,1,2\n', "line 2: unexpected end of data"),
        ("word,0,1\n", "contains no vectors"),
        ("word,1,0\na,1,2\n", "numbered from 0 or 1"),
        ("word;0;1\na;0,5;0,2\n", "line 2: expected a number, found '0,5'. Replace the decimal commas"),
    ],
)
def test_names_are_never_a_row(tmp_path, contents, message):
    """Whatever is wrong with the rows below them."""
    with pytest.raises(VectorFileError, match=message):
        load(tmp_path, contents)


@pytest.mark.parametrize("contents", ["word;0;1\na;1;2\n", "word, 0, 1\na, 1, 2\n", "node,0,1,2\na,1,2.0,3\n"])
def test_other_tables(tmp_path, contents):
    """Between semicolons, with blanks before names and numbers, and with any name over the words."""
    loaded = load(tmp_path, contents)
    assert (loaded.words, loaded.matrix[0, :2].tolist(), loaded.provenance.format) == (["a"], [1, 2], "csv")


@pytest.mark.parametrize("contents", ["a 0,1 0,2\nb 0,3 0,4\n", "a;0,1;0,2\nb;0,3;0,4\n"])
def test_decimal_commas_are_named(tmp_path, contents):
    """They divide no columns."""
    with pytest.raises(VectorFileError, match="decimal"):
        load(tmp_path, contents)


@pytest.mark.parametrize(
    "contents", ["word,0,1\na,0.25,0.125\nb,0.125,0.1", "a,word,0,1\n0,a,0.25,0.125\n1,b,0.125,0.1"]
)
@pytest.mark.parametrize("lines", [True, False])
def test_a_cut_last_value_is_warned_of(tmp_path, monkeypatch, contents, lines):
    """If nothing ends the last line and its last value is short, in both ways of reading."""
    if lines:
        monkeypatch.setattr(delimited, "read_plain", lambda *arguments: None)
    contents = contents.replace("a,word", ",word")
    with pytest.warns(EmbkerasWarning, match=r"last value b'0.1' .*row 2"):
        load(tmp_path, contents)
    load(tmp_path, contents + "\n")
    load(tmp_path, contents, limit=1)
