"""Which rows of a binary file are kept, and the table they come into."""

import numpy as np
import pytest

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.formats.request import Request
from embkeras.vectors.formats.selection import Selection, Table


def place(i):
    """Where a word stands."""
    return f"word {i}"


def test_words_are_numbered_as_they_are_kept():
    """Over several calls; what had come before is counted."""
    selection = Selection(Request())
    assert selection.keep([b"a", b"b"], place) == [0, 1]
    assert selection.keep([b"c", b"a", b"d"], place) == [0, 2]
    assert selection.keep([b"e", b"e"], place) == [0]
    assert selection.words == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
    assert selection.duplicates == 2


def test_only_words_asked_for_are_kept_and_counted():
    """A repeated word that nobody asked for is no duplicate."""
    selection = Selection(Request(wanted=frozenset("ac")))
    assert selection.keep([b"a", b"b", b"b", b"a", b"c"], place) == [0, 4]
    assert (list(selection.words), selection.duplicates) == (["a", "c"], 1)


@pytest.mark.parametrize(("errors", "kept"), [("skip", [0, 2]), ("replace", [0, 1, 2])])
def test_undecodable_words(errors, kept):
    """Counted, and left out or replaced."""
    selection = Selection(Request(errors=errors))
    assert selection.keep([b"a", b"\xff", b"b"], place) == kept
    assert selection.undecodable == 1


def test_undecodable_word_is_refused():
    """The message names the place, also where nobody asked for the word."""
    with pytest.raises(VectorFileError, match=r"^word 1: the word b'\\xff' is not utf-8 \(byte 0\)"):
        Selection(Request(wanted=frozenset("a"))).keep([b"a", b"\xff"], place)


def test_zero_bytes_in_words():
    """They do not join or part words."""
    selection = Selection(Request())
    assert selection.keep([b"a\0b", b"a", b"b"], place) == [0, 1, 2]
    assert list(selection.words) == ["a\0b", "a", "b"]


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "a\0b"])
def test_unknown_encoding_is_refused(encoding):
    """The message names it."""
    with pytest.raises(ArgumentError, match=r"encoding must be the name of one\. Received"):
        Selection(Request(encoding=encoding))


@pytest.mark.parametrize("capacity", [0, 2, 9])
def test_table_grows_to_its_rows(capacity):
    """Whatever room was made, and from any type."""
    table = Table(2, "float16", capacity)
    assert table.add(np.array([[1, 2], [3, 4]], "float32")).tolist() == [[1, 2], [3, 4]]
    assert np.isinf(table.add(np.array([[1e6, 0]]))[0, 0])
    assert table.whole().shape == (3, 2)
    assert table.whole().dtype == np.float16
