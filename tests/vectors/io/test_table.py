"""Tables filled from the top."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.vectors.io import table
from embkeras.vectors.io.table import Table, without_rows
from tests.properties import PROPERTY


@PROPERTY
@given(st.lists(st.integers(1, 9), max_size=12), st.sampled_from([None, 0, 5, 200]), st.sampled_from([1, 50, 1000]))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_out_as_they_went_in(monkeypatch, dtype, counts, rows, chunk):
    """With the number of rows known, unknown, too small and too large."""
    monkeypatch.setattr(table, "_CHUNK", chunk)
    some = Table(3, dtype, rows)
    for number, count in enumerate(counts):
        some.reserve(count)[:] = number
    matrix = some.matrix()
    assert matrix.dtype == dtype
    assert matrix.tolist() == [[number] * 3 for number, count in enumerate(counts) for _ in range(count)]


def test_known_number_of_rows_is_not_copied():
    """The rows reserved are those of the result."""
    some = Table(2, "float32", 4)
    reserved = some.reserve(4)
    assert np.shares_memory(some.matrix(), reserved)


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
