"""NumPy's files: a `.npy` matrix with its words in a second file, and a `.npz` archive with vectors and words.

A `.npy` matrix is memory-mapped. The members of a `.npz` are streamed, so `words=` holds only its own rows in memory. Pickled
arrays are refused unread. See https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import error as struct_error
from tokenize import TokenError
from typing import IO, Any, NamedTuple

import numpy as np

from embkeras._arrays import row_slices
from embkeras.errors import ArgumentError, EmbkerasError, VectorFileError
from embkeras.vectors.io.rows import Kept, Request, blocks_of, keep_listed, keyed_vectors, take
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.words_file import check_count, read_words, words_file_of, write_words
from embkeras.vectors.store import KeyedVectors

_NPY_MAGIC, _NPZ_MAGIC = b"\x93NUMPY", b"PK\x03\x04"
_MATRIX, _WORDS = "vectors", "words"  # the names that are written; any names are read
_WORD_BYTES = 1 << 22  # bytes of words handled at once
_MOST_DEFLATED = 1032  # the highest compression ratio of deflate
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile, zlib and the reader of array headers, which are Python literals, raise on damaged contents.
_DAMAGED: tuple[type[Exception], ...]
_DAMAGED = (OSError, ValueError, EOFError, KeyError, IndexError, RuntimeError, TypeError, OverflowError, SyntaxError)
_DAMAGED += (NotImplementedError, TokenError, MemoryError, AttributeError, struct_error, zlib.error, zipfile.BadZipFile)


def recognises_npy(source: Source) -> bool:
    """Whether the contents begin like a `.npy` file."""
    return source.head.startswith(_NPY_MAGIC)


def npy_sidecars(path: Path) -> list[Path]:
    """The list of words that `write_npy` writes beside the matrix."""
    return [path.with_suffix(".json")]


def read_npy(source: Source, request: Request) -> KeyedVectors:
    """Memory-map the matrix and copy the wanted rows.

    Raises:
        VectorFileError: a damaged file, another kind of array, or words that don't belong to the matrix.
    """
    path = source.path
    source.refuse_compression("a .npy file")
    if not recognises_npy(source):
        raise VectorFileError(f"{source.name} is not a complete .npy file: it does not begin like one.")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TokenError, OverflowError) as error:  # the header is a Python literal
        raise VectorFileError(f"{source.name} is not a complete .npy file: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.shape[1]:
        raise VectorFileError(
            f"{source.name} must contain floats of shape (words, width). Received: {matrix.dtype} {matrix.shape}."
        )
    if request.words_file is None:
        words = read_words(words_file_of(source.shown), len(matrix), source, written_with=path)
    else:
        words = read_words(request.words_file, len(matrix), source)
    kept = keep_listed(words, request)
    taken = take(kept, matrix.shape[1], blocks_of(matrix, kept.rows, request.progress), source, request)
    return keyed_vectors(kept.words, taken, source, "npy", request, **kept.counts)


def write_npy(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write the matrix, and the words beside it."""
    matrix = vectors.matrix
    with beside.open("wb") as file:  # not by np.save, whose errors don't say why a disk takes no more
        _write_header(file, matrix.dtype, matrix.shape)
        for part in row_slices(matrix.shape):
            file.write(np.ascontiguousarray(matrix[part]).data)
    write_words(npy_sidecars(beside)[0], vectors.words, beside)


class _Array(NamedTuple):
    """An array of an archive, as its header describes it."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    def __str__(self) -> str:
        return f"{self.member.filename.removesuffix('.npy')!r} ({self.dtype} {self.shape})"


def recognises_npz(source: Source) -> bool:
    """Whether the file is a zip archive of arrays."""
    return source.compression is None and source.head.startswith(_NPZ_MAGIC)


def read_npz(source: Source, request: Request) -> KeyedVectors:
    """Stream the words, then the matrix, and keep the wanted rows.

    Raises:
        VectorFileError: a damaged archive, or one without vectors and words.
        ArgumentError: several matrices, and `member` names none of them.
    """
    try:
        with zipfile.ZipFile(source.path) as archive:
            arrays = [_array(archive, info, source) for info in archive.infolist() if info.filename.endswith(".npy")]
            matrix = _matrix(arrays, source)
            kept = _kept(archive, arrays, matrix, source, request)
            taken = take(kept, matrix.shape[1], _blocks(archive, matrix, request), source, request)
    except EmbkerasError:
        raise
    except _DAMAGED as error:
        raise VectorFileError(f"{source.name} is not a complete .npz file: {error or type(error).__name__}") from error
    return keyed_vectors(kept.words, taken, source, "npz", request, **kept.counts)


def npz_can_hold(word: str, row: int) -> bool:
    """Whether NumPy keeps a word whole: null characters at its end would be cut off."""
    return not word.endswith("\0")


def write_npz(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write `vectors` as they are, and `words` as a unicode array, deflated because it is mostly padding."""
    matrix = vectors.matrix
    longest = max((len(word) for word in vectors.words), default=1)
    dtype = np.dtype(f"<U{max(1, longest)}")
    with zipfile.ZipFile(beside, "w") as archive:
        with _member_for(archive, _MATRIX, zipfile.ZIP_STORED, matrix.dtype, matrix.shape) as file:
            for part in row_slices(matrix.shape):
                file.write(np.ascontiguousarray(matrix[part]).data)
        with _member_for(archive, _WORDS, zipfile.ZIP_DEFLATED, dtype, (len(vectors),)) as file:
            for part in row_slices((len(vectors), dtype.itemsize), _WORD_BYTES):
                file.write(np.array(vectors.words[part], dtype).tobytes())


