"""Figures of a whole table before and after: linear CKA, and the directions in which its rows moved. Block by block."""

import numpy as np

from embkeras._arrays import row_slices
from embkeras._progress import progress


def linear_cka(before: np.ndarray, after: np.ndarray) -> float:
    """Linear centered kernel alignment (Kornblith et al. 2019, arXiv:1905.00414) of two tables with the same rows.

    1 if the two differ by a rotation, a shift and one factor only; 0 if no direction of one says anything about the other.
    The cost is three products of width x width for each row, in float64.

    Args:
        before: floats of shape (V, D).
        after: floats of shape (V, D).

    Returns:
        From 0 to 1; NaN if all rows of a table are equal.

    Examples:
        >>> table = np.array([[1.0, 0], [0, 1], [2, 2]])
        >>> round(linear_cka(table, 3 * table[:, ::-1] + 1), 6)
        1.0
    """
    width = before.shape[1]
    centre = [_mean(table) for table in (before, after)]
    both, one, other = (np.zeros((width, width)) for _ in range(3))
    with progress("linear CKA") as report:
        for rows in row_slices(before.shape):
            a, b = (
                np.asarray(table[rows], np.float64) - mean for table, mean in zip((before, after), centre, strict=True)
            )
            both += a.T @ b
            one += a.T @ a
            other += b.T @ b
            report(rows.stop, len(before))
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(float(np.linalg.norm(both)) ** 2 / scale, 1.0) if scale > 0 else float("nan")


def _mean(table: np.ndarray) -> np.ndarray:
    """The mean row, in float64."""
    total = np.zeros(table.shape[1])
    for rows in row_slices(table.shape):
        total += table[rows].sum(axis=0, dtype=np.float64)
    return total / max(len(table), 1)


def step_components(before: np.ndarray, after: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """How much of the variance of the steps (after - before) lies in each of its principal components.

    A first share near 1 says that the rows differ in how far they moved along one direction: the axis of the task.

    Args:
        before: floats of shape (V, D).
        after: floats of shape (V, D).
        moved: bool array of shape (V,): the rows whose steps are looked at.

    Returns:
        D shares that add up to 1, the largest first; zeros if fewer than two rows moved, or all by the same step.

    Examples:
        >>> after = np.array([[1.0, 0], [-1, 0], [5, 5]])
        >>> step_components(np.zeros((3, 2)), after, np.array([True, True, False])).tolist()
        [1.0, 0.0]
    """
    width = before.shape[1]
    ids, total, squares = np.flatnonzero(moved), np.zeros(width), np.zeros((width, width))
    blocks = list(row_slices((len(ids), width)))
    for part in blocks:
        total += _steps(before, after, ids[part]).sum(axis=0)
    centre = total / max(len(ids), 1)
    for part in blocks:
        step = _steps(before, after, ids[part]) - centre
        squares += step.T @ step
    values = np.clip(np.linalg.eigvalsh(squares)[::-1], 0, None)
    # Steps that differ by rounding alone have no direction.
    least = len(ids) * (1e-12 * np.linalg.norm(centre)) ** 2
    return values / values.sum() if values.sum() > least else np.zeros(width)


def _steps(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(after[rows], np.float64) - np.asarray(before[rows], np.float64)
