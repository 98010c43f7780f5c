"""A way forward through a binary file that says in every error where it is, and allocates nothing before it is there."""

import struct
from collections.abc import Iterator
from typing import Any

from embkeras.errors import VectorFileError
from embkeras.vectors.io.source import Progress, Source

BUFFER = 1 << 20  # bytes read at once


class Cursor:
    """A place in the contents of a source.

    Args:
        source: what is read; compressed contents are decompressed on the way.
        progress: told of the bytes of a compressed file; what stands in the open is passed over by seeking.

    Attributes:
        size: bytes of the contents, or None where compression hides it.
        ahead: bytes behind the place that are read already.
    """

    def __init__(self, source: Source, progress: Progress | None = None):
        self.source = source
        self.size = source.path.stat().st_size if source.compression is None else None
        self._file: Any = source.open(progress) if self.size is None else source.path.open("rb")
        self._read = 0
        self.ahead = b""

    @property
    def position(self) -> int:
        """Bytes before the place."""
        return self._read - len(self.ahead)

    def more(self) -> bool:
        """Read further ahead; false at the end."""
        part = self._file.read(BUFFER)
        self._read += len(part)
        self.ahead += part
        return bool(part)

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, a few; `what` says in an error what was expected."""
        while len(self.ahead) < count:
            if not self.more():
                raise self.error(what, f"{len(self.ahead)} bytes and the end of the file")
        taken, self.ahead = self.ahead[:count], self.ahead[count:]
        return taken

    def unpack(self, format: str, what: str) -> tuple[Any, ...]:
        """The next values, in a format of `struct`."""
        return struct.unpack(format, self.take(struct.calcsize(format), what))

    def check_room(self, count: int, what: str) -> None:
        """Refuse what is longer than the rest of the file, as far as its length is known."""
        if self.size is not None and count > self.size - self.position:
            raise self.error(f"{what}: {count:,} bytes or more", f"{self.size - self.position:,} bytes")

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes."""
        if self.size is None:
            for _ in self.parts(count, what):
                pass
            return
        self.check_room(count, what)
        self._read, self.ahead = self._file.seek(self.position + count), b""

    def parts(self, count: int, what: str) -> Iterator[bytes]:
        """The next `count` bytes in pieces."""
        while count:
            if not self.ahead and not self.more():
                raise self.error(f"{count:,} more bytes of {what}", "the end of the file")
            part, self.ahead = self.ahead[:count], self.ahead[count:]
            count -= len(part)
            yield part

    def error(self, expected: str, found: str, back: int = 0) -> VectorFileError:
        """What to raise at this place, or so many bytes before it."""
        return VectorFileError(
            f"{self.source.name}, byte {self.position - back:,}: expected {expected}, found {found}."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