@contextlib.contextmanager
def _member_for(
    archive: zipfile.ZipFile, name: str, compression: int, dtype: np.dtype, shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """A new member of the archive, for writing, after the header of an array."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = compression
    with archive.open(info, "w", force_zip64=True) as file:
        _write_header(file, dtype, shape)
        yield file


def _write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Source) -> _Array:
    """What the header of a member says, if the file has the bytes for it."""
    size = source.path.stat().st_size
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise VectorFileError(f"{source.name}: {info.filename!r} is compressed in a way that NumPy doesn't write.")
    most = info.compress_size if info.compress_type == zipfile.ZIP_STORED else info.compress_size * _MOST_DEFLATED
    if info.compress_size > size or info.file_size > most:
        raise VectorFileError(
            f"{source.name} is not a complete .npz file: it says that {info.filename!r} has {info.file_size:,} bytes, "
            f"{info.compress_size:,} in the archive, but the archive has {size:,}."
        )
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise VectorFileError(f"{source.name}: {info.filename!r} has a header of the unknown version {version}.")
        shape, fortran, dtype = _HEADERS[version](file)
        array = _Array(info, shape, fortran, dtype, file.tell())
    expected = array.start + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or expected != info.file_size):
        raise VectorFileError(
            f"{source.name} is not a complete .npz file: {array} takes {expected:,} bytes, but it has {info.file_size:,}."
        )
    return array


def _matrix(arrays: list[_Array], source: Source) -> _Array:
    """The array that `member` names, or the only array of floats with two axes."""
    fit = [array for array in arrays if len(array.shape) == 2 and array.shape[1] and array.dtype.kind == "f"]
    there = ", ".join(map(str, arrays[:20])) or "no array"
    if source.member is not None:
        fit = [array for array in fit if source.member in (array.member.filename, array.member.filename[:-4])]
    if len(fit) == 1:
        return fit[0]
    if source.member is None and not fit:
        raise VectorFileError(f"{source.name} must contain floats of shape (words, width). Received: {there}.")
    raise ArgumentError(
        f"member= must name an array of vectors in {str(source.shown)!r}. Received: {source.member!r}; the file contains "
        f"{there}."
    )


def _kept(archive: zipfile.ZipFile, arrays: list[_Array], matrix: _Array, source: Source, request: Request) -> Kept:
    """The wanted rows, by the words in the archive or in a file."""
    inside = [array for array in arrays if array.dtype.kind in "US" and len(array.shape) == 1]
    if request.words_file is None and len(inside) == 1:
        check_count(inside[0].shape[0], matrix.shape[0], str(inside[0]), source)
        with archive.open(inside[0].member) as file:
            words = _words(file, inside[0])
            if inside[0].dtype.kind == "U":
                return keep_listed(words, request)
            undecodable: list[int] = []
            kept = keep_listed(_decoded(words, undecodable, source, request), request)
            kept.counts["undecodable"] = len(undecodable)
            return kept
    if request.words_file is None and any(array.dtype.hasobject for array in arrays):
        raise VectorFileError(
            f"{source.name} contains {', '.join(map(str, arrays[:20]))}. Arrays of objects are pickled, which can run any "
            f"code, and are not opened. Pass words_file=, or save the words as np.array(words, str)."
        )
    if request.words_file is None and inside:
        raise VectorFileError(
            f"{source.name} contains {len(inside)} arrays of words: {', '.join(map(str, inside[:20]))}. Pass words_file=."
        )
    words_file = request.words_file or words_file_of(source.shown)
    return keep_listed(read_words(words_file, matrix.shape[0], source), request)


def _words(file: IO[bytes], array: _Array) -> Iterator[Any]:
    """The words of an array, str or bytes."""
    file.read(array.start)
    size = array.dtype.itemsize
    for part in row_slices((array.shape[0], size), _WORD_BYTES):
        count = part.stop - part.start
        if size:
            yield from np.frombuffer(_exactly(file, count * size), array.dtype).tolist()
        else:  # an array of empty words has no bytes
            yield from ["" if array.dtype.kind == "U" else b""] * count
    _exactly(file, 0, end=True)


def _decoded(words: Iterator[bytes], undecodable: list[int], source: Source, request: Request) -> Iterator[str | None]:
    """The words as strings; None for a row to leave out. The rows of undecodable words are added to the list."""
    for row, raw in enumerate(words):
        word, valid = request.in_utf8(raw, lambda row=row: f"{source.name}, row {row}")  # type: ignore[misc]
        if not valid:
            undecodable.append(row)
        yield None if not valid and request.errors == "skip" else word.decode()


def _blocks(archive: zipfile.ZipFile, array: _Array, request: Request) -> Iterator[tuple[int, np.ndarray]]:
    """The matrix up to the limit, block by block; in Fortran order it must be read as a whole."""
    rows, width = array.shape
    last = rows if request.limit is None else min(rows, request.limit)
    with archive.open(array.member) as file:
        file.read(array.start)
        for part in [slice(0, rows)] if array.fortran else row_slices((rows, width)):
            if part.start >= last:
                return
            count = part.stop - part.start
            raw = _exactly(file, count * width * array.dtype.itemsize)
            block = np.frombuffer(raw, array.dtype).reshape((count, width), order="F" if array.fortran else "C")
            yield part.start, block
            if request.progress is not None:
                request.progress(part.stop, rows)
        _exactly(file, 0, end=True)


def _exactly(file: IO[bytes], count: int, end: bool = False) -> bytes:
    """Exactly `count` bytes, with none after them if `end`; reading to the end lets zipfile verify its checksum."""
    raw = file.read(count)
    if len(raw) < count or (end and file.read(1)):
        raise EOFError(f"expected {count:,} bytes, found {len(raw):,}")
    return raw
