"""Post-processing of a table before it becomes a layer: pure functions, matrix -> matrix, none applied by default.

Each takes floats of shape (V, D) and gives a new float32 array; `AlignedMatrix.transformed` applies them to a table that
is aligned. A row of exact zeros is no vector (padding, or a word without one under `oov="zeros"`): it takes no part in
means and components, and stays zeros. Work is done in blocks of float64: a memory-mapped matrix costs its result and about
100 MB.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embkeras._arrays import BLOCK, check_matrix, first_nonfinite_row, unit_rows
from embkeras.errors import ArgumentError


def centre(matrix: np.ndarray, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Subtract the mean row.

    The mean of word vectors says nothing about any word, yet lifts every cosine (Mu & Viswanath 2018, "All-but-the-Top:
    Simple and Effective Postprocessing for Word Representations", first step).

    Args:
        matrix: floats of shape (V, D).
        rows: bool array (V,): the rows whose mean is taken; by default all that are not zeros.

    Raises:
        ArgumentError: no matrix of finite floats, or `rows` of another shape or without a row.

    Example:
        >>> centre(np.array([[1.0, 2.0], [3.0, 2.0], [0.0, 0.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    matrix, chosen = _checked(matrix, rows)
    mean = _mean(matrix, chosen)
    return _by_blocks(matrix, lambda block, _: block - mean)


def remove_components(matrix: np.ndarray, *, count: int | None = None, rows: np.ndarray | None = None) -> np.ndarray:
    """Subtract the mean row, then the projections on the top principal components.

    The directions that all words share hold frequency rather than meaning (Mu & Viswanath 2018, "All-but-the-Top").
    The projections are those of the centred rows, so that the mean stays zero; the paper's last line takes them of the
    rows as they were, which differs by one vector common to all.

    Args:
        matrix: floats of shape (V, D).
        count: components to remove; by default D / 100 as in the paper, at least 1.
        rows: bool array (V,): the rows whose mean and components are taken; by default all that are not zeros.

    Raises:
        ArgumentError: no matrix of finite floats, `count` not in [1, D) or not below the number of rows, or `rows` of
            another shape.
    """
    matrix, chosen = _checked(matrix, rows)
    width = matrix.shape[1]
    count = max(1, round(width / 100)) if count is None else count
    if not _is_whole(count) or not 1 <= count < width:
        raise ArgumentError(f"count must be a whole number in [1, {width}), the width. Received: {count!r}.")
    mean, top = _components(matrix, chosen, int(count), "count")
    without = np.eye(width) - top @ top.T
    return _by_blocks(matrix, lambda block, _: (block - mean) @ without)


def reduce_width(matrix: np.ndarray, width: int, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Fewer dimensions by principal component analysis: the centred rows in the `width` directions of most variance.

    From the eigen-decomposition of the (D, D) covariance (Pearson 1901, Hotelling 1933). Each direction points to where
    its largest entry is positive, so that the result does not hang on the linear algebra library.

    Args:
        matrix: floats of shape (V, D).
        width: dimensions to keep, from 1 to D.
        rows: bool array (V,): the rows whose mean and components are taken; by default all that are not zeros.

    Returns:
        float32 of shape (V, width), the direction of most variance first.

    Raises:
        ArgumentError: no matrix of finite floats, `width` not in [1, D] or not below the number of rows, or `rows` of
            another shape.
    """
    matrix, chosen = _checked(matrix, rows)
    if not _is_whole(width) or not 1 <= width <= matrix.shape[1]:
        raise ArgumentError(f"width must be a whole number in [1, {matrix.shape[1]}]. Received: {width!r}.")
    mean, top = _components(matrix, chosen, int(width), "width")
    return _by_blocks(matrix, lambda block, _: (block - mean) @ top, int(width))


def weight_by_frequency(matrix: np.ndarray, counts: Any, a: float = 1e-3) -> np.ndarray:
    """Multiply each row by a / (a + p), p the word's share of the running text: frequent words weigh less in a mean.

    The weights of smooth inverse frequency (Arora, Liang & Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence
    Embeddings"). The paper's second step removes a component of *sentence* vectors, and so is none of a table's.

    Args:
        matrix: floats of shape (V, D).
        counts: V numbers >= 0, one a row, such as `vocabulary.counts`.
        a: the share at which a word weighs half.

    Raises:
        ArgumentError: no matrix of finite floats, counts of another shape, negative or all 0, or `a` <= 0.

    Example:
        >>> weight_by_frequency(np.ones((2, 1)), [3, 1], a=0.25).tolist()
        [[0.25], [0.5]]
    """
    matrix, _ = _checked(matrix)
    counts = np.asarray(counts)
    right = counts.shape == (len(matrix),) and counts.dtype.kind in "iuf" and np.isfinite(counts).all()
    if not right or (counts < 0).any() or not counts.any():
        raise ArgumentError(
            f"counts must be {len(matrix)} numbers >= 0, one a row and not all 0. "
            f"Received: shape {counts.shape}, dtype {counts.dtype}."
        )
    if not isinstance(a, int | float | np.number) or not (math.isfinite(a) and a > 0):
        raise ArgumentError(f"a must be a number above 0. Received: {a!r}.")
    share = counts / counts.sum(dtype=np.float64)
    weights = (a / (a + share))[:, None]
    return _by_blocks(matrix, lambda block, place: block * weights[place])


