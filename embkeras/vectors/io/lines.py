"""Whole lines of a stream, a block at a time.

Several threads may take blocks from one `Lines`, each into a block of its own: reading (and decompressing) is done in turn,
the rest side by side.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from embkeras.vectors.io.blocks import Block
from embkeras.vectors.io.digits import MARGIN
from embkeras.vectors.io.source import Stream

LONGEST_LINE = 1 << 24  # bytes; a longer "line" is not text
_NEWLINE = 10


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
            try:
                return self._take(block)
            except BaseException:
                self._ended = True  # for the other threads, too
                raise

    def _take(self, block: Block) -> bool:
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

    def each(
        self, parse: Callable[[Block], Any], consume: Callable[[Any], Any], *, block_size: int, threads: int
    ) -> None:
        """Parse every block, and consume what `parse` gives for each: in the order of the file, one at a time.

        Raises:
            Exception: the first in the order of the file. Blocks are taken in that order, and those taken are finished.
        """
        in_order = _InOrder(consume)

        def work():
            block = Block(block_size)
            while in_order.error is None:
                try:
                    if not self.take(block):
                        return
                    result, error = parse(block), None
                except Exception as raised:
                    self._ended = True
                    result, error = None, raised
                in_order.bring(block.index, result, error)

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
        if in_order.error is not None:
            raise in_order.error

    def _fill(self, block: Block) -> None:
        """Read, and keep the line that is cut by the block's end for the next one."""
        while True:
            if len(self._rest) >= block.size:  # left by a larger block
                block.resize(2 * len(self._rest))
            stop = MARGIN + len(self._rest)
            block.view[MARGIN:stop] = self._rest
            stop += self._stream.readinto(block.view[stop : MARGIN + block.size])
            at_end = stop < MARGIN + block.size
            if at_end and stop > MARGIN and block.view[stop - 1] != _NEWLINE:  # no final newline
                block.view[stop] = _NEWLINE
                stop += 1
            cut = block.find_lines(stop)
            self._rest = block.view[cut:stop].tobytes()
            if at_end:  # never set back, for another thread may have set it
                self._ended = True
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


class _InOrder:
    """Consumes numbered results in the order of their numbers, whichever thread brings them.

    Attributes:
        error: the first in that order; nothing behind it is consumed.
    """

    def __init__(self, consume: Callable[[Any], Any]):
        self._consume = consume
        self._waiting: dict[int, tuple[Any, Exception | None]] = {}
        self._next = 0
        self._lock = threading.Lock()
        self.error: Exception | None = None

    def bring(self, number: int, result: Any, error: Exception | None) -> None:
        """A result, or the error that there is in its place."""
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
