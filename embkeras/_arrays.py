"""Numerical helpers that several wings share: checks of matrices, and cosine neighbours."""

from typing import Any

import numpy as np

from embkeras.errors import ArgumentError

BLOCK = 1 << 22  # numbers worked on at once: 16 MB of float32
_SMALL, _LARGE = 1e-15, 1e15  # between these norms the squares are well inside float32


def check_matrix(matrix: Any, what: str, *, rows: int | None = None) -> np.ndarray:
    """Return `matrix` as a 2-D array of floats (no copy where it is one), or say what is wrong with it.

    Args:
        matrix: array of shape (rows, width).
        what: what the message calls it.
        rows: the number of rows it must have.

    Raises:
        ArgumentError: not two-dimensional, no columns, not floats, or another number of rows.
    """
    array = np.asanyarray(matrix)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ArgumentError(f"{what} must have the shape (rows, width). Received: shape {array.shape}.")
    if array.dtype.kind != "f":
        raise ArgumentError(f"{what} must hold floats. Received: dtype {array.dtype}.")
    if rows is not None and len(array) != rows:
        raise ArgumentError(f"{what} must have {rows} rows. Received: shape {array.shape}.")
    return array


def first_nonfinite_row(matrix: np.ndarray) -> int | None:
    """The first row of `matrix` (rows, width) that holds NaN or infinity, or None. Works block by block."""
    step = max(1, BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        bad = ~np.isfinite(matrix[start : start + step]).all(axis=1)
        if bad.any():
            return start + int(bad.argmax())
    return None


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """The rows of `matrix` (rows, width) scaled to L2 norm 1, as float32; zero rows stay zero.

    Rows of any norm: those whose squares could leave the float type are scaled by their largest number first.
    """
    matrix = np.asarray(matrix)
    matrix = matrix.astype(np.result_type(matrix, np.float32), copy=False)
    with np.errstate(over="ignore", under="ignore"):  # such rows are done again
        unit, norms = _over_norm(matrix)
    extreme = ~((norms > _SMALL) & (norms < _LARGE))
    if extreme.any():
        rows = matrix[extreme]
        largest = np.abs(rows).max(axis=1, keepdims=True)
        unit[extreme] = _over_norm(rows / np.where(largest > 0, largest, 1))[0]
    return unit


def _over_norm(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row over its L2 norm, as float32, and the norms (rows,); a row whose norm comes out as 0 stays as it is."""
    norms = np.linalg.norm(matrix, axis=1)
    return (matrix / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32, copy=False), norms


def nearest_rows(matrix: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of `matrix` nearest to each query, by cosine similarity, best first.

    Args:
        matrix: (rows, width); read block by block, so it may be memory-mapped.
        queries: (queries, width).
        count: neighbours wanted; at most `rows` come back.

    Returns:
        rows of shape (queries, count) int64 and similarities of shape (queries, count) float32.
    """
    wanted = unit_rows(queries)
    best_rows = np.empty((len(wanted), 0), np.int64)
    best = np.empty((len(wanted), 0), np.float32)
    step = max(1, BLOCK // max(matrix.shape[1], len(wanted)))
    for start in range(0, len(matrix), step):
        similarity = wanted @ unit_rows(matrix[start : start + step]).T
        rows = np.broadcast_to(np.arange(start, start + similarity.shape[1]), similarity.shape)
        if count < similarity.shape[1]:  # sort only the few that can be among the nearest
            few = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
            similarity, rows = np.take_along_axis(similarity, few, 1), np.take_along_axis(rows, few, 1)
        best, best_rows = np.hstack([best, similarity]), np.hstack([best_rows, rows])
        keep = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, best_rows = np.take_along_axis(best, keep, 1), np.take_along_axis(best_rows, keep, 1)
    return best_rows, best
