"""Subwords: vectors of character n-grams, from which fastText composes a vector for any word."""

from typing import Any

import numpy as np

from embkeras.arrays import check_matrix
from embkeras.errors import ArgumentError, UnknownWordError

_OFFSET, _PRIME, _MASK = 2166136261, 16777619, (1 << 32) - 1
# fastText hashes bytes as *signed* chars: from 128 on, the sign fills the upper 24 bits.
_SIGNED = [byte if byte < 128 else byte | 0xFFFFFF00 for byte in range(256)]
_END_OF_SENTENCE = "</s>"  # the one word of which fastText makes no n-grams


class Subwords:
    """The n-gram vectors of a fastText model.

    A word is marked as "<word>", cut into its n-grams of `min_n` to `max_n` characters (code points), and each n-gram
    is hashed into one of `buckets` rows (Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information").

    Args:
        matrix: floats of shape (buckets, vector_size); kept as it is, so it may be memory-mapped.
        min_n: shortest n-gram, in characters, the marks counted.
        max_n: longest one.
        buckets: rows of the matrix.

    Raises:
        ArgumentError: lengths that are not 1 <= min_n <= max_n, or a matrix that is not floats of `buckets` rows.

    Example:
        >>> import numpy as np
        >>> subwords = Subwords(np.eye(4, dtype="float32"), min_n=4, max_n=4, buckets=4)
        >>> subwords.rows("a").tolist(), subwords.compose("ab").tolist()
        ([], [0.0, 0.0, 1.0, 0.0])
    """

    def __init__(self, matrix: Any, *, min_n: int, max_n: int, buckets: int):
        lengths = (min_n, max_n, buckets)
        whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in lengths)
        if not whole or not 1 <= min_n <= max_n or buckets < 1:
            raise ArgumentError(
                f"Subwords need whole numbers 1 <= min_n <= max_n and buckets >= 1. "
                f"Received: min_n={min_n!r}, max_n={max_n!r}, buckets={buckets!r}."
            )
        self.matrix = check_matrix(matrix, "The matrix of Subwords", rows=int(buckets))
        self.min_n, self.max_n, self.buckets = map(int, lengths)

    @property
    def vector_size(self) -> int:
        """Width of a vector."""
        return self.matrix.shape[1]

    def __repr__(self) -> str:
        return f"Subwords({self.buckets:,} buckets, vector_size={self.vector_size}, min_n={self.min_n}, max_n={self.max_n})"

    def rows(self, word: str) -> np.ndarray:
        """The rows of the word's n-grams, int64, one an n-gram; empty for a word too short to have any."""
        if word == _END_OF_SENTENCE:
            return np.empty(0, np.int64)
        # Half a surrogate pair has no UTF-8; it gets bytes that no other word has, rather than an error.
        marked = [character.encode("utf-8", "surrogatepass") for character in f"<{word}>"]
        rows = []
        for start in range(len(marked)):
            hashed = _OFFSET
            for length, character in enumerate(marked[start : start + self.max_n], 1):
                for byte in character:
                    hashed = (hashed ^ _SIGNED[byte]) * _PRIME & _MASK
                mark_alone = length == 1 and start in (0, len(marked) - 1)
                if length >= self.min_n and not mark_alone:
                    rows.append(hashed % self.buckets)
        return np.array(rows, np.int64)

    def compose(self, word: str) -> np.ndarray:
        """The vector of a word out of the vocabulary: the mean of its n-grams' rows, float32 of shape (vector_size,).

        For a word that has a row of its own, fastText takes that row into the mean too: look it up instead.

        Raises:
            UnknownWordError: the word is too short to have an n-gram.
        """
        rows = self.rows(word)
        if not len(rows):
            raise UnknownWordError(
                f"The word {word!r} has no n-gram of {self.min_n} to {self.max_n} characters, and so no vector."
            )
        return self.matrix[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
