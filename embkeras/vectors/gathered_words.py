"""Words out of a buffer of bytes, thousands at once: their bytes, and a hash of each, without a Python object a word.

The hash is multilinear: the sum of byte i times a random odd factor i, modulo 2**64 (Lemire & Kaser 2014, Strongly Universal
String Hashing is Fast). The hashes of words such as w1, w2, w3 would lie evenly, and hence those of w and x upon each other, so
the sum is mixed: its upper half is laid over the lower, and the whole multiplied. Words of more bytes than there are factors,
which are few, are hashed one by one by BLAKE2b with a random key. Factors and key are drawn anew in each process, so that no
file can be made of words that all have one hash. Equal hashes are never believed: the bytes decide.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from operator import mul

import numpy as np

from embkeras.vectors.packed_words import PackedWords, WordIndex

_FACTORS = np.random.default_rng().integers(1 << 63, size=64, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_FACTORS_OF_ONE: list[int] = _FACTORS.tolist()
_KEY = os.urandom(16)
_ALL_BITS = (1 << 64) - 1
_AT_ONCE = 4096  # words
_SPARSE = 32  # places of a filter for each word in it


def quick_hash(raw: bytes) -> int:
    """The 64-bit hash of one word's bytes, in this process."""
    if len(raw) > len(_FACTORS_OF_ONE):
        return int.from_bytes(blake2b(raw, digest_size=8, key=_KEY).digest(), "little")
    total = sum(map(mul, raw, _FACTORS_OF_ONE)) & _ALL_BITS
    return (total ^ total >> 32) * _FACTORS_OF_ONE[-1] & _ALL_BITS


def quick_hashes(raws: Sequence[bytes]) -> np.ndarray:
    """Those of many words, uint64."""
    return Words.of(raws).hashes


@dataclass(frozen=True)
class Words:
    """Words one after the other.

    Attributes:
        text: uint8, their bytes.
        lengths: int32, of each.
        hashes: uint64, `quick_hash` of each.
    """

    text: np.ndarray
    lengths: np.ndarray
    hashes: np.ndarray

    @classmethod
    def gathered(cls, buffer: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> "Words":
        """The words at [start, stop) of a buffer, uint8."""
        lengths = stops - starts
        ends = np.cumsum(lengths)
        begins = ends - lengths
        place = np.arange(ends[-1] if len(ends) else 0)
        place -= np.repeat(begins, lengths)  # in its word
        text = buffer.take(place + np.repeat(starts, lengths))
        # reduceat() sums from each begin to the next. The zero is where an empty word at the end begins.
        terms = np.append(text * _FACTORS.take(place, mode="clip"), np.uint64(0))
        hashes = np.add.reduceat(terms, begins) if len(begins) else np.empty(0, np.uint64)
        hashes[lengths == 0] = 0  # where it begins and ends at one place, reduceat() gives what stands there
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
        """All words of some parts."""
        parts = [cls.of([]), *parts]
        columns = zip(*((part.text, part.lengths, part.hashes) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, kept: np.ndarray) -> "Words":
        """The words at which the mask `kept` is true."""
        return Words(self.text[np.repeat(kept, self.lengths)], self.lengths[kept], self.hashes[kept])

    def without(self, places: list[int]) -> "Words":
        """The words but for those at `places`."""
        kept = np.ones(len(self), bool)
        kept[places] = False
        return self.only(kept)

    def raws(self) -> list[bytes]:
        """The bytes of each."""
        text, stops = self.text.tobytes(), np.cumsum(self.lengths, dtype=np.int64)
        starts = (stops - self.lengths).tolist()
        return [text[start:stop] for start, stop in zip(starts, stops.tolist(), strict=True)]

    def are_utf8(self) -> bool:
        """Whether each is valid UTF-8."""
        if not len(self.text) or self.text.max() < 0x80:
            return True
        # All of them together may be valid though one is cut within a character, if the next begins with the rest of it.
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
        """The words, valid UTF-8, as a sequence of strings; the row of each; and which were left out, for they stood before.

        Args:
            name: what messages call them.
        """
        order = np.argsort(self.hashes).astype(np.uint32)
        hashes = self.hashes[order]
        repeated = self._repeated(order, hashes)
        if repeated:
            return *self.without(repeated).packed(name)[:2], repeated
        offsets = np.zeros(len(self) + 1, np.uint64)
        np.cumsum(self.lengths, out=offsets[1:].view(np.int64))
        words = PackedWords(self.text, offsets, _nothing, name, in_memory=True)
        return words, WordIndex(words, hashes, order, quick_hash, quick_hashes), []

    def _repeated(self, order: np.ndarray, hashes: np.ndarray) -> list[int]:
        """The places of words that stand before, ascending."""
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
    """A function that tells of hashes (uint64) which may be those of `words`: all that are, and few others."""
    bits = max(10, (_SPARSE * len(words)).bit_length())
    shift = np.uint64(64 - bits)
    places = np.zeros(1 << bits, bool)
    remaining = iter(words)
    while some := [word.encode("utf-8", "surrogatepass") for word in islice(remaining, _AT_ONCE)]:
        places[Words.of(some).hashes >> shift] = True
    return lambda hashes: places.take((hashes >> shift).view(np.int64))


def _nothing() -> None:
    """There is nothing to check: the words were read whole."""
