"""A `.npz` archive of NumPy: one array of vectors, and one of words or a words file.

The members are read as a stream, so that `words=` holds no more than its rows; pickled arrays are refused unread.
See https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import error as struct_error
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np

from embkeras.errors import ArgumentError, EmbkerasError, VectorFileError
from embkeras.vectors.io.kept_rows import MOST_DEFLATED, Kept, keep, keep_raw, rows_at_once, take, words_at_once
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.words_file import read_words, words_file_of
from embkeras.vectors.store import KeyedVectors

_MAGIC = b"PK\x03\x04"
_MATRIX, _WORDS = "vectors", "words"  # as they are written; any name is read
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What zipfile, zlib and the reader of array headers, which are Python literals, raise on damaged contents.
_DAMAGED = (OSError, ValueError, EOFError, KeyError, IndexError, RuntimeError, TypeError, OverflowError, SyntaxError)
_DAMAGED += (NotImplementedError, TokenError, MemoryError, AttributeError, struct_error, zlib.error, zipfile.BadZipFile)


class _Array(NamedTuple):
    """An array of the archive, known by its header."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    def __str__(self) -> str:
        return f"{self.member.filename.removesuffix('.npy')!r} ({self.dtype} {self.shape})"


def recognises(source: Source) -> bool:
    """Whether the file is a zip archive that is not meant to be unpacked; Keras models are asked for before."""
    return source.compression is None and source.head.startswith(_MAGIC)


def read(source: Source, request: Request) -> KeyedVectors:
    """Stream the words, then the matrix, and keep the rows asked for."""
    try:
        with zipfile.ZipFile(source.path) as archive:
            arrays = [_array(archive, info, source) for info in archive.infolist() if info.filename.endswith(".npy")]
            matrix = _matrix(arrays, source)
            kept = _kept(archive, arrays, matrix, source, request)
            taken = take(kept, matrix.shape[1], _blocks(archive, matrix, request), source, request)
    except EmbkerasError:
        raise
    except _DAMAGED as error:
        raise VectorFileError(f"{source.name} is not a whole .npz file: {error or type(error).__name__}") from error
    return keyed_vectors(kept.words, taken, source, "npz", request, **kept.counts)


def check_words(vectors: KeyedVectors, path: Path) -> None:
    """Refuse words whose end NumPy would cut off."""
    for row, word in enumerate(vectors.words):
        if word.endswith("\0"):
            raise VectorFileError(
                f"An array of words cannot hold {word!r} (row {row}) in {str(path)!r}: it ends in NUL."
            )


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write `vectors` as they are and `words` as a unicode array, which is deflated, for it is mostly padding."""
    matrix = vectors.matrix
    longest = max((len(word) for word in vectors.words), default=1)
    dtype = np.dtype(f"<U{max(1, longest)}")
    with zipfile.ZipFile(beside, "w") as archive:
        with _written(archive, _MATRIX, zipfile.ZIP_STORED, matrix.dtype, matrix.shape) as file:
            step = rows_at_once(matrix.shape[1])
            for start in range(0, len(matrix), step):
                file.write(np.ascontiguousarray(matrix[start : start + step]).data)
        with _written(archive, _WORDS, zipfile.ZIP_DEFLATED, dtype, (len(vectors),)) as file:
            step = words_at_once(dtype.itemsize)
            for start in range(0, len(vectors), step):
                file.write(np.array(vectors.words[start : start + step], dtype).tobytes())


@contextlib.contextmanager
def _written(
    archive: zipfile.ZipFile, name: str, compression: int, dtype: np.dtype, shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """A new member that has the header of an array already."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = compression
    with archive.open(info, "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield file


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Source) -> _Array:
    """What the header of a member says, held against the bytes that there are."""
    size = source.path.stat().st_size
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise VectorFileError(f"{source.name}: {info.filename!r} is compressed in a way that NumPy does not write.")
    most = info.compress_size if info.compress_type == zipfile.ZIP_STORED else info.compress_size * MOST_DEFLATED
    if info.compress_size > size or info.file_size > most:
        raise VectorFileError(
            f"{source.name} is not a whole .npz file: {info.filename!r} is said to have {info.file_size:,} bytes, "
            f"{info.compress_size:,} in the archive, which has {size:,}."
        )
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise VectorFileError(f"{source.name}: {info.filename!r} has a header of version {version}.")
        shape, fortran, dtype = _HEADERS[version](file)
        array = _Array(info, shape, fortran, dtype, file.tell())
    expected = array.start + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or expected != info.file_size):
        raise VectorFileError(
            f"{source.name} is not a whole .npz file: {array} takes {expected:,} bytes, but there are {info.file_size:,}."
        )
    return array


