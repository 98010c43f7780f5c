"""Post-processing of a table before it becomes a layer, by `AlignedMatrix.transformed`; none is applied by default.

Each function takes floats of shape (V, D) and returns a new float32 array. A row of exact zeros is not a vector (padding,
or a word without one under `oov="zeros"`): it does not count in means and components, and stays zeros. Work is done block
by block in float64, so a memory-mapped matrix needs memory for the result and about 100 MB more.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from embkeras._arrays import (
    check_counts,
    check_finite,
    check_mask,
    check_matrix,
    first_nonfinite_row,
    row_slices,
    unit_rows,
)
from embkeras._checks import number, shown, whole_number
from embkeras.errors import ArgumentError


def centre(matrix: np.ndarray, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Subtract the mean row.

    The mean of word vectors says nothing about a single word, but raises every cosine (Mu & Viswanath 2018, "All-but-the-Top:
    Simple and Effective Postprocessing for Word Representations", first step).

    Args:
        matrix: floats of shape (V, D).
        rows: bool array of shape (V,): the rows that count in the mean; by default all that are not zeros.

    Returns:
        float32 of shape (V, D).

    Raises:
        ArgumentError: not a matrix of finite floats, or `rows` of another shape or without a row.

    Examples:
        >>> centre(np.array([[1.0, 2.0], [3.0, 2.0], [0.0, 0.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    matrix, chosen = _checked(matrix, rows)
    mean = _mean(matrix, chosen)
    return _by_blocks(matrix, lambda block, _: block - mean)


def remove_components(matrix: np.ndarray, *, count: int | None = None, rows: np.ndarray | None = None) -> np.ndarray:
    """Subtract the mean row, then the projections on the top principal components.

    The directions that all words share represent frequency rather than meaning (Mu & Viswanath 2018,
    "All-but-the-Top"). The projections are those of the centred rows, so that the mean stays zero; the paper's last line
    projects the original rows, which differs by one vector that is the same for all.

    Args:
        matrix: floats of shape (V, D).
        count: components to remove, from 1 to D - 1; by default D / 100 as in the paper, but at least 1.
        rows: bool array of shape (V,): the rows that count in mean and components; by default all that are not zeros.

    Returns:
        float32 of shape (V, D).

    Raises:
        ArgumentError: not a matrix of finite floats, `count` not in [1, D) or not below the number of rows, or `rows`
            of another shape.
    """
    matrix, chosen = _checked(matrix, rows)
    width = matrix.shape[1]
    if width == 1:
        raise ArgumentError("remove_components needs at least two columns. Received: a matrix of width 1.")
    count = max(1, round(width / 100)) if count is None else whole_number(count, "count", least=1, most=width - 1)
    mean, top = _components(matrix, chosen, count, "count")
    without = np.eye(width) - top @ top.T
    return _by_blocks(matrix, lambda block, _: (block - mean) @ without)


def reduce_width(matrix: np.ndarray, width: int, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Fewer dimensions by principal component analysis: the centred rows in the `width` directions of most variance.

    From the eigendecomposition of the (D, D) covariance (Pearson 1901, Hotelling 1933). The sign of each direction is
    chosen so that its largest entry is positive: the result does not depend on the linear algebra library.

    Args:
        matrix: floats of shape (V, D).
        width: dimensions to keep, from 1 to D.
        rows: bool array of shape (V,): the rows that count in mean and components; by default all that are not zeros.

    Returns:
        float32 of shape (V, width), the direction of most variance first.

    Raises:
        ArgumentError: not a matrix of finite floats, `width` not in [1, D] or not below the number of rows, or `rows`
            of another shape.
    """
    matrix, chosen = _checked(matrix, rows)
    width = whole_number(width, "width", least=1, most=matrix.shape[1])
    mean, top = _components(matrix, chosen, width, "width")
    return _by_blocks(matrix, lambda block, _: (block - mean) @ top, width)


