"""Words that stay as they are in a file: one run of bytes, where each word begins in it, and a sorted index of their hashes.

Nothing is made of all the words when they are opened: a word is decoded, and looked up, when it is asked for. The arrays
of a store are memory-mapped, so damage must be found without reading all of them first. A word that is found proves
itself, for its bytes are compared. Whatever the bytes of the words alone cannot prove - that a word is not there, or how
the word of a row reads - calls `check` first, which the first time goes through all of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError

_ROWS = 1 << 14  # words decoded at once when all are gone through


def stored_hash(raw: bytes) -> int:
    """The 64-bit hash of a word's bytes in a store: BLAKE2b of 8 bytes, read as a little-endian number."""
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


def stored_hashes(raws: Iterable[bytes]) -> np.ndarray:
    """Those of many words, uint64."""
    return np.array([stored_hash(raw) for raw in raws], np.uint64)


def index_of_hashes(raws: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of words in ascending order, uint64, and the row of each, uint32; equal hashes in the order of rows."""
    hashes = stored_hashes(raws)
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order.astype(np.uint32)


class PackedWords(Sequence[str]):
    """Words in the order of a file; a copy in another process is a plain list.

    Args:
        text: uint8 array: the words in UTF-8, one after the other.
        offsets: uint64 array of shape (words + 1,): word i is `text[offsets[i]:offsets[i + 1]]`.
        check: called before a word is read whose bytes nothing proves; raises VectorFileError if the file is damaged.
        name: what messages call the file.
        in_memory: whether the arrays are no part of a file that stays open.
    """

    def __init__(
        self, text: np.ndarray, offsets: np.ndarray, check: Callable[[], None], name: str, *, in_memory: bool = False
    ):
        # Single items of a memoryview are read several times faster than those of an array.
        self._text, self._offsets = memoryview(text), memoryview(offsets)
        self.check, self._name, self.in_memory = check, name, in_memory

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def raw(self, row: int) -> bytes:
        """The bytes of the word of `row`, unchecked."""
        return self._text[self._offsets[row] : self._offsets[row + 1]].tobytes()

    def __getitem__(self, row: Any) -> Any:
        """The word of a row, or a list of the words of a slice."""
        rows = range(len(self))[row]  # an index out of range is refused here
        self.check()
        if isinstance(rows, range):
            return [self._decoded(self.raw(each)) for each in rows]
        return self._decoded(self.raw(rows))

    def __iter__(self) -> Iterator[str]:
        self.check()
        for start in range(0, len(self), _ROWS):
            ends = self._offsets[start : start + _ROWS + 1].tolist()
            raw = self._text[ends[0] : ends[-1]].tobytes()
            first = ends[0]
            for begin, end in pairwise(ends):
                yield self._decoded(raw[begin - first : end - first])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"[{shown}{', ...' if len(self) > 3 else ''}]"

    def __reduce__(self) -> tuple:
        return list, (list(self),)

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise VectorFileError(f"{self._name} holds a word that is not UTF-8: {raw[:40]!r}.") from error


class WordIndex(Mapping[str, int]):
    """Which row a word has, by a sorted array of hashes; a copy in another process is a plain dict.

    Words whose hashes are equal are told apart by their bytes.

    Args:
        words: the words.
        hashes: uint64 array: the hash of each word, ascending.
        rows: uint32 array of the same length: the row of the word with that hash.
        hash_of: gives the hash of a word's bytes; by default that of a store.
        hashes_of: gives those of many words.
    """

    def __init__(
        self,
        words: PackedWords,
        hashes: np.ndarray,
        rows: np.ndarray,
        hash_of: Callable[[bytes], int] | None = None,
        hashes_of: Callable[[list[bytes]], np.ndarray] | None = None,
    ):
        self.words, self._hashes = words, hashes
        self._hash_of, self._hashes_of = hash_of or stored_hash, hashes_of or stored_hashes
        self._sorted, self._rows = memoryview(hashes), memoryview(rows)

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str) -> int:
        row = self.get(word)
        if row is None:
            raise KeyError(word)
        return row

    def __contains__(self, word: object) -> bool:
        return self.get(word) is not None

    def get(self, word: Any, default: Any = None) -> Any:
        """The row of `word`, or `default`."""
        raw = _raw(word)
        if raw is None:
            return default
        row = self._row(raw, bisect_left(self._sorted, self._hash_of(raw)))
        if row < 0:
            self.words.check()
        return default if row < 0 else row

    def rows_of(self, words: Iterable[str]) -> np.ndarray:
        """The rows of many words at once, int64; -1 for a word that is not there."""
        raws = [_raw(word) for word in words]
        hashes = self._hashes_of([raw or b"" for raw in raws])
        order = np.argsort(hashes)  # neighbours in the index are looked up one after the other
        places = np.empty(len(raws), np.int64)
        places[order] = np.searchsorted(self._hashes, hashes[order])
        rows = np.full(len(raws), -1)
        inside = np.flatnonzero(places < len(self._hashes))
        for i in inside[self._hashes[places[inside]] == hashes[inside]].tolist():
            rows[i] = -1 if raws[i] is None else self._row(raws[i], int(places[i]))
        if (rows < 0).any():
            self.words.check()
        return rows

    def as_dict(self) -> dict[str, int]:
        """The same as a dict, made in one go."""
        return dict(zip(self.words, range(len(self)), strict=True))

    def __reduce__(self) -> tuple:
        return dict, (self.as_dict(),)

    def _row(self, raw: bytes, place: int) -> int:
        """The row of a word among those from `place` on that have the hash of that one, or -1."""
        count = len(self._sorted)
        first = self._sorted[place] if place < count else None
        while place < count and self._sorted[place] == first:
            row = self._rows[place]
            if row < count and self.words.raw(row) == raw:
                return row
            place += 1
        return -1


def _raw(word: Any) -> bytes | None:
    """The bytes of a word; None for what no file of words holds: a lone surrogate, or no string at all."""
    try:
        return word.encode("utf-8")
    except (UnicodeEncodeError, AttributeError):
        return None
