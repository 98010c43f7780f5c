"""Subwords: vectors of character n-grams, from which fastText composes a vector for any word."""

import codecs
from collections.abc import Iterable
from typing import Any

import numpy as np

from embkeras._arrays import check_matrix
from embkeras.errors import ArgumentError, UnknownWordError
from embkeras.vectors.ngrams import mean_rows, ngram_rows


class Subwords:
    """The n-gram vectors of a fastText model.

    A word is marked as "<word>", cut into its n-grams of `min_n` to `max_n` characters (code points), and each n-gram
    is hashed into one of `buckets` rows (Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information").

    Args:
        matrix: floats of shape (buckets, vector_size); kept as it is, so it may be memory-mapped.
        min_n: shortest n-gram, in characters, the marks counted.
        max_n: longest one.
        buckets: rows of the matrix.
        encoding: of the text that the model learnt from; n-grams are hashed as bytes. What it cannot hold becomes "?".

    Raises:
        ArgumentError: lengths that are not 1 <= min_n <= max_n, a matrix that is not floats of `buckets` rows, or an
            unknown encoding.

    Example:
        >>> import numpy as np
        >>> subwords = Subwords(np.eye(4, dtype="float32"), min_n=4, max_n=4, buckets=4)
        >>> subwords.rows("a").tolist(), subwords.compose("ab").tolist()
        ([], [0.0, 0.0, 1.0, 0.0])
    """

    def __init__(self, matrix: Any, *, min_n: int, max_n: int, buckets: int, encoding: str = "utf-8"):
        lengths = (min_n, max_n, buckets)
        whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in lengths)
        if not whole or not 1 <= min_n <= max_n or buckets < 1:
            raise ArgumentError(
                f"Subwords need whole numbers 1 <= min_n <= max_n and buckets >= 1. "
                f"Received: min_n={min_n!r}, max_n={max_n!r}, buckets={buckets!r}."
            )
        self.matrix = check_matrix(matrix, "The matrix of Subwords", rows=int(buckets))
        self.min_n, self.max_n, self.buckets = map(int, lengths)
        try:
            "".encode(encoding)  # refuses what is an encoding of bytes, such as base64
            self.encoding = codecs.lookup(encoding).name
        except (LookupError, TypeError, ValueError):
            raise ArgumentError(f"Subwords need the name of an encoding. Received: {encoding!r}.") from None

    @property
    def vector_size(self) -> int:
        """Width of a vector."""
        return self.matrix.shape[1]

    def __repr__(self) -> str:
        return f"Subwords({self.buckets:,} buckets, vector_size={self.vector_size}, min_n={self.min_n}, max_n={self.max_n})"

    def rows(self, word: str) -> np.ndarray:
        """The rows of the word's n-grams, int64, one an n-gram; empty for a word too short to have any."""
        return self._ngram_rows([word])[0]

    def compose(self, word: str) -> np.ndarray:
        """The vector of a word out of the vocabulary: the mean of its n-grams' rows, float32 of shape (vector_size,).

        For a word that has a row of its own, fastText takes that row into the mean too: look it up instead.

        Raises:
            UnknownWordError: the word is too short to have an n-gram.
        """
        vectors, composed = self.compose_all([word])
        if not composed[0]:
            raise UnknownWordError(
                f"The word {word!r} has no n-gram of {self.min_n} to {self.max_n} characters, and so no vector."
            )
        return vectors[0]

    def compose_all(self, words: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of many words at once, each as `compose` gives it, and which of the words have one.

        Returns:
            float32 of shape (words, vector_size), and bool of shape (words,): False for a word without n-grams,
            whose row is zeros.

        Raises:
            ArgumentError: a single string, or what is no string.

        Example:
            >>> import numpy as np
            >>> subwords = Subwords(np.eye(4, dtype="float32"), min_n=4, max_n=4, buckets=4)
            >>> vectors, composed = subwords.compose_all(["ab", "a"])
            >>> vectors.tolist(), composed.tolist()
            ([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], [True, False])
        """
        if isinstance(words, str):
            raise ArgumentError(f"compose_all takes a sequence of words. Received the string {words!r}.")
        words = list(words)
        strange = [word for word in words if not isinstance(word, str)]
        if strange:
            raise ArgumentError(f"Words must be strings. Received: {strange[0]!r}.")
        rows, counts = self._ngram_rows(words)
        return mean_rows(self.matrix, rows, counts), counts > 0

    def _ngram_rows(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        # Half a surrogate pair has no UTF-8; it gets bytes that no other word has, rather than an error.
        unheld = "surrogatepass" if self.encoding == "utf-8" else "replace"
        raw = [word.encode(self.encoding, unheld) for word in words]
        return ngram_rows(raw, min_n=self.min_n, max_n=self.max_n, buckets=self.buckets)
