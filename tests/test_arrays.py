"""Checks of matrices and cosine neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import _arrays as arrays
from embkeras._arrays import check_matrix, first_nonfinite_row, nearest_rows, row_slices, unit_rows
from embkeras.errors import ArgumentError
from tests.properties import PROPERTY, finite_bits


def test_check_matrix_copies_nothing():
    """A valid array is returned, not copied."""
    matrix = np.ones((2, 3), np.float32)
    assert check_matrix(matrix, "m", rows=2) is matrix


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (1, 2, 3)])
def test_check_matrix_refuses_other_shapes(shape):
    """The message names the shape received."""
    with pytest.raises(ArgumentError, match=rf"before must .* Received: shape \({', '.join(map(str, shape))},?\)"):
        check_matrix(np.ones(shape), "before")


def test_check_matrix_refuses_rows_of_different_lengths():
    """The message contains NumPy's own reason."""
    with pytest.raises(ArgumentError, match=r"before must be an array .* Received: a list; .*inhomogeneous"):
        check_matrix([[1.0], [1.0, 2.0]], "before")


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "object"])
def test_check_matrix_refuses_other_types(dtype):
    """The message names the type received."""
    with pytest.raises(ArgumentError, match=f"must hold floats. Received: dtype {dtype}"):
        check_matrix(np.ones((2, 2), dtype), "m")


def test_check_matrix_refuses_another_number_of_rows():
    """The message names the number expected and the shape received."""
    with pytest.raises(ArgumentError, match=r"must have 3 rows. Received: shape \(2, 2\)"):
        check_matrix(np.ones((2, 2)), "m", rows=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_nonfinite_row_counts_across_blocks(monkeypatch, value):
    """The row counts from the start of the matrix, not of the block."""
    monkeypatch.setattr(arrays, "BLOCK", 4)
    matrix = np.zeros((9, 2), np.float32)
    matrix[[5, 7], 1] = value
    assert first_nonfinite_row(matrix) == 5


def test_first_nonfinite_row_of_another_type():
    """Numbers that become infinity there count; without a type they don't."""
    matrix = np.array([[1.0], [7e4], [1e39]])
    assert first_nonfinite_row(matrix) is None
    assert [first_nonfinite_row(matrix, dtype) for dtype in ("float16", "float32")] == [1, 2]


def test_first_nonfinite_row_of_a_finite_matrix():
    """None if all are finite, also for an empty matrix."""
    assert first_nonfinite_row(np.ones((3, 2))) is None
    assert first_nonfinite_row(np.ones((0, 2))) is None


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (7, 3), (3, 100)])
def test_row_slices_cover_every_row_once(monkeypatch, shape):
    """Also an empty matrix, one without columns, and rows wider than a block."""
    monkeypatch.setattr(arrays, "BLOCK", 6)
    assert [row for part in row_slices(shape) for row in range(part.start, part.stop)] == list(range(shape[0]))


def test_unit_rows_keeps_zero_rows():
    """Zero rows stay zero and the others get norm 1."""
    unit = unit_rows(np.array([[3, 4], [0, 0]]))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], rtol=1e-6)


@PROPERTY
@given(finite_bits())
def test_unit_rows_of_any_norm(matrix):
    """Rows whose squares overflow float32 get norm 1 too, in the direction computed in float64."""
    given = matrix.astype(np.float64)
    expected = given / np.where(matrix.any(axis=1), np.linalg.norm(given, axis=1), 1)[:, None]
    unit = unit_rows(matrix)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, expected, atol=1e-6)


def test_unit_rows_beyond_float32():
    """float64 rows outside float32, and rows whose squares overflow float64; the input isn't changed."""
    matrix = np.array([[3e60, 4e60], [3e200, 4e200], [3e-60, 4e-60], [3e-200, 4e-200], [0, 0]])
    before = matrix.copy()
    np.testing.assert_allclose(unit_rows(matrix), [[0.6, 0.8]] * 4 + [[0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(matrix, before)


def test_nearest_rows_of_huge_and_tiny_rows():
    """Only the direction counts, of rows and of queries."""
    directions = np.array([[1, 0], [0.8, 0.6], [0, 1]])
    matrix = (directions * [[1e-30], [1e30], [1]]).astype(np.float32)
    rows, values = nearest_rows(matrix, matrix, 2)
    assert rows.tolist() == [[0, 1], [1, 0], [2, 1]]
    np.testing.assert_allclose(values, [[1, 0.8], [1, 0.8], [1, 0.6]], rtol=1e-6)


@PROPERTY
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), count=st.integers(1, 15), block=st.integers(1, 30))
def test_nearest_rows_equals_sorting_all(seed, rows, count, block):
    """Work in blocks returns the same as one sort of all similarities."""
    rng = np.random.default_rng(seed)
    matrix, queries = rng.normal(size=(rows, 3)), rng.normal(size=(2, 3))
    similarity = queries @ matrix.T / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(matrix, axis=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK", block)
        found, values = nearest_rows(matrix, queries, count)
    assert found.shape == (2, min(rows, count))
    np.testing.assert_allclose(values, -np.sort(-similarity, axis=1)[:, :count], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(similarity, found, 1), values, atol=1e-5)


def test_nearest_rows_keeps_the_first_of_equals(monkeypatch):
    """Ties keep the order of the matrix, across blocks too."""
    monkeypatch.setattr(arrays, "BLOCK", 2)
    rows, _ = nearest_rows(np.ones((5, 2)), np.ones((1, 2)), 3)
    assert rows.tolist() == [[0, 1, 2]]
