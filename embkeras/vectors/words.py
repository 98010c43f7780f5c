"""Words as one array of UTF-8 bytes with the place of each word in it, and a sorted index of their hashes.

No word costs a Python object until it is asked for, so opening a memory-mapped store costs nothing per word. Damage in a
store must then be found without reading all of it first. A word that is found proves itself: its bytes are compared. What
bytes alone can't prove (that a word is missing, or what the word of a row is) calls `check` first, which verifies the
checksums of all words the first time.

Two hashes are used. `stored_hash` is BLAKE2b, the same everywhere, for files. `quick_hash` is for memory: multilinear, the
sum of byte i times a random odd factor i, modulo 2**64 (Lemire & Kaser 2014, Strongly Universal String Hashing is Fast).
Words such as w1, w2, w3 would get evenly spaced hashes, so the sum is mixed: XOR of its upper half into the lower, then a
multiplication. Words longer than the list of factors are hashed one by one with keyed BLAKE2b. Factors and key are drawn
anew in each process, so no file can be crafted whose words all collide. Equal hashes are never trusted: the bytes decide.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice, pairwise
from operator import mul
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError

_ROWS = 1 << 14  # words decoded at once during iteration
_FACTORS = np.random.default_rng().integers(1 << 63, size=64, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_FACTOR_INTS: list[int] = _FACTORS.tolist()
_KEY = os.urandom(16)
_ALL_BITS = (1 << 64) - 1
_AT_ONCE = 4096  # words hashed at once for a filter
_SPARSE = 32  # places of a filter per word in it


def stored_hash(raw: bytes) -> int:
    """The 64-bit hash of a word's bytes in a store: BLAKE2b of 8 bytes, read as a little-endian number."""
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


def stored_hashes(raws: Iterable[bytes]) -> np.ndarray:
    """`stored_hash` of many words, uint64."""
    return np.array([stored_hash(raw) for raw in raws], np.uint64)


