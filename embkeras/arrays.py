"""Numerical helpers that several wings share: checks of matrices, and cosine neighbours."""

from typing import Any

import numpy as np

from embkeras.errors import ArgumentError

BLOCK = 1 << 22  # numbers worked on at once: 16 MB of float32


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
    """The rows of `matrix` (rows, width) scaled to L2 norm 1, as float32; zero rows stay zero."""
    matrix = np.asarray(matrix, np.float32)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1)


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
