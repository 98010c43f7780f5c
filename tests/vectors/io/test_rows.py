"""Which rows of a file are kept, and the table they are copied into."""

import contextlib
import os
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.errors import ArgumentError, OutputError, VectorFileError
from embkeras.vectors.io import rows as rows_module
from embkeras.vectors.io.rows import Request, RowSelector, Table, keep_listed, tables_in, without_rows
from embkeras.vectors.words import Words
from tests.properties import PROPERTY


def keep(selector, raws):
    """Which of these words are kept; one is called by its number in messages."""
    return selector.keep(Words.of(raws), lambda i: f"word {i}")


def test_first_of_each_word_is_found_at_the_end():
    """Over several calls; the others are counted, and named among the rows kept."""
    selector = RowSelector(Request())
    assert [keep(selector, raws) for raws in ([b"a", b"b"], [b"c", b"a", b"d"], [b"e", b"e"])] == [
        [0, 1],
        [0, 1, 2],
        [0, 1],
    ]
    words, index, repeated = selector.finish("'v.bin'")
    assert (list(words), dict(index)) == (list("abcde"), {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4})
    assert (repeated, selector.duplicates) == ([3, 6], 2)


def test_only_words_asked_for_are_kept_and_counted():
    """A repeated word is not a duplicate if it is not wanted."""
    selector = RowSelector(Request(wanted=frozenset("ac")))
    assert keep(selector, [b"a", b"b", b"b", b"a", b"c"]) == [0, 4]
    assert selector.finish("'v.bin'") == (["a", "c"], {"a": 0, "c": 1}, [])
    assert selector.duplicates == 1


@pytest.mark.parametrize(("errors", "kept"), [("skip", [0, 2]), ("replace", [0, 1, 2])])
def test_undecodable_words(errors, kept):
    """Counted, and left out or replaced."""
    selector = RowSelector(Request(errors=errors))
    assert keep(selector, [b"a", b"\xff", b"b"]) == kept
    assert selector.undecodable == 1


@pytest.mark.parametrize(("limit", "rows", "read"), [(None, [0, 2, 3], 5), (3, [0, 2], 3), (1, [0], 1)])
def test_rows_of_a_list_are_counted(limit, rows, read):
    """All rows up to the limit, those without a word and repeated ones too."""
    kept = keep_listed(["a", None, "b", "c", "a"], Request(limit=limit))
    assert (kept.rows.tolist(), kept.counts["rows"]) == (rows, read)


def test_undecodable_word_is_refused():
    """The message names the place, even if the word is not wanted."""
    with pytest.raises(VectorFileError, match=r"^word 1: the word b'\\xff' is not valid utf-8 \(byte 0\)"):
        keep(RowSelector(Request(wanted=frozenset("a"))), [b"a", b"\xff"])


def test_zero_bytes_in_words():
    """They do not join or part words."""
    selector = RowSelector(Request())
    assert keep(selector, [b"a\0b", b"a", b"b"]) == [0, 1, 2]
    assert selector.finish("'v.bin'")[0] == ["a\0b", "a", "b"]


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "a\0b"])
def test_unknown_encoding_is_refused(encoding):
    """The message names it."""
    with pytest.raises(ArgumentError, match=r"encoding must be the name of a text encoding.* Received"):
        RowSelector(Request(encoding=encoding))


@pytest.mark.parametrize("capacity", [0, 2, 9])
def test_table_grows_to_its_rows(capacity):
    """Whatever room was made, and from any type."""
    table = Table(2, "float16", capacity)
    assert table.add(np.array([[1, 2], [3, 4]], "float32")).tolist() == [[1, 2], [3, 4]]
    assert np.isinf(table.add(np.array([[1e6, 0]]))[0, 0])
    assert table.matrix().shape == (3, 2)
    assert table.matrix().dtype == np.float16


@PROPERTY
@given(st.lists(st.integers(1, 9), max_size=12), st.sampled_from([None, 0, 5, 200]), st.sampled_from([1, 50, 1000]))
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_out_as_they_went_in(monkeypatch, tmp_path, dtype, on_disk, counts, rows, chunk):
    """With the number of rows known, unknown, too small and too large; in memory and in a file that has no name."""
    monkeypatch.setattr(rows_module, "_CHUNK", chunk)
    monkeypatch.setattr(rows_module, "_CHUNK_ON_DISK", chunk)
    with tables_in(tmp_path) if on_disk else contextlib.nullcontext():
        some = Table(3, dtype, rows)
        written = []
        for number, count in enumerate(counts):
            written.append(some.reserve(count))
            if number % 2:  # readers with threads write later, and not in order
                written[-1][:], written[-2][:] = number, number - 1
        if len(counts) % 2:
            written[-1][:] = len(counts) - 1
        matrix = some.matrix()
    assert isinstance(matrix, np.memmap) == (on_disk and bool(counts)) and not [*tmp_path.iterdir()]
    assert matrix.dtype == dtype
    assert matrix.tolist() == [[number] * 3 for number, count in enumerate(counts) for _ in range(count)]


def test_known_number_of_rows_is_not_copied():
    """The rows reserved are those of the result."""
    some = Table(2, "float32", 4)
    reserved = some.reserve(4)
    assert np.shares_memory(some.matrix(), reserved)


def test_disk_without_room_for_a_table(monkeypatch, tmp_path):
    """The folder and the bytes, before anything is written to the map."""
    monkeypatch.setattr(os, "posix_fallocate", Mock(side_effect=OSError(28, "No space left on device")))
    with tables_in(tmp_path):
        some = Table(2, "float32")
        with pytest.raises(OutputError, match=rf"{tmp_path.name}': No space left on device"):
            some.reserve(3)


@PROPERTY
@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_without_rows(count, left_out):
    """The others, in their order, in the same memory."""
    matrix = np.arange(2.0 * count).reshape(count, 2)
    left_out = sorted(row for row in left_out if row < count)
    expected = np.delete(matrix, left_out, axis=0)
    kept = without_rows(matrix, left_out)
    np.testing.assert_array_equal(kept, expected)
    assert np.shares_memory(kept, matrix) or not len(kept)
