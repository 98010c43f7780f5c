"""Rows for the tokens that the vectors do not give: drawn, averaged, zeros, composed from n-grams, or a function's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from embkeras.arrays import BLOCK
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.vocabulary import Vocabulary

OOV_FILLS = ("normal", "mean", "zeros", "subwords")
Oov = str | Callable[[str], Any]


def check_oov(oov: Oov, vectors: KeyedVectors) -> None:
    """Refuse an `oov` that is not known, or that these vectors cannot serve.

    Raises:
        ArgumentError: neither a name nor a function, or "subwords" for vectors without any.
    """
    if not callable(oov) and oov not in OOV_FILLS:
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
    if oov in ("mean", "zeros"):
        values[ids] = mean if oov == "mean" else 0
        return []
    special, drawn, composed = vocabulary.special_ids, [], []
    for id_ in [] if oov == "normal" else ids.tolist():
        if callable(oov):
            row = None if id_ == vocabulary.padding_id else _asked(oov, vocabulary.tokens[id_], values.shape[1])
        else:
            row = None if id_ in special else _composed(vectors, vocabulary.tokens[id_])
        if row is None:
            drawn.append(id_)
        else:
            values[id_] = row
            composed.append(id_)
    _draw(values, ids if oov == "normal" else np.array(drawn, np.int64), mean, deviation, seed)
    return [] if callable(oov) else composed


def _draw(values: np.ndarray, ids: np.ndarray, mean: np.ndarray, deviation: np.ndarray, seed: int) -> None:
    """Rows from a normal distribution, each another one."""
    rng: Any = np.random.default_rng(seed)
    step = max(1, BLOCK // values.shape[1])
    for start in range(0, len(ids), step):
        block = ids[start : start + step]
        values[block] = rng.normal(mean, deviation, (len(block), values.shape[1]))


def _composed(vectors: KeyedVectors, token: str) -> np.ndarray | None:
    """The vector of the token's n-grams, or None where it has none."""
    subwords: Any = vectors.subwords
    if not len(subwords.rows(token)):
        return None
    row = subwords.compose(token)
    if not np.isfinite(row).all():
        raise AlignmentError(f"A vector must be finite. Received NaN or infinity from the n-grams of {token!r}.")
    return row


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
