"""Arrays over files: pickled as the part of the file that they are, and opened again where they arrive."""

import hashlib
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.errors import ArgumentError

_PIECES, _PIECE = 64, 4096  # what of a file is hashed: reading all of it would cost what mapping it saves


@dataclass(frozen=True)
class FilePart:
    """Which bytes of a file an array is.

    Attributes:
        path: absolute.
        offset: of the first number, in bytes.
        dtype, shape: of the array, whose rows follow one another.
        sha256: of its size and of pieces of it.
    """

    path: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    sha256: str

    def open(self) -> np.ndarray:
        """The array, mapped read-only.

        Raises:
            ArgumentError: the file is missing here, or is another one.
        """
        try:
            found = _sha256_of_pieces(self.path)
        except OSError as error:
            raise ArgumentError(
                f"A matrix travelled as the path {self.path!r}, which can't be read here: {error.strerror}. Keep it where all "
                f"workers see it under this path."
            ) from None
        if found != self.sha256:
            raise ArgumentError(
                f"A matrix travelled as the path {self.path!r}, which is another file here, or has changed since."
            )
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def file_part(array: Any) -> FilePart | None:
    """Which part of a file an array is, or None if it isn't one that is mapped read-only and unchanged.

    Examples:
        >>> file_part(np.zeros(3)) is None
        True
    """
    base, root = array, None
    while isinstance(base, np.ndarray):
        root = base if isinstance(base, np.memmap) else root
        base = base.base
    if root is None or not isinstance(base, mmap.mmap) or root.mode != "r" or root.filename is None:
        return None
    if array.dtype.hasobject or not array.flags.c_contiguous or not array.size:
        return None
    begin = root.offset - root.offset % mmap.ALLOCATIONGRANULARITY  # where the mapping begins, in the file
    first = np.frombuffer(base, np.uint8, 1).__array_interface__["data"][0]
    offset = begin + array.__array_interface__["data"][0] - first
    path = os.path.abspath(root.filename)
    return FilePart(path, offset, array.dtype, array.shape, _sha256_of_pieces(path))


def _sha256_of_pieces(path: str) -> str:
    """A hash that notices another file, and one that was written anew."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        found = hashlib.sha256(str(size).encode())
        for place in range(_PIECES):
            file.seek(place * max(size - _PIECE, 0) // (_PIECES - 1))
            found.update(file.read(_PIECE))
    return found.hexdigest()