def weight_by_frequency(matrix: np.ndarray, counts: Any, a: float = 1e-3) -> np.ndarray:
    """Multiply each row by a / (a + p), where p is the word's share of the text: frequent words count less in a mean.

    The weights of smooth inverse frequency (Arora, Liang & Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence
    Embeddings"). The paper's second step, which removes a component of *sentence* vectors, does not apply to a table.

    Args:
        matrix: floats of shape (V, D).
        counts: V numbers >= 0, one per row, such as `vocabulary.counts`.
        a: the share at which a word has half the weight.

    Returns:
        float32 of shape (V, D).

    Raises:
        ArgumentError: not a matrix of finite floats, counts of another shape, negative or all 0, or `a` <= 0.

    Examples:
        >>> weight_by_frequency(np.ones((2, 1)), [3, 1], a=0.25).tolist()
        [[0.25], [0.5]]
    """
    matrix, _ = _checked(matrix)
    counts, a = check_counts(counts, len(matrix)), number(a, "a", above=0)
    if not counts.any():
        raise ArgumentError(f"counts must not all be 0. Received: {len(counts)} zeros.")
    share = counts / counts.sum(dtype=np.float64)
    weights = (a / (a + share))[:, None]
    return _by_blocks(matrix, lambda block, place: block * weights[place])


def weight_by_rank(matrix: np.ndarray) -> np.ndarray:
    """Multiply each row by log(1 + rank), for rows in order of frequency whose counts are unknown.

    By Zipf's law the frequency falls as 1 / rank, so this is inverse frequency up to a constant. After the first releases
    of model2vec (Tulkens & van Dongen 2024, https://github.com/MinishLab/model2vec), but with ranks from 1: their rank 0
    sets the first row to zeros. If you have counts, use `weight_by_frequency`.

    Args:
        matrix: floats of shape (V, D), the most frequent word first.

    Returns:
        float32 of shape (V, D).

    Raises:
        ArgumentError: not a matrix of finite floats.

    Examples:
        >>> print(weight_by_rank(np.ones((3, 1))).ravel().round(2))
        [0.69 1.1 1.39]
    """
    matrix, _ = _checked(matrix)
    weights = np.log1p(np.arange(1, len(matrix) + 1))[:, None]
    return _by_blocks(matrix, lambda block, place: block * weights[place])


