"""What the readers of binary files share: which rows are kept, and the table that grows as they come."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.formats.request import Request, keyed_vectors
from embkeras.vectors.formats.source import Source
from embkeras.vectors.store import KeyedVectors

# A zero byte in these is a character of its own, so words can be joined by it.
_JOINABLE = ("utf-8", "ascii", "iso8859-1")


class Selection:
    """The words kept so far, in the order of the file, and what was counted on the way.

    Args:
        request: whose words, encoding and errors decide.

    Attributes:
        words: word -> row of the table.
        duplicates: words that had been kept before.
        undecodable: words that are not valid in the encoding.
    """

    def __init__(self, request: Request):
        self._request = request
        self.words: dict[Any, int] = {}
        self.duplicates = self.undecodable = 0
        self._joinable = codecs.lookup(request.encoding).name in _JOINABLE

    def keep(self, raw: Sequence[bytes | bytearray], place: Callable[[int], str]) -> list[int]:
        """Which of the next words of the file are kept; `place` says for messages where one of them stands.

        Raises:
            VectorFileError: a word that is not valid in the encoding, under errors="strict".
        """
        words, wanted = self._decoded(raw, place), self._request.wanted
        known = self.words
        if wanted is None:
            fresh = dict(zip(words, range(len(known), len(known) + len(words)), strict=True))
            if len(fresh) == len(words) and None not in fresh and known.keys().isdisjoint(fresh):  # as nearly always
                known.update(fresh)
                return list(range(len(words)))
        kept = []
        for i in range(len(words)) if wanted is None else [i for i, word in enumerate(words) if word in wanted]:
            word = words[i]
            if word in known:
                self.duplicates += 1
            elif word is not None:
                known[word] = len(known)
                kept.append(i)
        return kept

    def keyed(self, table: "Table", source: Source, format: str, rows: int, subwords: Any = None) -> KeyedVectors:
        """The words kept with their rows, of `rows` rows that were read."""
        return keyed_vectors(
            list(self.words),
            table.whole(),
            source,
            format,
            self._request,
            rows=rows,
            duplicates=self.duplicates,
            undecodable=self.undecodable,
            key_to_index=self.words,
            subwords=subwords,
        )

    def _decoded(self, raw: Sequence[bytes | bytearray], place: Callable[[int], str]) -> Sequence[str | None]:
        if self._joinable and raw:
            try:
                words = b"\0".join(raw).decode(self._request.encoding).split("\0")
            except UnicodeDecodeError:
                words = []
            if len(words) == len(raw):  # else one holds a zero byte
                return words
        return [self._word(bytes(word), i, place) for i, word in enumerate(raw)]

    def _word(self, raw: bytes, i: int, place: Callable[[int], str]) -> str | None:
        try:
            return raw.decode(self._request.encoding)
        except UnicodeError as error:
            self.undecodable += 1
            if self._request.errors == "skip":
                return None
            if self._request.errors == "strict":
                raise VectorFileError(
                    f"{place(i)}: the word {raw[:40]!r} is not {self._request.encoding} "
                    f'(byte {getattr(error, "start", 0)}). Another encoding=, or errors="replace" or "skip"?'
                ) from None
            return raw.decode(self._request.encoding, "replace")


class Table:
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
