"""Reading gzip so that a thread which decompresses does not wait for those that parse.

The gzip module of Python 3.11 gives zlib 8 KB at a time, in pieces of 8 KB even where more is at hand, and after each piece the
thread waits for its turn among the others. Here a piece is large. Headers and check sums are zlib's own business.
"""

import io
import zlib
from typing import Any, BinaryIO

_LARGE = 1 << 17  # bytes
_GZIP = 31  # tells zlib of a gzip header, and of a window of 32 KB


class Gunzip(io.RawIOBase):
    """The contents of a gzip file: of all its members, one after the other.

    Raises:
        EOFError: the file ends within a member.
        zlib.error: damage, or something other than zeros behind the last member.
    """

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file, self._packed, self._member = file, b"", zlib.decompressobj(_GZIP)
        self._begun = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill part of a writable buffer; 0 at the end."""
        view = memoryview(buffer)
        while len(view):  # zlib would take 0 for no limit
            if not self._packed:
                self._packed = self._file.read(_LARGE)
            if not self._packed:
                if self._begun:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            contents = self._member.decompress(self._packed, len(view))
            self._begun = not self._member.eof
            self._packed = self._member.unconsumed_tail if self._begun else self._next_member()
            if contents:
                view[: len(contents)] = contents
                return len(contents)
        return 0

    def _next_member(self) -> bytes:
        """What is at hand of the next member. Zeros in front of it are left out."""
        packed = self._member.unused_data
        self._member = zlib.decompressobj(_GZIP)
        while not (packed := packed.lstrip(b"\0")):
            if not (packed := self._file.read(_LARGE)):
                return b""
        return packed
