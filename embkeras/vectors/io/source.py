"""A file of vectors as its readers see it: its first bytes, a stream of its decompressed contents, the progress of reading.

What comes through a pipe can be read only once, and not from the middle, so it is copied to a temporary file first.
"""

import bz2
import contextlib
import io
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from embkeras._checks import shown
from embkeras._files import not_a_file
from embkeras.errors import ArgumentError, VectorFileError

Progress = Callable[[int, int], None]
HEAD = 1 << 16  # bytes from which the format is recognised
_DAMAGED: tuple[type[Exception], ...]
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
_DAMAGED += (UnicodeDecodeError,)  # names in an archive
_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}
_GZIP_READ = 1 << 17  # bytes
_COPIED = 1 << 20  # bytes of a pipe at once
_ENCRYPTED = 1  # a bit of a zip archive's flags
_GZIP = 31  # tells zlib to expect a gzip header and a window of 32 KB


@dataclass(frozen=True)
class Source:
    """A file and, in a zip archive, one of its members.

    Attributes:
        path: the file.
        member: name of a member of the archive or of a table in the file; None if there is nothing to choose.
        given: the path that the user passed, if `path` is a copy of what came through a pipe there.
    """

    path: Path
    member: str | None = None
    given: Path | None = None

    @property
    def shown(self) -> Path:
        """The path in error messages, and beside which other files belong to it: the one that the user passed."""
        return self.path if self.given is None else self.given

    @property
    def name(self) -> str:
        """The name in error messages: the path and, if given, the member."""
        return f"{str(self.shown)!r}" if self.member is None else f"{str(self.shown)!r} ({self.member})"

    @cached_property
    def compression(self) -> str | None:
        """ "gz", "bz2", "xz", "zip" or None, by the first bytes. An .npz is a zip archive, but not a compressed file."""
        with self.path.open("rb") as file:
            first = file.read(8)
        kind = compression_of(first)
        if kind == "zip":
            names = self.names
            if names and all(name.endswith(".npy") for name in names):
                return None
        return kind

    @cached_property
    def names(self) -> set[str]:
        """The names in a zip archive; none if the file is not one or is damaged, which its reader reports."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return set(archive.namelist())
        except _DAMAGED:
            return set()

    def refuse_compression(self, what: str) -> None:
        """Refuse a compressed file of a format that is memory-mapped."""
        if self.compression is not None:
            raise VectorFileError(f"{self.name} is {what} inside a .{self.compression} file: unpack it first.")

    @cached_property
    def head(self) -> bytes:
        """The first bytes of the contents."""
        with self.open() as stream:
            return stream.read(HEAD)

    def open(self, progress: Progress | None = None) -> "Stream":
        """The contents from the first byte on; the caller closes it."""
        return Stream(self, progress)


@contextlib.contextmanager
def source_at(path: Path, member: str | None = None) -> Iterator[Source]:
    """The source at a path; of a pipe, a copy that lasts until the block ends.

    Args:
        path: a file, a pipe such as "/dev/fd/63" (what a shell makes of `<(command)`), or "-" for standard input.
        member: of the source.

    Raises:
        VectorFileError: a folder, a device, a loop of links, no file at all, or no room for the copy.
        ArgumentError: `member` is not a string.
    """
    if member is not None and not isinstance(member, str):
        raise ArgumentError(f"member must be a string. Received: {shown(member)}.")
    if not _is_pipe(path):
        if reason := "standard input has no file or pipe" if str(path) == "-" else not_a_file(path):
            raise VectorFileError(f"Cannot read vectors from {str(path)!r}: {reason}.")
        yield Source(path, member)
        return
    with tempfile.TemporaryDirectory(prefix="embkeras-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, path.name)
        try:
            with opened(path) as pipe, copy.open("wb") as file:
                shutil.copyfileobj(pipe, file, _COPIED)
        except OSError as error:
            raise VectorFileError(
                f"Cannot copy what comes through {str(path)!r} to {folder!r}: {error.strerror or error}. "
                f"The environment variable TMPDIR can name a folder with more room."
            ) from error
        yield Source(copy, member, path)


def compression_of(first: bytes) -> str | None:
    """ "gz", "bz2", "xz", "zip" or None, by the first bytes of a file.

    Examples:
        >>> compression_of(b"\\x1f\\x8b\\x08"), compression_of(b"the 0.1")
        ('gz', None)
    """
    return next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)


def contents_of(path: Path) -> bytes:
    """All bytes of a small file that belongs to another one, such as a list of words; or of a pipe.

    Raises:
        OSError: there is no such file, or it can't be read.
    """
    if not _is_pipe(path) and (reason := not_a_file(path)):
        raise OSError(0, reason)
    with opened(path) as file:
        return file.read()


def opened(path: Path) -> BinaryIO:
    """A file or pipe opened for reading; "-" is standard input."""
    return os.fdopen(os.dup(0), "rb") if _is_stdin(path) else path.open("rb")


def _is_stdin(path: Path) -> bool:
    return str(path) in ("-", "/dev/stdin")


def _is_pipe(path: Path) -> bool:
    """Whether what is at a path can be read only once: a pipe, a socket or standard input, which may be a file too."""
    try:
        mode = (os.fstat(0) if _is_stdin(path) else path.stat()).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or (_is_stdin(path) and (stat.S_ISSOCK(mode) or stat.S_ISREG(mode)))


class Stream(io.RawIOBase):
    """The bytes of a source, in order. Damage raises a `VectorFileError` that says after how many bytes it was found.

    Args:
        source: what is read.
        progress: called as `progress(done, size)` after each read, in bytes of the file on disk.

    Attributes:
        position: bytes read so far, of the decompressed contents.
    """

    def __init__(self, source: Source, progress: Progress | None = None):
        super().__init__()
        self._source, self._progress = source, progress
        self._size = source.path.stat().st_size
        self.position = 0
        self._file: BinaryIO = source.path.open("rb", buffering=0)
        self._contents: Any = self._file
        try:
            self._contents = self._decompressed()
        except _DAMAGED as error:
            self.close()
            raise self._damaged(error) from error
        except BaseException:
            self.close()
            raise

    def _decompressed(self) -> Any:
        kind = self._source.compression
        if kind == "zip":
            archive = zipfile.ZipFile(self._file)
            member = _member(archive, self._source)
            if archive.getinfo(member).flag_bits & _ENCRYPTED:
                raise VectorFileError(
                    f"{member!r} in {str(self._source.shown)!r} has a password: unpack it first (`7z x FILE` asks for the "
                    f"password), and load the file that was in it."
                )
            return archive.open(member)
        openers: dict[str | None, Any] = {"gz": Gunzip, "bz2": bz2.open, "xz": lzma.open}
        return openers[kind](self._file) if kind in openers else self._file

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a writable buffer of bytes; returns how many were read, fewer only at the end."""
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view):
            try:
                count = self._contents.readinto(view[filled:])
            except _DAMAGED as error:
                raise self._damaged(error) from error
            if not count:
                break
            filled += count
            self.position += count
        if self._progress is not None:
            self._progress(min(self._file.tell(), self._size), self._size)
        return filled

    def buffered(self) -> io.BufferedReader:
        """The rest as a file object with `readline`."""
        return io.BufferedReader(self, 1 << 18)

    def _damaged(self, error: Exception) -> VectorFileError:
        kind = self._source.compression
        if kind is None:
            reason = getattr(error, "strerror", None) or str(error)
            return VectorFileError(f"Cannot read vectors from {self._source.name}: {reason} (byte {self.position:,}).")
        return VectorFileError(
            f"{self._source.name} is not a complete .{kind} file: reading failed after {self.position:,} bytes of its "
            f"contents ({str(error) or type(error).__name__})."
        )

    def close(self) -> None:
        """Close the file."""
        self._contents.close()
        self._file.close()
        super().close()


