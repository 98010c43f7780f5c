"""A block of whole lines in a buffer, and where the fields of each line lie.

The arrays of a block are used again for the lines that come into it next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.vectors.io.digits import MARGIN, Digits

_NEWLINE, _RETURN, _SPACE = 10, 13, 32


class Block:
    """Whole lines in a buffer. Positions are counted from the buffer's first byte.

    Args:
        size: bytes of lines that it holds; it grows where one line is longer.

    Attributes:
        raw, bytes: the buffer, as a bytearray and as uint8; lines begin at MARGIN.
        digits: reads numbers out of it.
        starts, stops: where each line begins, and where it stops but for its end.
        rows: number of each line, counted from 0 at the first row of the file.
        index: number of the block.
        out: where the rows' values belong, as `Lines` was told to reserve it.
    """

    def __init__(self, size: int):
        self.resize(size)
        self.index = 0
        self.starts = self.stops = self.rows = self._newlines = np.empty(0, np.int64)
        self.out: Any = None

    def resize(self, size: int) -> None:
        """Another buffer, with nothing in it."""
        self.size = size
        self.raw = bytearray(MARGIN + -(-size // 64) * 64 + MARGIN)  # whole words of 64 bytes, for `words`
        self.view = memoryview(self.raw)
        self.bytes = np.frombuffer(self.raw, np.uint8)
        self.digits = Digits(self.bytes)
        self._mask = np.zeros(len(self.raw), bool)
        self._fields = np.empty((2, 0), np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, place: int) -> bytes:
        """A line without its end."""
        return bytes(self.view[self.starts[place] : self.stops[place]])

    def lines_and_ends(self, places: np.ndarray) -> list[bytearray]:
        """Lines as they stand in the file."""
        starts, ends = self.starts[places].tolist(), (self._newlines[places] + 1).tolist()
        return [self.raw[start:end] for start, end in zip(starts, ends, strict=True)]

    def load(self, lines: Sequence[bytes | bytearray], rows: list[int]) -> None:
        """Hold these lines, which have their ends, instead of what it holds."""
        size = sum(map(len, lines))
        if size > self.size:
            self.resize(size)
        self.view[MARGIN : MARGIN + size] = b"".join(lines)
        self.find_lines(MARGIN + size)
        self.rows = np.array(rows)

    def find_lines(self, stop: int) -> int:
        """Set starts and stops from the bytes before `stop`; where the last line ends, with its newline."""
        newlines = self._newlines_before(stop)
        starts = np.empty_like(newlines)
        starts[:1] = MARGIN
        np.add(newlines[:-1], 1, out=starts[1:])
        # The end of a line may be a space (fastText writes one), a carriage return and the newline.
        stops = newlines - (self.bytes[newlines - 1] == _RETURN)
        stops -= self.bytes[stops - 1] == _SPACE
        self.starts, self.stops, self._newlines = starts, stops, newlines
        return int(newlines[-1]) + 1 if len(newlines) else MARGIN

    def _newlines_before(self, stop: int) -> np.ndarray:
        """Where newlines stand; in half the time of flatnonzero() where no 64 bytes have two of them."""
        end = -(-stop // 64) * 64
        mask = np.equal(self.bytes[:end], _NEWLINE, out=self._mask[:end])
        mask[:MARGIN] = mask[stop:] = False
        bits = np.packbits(mask, bitorder="little").view(np.uint64)
        places = np.flatnonzero(bits != 0)
        found = bits[places]
        if (found & (found - np.uint64(1))).any():
            return np.flatnonzero(mask)
        return (places << 6) + _lowest_bit(found)

    def keep(self, count: int) -> None:
        """Forget the lines behind the first `count`."""
        self.starts, self.stops = self.starts[:count], self.stops[:count]

    def words(self, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Where each word ends, and the lines whose word holds spaces; None if a line has fewer than `width` fields behind it.

        What `fields` tells of the words, in less time. Spaces are bits here, 64 bytes of the block in an integer: those before
        a position are those of the integers before it and those of its own below its bit.
        """
        bits = np.packbits(self._spaces_mask(), bitorder="little").view(np.uint64)
        before = np.zeros(len(bits) + 1, np.int64)
        np.cumsum(np.bitwise_count(bits), out=before[1:])
        places = np.stack([self.starts, self.stops])
        at, bit = places >> 6, (places & 63).view(np.uint64)
        starts, stops = before[at] + np.bitwise_count(bits[at] & ((np.uint64(1) << bit) - np.uint64(1)))
        more = stops - starts - width
        if (more < 0).any():
            return None
        # Seen from the start of a line, the lowest bit is the first space.
        ahead = (bits[at[0]] >> bit[0]) | (bits.take(at[0] + 1, mode="clip") << (np.uint64(64) - bit[0]))
        ends = self.starts + _lowest_bit(ahead)
        spaced = np.flatnonzero(more)
        for place in {*spaced.tolist(), *np.flatnonzero(ahead == 0).tolist()}:
            ends[place] = self.starts[place] - 1
            for _ in range(more[place] + 1):
                ends[place] = self.raw.find(b" ", ends[place] + 1)
        return ends, spaced

    def fields(self, width: int) -> "Fields | None":
        """Where the last `width` fields of each line lie, until the next call; None if a line has fewer."""
        spaces = np.flatnonzero(self._spaces_mask())
        # upto: how many spaces lie before the end of each line. (One that belongs to the end itself is not among them.)
        upto = np.searchsorted(spaces, self.stops)
        first = upto - width  # of the spaces that part the values: cut from the right
        if (first < 0).any() or (spaces[first] < self.starts).any():
            return None
        before = _runs(spaces, first, width)
        starts, stops = self._room_for_fields(len(self) * width)
        np.add(before, 1, out=starts.reshape(before.shape))
        stops.reshape(before.shape)[:, :-1] = before[:, 1:]
        stops.reshape(before.shape)[:, -1] = self.stops
        spaced = np.flatnonzero((first > 0) & (spaces[first - 1] >= self.starts))
        return Fields(before[:, 0], starts, stops, spaced)

    def _room_for_fields(self, count: int) -> np.ndarray:
        if self._fields.shape[1] < count:
            self._fields = np.empty((2, count + count // 8), np.int64)
        return self._fields[:, :count]

    def _spaces_mask(self) -> np.ndarray:
        """Which bytes of the lines are spaces; what is left behind them in the buffer counts for nothing."""
        stop = -(-(int(self.stops[-1]) + 1) // 64) * 64
        return np.equal(self.bytes[:stop], _SPACE, out=self._mask[:stop])


def _lowest_bit(numbers: np.ndarray) -> np.ndarray:
    """The place of the lowest bit that is set in each uint64; 64 where none is."""
    return np.bitwise_count(~numbers & (numbers - np.uint64(1)))


def _runs(numbers: np.ndarray, first: np.ndarray, length: int) -> np.ndarray:
    """The runs of `length` numbers that begin at the places `first`, one a row; without a copy where they lie evenly."""
    step = int(first[1] - first[0]) if len(first) > 1 else length
    if len(numbers) >= len(first) * step and np.array_equal(first, np.arange(len(first)) * step):
        return numbers[: len(first) * step].reshape(len(first), step)[:, :length]
    return numbers[first[:, None] + np.arange(length)]


@dataclass(frozen=True)
class Fields:
    """Where the fields of lines lie.

    Attributes:
        words: (lines,) where each word ends.
        starts, stops: (lines * width,) where each value begins and ends.
        spaced: the lines whose word holds spaces.
    """

    words: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    spaced: np.ndarray