def weight_by_rank(matrix: np.ndarray) -> np.ndarray:
    """Multiply each row by log(1 + rank), where rows stand from the most frequent word down and no counts are known.

    By Zipf's law the frequency falls as 1 / rank, so this is inverse frequency up to a constant. After model2vec (Tulkens &
    van Dongen 2024, https://github.com/MinishLab/model2vec, its first releases); there ranks start at 0, which wipes
    out the first row, here at 1. Words of one count have different ranks: with counts, use `weight_by_frequency`.

    Args:
        matrix: floats of shape (V, D), in the order of frequency.

    Raises:
        ArgumentError: no matrix of finite floats.

    Example:
        >>> print(weight_by_rank(np.ones((3, 1))).ravel().round(2))
        [0.69 1.1 1.39]
    """
    matrix, _ = _checked(matrix)
    weights = np.log1p(np.arange(1, len(matrix) + 1))[:, None]
    return _by_blocks(matrix, lambda block, place: block * weights[place])


def unit_norm(matrix: np.ndarray) -> np.ndarray:
    """Scale each row to the L2 norm 1, so that a dot product is a cosine; rows of zeros stay zeros.

    Args:
        matrix: floats of shape (V, D).

    Raises:
        ArgumentError: no matrix of finite floats.

    Example:
        >>> unit_norm(np.array([[2.0, 0.0], [0.0, 0.0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    matrix, _ = _checked(matrix)
    return _by_blocks(matrix, lambda block, _: unit_rows(block))


def transform(
    matrix: np.ndarray, functions: Sequence[Callable[[np.ndarray], np.ndarray]], *, rows: np.ndarray
) -> np.ndarray:
    """What the functions make of `matrix`, one after the other; always a new float32 array.

    Args:
        matrix: floats of shape (V, D).
        functions: each from (V, D) to (V, any width).
        rows: bool array (V,), handed to each function that has an argument `rows` with the default None.

    Raises:
        ArgumentError: what is no function, cannot be called with a matrix alone, or returns something else than floats
            of V rows.
    """
    for place, function in enumerate(functions):
        if not callable(function):
            raise ArgumentError(f"transformed takes functions. Received: {function!r} at place {place}.")
        name = getattr(function, "__name__", None) or repr(function)
        more = _more_arguments(function, name, rows)
        matrix = check_matrix(function(matrix, **more), f"What {name} returned", rows=len(matrix))
    # A copy even of a new array: the function may keep what it returned, and the result is drift's baseline.
    with np.errstate(over="ignore"):
        return np.array(matrix, np.float32)


def _more_arguments(function: Callable, name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`rows`, if the function asks for it; refused where it asks for more than that beside the matrix."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return {}
    parameter = signature.parameters.get("rows")
    more = {"rows": rows} if parameter is not None and parameter.default is None else {}
    try:
        signature.bind(rows, **more)  # anything in the matrix's place
    except TypeError as error:
        raise ArgumentError(
            f"transformed calls each function with the matrix alone: set other arguments with functools.partial. "
            f"Received: {name}, {error}."
        ) from None
    return more


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _checked(matrix: Any, rows: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    """The matrix and the rows chosen, if they are what these functions work on."""
    matrix = check_matrix(matrix, "A matrix to post-process")
    bad = first_nonfinite_row(matrix)
    if bad is not None:
        raise ArgumentError(f"A matrix to post-process must be finite. Received NaN or infinity in row {bad}.")
    if rows is not None:
        rows = np.asarray(rows)
        if rows.shape != (len(matrix),) or rows.dtype != bool:
            raise ArgumentError(
                f"rows must be a bool array of shape ({len(matrix)},). Received: shape {rows.shape}, dtype {rows.dtype}."
            )
    return matrix, rows


def _blocks(matrix: np.ndarray):
    """Pairs (place of the block, block in float64)."""
    step = max(1, BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        place = slice(start, start + step)
        yield place, np.asarray(matrix[place], np.float64)


def _by_blocks(
    matrix: np.ndarray, change: Callable[[np.ndarray, slice], np.ndarray], width: int | None = None
) -> np.ndarray:
    """`change(block, place)` for every block, as float32; rows of zeros stay zeros."""
    result = np.zeros((len(matrix), width or matrix.shape[1]), np.float32)
    for place, block in _blocks(matrix):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
            result[place] = np.where(block.any(axis=1, keepdims=True), change(block, place), 0)
    bad = first_nonfinite_row(result)
    if bad is not None:
        raise ArgumentError(f"The result must fit into float32. Received a matrix whose row {bad} becomes too large.")
    return result


def _vectors(matrix: np.ndarray, chosen: np.ndarray | None):
    """Blocks of the rows that statistics are taken of: chosen, and not zeros."""
    for place, block in _blocks(matrix):
        taken = block.any(axis=1)
        yield block[taken if chosen is None else taken & chosen[place]]


def _mean(matrix: np.ndarray, chosen: np.ndarray | None, least: int = 1, what: str = "a mean") -> np.ndarray:
    total, rows = np.zeros(matrix.shape[1]), 0
    for block in _vectors(matrix, chosen):
        total, rows = total + block.sum(axis=0), rows + len(block)
    if rows < least:
        raise ArgumentError(f"{what} needs at least {least} rows that are not zeros. Received: {rows}.")
    return total / rows


def _components(matrix: np.ndarray, chosen: np.ndarray | None, count: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and the top `count` directions of variance as columns (D, count), the first one first."""
    mean = _mean(matrix, chosen, count + 1, f"{what}={count}")
    covariance = np.zeros((matrix.shape[1], matrix.shape[1]))
    for block in _vectors(matrix, chosen):
        block -= mean
        covariance += block.T @ block
    top = np.linalg.eigh(covariance)[1][:, ::-1][:, :count]  # eigh sorts from the least variance up
    largest = np.abs(top).argmax(axis=0)
    return mean, top * np.sign(top[largest, np.arange(count)])
