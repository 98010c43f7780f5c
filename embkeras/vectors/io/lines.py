"""Complete lines of a stream, a block at a time, and the place of each field in them.

Several threads may take blocks from one `Lines`, each into a block of its own: they take turns reading (and decompressing),
and work on their blocks in parallel. The arrays of a block are reused for the next lines it is filled with.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.vectors.io.digits import MARGIN, Digits
from embkeras.vectors.io.separators import SPACES, Separator

LONGEST_LINE = 1 << 24  # bytes; a longer "line" is not text
_NEWLINE, _RETURN, _SPACE, _TAB = 10, 13, 32, 9
_BLANK = np.zeros(256, bool)  # which bytes are spaces and tabs
_BLANK[[_SPACE, _TAB]] = True


class Lines:
    """Takes blocks of lines from a stream. Blank lines are allowed only at the end.

    Args:
        stream: read from its current position on.
        separator: what divides a row.
        limit: largest number of rows to take, or None.
        refuse: makes the error for a row from its number and its bytes.
        line_end: the byte that ends a line.

    Attributes:
        reserve: called with the number of rows of each block, in the order of the file; it returns the block's `out`.
        rows: rows taken so far.
        blocks: blocks taken so far.
        cut: the last line, if nothing ends it and it was read.
    """

    def __init__(
        self,
        stream: Any,
        separator: Separator = SPACES,
        *,
        limit: int | None,
        refuse: Callable[[int, bytes], Exception],
        line_end: bytes = b"\n",
    ):
        self._stream, self._separator, self._limit, self._refuse = stream, separator, limit, refuse
        self._line_end = ord(line_end)
        self.reserve: Callable[[int], Any] = lambda count: None
        self.cut: bytes | None = None
        self._rest = b""  # the beginning of a line whose end is not read yet
        self._blank: int | None = None  # the first blank line
        self._lock = threading.Lock()
        self._ended = False
        self.rows = self.blocks = 0

    def take(self, block: "Block") -> bool:
        """Fill `block` with the next lines; False if there are none."""
        with self._lock:
            block.index = self.blocks
            try:
                return self._take(block)
            except BaseException:
                self._ended = True  # for the other threads too
                raise

    def _take(self, block: "Block") -> bool:
        while not self._ended:
            self._fill(block)
            self._drop_blank_lines(block)
            if self._limit is not None and len(block) >= self._limit - self.rows:
                block.keep(self._limit - self.rows)
                self._ended = True
            if len(block):
                block.out = self.reserve(len(block))
                block.rows = np.arange(self.rows, self.rows + len(block))
                self.blocks += 1
                self.rows += len(block)
                return True
        return False

    def each(
        self, parse: Callable[["Block"], Any], consume: Callable[[Any], Any], *, block_size: int, threads: int
    ) -> None:
        """Parse every block in one of several threads, and consume the results one at a time, in the order of the file.

        Raises:
            Exception: the first error in the order of the file. Blocks that were already taken are finished first.
        """
        in_order = _InOrder(consume)

        def work() -> None:
            block = Block(block_size, self._separator)
            while in_order.error is None:
                try:
                    if not self.take(block):
                        return
                    result, error = parse(block), None
                except Exception as raised:
                    self._ended = True
                    result, error = None, raised
                in_order.bring(block.index, result, error)

        # The C library of Linux returns large arrays to the system, which has to provide their pages again each time, until
        # an array as large as this one was freed. Then it keeps them, which halves the time per block.
        np.empty(1 << 22, np.uint8)
        helpers = [threading.Thread(target=work) for _ in range(threads - 1)]
        try:
            for helper in helpers:
                helper.start()
            work()
        finally:  # also when the user interrupts
            self._ended = True
            for helper in helpers:
                helper.join()
        if in_order.error is not None:
            raise in_order.error

    def _fill(self, block: "Block") -> None:
        """Read a block, and keep the line that its end cuts for the next one."""
        while True:
            if len(self._rest) >= block.size:  # left by a larger block
                block.resize(2 * len(self._rest))
            stop = MARGIN + len(self._rest)
            block.view[MARGIN:stop] = self._rest
            new = slice(stop, stop + self._stream.readinto(block.view[stop : MARGIN + block.size]))
            if self._line_end != _NEWLINE:
                block.bytes[new][block.bytes[new] == self._line_end] = _NEWLINE
            stop = new.stop
            at_end = stop < MARGIN + block.size
            if at_end and stop > MARGIN and block.view[stop - 1] != _NEWLINE:  # no newline at the end of the file
                self.cut = bytes(block.raw[max(MARGIN, block.raw.rfind(b"\n", MARGIN, stop) + 1) : stop])
                block.view[stop] = _NEWLINE
                stop += 1
            cut = block.find_lines(stop)
            self._rest = block.view[cut:stop].tobytes()
            if at_end:  # never set back to False: another thread may have set it
                self._ended = True
            if at_end or len(block):
                return
            if block.size > LONGEST_LINE:
                raise self._refuse(self.rows, self._rest)
            block.resize(2 * block.size)

    def _drop_blank_lines(self, block: "Block") -> None:
        full = np.flatnonzero(block.stops > block.starts)
        count = int(full[-1]) + 1 if len(full) else 0
        if count and self._blank is not None:
            raise self._refuse(self._blank, b"")
        if count < len(block) and self._blank is None:
            self._blank = self.rows + count
        block.keep(count)


class _InOrder:
    """Consumes numbered results in the order of their numbers, whichever thread brings them.

    Attributes:
        error: the first error in that order; nothing after it is consumed.
    """

    def __init__(self, consume: Callable[[Any], Any]):
        self._consume = consume
        self._waiting: dict[int, tuple[Any, Exception | None]] = {}
        self._next = 0
        self._lock = threading.Lock()
        self.error: Exception | None = None

    def bring(self, number: int, result: Any, error: Exception | None) -> None:
        """Bring a result, or the error that occurred instead."""
        with self._lock:
            self._waiting[number] = result, error
            while self._next in self._waiting and self.error is None:
                result, self.error = self._waiting.pop(self._next)
                self._next += 1
                if self.error is None:
                    try:
                        self._consume(result)
                    except Exception as raised:
                        self.error = raised


class Block:
    """Complete lines in a buffer. Positions count from the first byte of the buffer.

    Args:
        size: the bytes of lines it can hold; it grows if one line is longer.
        separator: what divides a row.

    Attributes:
        raw, bytes: the buffer, as a bytearray and as uint8; the lines begin at MARGIN.
        digits: reads numbers from it.
        starts, stops: the start of each line, and its stop, without the end of the line and blanks before it.
        rows: the number of each line, counted from 0 at the first row of the file.
        index: the number of the block.
        out: where the values of the rows belong: what `Lines` reserved.
    """

    def __init__(self, size: int, separator: Separator = SPACES):
        self.separator = separator
        self.resize(size)
        self.index = 0
        self.starts = self.stops = self.rows = self._newlines = np.empty(0, np.int64)
        self.out: Any = None
        self._sparse = True  # whether numbers may be long, with few separators between them

    def resize(self, size: int) -> None:
        """Replace the buffer by an empty one of another size."""
        self.size = size
        self.raw = bytearray(MARGIN + -(-size // 64) * 64 + MARGIN)  # a multiple of 64 bytes, for `words`
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
        """Lines with their ends, as they are in the file."""
        starts, ends = self.starts[places].tolist(), (self._newlines[places] + 1).tolist()
        return [self.raw[start:end] for start, end in zip(starts, ends, strict=True)]

    def load(self, lines: Sequence[bytes | bytearray], rows: list[int]) -> None:
        """Replace the contents by these lines, which include their ends."""
        size = sum(map(len, lines))
        if size > self.size:
            self.resize(size)
        self.view[MARGIN : MARGIN + size] = b"".join(lines)
        self.find_lines(MARGIN + size)
        self.rows = np.array(rows)

    def find_lines(self, stop: int) -> int:
        """Set starts and stops from the bytes before `stop`; returns where the last line ends, after its newline."""
        newlines = self._newlines_before(stop)
        starts = np.empty_like(newlines)
        starts[:1] = MARGIN
        np.add(newlines[:-1], 1, out=starts[1:])
        # The end of a line may be blanks (fastText writes a space), a carriage return and the newline.
        stops = newlines - (self.bytes[newlines - 1] == _RETURN)
        while (blank := _BLANK[self.bytes[stops - 1]]).any():
            stops -= blank
        while self.separator.runs and (blank := _BLANK[self.bytes[starts]] & (starts < stops)).any():
            starts += blank
        self.starts, self.stops, self._newlines = starts, stops, newlines
        return int(newlines[-1]) + 1 if len(newlines) else MARGIN

    def _newlines_before(self, stop: int) -> np.ndarray:
        """The places of newlines; in half the time of flatnonzero() where no 64 bytes contain two of them."""
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
        """Forget all lines after the first `count`."""
        self.starts, self.stops = self.starts[:count], self.stops[:count]

    def words(self, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Where each word ends, and the lines whose word contains spaces; None if fewer than `width` fields follow a word.

        This is what `fields` returns about the words, in less time. The spaces are bits, 64 bytes of the block per integer.
        The spaces before a position are the bits of the integers before it, and the bits below its own in its integer.
        """
        if self.separator != SPACES:
            fields = self.fields(width)
            return None if fields is None else (fields.words, fields.spaced)
        bits = np.packbits(self._separators_mask(), bitorder="little").view(np.uint64)
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
        """Where the last `width` fields of each line are, until the next call; None if a line has fewer."""
        spaces, ends = self._separators()
        # upto: how many separators are before the end of each line, without one that belongs to the end itself.
        upto = np.searchsorted(spaces, self.stops)
        first = upto - width  # of the separators between the values, counted from the right
        if (first < 0).any() or (spaces[first] < self.starts).any():
            return None
        before = _runs(spaces, first, width)
        if not self._are_a_pair(before):
            return None
        starts, stops = self._room_for_fields(len(self) * width)
        np.add(before if ends is spaces else _runs(ends, first, width), 1, out=starts.reshape(before.shape))
        stops.reshape(before.shape)[:, :-1] = before[:, 1:]
        stops.reshape(before.shape)[:, -1] = self.stops
        spaced = np.flatnonzero((first > 0) & (spaces[first - 1] >= self.starts))
        return Fields(before[:, 0], starts, stops, spaced)

    def _room_for_fields(self, count: int) -> np.ndarray:
        if self._fields.shape[1] < count:
            self._fields = np.empty((2, count + count // 8), np.int64)
        return self._fields[:, :count]

    def _separators(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last byte of each separator. They are the same array unless runs of blanks divide."""
        mask = self._separators_mask()
        if not self.separator.runs:
            places = self._sparse_places(mask) if self._sparse else None
            if places is None:
                self._sparse = False  # nor in the next blocks: most are alike
                places = np.flatnonzero(mask)
            return places, places
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
        return edges[::2], edges[1::2] - 1

    def _sparse_places(self, mask: np.ndarray) -> np.ndarray | None:
        """Where a mask is true, in less time than by flatnonzero(); None if two places share an aligned word of 8 bytes."""
        words = mask.view(np.uint64)
        places = np.flatnonzero(words != 0)
        found = words[places]
        below = found - np.uint64(1)
        if sys.byteorder != "little" or (found & below).any():
            return None
        places <<= 3
        places += np.bitwise_count(below) >> 3
        return places

    def _are_a_pair(self, before: np.ndarray) -> bool:
        """Whether the right separator is before each value, where the one after the word differs from the others."""
        after_word, between = self.separator.after_word, self.separator.between
        if after_word == between:
            return True
        found = self.bytes[before]
        return bool((found[:, 0] == ord(after_word)).all() and (found[:, 1:] == ord(between)).all())

    def _separators_mask(self) -> np.ndarray:
        """Which bytes of the lines may divide, up to the last line; old bytes after it in the buffer are not looked at."""
        stop = -(-(int(self.stops[-1]) + 1) // 64) * 64
        separator = self.separator
        mask = np.equal(self.bytes[:stop], ord(separator.after_word), out=self._mask[:stop])
        other = b"\t" if separator.runs else separator.between
        if other != separator.after_word:
            mask |= self.bytes[:stop] == ord(other)
        return mask


def _lowest_bit(numbers: np.ndarray) -> np.ndarray:
    """The place of the lowest set bit in each uint64; 64 if none is set."""
    return np.bitwise_count(~numbers & (numbers - np.uint64(1)))


def _runs(numbers: np.ndarray, first: np.ndarray, length: int) -> np.ndarray:
    """The runs of `length` numbers that begin at the places `first`, one per row; no copy if they are evenly spaced."""
    step = int(first[1] - first[0]) if len(first) > 1 else length
    if len(numbers) >= len(first) * step and np.array_equal(first, np.arange(len(first)) * step):
        return numbers[: len(first) * step].reshape(len(first), step)[:, :length]
    return numbers[first[:, None] + np.arange(length)]


@dataclass(frozen=True, eq=False)
class Fields:
    """Where the fields of lines are.

    Attributes:
        words: (lines,) the end of each word.
        starts, stops: (lines * width,) the start and the stop of each value.
        spaced: the lines whose word contains spaces.
    """

    words: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    spaced: np.ndarray