class Gunzip(io.RawIOBase):
    """The contents of a gzip file, all its members one after the other.

    The gzip module of Python 3.11 feeds zlib 8 KB at a time and returns pieces of 8 KB, and after each piece the
    decompressing thread has to wait for its turn among the parsing threads. Here the pieces are large. zlib itself checks
    headers and checksums.

    Raises:
        EOFError: the file ends within a member.
        zlib.error: damage, or something other than zeros after the last member.
    """

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file, self._packed, self._member = file, b"", zlib.decompressobj(_GZIP)
        self._begun = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill part of a writable buffer; returns 0 at the end."""
        view = memoryview(buffer)
        while len(view):  # zlib would take 0 for "no limit"
            if not self._packed:
                self._packed = self._file.read(_GZIP_READ)
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
        """The bytes of the next member that have been read already, without the zeros before it."""
        packed = self._member.unused_data
        self._member = zlib.decompressobj(_GZIP)
        while not (packed := packed.lstrip(b"\0")):
            if not (packed := self._file.read(_GZIP_READ)):
                return b""
        return packed


def _member(archive: zipfile.ZipFile, source: Source) -> str:
    """The member that the source names, or the only one; folders and hidden files don't count."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = [name for name in names if not Path(name).name.startswith(".") and "__MACOSX" not in name]
    if source.member is None and len(names) == 1:
        return names[0]
    if source.member not in names:
        raise ArgumentError(
            f"{str(source.shown)!r} is an archive of {len(names)} files: choose one with member=. "
            f"Received: {source.member!r}; the archive contains {', '.join(names[:20]) or 'no file'}."
        )
    return source.member
