"""A file of vectors as its readers see it: its first bytes, and a stream of its contents, decompressed on the way."""

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.gunzip import Gunzip

Progress = Callable[[int, int], None]
HEAD = 1 << 16  # bytes by which a format is known
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
_DAMAGED += (UnicodeDecodeError,)  # names in an archive
_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}
_OPENERS: dict[str, Any] = {"gz": Gunzip, "bz2": bz2.open, "xz": lzma.open}


@dataclass(frozen=True)
class Source:
    """A file and, in a zip archive, the member of it that is meant.

    Attributes:
        path: the file.
        member: name of the member, or None where the file is no archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """How messages call it: the path and, in an archive, the member."""
        return f"{str(self.path)!r}" if self.member is None else f"{str(self.path)!r} ({self.member})"

    @cached_property
    def compression(self) -> str | None:
        """ "gz", "bz2", "xz", "zip" or None, by the first bytes. (.npz and .keras are zips that are no compressed files.)"""
        with self.path.open("rb") as file:
            first = file.read(8)
        kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)
        if kind == "zip" and (is_keras_model(self.path) or _is_npz(self.path)):
            return None
        return kind

    @cached_property
    def head(self) -> bytes:
        """The first bytes of the contents."""
        with self.open() as stream:
            return stream.read(HEAD)

    def open(self, progress: Progress | None = None) -> "Stream":
        """The contents from their first byte; to be closed."""
        return Stream(self, progress)


class Stream:
    """Bytes of a source, in order. Damage of the file is a `VectorFileError` that says after how many bytes.

    Args:
        source: what is read.
        progress: called as `progress(done, size)` in bytes of the file on disk after each read.
    """

    def __init__(self, source: Source, progress: Progress | None = None):
        self._source, self._progress = source, progress
        self._size = source.path.stat().st_size
        self.position = 0  # in the contents
        self._file: BinaryIO = source.path.open("rb", buffering=0)
        try:
            self._contents = self._unpacked()
        except _DAMAGED as error:
            self._file.close()
            raise self._damaged(error) from error
        except BaseException:
            self._file.close()
            raise

    def _unpacked(self) -> Any:
        kind = self._source.compression
        if self._source.member is not None and kind != "zip" and not _holds_tables(self._source.path):
            raise ArgumentError(
                f"member= names a file in a .zip archive, which {str(self._source.path)!r} is not. "
                f"Received: {self._source.member!r}."
            )
        if kind == "zip":
            archive = zipfile.ZipFile(self._file)
            return archive.open(_member(archive, self._source))
        return self._file if kind is None else _OPENERS[kind](self._file)

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end only."""
        parts = []
        while count > 0:
            try:
                part = self._contents.read(count)
            except _DAMAGED as error:
                raise self._damaged(error) from error
            if not part:
                break
            parts.append(part)
            count -= len(part)
            self.position += len(part)
        self._tell()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """Fill a writable buffer of bytes; how many came, fewer at the end only."""
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
        self._tell()
        return filled

    def buffered(self) -> io.BufferedReader:
        """The rest as a file object with `readline`, for what is read line by line."""
        return io.BufferedReader(_Raw(self), 1 << 18)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(min(self._file.tell(), self._size), self._size)

    def _damaged(self, error: Exception) -> VectorFileError:
        kind = self._source.compression
        if kind is None:
            reason = getattr(error, "strerror", None) or str(error)
            return VectorFileError(f"Cannot read vectors from {self._source.name}: {reason} (byte {self.position:,}).")
        return VectorFileError(
            f"{self._source.name} is not a whole .{kind} file: after {self.position:,} bytes of its contents expected more "
            f"of them, found {str(error) or type(error).__name__}."
        )

    def close(self) -> None:
        """Close the file."""
        self._contents.close()
        self._file.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Raw(io.RawIOBase):
    def __init__(self, stream: Stream):
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)


def members(path: Path) -> list[str]:
    """The files in a zip archive, folders and hidden files left out.

    Raises:
        VectorFileError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except _DAMAGED as error:
        raise VectorFileError(f"{str(path)!r} is not a whole .zip file: {error}") from error
    return [name for name in names if not Path(name).name.startswith(".") and "__MACOSX" not in name]


def is_keras_model(path: Path) -> bool:
    """Whether a file is a zip archive with the two files that every saved Keras model has."""
    return {"config.json", "model.weights.h5"} <= _names(path)


def _holds_tables(path: Path) -> bool:
    """Whether a file may hold several tables by name: a Keras model, .npz, HDF5, safetensors."""
    with path.open("rb") as file:
        first = file.read(9)
    # A safetensors file begins with the length of its header, of which the upper bytes are zeros, and the header in JSON.
    return first.startswith(b"\x89HDF") or first[4:] == b"\0\0\0\0{" or is_keras_model(path) or _is_npz(path)


def _is_npz(path: Path) -> bool:
    names = _names(path)
    return bool(names) and all(name.endswith(".npy") for name in names)


def _names(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except _DAMAGED:
        return set()  # whoever reads it says what is wrong


def _member(archive: zipfile.ZipFile, source: Source) -> str:
    names = members(source.path)
    if source.member is None and len(names) == 1:
        return names[0]
    if source.member not in names:
        raise ArgumentError(
            f"{str(source.path)!r} is an archive of {len(names)} files: member= says which to read. "
            f"Received: {source.member!r}; there are {', '.join(names[:20]) or 'none'}."
        )
    return source.member