def _matrix(arrays: list[_Array], source: Source) -> _Array:
    """The array that `member` names, or the only one of floats and two axes."""
    fit = [array for array in arrays if len(array.shape) == 2 and array.shape[1] and array.dtype.kind == "f"]
    there = ", ".join(map(str, arrays[:20])) or "no array"
    if source.member is not None:
        fit = [array for array in fit if source.member in (array.member.filename, array.member.filename[:-4])]
    if len(fit) == 1:
        return fit[0]
    if source.member is None and not fit:
        raise VectorFileError(f"{source.name} must hold floats of shape (words, width), but holds {there}.")
    raise ArgumentError(
        f"member= says which array of {str(source.path)!r} has the vectors. Received: {source.member!r}; there are {there}."
    )


def _kept(archive: zipfile.ZipFile, arrays: list[_Array], matrix: _Array, source: Source, request: Request) -> Kept:
    """The rows asked for, by the words in the archive or in a file."""
    inside = [array for array in arrays if array.dtype.kind in "US" and len(array.shape) == 1]
    if request.words_file is None and len(inside) == 1:
        words = inside[0]
        _check_count(words.shape[0], matrix, str(words), source)
        with archive.open(words.member) as file:
            batches = _words(file, words)
            if words.dtype.kind == "S":
                return keep_raw(batches, source, request)
            return keep((word for batch in batches for word in batch), request)
    if request.words_file is None and any(array.dtype.hasobject for array in arrays):
        raise VectorFileError(
            f"{source.name} holds {', '.join(map(str, arrays[:20]))}: objects are pickled, which can run any code, and are "
            f"not opened. Give words_file=, or save the words as np.array(words, str)."
        )
    if request.words_file is None and inside:
        raise VectorFileError(
            f"{source.name} holds {len(inside)} arrays of words: {', '.join(map(str, inside[:20]))}. Give words_file=."
        )
    words_file = request.words_file or words_file_of(source.path)
    listed = read_words(words_file)
    _check_count(len(listed), matrix, repr(str(words_file)), source)
    return keep(listed, request)


def _check_count(count: int, matrix: _Array, words: str, source: Source) -> None:
    if count != matrix.shape[0]:
        raise VectorFileError(f"{source.name} has {matrix.shape[0]:,} rows, but {words} {count:,} words.")


def _words(file: IO[bytes], array: _Array) -> Iterator[list]:
    """The words of an array, str or bytes, some at a time."""
    file.read(array.start)
    count, size = array.shape[0], array.dtype.itemsize
    step = words_at_once(size)
    for start in range(0, count, step):
        some = min(step, count - start)
        if size:
            yield np.frombuffer(_exactly(file, some * size), array.dtype).tolist()
        else:  # an array of empty words has no bytes
            yield ["" if array.dtype.kind == "U" else b""] * some
    _exactly(file, 0, end=True)


def _blocks(archive: zipfile.ZipFile, array: _Array, request: Request) -> Iterator[tuple[int, np.ndarray]]:
    """The matrix, some rows at a time and up to the limit; in Fortran's order it has to be whole."""
    rows, width = array.shape
    last = rows if request.limit is None else min(rows, request.limit)
    step = rows if array.fortran else rows_at_once(width)
    with archive.open(array.member) as file:
        file.read(array.start)
        for start in range(0, last, step):
            some = min(step, rows - start)
            raw = _exactly(file, some * width * array.dtype.itemsize)
            yield start, np.frombuffer(raw, array.dtype).reshape((some, width), order="F" if array.fortran else "C")
            if request.progress is not None:
                request.progress(start + some, rows)
        if last == rows:
            _exactly(file, 0, end=True)


def _exactly(file: IO[bytes], count: int, end: bool = False) -> bytes:
    """So many bytes, and nothing behind them at the end; reading to the end lets zipfile compare its checksum."""
    raw = file.read(count)
    if len(raw) < count or (end and file.read(1)):
        raise EOFError(f"expected {count:,} bytes, found {len(raw):,}")
    return raw
