"""Text in an encoding whose spaces and digits are not those of ASCII, such as UTF-16, read as UTF-8."""

import codecs
import io
from typing import Any

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.source import Source, Stream

_READ = 1 << 18  # bytes
_ASCII = "".join(map(chr, range(9, 127)))


def is_recoded(encoding: str) -> bool:
    """Whether text in this encoding must be decoded before its rows can be found.

    Examples:
        >>> is_recoded("utf-16"), is_recoded("latin-1")
        (True, False)
    """
    try:
        return _ASCII.encode(encoding) != _ASCII.encode("ascii")
    except UnicodeError:  # an encoding without some of them, such as shift_jis without a backslash
        return False


class Recoded(io.RawIOBase):
    """The contents of a stream in UTF-8.

    Args:
        stream: what is read; closed with this.
        request: its encoding, and what to do with bytes that are invalid in it.
        source: named in error messages.

    Raises:
        ArgumentError: errors="skip", for which rows would have to be found before they are decoded.
        VectorFileError: from `read`: invalid bytes and errors="strict".
    """

    def __init__(self, stream: Stream, request: Request, source: Source):
        super().__init__()
        self._stream, self._source, self._encoding = stream, source, request.encoding
        if request.errors == "skip":
            stream.close()
            raise ArgumentError(
                f'errors="skip" needs an encoding in which rows can be found before they are decoded: pass "replace". '
                f"Received: encoding={request.encoding!r}."
            )
        self._decoder = codecs.getincrementaldecoder(request.encoding)(request.errors)
        self._ready, self._done = memoryview(b""), False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a writable buffer of bytes; returns how many were read, fewer only at the end."""
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view):
            if not self._ready:
                if self._done:
                    break
                self._ready = memoryview(self._next())
            count = min(len(self._ready), len(view) - filled)
            view[filled : filled + count] = self._ready[:count]
            self._ready = self._ready[count:]
            filled += count
        return filled

    def _next(self) -> bytes:
        raw = self._stream.read(_READ) or b""
        self._done = not raw
        try:
            text = self._decoder.decode(raw, self._done)
            return text.encode()
        except UnicodeError as error:
            raise VectorFileError(
                f"{self._source.name} is not valid {self._encoding}, in the {_READ:,} bytes before byte "
                f"{self._stream.position:,} ({getattr(error, 'reason', error)}). Pass another encoding=, or "
                f'errors="replace".'
            ) from None

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
        super().close()