def rescale(matrix: np.ndarray, std: float = 0.1, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Multiply by one factor, so that the entries have this standard deviation; directions and ratios of lengths stay.

    Adam moves each entry by about the learning rate in a step, whatever its size: a table with entries of standard
    deviation 0.6, as in GloVe, hardly moves at the rates that suit the layers around it.

    Args:
        matrix: floats of shape (V, D).
        std: standard deviation of all entries of the rows that count, about their mean.
        rows: bool array of shape (V,): the rows that count; by default all that are not zeros. The others are multiplied
            by the same factor.

    Returns:
        float32 of shape (V, D).

    Raises:
        ArgumentError: not a matrix of finite floats, `std` <= 0, `rows` of another shape or without a row, entries that
            are all alike, or a result that float32 can't hold.

    Examples:
        >>> rescale(np.array([[1.0, 3.0], [3.0, 1.0], [0.0, 0.0]]), 0.5).tolist()
        [[0.5, 1.5], [1.5, 0.5], [0.0, 0.0]]
    """
    matrix, chosen = _checked(matrix, rows)
    std = number(std, "std", above=0)
    deviation, largest = _deviation(matrix, chosen)
    if not deviation > 1e-9 * largest:
        raise ArgumentError(
            f"rescale needs entries that differ, in rows that are not zeros. Received: a standard deviation of "
            f"{deviation:g} (NaN: no such row)."
        )
    return _by_blocks(matrix, lambda block, _: block * (std / deviation))


def standard_deviation(matrix: np.ndarray, *, rows: np.ndarray | None = None) -> float:
    """The standard deviation of all entries, about their mean: what `rescale` sets. NaN if no row counts.

    Args:
        matrix: floats of shape (V, D).
        rows: bool array of shape (V,): the rows that count; by default all that are not zeros.

    Returns:
        A number in the units of the matrix.

    Raises:
        ArgumentError: not a matrix of finite floats, or `rows` of another shape.

    Examples:
        >>> standard_deviation(np.array([[1.0, 3.0], [3.0, 1.0], [0.0, 0.0]]))
        1.0
    """
    return _deviation(*_checked(matrix, rows))[0]


def unit_norm(matrix: np.ndarray) -> np.ndarray:
    """Scale each row to L2 norm 1, so that a dot product is a cosine; rows of zeros stay zeros.

    Args:
        matrix: floats of shape (V, D).

    Returns:
        float32 of shape (V, D).

    Raises:
        ArgumentError: not a matrix of finite floats.

    Examples:
        >>> unit_norm(np.array([[2.0, 0.0], [0.0, 0.0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    matrix, _ = _checked(matrix)
    return _by_blocks(matrix, lambda block, _: unit_rows(block))


def transform(
    matrix: np.ndarray, functions: Sequence[Callable[[np.ndarray], np.ndarray]], *, rows: np.ndarray
) -> np.ndarray:
    """A new float32 array: `matrix` after all functions; `rows` go to those that take them. See `transformed`."""
    for place, function in enumerate(functions):
        if not callable(function):
            raise ArgumentError(f"transformed takes functions. Received: {shown(function)} at place {place}.")
        name = getattr(function, "__name__", None) or repr(function)
        more = _more_arguments(function, name, rows)
        matrix = check_matrix(function(matrix, **more), f"The result of {name}", rows=len(matrix))
    # Even a new array is copied: the function may keep what it returned, and the result is the baseline of drift.
    with np.errstate(over="ignore"):
        return np.array(matrix, np.float32)


def _more_arguments(function: Callable[..., Any], name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`rows`, if the function takes them; a function that needs other arguments than that and the matrix is refused."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return {}
    parameter = signature.parameters.get("rows")
    more = {"rows": rows} if parameter is not None and parameter.default is None else {}
    try:
        signature.bind(rows, **more)  # `rows` in place of the matrix
    except TypeError as error:
        raise ArgumentError(
            f"transformed calls each function with the matrix alone: set other arguments with functools.partial. "
            f"Received: {name}, {error}."
        ) from None
    return more


def _checked(matrix: Any, rows: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    what = "A matrix to post-process"
    matrix = check_finite(check_matrix(matrix, what), what)
    return matrix, None if rows is None else check_mask(rows, "rows", len(matrix))


def _by_blocks(
    matrix: np.ndarray, change: Callable[[np.ndarray, slice], np.ndarray], width: int | None = None
) -> np.ndarray:
    """`change(block, rows)` for every block, as float32; rows of zeros stay zeros."""
    result = np.zeros((len(matrix), width or matrix.shape[1]), np.float32)
    for place in row_slices(matrix.shape):
        block = np.asarray(matrix[place], np.float64)
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinity, and is refused
            result[place] = np.where(block.any(axis=1, keepdims=True), change(block, place), 0)
    bad = first_nonfinite_row(result)
    if bad is not None:
        raise ArgumentError(f"The result must fit into float32. Received: a matrix whose row {bad} becomes too large.")
    return result


def _vectors(matrix: np.ndarray, chosen: np.ndarray | None) -> Iterator[np.ndarray]:
    """Blocks of the rows that count in statistics: chosen, and not zeros."""
    for place in row_slices(matrix.shape):
        block = np.asarray(matrix[place], np.float64)
        taken = block.any(axis=1)
        yield block[taken if chosen is None else taken & chosen[place]]


def _mean(matrix: np.ndarray, chosen: np.ndarray | None, least: int = 1, what: str = "a mean") -> np.ndarray:
    total, rows = np.zeros(matrix.shape[1]), 0
    for block in _vectors(matrix, chosen):
        total, rows = total + block.sum(axis=0), rows + len(block)
    if rows < least:
        raise ArgumentError(f"{what} needs at least {least} rows that are not zeros. Received: {rows}.")
    return total / rows


def _deviation(matrix: np.ndarray, chosen: np.ndarray | None) -> tuple[float, float]:
    """The standard deviation of the entries of the rows that count, NaN without any, and the largest of them."""
    total, entries, largest = 0.0, 0, 0.0
    for block in _vectors(matrix, chosen):
        total, entries = total + block.sum(), entries + block.size
        largest = max(largest, float(np.abs(block).max(initial=0)))
    if not entries:
        return np.nan, 0.0
    squares, unit, mean = 0.0, largest or 1.0, total / entries
    for block in _vectors(matrix, chosen):
        squares += np.square((block - mean) / unit).sum()
    return float(unit * np.sqrt(squares / entries)), largest


def _components(matrix: np.ndarray, chosen: np.ndarray | None, count: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and the top `count` directions of variance as columns (D, count), the top one first."""
    mean = _mean(matrix, chosen, count + 1, f"{what}={count}")
    covariance = np.zeros((matrix.shape[1], matrix.shape[1]))
    for block in _vectors(matrix, chosen):
        block -= mean
        covariance += block.T @ block
    top = np.linalg.eigh(covariance)[1][:, ::-1][:, :count]  # eigh sorts by ascending variance
    largest = np.abs(top).argmax(axis=0)
    return mean, top * np.sign(top[largest, np.arange(count)])