def index_of_hashes(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of words in ascending order, uint64, and the row of each, uint32; ties in the order of rows."""
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order.astype(np.uint32)


def quick_hash(raw: bytes) -> int:
    """The 64-bit hash of a word's bytes in this process."""
    if len(raw) > len(_FACTOR_INTS):
        return int.from_bytes(blake2b(raw, digest_size=8, key=_KEY).digest(), "little")
    total = sum(map(mul, raw, _FACTOR_INTS)) & _ALL_BITS
    return (total ^ total >> 32) * _FACTOR_INTS[-1] & _ALL_BITS


def quick_hashes(raws: Sequence[bytes]) -> np.ndarray:
    """`quick_hash` of many words, uint64."""
    return Words.of(raws).hashes


class PackedWords(Sequence[str]):
    """The words of a file in order; pickled, it becomes a plain list.

    Args:
        text: uint8 array: the words in UTF-8, one after the other.
        offsets: uint64 array of shape (words + 1,): word i is `text[offsets[i]:offsets[i + 1]]`.
        check: called before an unproved word is read; raises VectorFileError if the file is damaged.
        name: name of the file in error messages.
        in_memory: whether the arrays are in memory, and not part of an open file.
    """

    def __init__(
        self, text: np.ndarray, offsets: np.ndarray, check: Callable[[], None], name: str, *, in_memory: bool = False
    ):
        # Reading single items of a memoryview is several times faster than of an array.
        self._text, self._offsets = text.data, offsets.data
        self.check, self._name, self.in_memory = check, name, in_memory

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def raw(self, row: int) -> bytes:
        """The bytes of the word in `row`, unchecked."""
        return self._text[self._offsets[row] : self._offsets[row + 1]].tobytes()

    def raws(self, rows: np.ndarray) -> list[bytes]:
        """The bytes of the words in some rows, unchecked."""
        offsets = np.asarray(self._offsets)
        ends = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
        return [self._text[begin:end].tobytes() for begin, end in ends]

    def __getitem__(self, row: Any) -> Any:
        """The word of a row, or a list of the words of a slice."""
        rows = range(len(self))[row]  # raises IndexError for a row out of range
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

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise VectorFileError(f"{self._name} contains a word that is not UTF-8: {raw[:40]!r}.") from error


class WordIndex(Mapping[str, int]):
    """The row of each word, found in a sorted array of hashes; pickled, it becomes a plain dict.

    Words with equal hashes are told apart by their bytes.

    Args:
        words: the words.
        hashes: uint64 array: the hash of each word, ascending.
        rows: uint32 array of the same length: the row of the word with that hash.
        hash_of: hashes the bytes of one word; `stored_hash` by default.
        hashes_of: hashes many words at once; `stored_hashes` by default.
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
        self._sorted, self._rows, self._index_rows = hashes.data, rows.data, rows

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str) -> int:
        row = self.get(word)
        if row is None:
            raise KeyError(word)
        return row

    def get(self, word: Any, default: Any = None) -> Any:
        """The row of `word`, or `default`."""
        raw = encoded(word)
        if raw is None:
            return default
        row = self._row(raw, bisect_left(self._sorted, self._hash_of(raw)))
        if row < 0:
            self.words.check()
        return default if row < 0 else row

    def rows_of(self, words: Iterable[str]) -> np.ndarray:
        """The rows of many words at once, int64; -1 for a missing word."""
        raws = [encoded(word) for word in words]
        hashes = self._hashes_of([raw or b"" for raw in raws])
        order = np.argsort(hashes)  # neighbours in the index are looked up one after the other
        places = np.empty(len(raws), np.int64)
        places[order] = np.searchsorted(self._hashes, hashes[order])
        rows = np.full(len(raws), -1)
        inside = np.flatnonzero(places < len(self._hashes))
        likely = inside[self._hashes[places[inside]] == hashes[inside]]
        candidates = np.minimum(self._index_rows[places[likely]].astype(np.int64), len(self.words) - 1)
        for i, candidate, there in zip(likely.tolist(), candidates.tolist(), self.words.raws(candidates), strict=True):
            raw = raws[i]
            if raw == there:
                rows[i] = candidate
            elif raw is not None:  # another word with this hash
                rows[i] = self._row(raw, int(places[i]))
        if (rows < 0).any():
            self.words.check()
        return rows

    def as_dict(self) -> dict[str, int]:
        """The same mapping as a dict."""
        return dict(zip(self.words, range(len(self)), strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.as_dict(),)

    def _row(self, raw: bytes, place: int) -> int:
        """The row of a word, searched from `place` on among those with the hash at `place`; -1 if it is missing."""
        count = len(self._sorted)
        first = self._sorted[place] if place < count else None
        while place < count and self._sorted[place] == first:
            row = self._rows[place]
            if row < count and self.words.raw(row) == raw:
                return row
            place += 1
        return -1


def encoded(word: Any) -> bytes | None:
    """A word in UTF-8; None for what no file contains: lone surrogates, and values that are not strings."""
    try:
        return word.encode("utf-8")
    except (UnicodeEncodeError, AttributeError):
        return None


@dataclass(frozen=True, eq=False)
class Words:
    """Words in one array of bytes.

    Attributes:
        text: uint8, their bytes, one word after the other.
        lengths: int32, the length of each.
        hashes: uint64, `quick_hash` of each.
    """

    text: np.ndarray
    lengths: np.ndarray
    hashes: np.ndarray

    @classmethod
    def gathered(cls, buffer: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> "Words":
        """The words at [start, stop) of a uint8 buffer."""
        lengths = stops - starts
        ends = np.cumsum(lengths)
        begins = ends - lengths
        place = np.arange(ends[-1] if len(ends) else 0)
        place -= np.repeat(begins, lengths)  # of each byte in its word
        text = buffer.take(place + np.repeat(starts, lengths))
        # reduceat() sums from each begin to the next. The zero at the end is for an empty last word.
        terms = np.append(text * _FACTORS.take(place, mode="clip"), np.uint64(0))
        hashes = np.add.reduceat(terms, begins) if len(begins) else np.empty(0, np.uint64)
        hashes[lengths == 0] = 0  # for an empty word, reduceat() returns the item itself
        hashes ^= hashes >> np.uint64(32)
        hashes *= _FACTORS[-1]
        for long in np.flatnonzero(lengths > len(_FACTORS)).tolist():
            hashes[long] = quick_hash(text[begins[long] : ends[long]].tobytes())
        return cls(text, lengths.astype(np.int32), hashes)

    @classmethod
    def of(cls, raws: Sequence[bytes | bytearray]) -> "Words":
        """The words of a list."""
        lengths = np.fromiter(map(len, raws), np.int64, len(raws))
        stops = np.cumsum(lengths)
        return cls.gathered(np.frombuffer(b"".join(raws), np.uint8), stops - lengths, stops)

    @classmethod
    def joined(cls, parts: Iterable["Words"]) -> "Words":
        """The words of all parts."""
        parts = [cls.of([]), *parts]
        columns = zip(*((part.text, part.lengths, part.hashes) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, kept: np.ndarray) -> "Words":
        """The words where the mask `kept` is true."""
        return Words(self.text[np.repeat(kept, self.lengths)], self.lengths[kept], self.hashes[kept])

    def raws(self) -> list[bytes]:
        """The bytes of each word."""
        text, stops = self.text.tobytes(), np.cumsum(self.lengths, dtype=np.int64)
        starts = (stops - self.lengths).tolist()
        return [text[start:stop] for start, stop in zip(starts, stops.tolist(), strict=True)]

    def are_utf8(self) -> bool:
        """Whether each word is valid UTF-8."""
        if not len(self.text) or self.text.max() < 0x80:
            return True
        # Joined, they can be valid although a word is cut inside a character: the next word must not begin with the rest.
        filled = self.lengths > 0
        begins = (np.cumsum(self.lengths, dtype=np.int64) - self.lengths)[filled]
        if (self.text[begins] & 0xC0 == 0x80).any():
            return False
        try:
            self.text.tobytes().decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def packed(self, name: str) -> tuple[PackedWords, WordIndex, list[int]]:
        """The distinct words, the row of each, and the places of the repeated words that are left out.

        Args:
            name: name of the file in error messages.
        """
        order = np.argsort(self.hashes).astype(np.uint32)
        hashes = self.hashes[order]
        repeated = self._repeated(order, hashes)
        if repeated:
            kept = np.ones(len(self), bool)
            kept[repeated] = False
            return *self.only(kept).packed(name)[:2], repeated
        offsets = np.zeros(len(self) + 1, np.uint64)
        np.cumsum(self.lengths, out=offsets[1:].view(np.int64))
        words = PackedWords(self.text, offsets, lambda: None, name, in_memory=True)  # all read: nothing to check
        return words, WordIndex(words, hashes, order, quick_hash, quick_hashes), []

    def _repeated(self, order: np.ndarray, hashes: np.ndarray) -> list[int]:
        """The places of words that occurred earlier, ascending."""
        equal = hashes[1:] == hashes[:-1]
        if not equal.any():
            return []
        suspects = np.zeros(len(self), bool)
        suspects[order[1:][equal]] = suspects[order[:-1][equal]] = True
        seen: set[bytes] = set()
        repeated = []
        for place, raw in zip(np.flatnonzero(suspects).tolist(), self.only(suspects).raws(), strict=True):
            if raw in seen:
                repeated.append(place)
            seen.add(raw)
        return repeated


def hash_filter(words: Collection[str]) -> Callable[[np.ndarray], np.ndarray]:
    """A function that says which hashes (uint64) may belong to one of `words`: True for all that do, and for few others."""
    bits = max(10, (_SPARSE * len(words)).bit_length())
    shift = np.uint64(64 - bits)
    places = np.zeros(1 << bits, bool)
    remaining = iter(words)
    while some := [word.encode("utf-8", "surrogatepass") for word in islice(remaining, _AT_ONCE)]:
        places[Words.of(some).hashes >> shift] = True
    return lambda hashes: places.take((hashes >> shift).view(np.int64))
