"""Subwords: vectors of character n-grams, from which fastText composes a vector for any word."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from embkeras._arrays import check_matrix, row_slices
from embkeras._checks import shown, strings, whole_number
from embkeras.errors import ArgumentError, UnknownWordError

_OFFSET, _PRIME = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a, 32 bits
_HASHES = 1 << 20  # computed at once
_SUMS = 1 << 16  # numbers summed at once: 256 KB, which stay in the processor's cache
END_OF_SENTENCE = b"</s>"


class Subwords:
    """The n-gram vectors of a fastText model.

    A word is marked as "<word>", divided into its n-grams of `min_n` to `max_n` characters (code points), and each n-gram
    is hashed into one of `buckets` rows (Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information").

    Args:
        matrix: floats of shape (buckets, vector_size); not copied, so it may be memory-mapped.
        min_n: length of the shortest n-gram in characters, marks included.
        max_n: length of the longest.
        buckets: rows of the matrix.
        encoding: of the text that the model was trained on; n-grams are hashed as bytes, and characters that the
            encoding lacks as "?".

    Raises:
        ArgumentError: not 1 <= min_n <= max_n, a matrix that is not floats of `buckets` rows, or an unknown encoding.

    Examples:
        >>> import numpy as np
        >>> subwords = Subwords(np.eye(4, dtype="float32"), min_n=4, max_n=4, buckets=4)
        >>> subwords.rows("a").tolist(), subwords.compose("ab").tolist()
        ([], [0.0, 0.0, 1.0, 0.0])
    """

    def __init__(self, matrix: Any, *, min_n: int, max_n: int, buckets: int, encoding: str = "utf-8"):
        self.min_n = whole_number(min_n, "min_n", least=1)
        self.max_n = whole_number(max_n, "max_n", least=self.min_n)
        self.buckets = whole_number(buckets, "buckets", least=1)
        self.matrix = check_matrix(matrix, "The matrix of Subwords", rows=self.buckets)
        try:
            "".encode(encoding)  # refuses encodings of bytes, such as base64
            self.encoding = codecs.lookup(encoding).name
        except (LookupError, TypeError, ValueError):
            raise ArgumentError(
                f"encoding must be the name of a text encoding, such as 'utf-8'. Received: {shown(encoding)}."
            ) from None

    @property
    def vector_size(self) -> int:
        """Width of a vector."""
        return self.matrix.shape[1]

    def __repr__(self) -> str:
        return f"Subwords({self.buckets:,} buckets, vector_size={self.vector_size}, min_n={self.min_n}, max_n={self.max_n})"

    def rows(self, word: str) -> np.ndarray:
        """The rows of the word's n-grams, int64, one per n-gram; empty for a word too short to have any."""
        return self._ngram_rows([word])[0]

    def compose(self, word: str) -> np.ndarray:
        """The vector of a word out of the vocabulary: the mean of its n-grams' rows, float32 of shape (vector_size,).

        For a word with a row of its own, fastText includes that row in the mean: look it up instead.

        Raises:
            UnknownWordError: the word is too short to have an n-gram.
            ArgumentError: not a string.
        """
        vectors, composed = self.compose_all([word])
        if not composed[0]:
            raise UnknownWordError(
                f"The word {word!r} has no n-gram of {self.min_n} to {self.max_n} characters, and so no vector."
            )
        return vectors[0]

    def compose_all(self, words: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of many words at once, each as `compose` returns it, and which of the words have one.

        Returns:
            float32 of shape (words, vector_size), zeros for a word without n-grams, and bool of shape (words,).

        Raises:
            ArgumentError: a single string, or something that is not a string.

        Examples:
            >>> import numpy as np
            >>> subwords = Subwords(np.eye(4, dtype="float32"), min_n=4, max_n=4, buckets=4)
            >>> vectors, composed = subwords.compose_all(["ab", "a"])
            >>> vectors.tolist(), composed.tolist()
            ([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], [True, False])
        """
        rows, counts = self._ngram_rows(words)
        return mean_rows(self.matrix, rows, counts), counts > 0

    def _ngram_rows(self, words: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        words = strings(words, "words")
        # Half a surrogate pair has no UTF-8; it gets bytes that no other word has, rather than an error.
        errors = "surrogatepass" if self.encoding == "utf-8" else "replace"
        raw = [word.encode(self.encoding, errors) for word in words]
        return ngram_rows(raw, min_n=self.min_n, max_n=self.max_n, buckets=self.buckets)


# The order of the n-grams and of the sums below is fastText's, so that the results equal its results bit for bit.


def ngram_rows(
    words: Sequence[bytes], *, min_n: int, max_n: int, buckets: int, whole: bytes | None = END_OF_SENTENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the n-grams of words, one per n-gram: by word, then by first character, then by length.

    A character is a byte and the bytes 0x80 to 0xBF that follow it, as in UTF-8, in any encoding.

    Args:
        words: as they were in fastText's training text, without the marks "<" and ">".
        min_n: length of the shortest n-gram in characters, marks included.
        max_n: length of the longest.
        buckets: the rows are in [0, buckets).
        whole: the one word that has no n-grams; None for models of fastText's first releases, where every word has some.

    Returns:
        Rows, int64 of shape (n-grams,), and how many of them belong to each word, int64 of shape (words,).
    """
    marked = [b"" if word == whole else b"<%b>" % word for word in words]
    hashed, counts, start = [np.empty(0, np.uint32)], [np.empty(0, np.int64)], 0
    while start < len(marked):
        size, stop = len(marked[start]), start + 1
        while stop < len(marked) and (size + len(marked[stop])) * max_n <= _HASHES:
            size, stop = size + len(marked[stop]), stop + 1
        some = _hashes(marked[start:stop], min_n, max_n)
        hashed.append(some[0] % np.uint32(buckets))
        counts.append(some[1])
        start = stop
    return np.concatenate(hashed).astype(np.int64), np.concatenate(counts)


def _hashes(marked: list[bytes], min_n: int, max_n: int) -> tuple[np.ndarray, np.ndarray]:
    """FNV-1a of every n-gram of the words with their marks, and the number of n-grams per word."""
    text = np.frombuffer(b"".join(marked), np.uint8)
    begins = np.flatnonzero((text & 0xC0) != 0x80)  # of the characters
    widths = np.diff(begins, append=len(text))
    word = np.repeat(np.arange(len(marked)), [len(one) for one in marked])[begins]
    first, last = np.diff(word, prepend=-1) > 0, np.diff(word, append=len(marked)) > 0  # characters of their words
    ends = np.cumsum(np.bincount(word, minlength=len(marked)))[word]
    # fastText takes bytes as *signed* chars: from 128 on, the sign fills the upper 24 bits.
    signed = text.view(np.int8).astype(np.int32).view(np.uint32)
    longest = min(max_n, int(np.bincount(word).max(initial=0)))
    hashes = np.zeros((len(begins), max(0, longest - min_n + 1)), np.uint32)
    valid = np.zeros(hashes.shape, bool)
    at, value = np.arange(len(begins)), np.full(len(begins), _OFFSET)  # of the n-grams so far: first character, hash
    for length in range(1, longest + 1):
        inside = at + length <= ends[at]
        at, value = at[inside], value[inside]
        begin, width = begins[at + length - 1], widths[at + length - 1]  # of the next character, in bytes
        value = (value ^ signed[begin]) * _PRIME
        for byte in range(1, int(width.max(initial=0))):
            more = np.flatnonzero(width > byte)
            value[more] = (value[more] ^ signed[begin[more] + byte]) * _PRIME
        if length >= min_n:
            hashes[at, length - min_n] = value
            valid[at, length - min_n] = ~(first[at] | last[at]) if length == 1 else True  # not a mark alone
    return hashes[valid], np.bincount(word, valid.sum(axis=1), minlength=len(marked)).astype(np.int64)


def mean_rows(matrix: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The means of groups of rows, summed in float32 and in the given order, as fastText does; zeros for an empty group.

    Args:
        matrix: floats of shape (any, width); may be memory-mapped.
        rows: rows of the matrix, group after group.
        counts: rows per group.

    Returns:
        float32 of shape (groups, width).
    """
    width = matrix.shape[1]
    means = np.zeros((len(counts), width), np.float32)
    starts = np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")  # longest first: so the groups with rows left are always the first ones
    for part in row_slices(means.shape, _SUMS):
        groups = order[part]
        sums = np.zeros((len(groups), width), np.float32)
        begins, lengths = starts[groups], counts[groups]
        with np.errstate(over="ignore", invalid="ignore"):  # callers refuse NaN and infinity, naming the word
            for i in range(int(lengths[0])):  # np.add.reduceat adds in another order, and is not faster
                left = np.count_nonzero(lengths > i)
                sums[:left] += gathered(matrix, rows[begins[:left] + i])
            means[groups] = sums * (1 / np.maximum(lengths, 1)).astype(np.float32)[:, None]
    return means


def gathered(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`matrix[rows]`; copied as bytes, which is twice as fast for a matrix that does not start at a multiple of 4 bytes."""
    plain = np.asarray(matrix)
    if not plain.flags.c_contiguous:
        return plain[rows]
    return plain.view(np.uint8).take(rows, axis=0).view(plain.dtype)
