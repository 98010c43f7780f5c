"""Reading gensim's vectors in memory, by the attributes they have and without importing gensim."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras._arrays import check_matrix, first_nonfinite_row
from embkeras.errors import ArgumentError
from embkeras.vectors.subwords import Subwords


@dataclass(frozen=True)
class GensimVectors:
    """What gensim's vectors hold: the arrays are gensim's own, not copies."""

    words: list[str]
    matrix: np.ndarray
    subwords: Subwords | None


def read_gensim(vectors: Any) -> GensimVectors:
    """Words, matrix and subwords of gensim's `KeyedVectors` or `FastTextKeyedVectors`, or of a model that has them as `wv`.

    Args:
        vectors: the object. Counts and other attributes of the words are not read.

    Raises:
        ArgumentError: another kind of object, one without vectors, keys that are no words, a number that is not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> like_gensim = SimpleNamespace(index_to_key=["cat"], vectors=np.ones((1, 2), "float32"))
        >>> read_gensim(like_gensim).words
        ['cat']
    """
    held = getattr(vectors, "wv", vectors)
    words, matrix = getattr(held, "index_to_key", None), getattr(held, "vectors", None)
    if words is None or not isinstance(matrix, np.ndarray):
        raise ArgumentError(
            f"from_gensim takes gensim's KeyedVectors, or a model with them as wv (gensim 4 or later). "
            f"Received: {type(vectors).__module__}.{type(vectors).__name__}."
        )
    words = list(words)
    if not words:
        raise ArgumentError("from_gensim takes vectors of at least one word. Received: none; was the model trained?")
    strange = next((word for word in words if not isinstance(word, str)), None)
    if strange is not None:
        raise ArgumentError(
            f"The keys of the vectors must be words. Received: {strange!r} of type {type(strange).__name__}."
        )
    matrix = _check(matrix, "The vectors of gensim", len(words))
    return GensimVectors(words, matrix, _subwords(held))


def _subwords(held: Any) -> Subwords | None:
    """The vectors of n-grams, if it is fastText with n-grams."""
    matrix, buckets = getattr(held, "vectors_ngrams", None), getattr(held, "bucket", 0)
    if not isinstance(matrix, np.ndarray) or not buckets:
        return None
    if getattr(held, "compatible_hash", True) is False:
        raise ArgumentError("These fastText vectors hash as no other fastText does: save them anew with gensim 3.8.3.")
    shortest, longest = held.min_n, held.max_n
    if longest < max(1, shortest):
        return None  # fastText's way to say that there are no n-grams
    matrix = _check(matrix, "The n-gram vectors of gensim", buckets)
    return Subwords(matrix, min_n=max(1, shortest), max_n=longest, buckets=buckets)


def _check(matrix: np.ndarray, what: str, rows: int) -> np.ndarray:
    matrix = check_matrix(matrix, what, rows=rows)
    bad = first_nonfinite_row(matrix)
    if bad is not None:
        raise ArgumentError(f"{what} must be finite. Received: NaN or infinity in row {bad}.")
    return matrix
