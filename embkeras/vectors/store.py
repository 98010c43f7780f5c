"""KeyedVectors: words and the matrix that holds one vector a word."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras._arrays import check_matrix, nearest_rows
from embkeras.errors import ArgumentError, UnknownWordError
from embkeras.vectors.from_gensim import read_gensim
from embkeras.vectors.subwords import Subwords
from embkeras.vectors.words import PackedWords, WordIndex


@dataclass(frozen=True)
class Provenance:
    """Where vectors were read from, and what the reading met.

    Attributes:
        path: the file.
        format: its format, as `load_vectors` names it.
        rows: rows in the file, whether kept or not (None where reading stopped early).
        duplicates: rows whose word had come before; the first one is kept.
        undecodable: words that are not valid text in the encoding asked for.
        wanted: the spellings that were asked for, or None when every row was.
        limit: only so many rows were read from the head of the file, or None.
        stored: the type of the values in the file where they are no floats, such as "int8", or None. They are read as
            the same numbers in floats: nothing is scaled.
    """

    path: str
    format: str
    rows: int | None
    duplicates: int = 0
    undecodable: int = 0
    wanted: frozenset[str] | None = None
    limit: int | None = None
    stored: str | None = None


class KeyedVectors:
    """Words and their vectors, in the order of the file.

    Args:
        words: distinct words, one a row.
        matrix: floats of shape (words, vector_size); kept as it is, so it may be memory-mapped.
        subwords: n-gram vectors of the same width, from which `align(oov="subwords")` composes vectors.
        provenance: set by `load_vectors`.
        key_to_index: the row of each word, from a reader that has such an index: words and index are then kept as
            they are, and are not gone through.

    Attributes:
        words: list of str, made of the bytes that were read when it is first asked for; from embkeras's own store a
            sequence that decodes each word when it is asked for.
        matrix: array of shape (words, vector_size).
        vector_size: width of a vector.
        key_to_index: word -> row: a dict, made when it is first asked for, or from a store a mapping that searches the file.
        subwords: Subwords, or None.

    Raises:
        ArgumentError: another number of words than rows, a repeated word, a matrix that is not 2-D floats, or
            subwords of another width.

    Example:
        >>> import numpy as np
        >>> vectors = KeyedVectors(["cat", "dog", "car"], np.array([[1, 0], [0.9, 0.1], [0, 1]], "float32"))
        >>> vectors.most_similar("cat", topn=1)[0][0]
        'dog'
    """

    def __init__(
        self,
        words: Sequence[str],
        matrix: Any,
        *,
        subwords: Subwords | None = None,
        provenance: Provenance | None = None,
        key_to_index: Mapping[str, int] | None = None,
    ):
        self._words: Sequence[str] = list(words) if key_to_index is None else words
        self.matrix = check_matrix(matrix, "The matrix of KeyedVectors", rows=len(self._words))
        self._index = _index_of(self._words) if key_to_index is None else key_to_index
        self.provenance = provenance
        if subwords is not None and (not isinstance(subwords, Subwords) or subwords.vector_size != self.vector_size):
            raise ArgumentError(f"subwords must be Subwords of vector_size {self.vector_size}. Received: {subwords!r}.")
        self.subwords = subwords

    @classmethod
    def from_gensim(cls, vectors: Any) -> "KeyedVectors":
        """The words and vectors of gensim's `KeyedVectors` or `FastTextKeyedVectors`, or of a model that has them as `wv`.

        The arrays are gensim's own: what it trains further changes here too. Counts are not taken over.

        Args:
            vectors: the object, in memory. A file that gensim saved is a pickle: load it with gensim, if you trust it.

        Raises:
            ArgumentError: another kind of object, keys that are no words, or NaN or infinity.
        """
        read = read_gensim(vectors)
        return cls(read.words, read.matrix, subwords=read.subwords)

    @property
    def words(self) -> Sequence[str]:
        """The words in the order of the rows."""
        if isinstance(self._words, PackedWords) and self._words.in_memory:
            self._words = list(self._words)
        return self._words

    @property
    def key_to_index(self) -> Mapping[str, int]:
        """The row of each word."""
        if isinstance(self._index, WordIndex) and self._index.words.in_memory:
            self._index = self._index.as_dict()
        return self._index

    @property
    def vector_size(self) -> int:
        """Width of a vector."""
        return self.matrix.shape[1]

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __getitem__(self, word: str) -> np.ndarray:
        """The vector of `word`, shape (vector_size,)."""
        return self.matrix[self._row(word)]

    def rows_of(self, words: Iterable[str]) -> np.ndarray:
        """The rows of many words at once, int64 of shape (words,); -1 for a word that has no vector here.

        Example:
            >>> import numpy as np
            >>> KeyedVectors(["cat", "dog"], np.eye(2)).rows_of(["dog", "cow"]).tolist()
            [1, -1]
        """
        if isinstance(self._index, WordIndex):
            return self._index.rows_of(words)
        return np.fromiter((self._index.get(word, -1) for word in words), np.int64)

    def __getstate__(self) -> dict[str, Any]:
        words = list(self._words)  # one string for both
        return vars(self) | {"_words": words, "_index": dict(zip(words, range(len(words)), strict=True))}

    def __repr__(self) -> str:
        return f"KeyedVectors({len(self):,} words, vector_size={self.vector_size}, dtype={self.matrix.dtype})"

    def most_similar(self, word: str, topn: int = 10) -> list[tuple[str, float]]:
        """The `topn` words nearest to `word` by cosine similarity, best first, `word` itself left out.

        Raises:
            UnknownWordError: `word` has no vector here.
            ArgumentError: `topn` < 1.
        """
        if topn < 1:
            raise ArgumentError(f"topn must be at least 1. Received: {topn}.")
        own = self._row(word)
        rows, similarities = nearest_rows(self.matrix, self.matrix[own : own + 1], topn + 1)
        pairs = zip(rows[0].tolist(), similarities[0].tolist(), strict=True)
        return [(self._words[row], similarity) for row, similarity in pairs if row != own][:topn]

    def _row(self, word: str) -> int:
        try:
            return self._index[word]
        except KeyError:
            raise UnknownWordError(f"No vector for the word {word!r} among {len(self):,} words.") from None


def _index_of(words: Sequence[str]) -> dict[str, int]:
    """The row of each word; refuses a word that stands twice."""
    rows = {word: row for row, word in enumerate(words)}
    if len(rows) != len(words):
        row = next(i for i, word in enumerate(words) if rows[word] != i)
        raise ArgumentError(f"Words must be distinct. Received {words[row]!r} twice (first at row {row}).")
    return rows
