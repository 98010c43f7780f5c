"""Matrices of word vectors: checks, work in blocks of rows, unit rows, nearest rows by cosine."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from embkeras.errors import ArgumentError, EmbkerasError

BLOCK = 1 << 22  # numbers per block: 16 MB of float32
_SMALL, _LARGE = 1e-15, 1e15  # between these norms the squares are well inside float32


def as_array(values: Any, what: str, *, error: type[EmbkerasError] = ArgumentError) -> np.ndarray:
    """`values` as an array; an array is not copied.

    Raises:
        EmbkerasError: NumPy can't make an array of them, such as of rows of different lengths.
    """
    try:
        return np.asanyarray(values)
    except (TypeError, ValueError) as reason:
        raise error(f"{what} must be an array of numbers. Received: a {type(values).__name__}; {reason}") from None


def check_matrix(matrix: Any, what: str, *, rows: int | None = None) -> np.ndarray:
    """`matrix` as a 2-D array of floats; it is not copied if it already is one.

    Args:
        matrix: array of shape (rows, width).
        what: its name in error messages.
        rows: the number of rows it must have.

    Raises:
        ArgumentError: not two-dimensional, no columns, not floats, or the wrong number of rows.
    """
    array = as_array(matrix, what)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ArgumentError(f"{what} must have the shape (rows, width). Received: shape {array.shape}.")
    if array.dtype.kind != "f":
        raise ArgumentError(f"{what} must hold floats. Received: dtype {array.dtype}.")
    if rows is not None and len(array) != rows:
        raise ArgumentError(f"{what} must have {rows} rows. Received: shape {array.shape}.")
    return array


def check_mask(values: Any, what: str, rows: int, *, error: type[EmbkerasError] = ArgumentError) -> np.ndarray:
    """`values` as a bool array of shape (rows,)."""
    mask = as_array(values, what, error=error)
    if mask.shape != (rows,) or mask.dtype != bool:
        received = f"shape {mask.shape}, dtype {mask.dtype}"
        raise error(f"{what} must be a bool array of shape ({rows},). Received: {received}.")
    return mask


def check_counts(
    counts: Any, rows: int, *, whole: bool = False, error: type[EmbkerasError] = ArgumentError
) -> np.ndarray:
    """`counts` as an array of finite numbers >= 0 of shape (rows,); `whole` requires integers."""
    counts = as_array(counts, "counts", error=error)
    valid = counts.shape == (rows,) and counts.dtype.kind in ("iu" if whole else "iuf") and np.isfinite(counts).all()
    if not valid or (counts < 0).any():
        received = f"shape {counts.shape}, dtype {counts.dtype}"
        kind = "integers" if whole else "numbers"
        raise error(f"counts must be {rows} {kind} >= 0, one per row. Received: {received}.")
    return counts


def check_finite(
    matrix: np.ndarray,
    what: str,
    *,
    tokens: Sequence[str] | None = None,
    error: type[EmbkerasError] = ArgumentError,
) -> np.ndarray:
    """The matrix, if it has neither NaN nor infinity; the error names the row, and its token where `tokens` are given."""
    bad = first_nonfinite_row(matrix)
    if bad is not None:
        token = "" if tokens is None else f" (token {tokens[bad]!r})"
        raise error(f"{what} must be finite. Received: NaN or infinity in row {bad}{token}.")
    return matrix


def row_slices(shape: tuple[int, ...], numbers: int | None = None) -> Iterator[slice]:
    """Slices that cover a matrix of this shape from top to bottom, each of at least one row.

    Args:
        shape: (rows, width).
        numbers: largest size of a block, in numbers; 4 million by default.

    Examples:
        >>> list(row_slices((5, 2), numbers=4))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    rows, width = shape
    step = max(1, (numbers or BLOCK) // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def first_nonfinite_row(matrix: np.ndarray, dtype: Any = None) -> int | None:
    """The first row of `matrix` (rows, width) that contains NaN or infinity, or None. Works block by block.

    Args:
        matrix: floats of any type.
        dtype: float type to convert the rows to first, in which large numbers may be infinity.
    """
    for part in row_slices(matrix.shape):
        with np.errstate(over="ignore"):
            rows = matrix[part] if dtype is None else matrix[part].astype(dtype, copy=False)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            return part.start + int(bad.argmax())
    return None


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """The rows of `matrix` (rows, width) scaled to L2 norm 1, as float32; zero rows stay zero.

    Works for rows of any norm: rows whose squares could overflow or underflow are first divided by their largest number.
    """
    matrix = np.asarray(matrix)
    matrix = matrix.astype(np.result_type(matrix, np.float32), copy=False)
    with np.errstate(over="ignore", under="ignore"):  # such rows are computed again below
        unit, norms = _over_norm(matrix)
    extreme = ~((norms > _SMALL) & (norms < _LARGE))
    if extreme.any():
        rows = matrix[extreme]
        largest = np.abs(rows).max(axis=1, keepdims=True)
        unit[extreme] = _over_norm(rows / np.where(largest > 0, largest, 1))[0]
    return unit


def _over_norm(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row divided by its L2 norm, as float32, and the norms (rows,); rows of norm 0 stay unchanged."""
    norms = np.linalg.norm(matrix, axis=1)
    return (matrix / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32, copy=False), norms


def nearest_rows(matrix: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of `matrix` nearest to each query, by cosine similarity, best first.

    Args:
        matrix: (rows, width); read block by block, so it may be memory-mapped.
        queries: (queries, width).
        count: number of neighbours; if `matrix` has fewer rows, all of them are returned.

    Returns:
        Rows, int64 of shape (queries, count), and similarities, float32 of the same shape.
    """
    wanted = unit_rows(queries)
    best_rows = np.empty((len(wanted), 0), np.int64)
    best = np.empty((len(wanted), 0), np.float32)
    for part in row_slices((len(matrix), max(matrix.shape[1], len(wanted)))):
        similarity = wanted @ unit_rows(matrix[part]).T
        rows = np.broadcast_to(np.arange(part.start, part.stop), similarity.shape)
        if count < similarity.shape[1]:  # sort only the few candidates
            few = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
            similarity, rows = np.take_along_axis(similarity, few, 1), np.take_along_axis(rows, few, 1)
        best, best_rows = np.hstack([best, similarity]), np.hstack([best_rows, rows])
        keep = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, best_rows = np.take_along_axis(best, keep, 1), np.take_along_axis(best_rows, keep, 1)
    return best_rows, best
