"""KeyedVectors: words and a matrix with one vector per word."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from embkeras._arrays import check_finite, check_matrix, nearest_rows
from embkeras._checks import shown, strings, whole_number
from embkeras.errors import ArgumentError, UnknownWordError
from embkeras.vectors.subwords import Subwords
from embkeras.vectors.words import PackedWords, WordIndex


@dataclass(frozen=True)
class Provenance:
    """Where vectors were read from, and what was found there.

    Attributes:
        path: the file.
        format: its format, as `load_vectors` names it.
        rows: rows in the file, kept or not (None if reading stopped early).
        duplicates: rows whose word occurred before; the first one is kept.
        undecodable: words that are not valid text in the encoding.
        wanted: the spellings that were looked for, or None if all rows were read.
        limit: the number of rows read from the start of the file, or None for all.
        stored: the type of the values in the file where they are not floats, such as "int8", or None. They are read as
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
        words: distinct words, one per row.
        matrix: floats of shape (words, vector_size); not copied, so it may be memory-mapped.
        subwords: n-gram vectors of the same width, from which `align(oov="subwords")` composes vectors.
        provenance: set by `load_vectors`.
        key_to_index: the row of each word, from a reader that has such an index: words and index are then neither
            copied nor checked.

    Raises:
        ArgumentError: words that are not distinct strings, a different number of words than rows, a matrix that is not
            2-D floats, or subwords of another width.

    Examples:
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
        if key_to_index is None:
            words = strings(words, "The words of KeyedVectors")
            key_to_index = {word: row for row, word in enumerate(words)}
            if len(key_to_index) != len(words):
                row = next(row for row, word in enumerate(words) if key_to_index[word] != row)
                raise ArgumentError(f"Words must be distinct. Received: {words[row]!r} twice, first at row {row}.")
        self._words, self._index = words, key_to_index
        self.matrix = check_matrix(matrix, "The matrix of KeyedVectors", rows=len(words))
        self.provenance = provenance
        if subwords is not None and (not isinstance(subwords, Subwords) or subwords.vector_size != self.vector_size):
            raise ArgumentError(
                f"subwords must be Subwords of vector_size {self.vector_size}. Received: {shown(subwords)}."
            )
        self.subwords = subwords

    @classmethod
    def from_gensim(cls, vectors: Any) -> "KeyedVectors":
        """The words and vectors of gensim's `KeyedVectors` or `FastTextKeyedVectors`, or of a model that has them as `wv`.

        gensim need not be installed: only the attributes of the object count. The arrays are gensim's own, so what it
        trains further changes here too. Counts are not read.

        Args:
            vectors: the object, in memory. A file that gensim saved is a pickle: load it with gensim, if you trust it.

        Returns:
            Vectors over the same arrays.

        Raises:
            ArgumentError: another kind of object, one without vectors, keys that are not strings, or NaN or infinity.
        """
        held = getattr(vectors, "wv", vectors)
        words, matrix = getattr(held, "index_to_key", None), getattr(held, "vectors", None)
        if words is None or not isinstance(matrix, np.ndarray):
            raise ArgumentError(
                f"from_gensim takes gensim's KeyedVectors, or a model with them as wv (gensim 4 or later). "
                f"Received: {type(vectors).__module__}.{type(vectors).__name__}."
            )
        if not len(words):
            raise ArgumentError("from_gensim takes vectors of at least one word. Received: 0 words; was it trained?")
        words = strings(words, "The words of from_gensim")
        what = "The vectors of gensim"
        check_finite(check_matrix(matrix, what, rows=len(words)), what)
        return cls(words, matrix, subwords=_subwords_of_gensim(held))

    @classmethod
    def from_dataframe(cls, frame: Any, *, words: Any = None) -> "KeyedVectors":
        """The rows of a pandas DataFrame. Every column but that of the words is a dimension.

        Args:
            frame: words by dimensions, such as `pandas.read_csv` returns.
            words: name of the column with the words; by default the index, if it has strings, or the one column of strings.

        Returns:
            One row for each row of the frame, in its order.

        Raises:
            ArgumentError: not a frame, words that are no distinct strings, a column that is not numbers, NaN or infinity.

        Examples:
            >>> import pandas
            >>> frame = pandas.DataFrame({"word": ["cat", "dog"], "x": [1.0, 0.9], "y": [0.0, 0.1]})
            >>> KeyedVectors.from_dataframe(frame)["dog"].tolist()
            [0.9, 0.1]
        """
        import pandas

        if not isinstance(frame, pandas.DataFrame):
            raise ArgumentError(f"frame must be a pandas DataFrame. Received: {type(frame).__name__}.")
        rows, numbers = _words_and_numbers(frame, words)
        kinds = [getattr(kind, "numpy_dtype", kind) for kind in numbers.dtypes]  # of pandas' own kinds, such as Float32
        wrong = [place for place, kind in enumerate(kinds) if getattr(kind, "kind", "O") not in "fiu"]
        if wrong or not kinds:
            found = (
                f"{numbers.columns[wrong[0]]!r} with {numbers.dtypes.iloc[wrong[0]]}" if wrong else "no other column"
            )
            raise ArgumentError(
                f"from_dataframe takes numbers in every column but that of the words: drop the others, or spread a column of "
                f"lists, as in pandas.DataFrame(frame[column].tolist(), index=frame[words]). Received: {found}."
            )
        dtype = np.result_type(np.float32, *kinds)
        matrix = numbers.to_numpy(dtype, na_value=np.nan)
        what = "The numbers of from_dataframe"
        check_finite(check_matrix(matrix, what, rows=len(rows)), what)
        return cls(rows, matrix)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame of shape (words, vector_size), with the words as its index and the dimensions as its columns.

        Returns:
            The frame; its index is named `word`.

        Examples:
            >>> import numpy as np
            >>> KeyedVectors(["cat", "dog"], np.eye(2)).to_dataframe().loc["dog"].tolist()
            [0.0, 1.0]
        """
        import pandas

        return pandas.DataFrame(
            np.asarray(self.matrix), index=pandas.Index(list(self._words), dtype=object, name="word")
        )

    @property
    def words(self) -> Sequence[str]:
        """The words in the order of the rows: a list, decoded at first use; from a store a sequence that decodes one."""
        if isinstance(self._words, PackedWords) and self._words.in_memory:
            self._words = list(self._words)
        return self._words

    @property
    def key_to_index(self) -> Mapping[str, int]:
        """Word -> row: a dict, made at first use; from a store a mapping that searches the file."""
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
        return _checked(word) in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __getitem__(self, word: str) -> np.ndarray:
        """The vector of `word`, shape (vector_size,)."""
        return self.matrix[self._row(word)]

    def rows_of(self, words: Iterable[str]) -> np.ndarray:
        """The rows of many words at once.

        Args:
            words: the words, as they are spelled here.

        Returns:
            int64 of shape (words,); -1 for a word without a vector.

        Raises:
            ArgumentError: a single string, or something that is not a string.

        Examples:
            >>> import numpy as np
            >>> KeyedVectors(["cat", "dog"], np.eye(2)).rows_of(["dog", "cow"]).tolist()
            [1, -1]
        """
        words = strings(words, "The words of rows_of")
        if isinstance(self._index, WordIndex):
            return self._index.rows_of(words)
        return np.fromiter(map(self._index.get, words, repeat(-1)), np.int64, len(words))

    def __getstate__(self) -> dict[str, Any]:
        words = list(self._words)  # one string for both
        return vars(self) | {"_words": words, "_index": dict(zip(words, range(len(words)), strict=True))}

    def __repr__(self) -> str:
        return f"KeyedVectors({len(self):,} words, vector_size={self.vector_size}, dtype={self.matrix.dtype})"

    def most_similar(self, word: str, topn: int = 10) -> list[tuple[str, float]]:
        """The `topn` words nearest to `word` by cosine similarity, best first, without `word` itself.

        Args:
            word: a word that has a vector here.
            topn: the largest number of words to return.

        Returns:
            Pairs of a word and its cosine similarity, from -1 to 1.

        Raises:
            UnknownWordError: `word` has no vector here.
            ArgumentError: `word` is not a string, or `topn` not an integer >= 1.
        """
        topn = whole_number(topn, "topn", least=1)
        own = self._row(word)
        rows, similarities = nearest_rows(self.matrix, self.matrix[own : own + 1], topn + 1)
        pairs = zip(rows[0].tolist(), similarities[0].tolist(), strict=True)
        return [(self._words[row], similarity) for row, similarity in pairs if row != own][:topn]

    def _row(self, word: str) -> int:
        try:
            return self._index[_checked(word)]
        except KeyError:
            raise UnknownWordError(f"No vector for the word {word!r} among {len(self):,} words.") from None


def _checked(word: Any) -> str:
    """A word, if it is a string: a number is not taken for the word that it looks like, nor for a row."""
    if isinstance(word, str):
        return word
    raise ArgumentError(
        f"A word must be a str, such as str(key); the vector of row i is matrix[i]. "
        f"Received: {shown(word)} of type {type(word).__name__}."
    )


def _words_and_numbers(frame: Any, words: Any) -> tuple[list[str], Any]:
    """The words of a frame, and the columns that are left for the numbers."""
    texts = [name for name in frame.columns if all(isinstance(value, str) for value in frame[name])]
    if words is not None:
        if not isinstance(words, str | int) or list(frame.columns).count(words) != 1:
            raise ArgumentError(f"words must be the name of one column. Received: {shown(words)}; {_columns(frame)}.")
        name = words
    elif len(frame) and all(isinstance(value, str) for value in frame.index):
        return list(frame.index), frame
    elif len(texts) == 1:
        name = texts[0]
    else:
        raise ArgumentError(
            f"from_dataframe takes a frame whose index, or one column, has the words as strings: set "
            f"frame.index = frame.index.astype(str), or name the column with words=. Received: an index of {frame.index.dtype} "
            f"and {len(texts)} columns of strings; {_columns(frame)}."
        )
    return strings(frame[name], f"The words in the column {name!r}"), frame.drop(columns=name)


def _columns(frame: Any) -> str:
    return f"the columns are {', '.join(map(repr, frame.columns[:10]))}{', ...' if len(frame.columns) > 10 else ''}"


def _subwords_of_gensim(held: Any) -> Subwords | None:
    matrix, buckets = getattr(held, "vectors_ngrams", None), getattr(held, "bucket", 0)
    if not isinstance(matrix, np.ndarray) or not buckets:
        return None
    if getattr(held, "compatible_hash", True) is False:
        raise ArgumentError(
            "These fastText vectors hash n-grams unlike any other fastText: load and save them with gensim 3.8.3 first. "
            "Received: compatible_hash=False."
        )
    min_n, max_n = max(1, held.min_n), held.max_n
    if max_n < min_n:
        return None  # fastText's way of having no n-grams
    what = "The n-gram vectors of gensim"
    check_finite(check_matrix(matrix, what, rows=buckets), what)
    return Subwords(matrix, min_n=min_n, max_n=max_n, buckets=buckets)
