"""Which rows of a binary file are kept, and the table they come into."""

import numpy as np
import pytest

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.request import Request
from embkeras.vectors.io.selection import GrowingTable, Selection
from embkeras.vectors.words import Words


def keep(selection, raws):
    """Which of these words are kept; one is called by its number in messages."""
    return selection.keep(Words.of(raws), lambda i: f"word {i}")


def test_first_of_each_word_is_found_at_the_end():
    """Over several calls; the others are counted, and named among the rows kept."""
    selection = Selection(Request())
    assert [keep(selection, raws) for raws in ([b"a", b"b"], [b"c", b"a", b"d"], [b"e", b"e"])] == [
        [0, 1],
        [0, 1, 2],
        [0, 1],
    ]
    words, index, repeated = selection.finish("'v.bin'")
    assert (list(words), dict(index)) == (list("abcde"), {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4})
    assert (repeated, selection.duplicates) == ([3, 6], 2)


def test_only_words_asked_for_are_kept_and_counted():
    """A repeated word that nobody asked for is no duplicate."""
    selection = Selection(Request(wanted=frozenset("ac")))
    assert keep(selection, [b"a", b"b", b"b", b"a", b"c"]) == [0, 4]
    assert selection.finish("'v.bin'") == (["a", "c"], {"a": 0, "c": 1}, [])
    assert selection.duplicates == 1


@pytest.mark.parametrize(("errors", "kept"), [("skip", [0, 2]), ("replace", [0, 1, 2])])
def test_undecodable_words(errors, kept):
    """Counted, and left out or replaced."""
    selection = Selection(Request(errors=errors))
    assert keep(selection, [b"a", b"\xff", b"b"]) == kept
    assert selection.undecodable == 1


def test_undecodable_word_is_refused():
    """The message names the place, also where nobody asked for the word."""
    with pytest.raises(VectorFileError, match=r"^word 1: the word b'\\xff' is not utf-8 \(byte 0\)"):
        keep(Selection(Request(wanted=frozenset("a"))), [b"a", b"\xff"])


def test_zero_bytes_in_words():
    """They do not join or part words."""
    selection = Selection(Request())
    assert keep(selection, [b"a\0b", b"a", b"b"]) == [0, 1, 2]
    assert selection.finish("'v.bin'")[0] == ["a\0b", "a", "b"]


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "a\0b"])
def test_unknown_encoding_is_refused(encoding):
    """The message names it."""
    with pytest.raises(ArgumentError, match=r"encoding must be the name of one\. Received"):
        Selection(Request(encoding=encoding))


@pytest.mark.parametrize("capacity", [0, 2, 9])
def test_table_grows_to_its_rows(capacity):
    """Whatever room was made, and from any type."""
    table = GrowingTable(2, "float16", capacity)
    assert table.add(np.array([[1, 2], [3, 4]], "float32")).tolist() == [[1, 2], [3, 4]]
    assert np.isinf(table.add(np.array([[1e6, 0]]))[0, 0])
    assert table.whole().shape == (3, 2)
    assert table.whole().dtype == np.float16
