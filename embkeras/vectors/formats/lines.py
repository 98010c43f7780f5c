"""Whole lines of a stream, a block at a time, and where the fields of each line lie.

A block is small enough for a processor's cache, and its arrays are used again for the next one. Several threads may take
blocks from one `Lines`, each into a block of its own: reading (and decompressing) is done in turn, the rest side by side.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.vectors.formats.digits import MARGIN, Digits
from embkeras.vectors.formats.source import Stream

LONGEST_LINE = 1 << 24  # bytes; a longer "line" is not text
_NEWLINE, _RETURN, _SPACE = 10, 13, 32


class Block:
    """Whole lines in a buffer. Positions are counted from the buffer's first byte.

    Args:
        size: bytes of lines that it holds; it grows where one line is longer.

    Attributes:
        raw: the buffer; lines begin at MARGIN.
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
        self.raw = bytearray(MARGIN + -(-size // 64) * 64 + MARGIN)  # whole words of 64 bytes, for `spaces_per_line`
        self.view = memoryview(self.raw)
        self._bytes = np.frombuffer(self.raw, np.uint8)
        self.digits = Digits(self._bytes)
        self._mask = np.zeros(len(self.raw), bool)
        self._fields = np.empty((2, 0), np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, place: int) -> bytes:
        """A line without its end."""
        return bytes(self.view[self.starts[place] : self.stops[place]])

    def line_and_end(self, place: int) -> bytes:
        """A line as it stands in the file."""
        return bytes(self.view[self.starts[place] : self._newlines[place] + 1])

    def load(self, lines: list[bytes], rows: list[int]) -> None:
        """Hold these lines, which have their ends, instead of what it holds."""
        size = sum(map(len, lines))
        if size > self.size:
            self.resize(size)
        self.view[MARGIN : MARGIN + size] = b"".join(lines)
        self.find_lines(MARGIN + size)
        self.rows = np.array(rows)

    def find_lines(self, stop: int) -> int:
        """Set starts and stops from the bytes before `stop`; where the last line ends, with its newline."""
        newlines = np.flatnonzero(np.equal(self._bytes[:stop], _NEWLINE, out=self._mask[:stop])[MARGIN:])
        newlines += MARGIN
        starts = np.empty_like(newlines)
        starts[:1] = MARGIN
        np.add(newlines[:-1], 1, out=starts[1:])
        # The end of a line may be a space (fastText writes one), a carriage return and the newline.
        stops = newlines - (self._bytes[newlines - 1] == _RETURN)
        stops -= self._bytes[stops - 1] == _SPACE
        self.starts, self.stops, self._newlines = starts, stops, newlines
        return int(newlines[-1]) + 1 if len(newlines) else MARGIN

    def keep(self, count: int) -> None:
        """Forget the lines behind the first `count`."""
        self.starts, self.stops = self.starts[:count], self.stops[:count]

    def spaces_per_line(self) -> np.ndarray:
        """How many spaces each line holds, its end left out.

        Bits are counted, 64 bytes at a time: the spaces before any position are those of the words of 64 before it and
        those of its own word below its bit.
        """
        bits = np.packbits(self._spaces_mask(), bitorder="little").view(np.uint64)
        before = np.zeros(len(bits) + 1, np.int64)
        np.cumsum(np.bitwise_count(bits), out=before[1:])

        places = np.stack([self.starts, self.stops])
        words, below = places >> 6, (np.uint64(1) << (places & 63).astype(np.uint64)) - np.uint64(1)
        starts, stops = before[words] + np.bitwise_count(bits[words] & below)
        return stops - starts

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
        return np.equal(self._bytes[:stop], _SPACE, out=self._mask[:stop])


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


class Lines:
    """Takes blocks of lines from a stream. Blank lines may only stand at the end.

    Args:
        stream: read from where it is.
        limit: no more rows than that.
        reserve: called with a number of rows for each block, in the order of the file; its answer is the block's `out`.
        refuse: gives the error for a row and what was found there.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        limit: int | None,
        reserve: Callable[[int], Any],
        refuse: Callable[[int, bytes], Exception],
    ):
        self._stream, self._limit, self._reserve, self._refuse = stream, limit, reserve, refuse
        self._rest = b""  # the beginning of a line whose end was not read yet
        self._blank: int | None = None  # the first blank line
        self._lock = threading.Lock()
        self._ended = False
        self.rows = self.blocks = 0

    def take(self, block: Block) -> bool:
        """Fill `block` with the next lines; False if there are none."""
        with self._lock:
            block.index = self.blocks
            while not self._ended:
                self._fill(block)
                self._leave_blank_lines(block)
                if self._limit is not None and len(block) >= self._limit - self.rows:
                    block.keep(self._limit - self.rows)
                    self._ended = True
                if len(block):
                    block.out = self._reserve(len(block))
                    block.rows = np.arange(self.rows, self.rows + len(block))
                    self.blocks += 1
                    self.rows += len(block)
                    return True
            return False

    def each(self, parse: Callable[[Block], Any], *, block_size: int, threads: int) -> list[Any]:
        """What `parse` gives for each block, in the order of the file.

        Raises:
            Exception: the first in the order of the file. Blocks are taken in that order, and those taken are finished.
        """
        results: dict[int, Any] = {}
        errors: dict[int, Exception] = {}

        def work():
            block = Block(block_size)
            try:
                while self.take(block):
                    results[block.index] = parse(block)
            except Exception as error:
                errors[block.index] = error
                self._ended = True

        # The C library of Linux gives large arrays back to the system, which fetches their pages anew each time, until an
        # array as large as this was freed. Then it keeps them: half the time of a block.
        np.empty(1 << 22, np.uint8)
        helpers = [threading.Thread(target=work) for _ in range(threads - 1)]
        try:
            for helper in helpers:
                helper.start()
            work()
        finally:  # also where the user interrupts
            self._ended = True
            for helper in helpers:
                helper.join()
        if errors:
            raise errors[min(errors)]
        return [results[index] for index in range(self.blocks)]

    def _fill(self, block: Block) -> None:
        """Read, and keep the line that is cut by the block's end for the next one."""
        while True:
            stop = MARGIN + len(self._rest)
            block.view[MARGIN:stop] = self._rest
            stop += self._stream.readinto(block.view[stop : MARGIN + block.size])
            at_end = stop < MARGIN + block.size
            if at_end and stop > MARGIN and block.view[stop - 1] != _NEWLINE:  # no final newline
                block.view[stop] = _NEWLINE
                stop += 1
            cut = block.find_lines(stop)
            self._rest = block.view[cut:stop].tobytes()
            self._ended = at_end
            if at_end or len(block):
                return
            if block.size > LONGEST_LINE:
                raise self._refuse(self.rows, self._rest)
            block.resize(2 * block.size)

    def _leave_blank_lines(self, block: Block) -> None:
        full = np.flatnonzero(block.stops > block.starts)
        count = int(full[-1]) + 1 if len(full) else 0
        if count and self._blank is not None:
            raise self._refuse(self._blank, b"")
        if count < len(block) and self._blank is None:
            self._blank = self.rows + count
        block.keep(count)


def count_newlines(stream: Stream) -> int:
    """How many newlines a stream still holds."""
    buffer = np.empty(1 << 18, np.uint8)
    mask = np.empty(len(buffer), bool)
    count = 0
    while filled := stream.readinto(buffer):
        count += int(np.count_nonzero(np.equal(buffer[:filled], _NEWLINE, out=mask[:filled])))
    return count
