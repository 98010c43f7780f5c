"""What the readers of binary files share: which rows are kept, and the table that grows as they come."""

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.table import without_rows
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import Words, hash_filter


class Selection:
    """The words kept so far, in the order of the file, and what was counted on the way.

    Where some words are asked for, the first row of each is kept. Where all are, every row is, and `finish` tells which to
    leave out again, for their word stood before.

    Args:
        request: whose words, encoding and errors decide.

    Attributes:
        duplicates: words that had been kept before.
        undecodable: words that are not valid in the encoding.
    """

    def __init__(self, request: Request):
        self._request = request
        self._parts: list[Words] = []  # where all words are asked for
        self._rows: dict[str, int] = {}  # where some are
        self._may_be_wanted = None if request.wanted is None else hash_filter(request.wanted)
        self.duplicates = self.undecodable = 0
        self._utf8 = codecs.lookup(request.encoding).name == "utf-8"

    def keep(self, words: Words, place: Callable[[int], str]) -> list[int]:
        """Which of the next words of the file are kept; `place` says for messages where one of them stands.

        Raises:
            VectorFileError: a word that is not valid in the encoding, under errors="strict".
        """
        kept_at_all = np.ones(len(words), bool)
        if not (self._utf8 and words.are_utf8()):
            each = [self._request.in_utf8(raw, lambda i=i: place(i)) for i, raw in enumerate(words.raws())]
            words, valid = Words.of([raw for raw, _ in each]), np.array([good for _, good in each], bool)
            self.undecodable += int((~valid).sum())
            if self._request.errors == "skip":
                kept_at_all = valid
        if self._may_be_wanted is None:
            self._parts.append(words if kept_at_all.all() else words.only(kept_at_all))
            return np.flatnonzero(kept_at_all).tolist()
        likely = kept_at_all & self._may_be_wanted(words.hashes)
        kept = []
        for i, raw in zip(np.flatnonzero(likely).tolist(), words.only(likely).raws(), strict=True):
            word = raw.decode()
            if word in self._rows:
                self.duplicates += 1
            elif word in self._request.wanted:
                self._rows[word] = len(self._rows)
                kept.append(i)
        return kept

    def finish(self, name: str) -> tuple[Sequence[str], Mapping[str, int], list[int]]:
        """The words kept; the row of each; and which of the rows kept to leave out, ascending.

        Args:
            name: what messages call the file.
        """
        if self._may_be_wanted is not None:
            return list(self._rows), self._rows, []
        words, index, repeated = Words.joined(self._parts).packed(name)
        self.duplicates = len(repeated)
        return words, index, repeated

    def keyed(
        self, table: "GrowingTable", source: Source, format: str, rows: int, subwords: Any = None
    ) -> KeyedVectors:
        """The words kept with their rows, of `rows` rows that were read."""
        words, index, repeated = self.finish(source.name)
        return keyed_vectors(
            words,
            without_rows(table.whole(), repeated),
            source,
            format,
            self._request,
            rows=rows,
            duplicates=self.duplicates,
            undecodable=self.undecodable,
            key_to_index=index,
            subwords=subwords,
        )


class GrowingTable:
    """Rows as they come, float32 or float16.

    Args:
        width: of a row.
        dtype: of the table.
        capacity: rows for which room is made at once; it must be held against the size of the file before.
    """

    def __init__(self, width: int, dtype: str, capacity: int = 0):
        self._matrix, self._rows = np.empty((capacity, width), dtype), 0

    def add(self, rows: np.ndarray) -> np.ndarray:
        """Add rows of any float type, and return them as the table holds them."""
        before, self._rows = self._rows, self._rows + len(rows)
        # No more than that: large arrays grow in place, and unused room costs memory.
        if self._rows > len(self._matrix):
            self._matrix.resize((self._rows, self._matrix.shape[1]), refcheck=False)
        added = self._matrix[before : self._rows]
        with np.errstate(over="ignore"):  # what the type cannot hold becomes infinity, which the caller refuses
            added[:] = rows
        return added

    def whole(self) -> Any:
        """The rows, and no more."""
        self._matrix.resize((self._rows, self._matrix.shape[1]), refcheck=False)
        return self._matrix
