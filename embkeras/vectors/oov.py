"""Rows for the tokens that the vectors do not give: drawn, averaged, zeros, composed from n-grams, or a function's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from embkeras._arrays import BLOCK, first_nonfinite_row
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.store import KeyedVectors

OOV_FILLS = ("normal", "mean", "zeros", "subwords")
Oov = str | Callable[[str], Any]


def check_oov(oov: Oov, vectors: KeyedVectors) -> None:
    """Refuse an `oov` that is not known, or that these vectors cannot serve.

    Raises:
        ArgumentError: neither a name nor a function, or "subwords" for vectors without any.
    """
    if not callable(oov) and not (isinstance(oov, str) and oov in OOV_FILLS):
        raise ArgumentError(f"oov must be one of {', '.join(OOV_FILLS)}, or a function. Received: {oov!r}.")
    if oov == "subwords" and vectors.subwords is None:
        raise ArgumentError(
            f'oov="subwords" needs vectors that come with n-grams (KeyedVectors(..., subwords=)). Received: {vectors!r}.'
        )


def fill_oov(
    values: np.ndarray,
    ids: np.ndarray,
    oov: Oov,
    vectors: KeyedVectors,
    vocabulary: Vocabulary,
    *,
    mean: np.ndarray,
    deviation: np.ndarray,
    seed: int,
) -> list[int]:
    """Write the rows `ids` of `values`, as `align` describes.

    Args:
        values: (V, D), written into.
        ids: the rows to write, ascending.
        oov: a name of `OOV_FILLS`, or a function of the token.
        vectors: whose subwords serve `oov="subwords"`.
        vocabulary: V tokens; of the special ones no n-grams are made, and of padding no function is asked.
        mean: (D,), of the vectors found.
        deviation: (D,), of the vectors found.
        seed: of the rows that are drawn.

    Returns:
        The ids that were composed from n-grams.

    Raises:
        ArgumentError: the function returned something else than D finite numbers or None.
        AlignmentError: an n-gram of a token has NaN or infinity.
    """
    if isinstance(oov, str) and oov in ("mean", "zeros"):
        values[ids] = mean if oov == "mean" else 0
        return []
    if callable(oov):
        filled = _fill_asked(values, ids, oov, vocabulary)
    else:
        filled = _fill_composed(values, ids, vectors, vocabulary) if oov == "subwords" else []
    _draw(values, ids[~np.isin(ids, filled)], mean, deviation, seed)
    return filled if oov == "subwords" else []


def _fill_asked(values: np.ndarray, ids: np.ndarray, oov: Callable[[str], Any], vocabulary: Vocabulary) -> list[int]:
    """Write the rows that the function gives; their ids."""
    filled = []
    for id_ in ids.tolist():
        row = None if id_ == vocabulary.padding_id else _asked(oov, vocabulary.tokens[id_], values.shape[1])
        if row is not None:
            values[id_] = row
            filled.append(id_)
    return filled


def _fill_composed(values: np.ndarray, ids: np.ndarray, vectors: KeyedVectors, vocabulary: Vocabulary) -> list[int]:
    """Write the rows of the words that have n-grams; their ids."""
    subwords: Any = vectors.subwords
    words = ids[~np.isin(ids, sorted(vocabulary.special_ids))]
    step = max(1, BLOCK // values.shape[1])
    filled: list[int] = []
    for start in range(0, len(words), step):
        block = words[start : start + step]
        rows, composed = subwords.compose_all([vocabulary.tokens[id_] for id_ in block.tolist()])
        bad = first_nonfinite_row(rows)
        if bad is not None:
            raise AlignmentError(
                f"A vector must be finite. Received NaN or infinity from the n-grams of {vocabulary.tokens[block[bad]]!r}."
            )
        values[block[composed]] = rows[composed]
        filled += block[composed].tolist()
    return filled


def _draw(values: np.ndarray, ids: np.ndarray, mean: np.ndarray, deviation: np.ndarray, seed: int) -> None:
    """Rows from a normal distribution, each another one."""
    rng: Any = np.random.default_rng(seed)
    step = max(1, BLOCK // values.shape[1])
    for start in range(0, len(ids), step):
        block = ids[start : start + step]
        values[block] = rng.normal(mean, deviation, (len(block), values.shape[1]))


def _asked(oov: Callable[[str], Any], token: str, width: int) -> np.ndarray | None:
    """What the function says of a token, checked."""
    answer = oov(token)
    if answer is None:
        return None
    try:
        row = np.asarray(answer)
    except ValueError:  # lists of different lengths
        row = np.empty(0, object)
    if row.shape != (width,) or row.dtype.kind not in "fiu":
        raise ArgumentError(
            f"oov(token) must return {width} numbers, or None for a row that is drawn. "
            f"Received for the token {token!r}: shape {row.shape}, dtype {row.dtype}."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
        row = row.astype(np.float32)
    if not np.isfinite(row).all():
        raise ArgumentError(f"oov(token) must be finite. Received NaN or infinity for the token {token!r}.")
    return row
