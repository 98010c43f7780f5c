"""embkeras's own store: an HDF5 file whose matrix and words are used in place, without being read first.

Version 1 of the format. All numbers are little-endian. Every dataset is contiguous (not chunked, not compressed, in this
file), so it can be memory-mapped at its offset. For n words and vectors of width d:

| dataset   | type, shape         | contents |
|-----------|---------------------|----------|
| `matrix`  | float32 or float16, (n, d) | row i is the vector of word i; finite numbers only |
| `words`   | uint8, (b,)         | the words in UTF-8, one after the other, in the order of the rows |
| `offsets` | uint64, (n + 1,)    | word i is `words[offsets[i]:offsets[i + 1]]`; the first is 0, the last b |
| `hashes`  | uint64, (n,)        | the hash of every word, ascending |
| `rows`    | uint32, (n,)        | the row of the word with that hash; equal hashes in the order of the rows |

The hash of a word is BLAKE2b with a digest of 8 bytes over its UTF-8 bytes, read as a little-endian number. Words are
distinct; two words may have the same hash, so a reader compares the bytes.

The root group has the attributes `format` = "embkeras.store" (text of fixed length) and `version` = 1 (uint32). Each
dataset has the attribute `crc32` (uint32): the CRC-32 of its bytes, as zlib computes it. The file is written with version 2
of the superblock and of the object headers, which have checksums of their own. Other attributes and datasets are ignored. A
change that this reader would misread gets another version; files of version 1 stay readable.

What is checked when: on opening, everything that doesn't depend on the size, which is version, types, shapes, that every
dataset is completely inside the file, and the ends of `offsets`. The checksums of words and index once, before the first
answer that relies on them (that a word is missing, or the word of a row; a word that is found is proved by its bytes). The
checksum of the matrix only by `check_store`, since that reads the whole matrix; rows that are copied are checked to be
finite.
"""

import contextlib
import io
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from embkeras import _checks
from embkeras._arrays import first_nonfinite_row, row_slices
from embkeras.errors import EmbkerasError, VectorFileError
from embkeras.vectors.io.rows import Kept, Request, blocks_of, keyed_vectors, take
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import PackedWords, WordIndex, encoded, index_of_hashes, stored_hashes

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
FORMAT, VERSION = "embkeras.store", 1
_INDEX = {"words": "<u1", "offsets": "<u8", "hashes": "<u8", "rows": "<u4"}
_MATRIX = ("<f4", "<f2")
_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError)
_LARGEST = 1 << 48  # rows or columns
_WORDS_AT_ONCE = 1 << 16
_ALIGNMENT = 64  # bytes, one cache line: rows of the usual widths begin at the start of one


def recognises(source: Source) -> bool:
    """Whether the contents begin like an HDF5 file; other HDF5 files than stores are refused by `read`."""
    return source.head.startswith(_SIGNATURE)


def read(source: Source, request: Request) -> KeyedVectors:
    """Map the file; rows are copied only if some of them or another type are wanted.

    Raises:
        VectorFileError: not a store, or a damaged one.
    """
    store = _Store(source)
    count = len(store.words)
    limit = count if request.limit is None else min(request.limit, count)
    if whole := request.wanted is None and limit == count:
        kept = Kept(store.words, np.arange(count))
    else:
        kept = store.keep(request.wanted, limit)
    matrix = store.matrix
    if not whole or matrix.dtype != request.dtype:
        matrix = take(kept, matrix.shape[1], blocks_of(matrix, kept.rows, request.progress), source, request)
    index = store.index if whole else None
    return keyed_vectors(kept.words, matrix, source, "store", request, key_to_index=index, rows=limit)


def check_store(path: str | os.PathLike[str]) -> None:
    """Verify every checksum of a store, including that of the matrix, which reads the whole file.

    Raises:
        ArgumentError: not a path.
        VectorFileError: the file is damaged, or not a store.
    """
    store = _Store(Source(_checks.path(path, "path")))
    store.check()
    store.compare("matrix", store.matrix)
    bad = first_nonfinite_row(store.matrix)
    if bad is not None:
        raise VectorFileError(f"{store.source.name} contains NaN or infinity in row {bad} (word {store.words[bad]!r}).")


def can_hold(word: str, row: int) -> bool:
    """Whether UTF-8 can hold a word."""
    return encoded(word) is not None


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write words, index and matrix; float16 stays float16, every other type becomes float32."""
    text, offsets, hashes, rows = _packed(vectors)
    # HDF5 has checksums of its headers since 1.8; alignment makes NumPy faster on the mapped arrays.
    newer: dict[str, Any] = {"libver": ("v108", "v108"), "alignment_threshold": 0, "alignment_interval": _ALIGNMENT}
    with _Written(beside) as contents, h5py.File(contents, "w", **newer) as file:
        # Text of fixed length: text of variable length would be in a heap, which has no checksum.
        file.attrs["format"], file.attrs["version"] = np.bytes_(FORMAT), np.uint32(VERSION)
        for name, values in zip(_INDEX, (text, offsets, hashes, rows), strict=True):
            dataset = file.create_dataset(name, data=values.astype(_INDEX[name], copy=False))
            dataset.attrs["crc32"] = np.uint32(zlib.crc32(values.data))
        matrix, crc = vectors.matrix, 0
        dtype = "<f2" if matrix.dtype == np.float16 else "<f4"
        dataset = file.create_dataset("matrix", matrix.shape, dtype)
        for part in row_slices(matrix.shape):
            block = np.ascontiguousarray(matrix[part], dtype)
            dataset[part] = block
            crc = zlib.crc32(block.data, crc)
        dataset.attrs["crc32"] = np.uint32(crc)


def _packed(vectors: KeyedVectors) -> tuple[np.ndarray, ...]:
    """The datasets of the words, some words at a time: a Python object for each would take more than the datasets."""
    text, words = io.BytesIO(), iter(vectors)
    offsets, hashes = np.zeros(len(vectors) + 1, "<u8"), np.empty(len(vectors), "<u8")
    for part in row_slices((len(vectors), 1), _WORDS_AT_ONCE):
        raws = [word.encode("utf-8") for word in islice(words, _WORDS_AT_ONCE)]
        text.write(b"".join(raws))
        offsets[1:][part] = list(map(len, raws))
        hashes[part] = stored_hashes(raws)
    np.cumsum(offsets, out=offsets)
    return np.frombuffer(text.getbuffer(), np.uint8), offsets, *index_of_hashes(hashes)


class _Written(io.FileIO):
    """A file that libhdf5 writes to. It hears nothing of a full disk, with which it can't cope: it may end the process later.

    Instead, the first error is kept, nothing more is written, and the error is raised at the end of the `with` block.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it; returns its length."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self._error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        if self._error is not None:
            raise self._error


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[h5py.File]:
    """The HDF5 file of a source, for reading; errors of libhdf5 become a VectorFileError."""
    source.refuse_compression("an HDF5 file")
    try:
        with h5py.File(source.path, "r", locking=False) as file:
            yield file
    except EmbkerasError:
        raise
    except _DAMAGED as error:
        raise VectorFileError(f"{source.name} is not a complete HDF5 file: {error}") from error


def _attribute(attributes: h5py.AttributeManager, name: str, kinds: str) -> Any:
    """The value of an attribute if it is a single value of one of these kinds, text as str; else None.

    Text of variable length is not read: it is in a heap without checksums, in which libhdf5 can loop for ever.
    """
    if name not in attributes:
        return None
    holder = attributes.get_id(name)
    if holder.dtype.kind not in kinds or holder.shape != ():
        return None
    value = attributes[name]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Place(NamedTuple):
    """Where a dataset is in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    crc: int


class _Store:
    """An open store: its memory-mapped arrays, and their checks."""

    def __init__(self, source: Source):
        self.source = source
        with _opened(source) as file:
            self._check_version(file)
            self._places = {name: self._place(file, name, (dtype,)) for name, dtype in _INDEX.items()}
            self._places["matrix"] = self._place(file, "matrix", _MATRIX)
        with source.path.open("rb") as raw:
            self._map = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = {name: self._mapped(name) for name in self._places}
        self.matrix = arrays.pop("matrix")
        self._check_shapes(**arrays)
        self._unchecked = arrays
        self.words = PackedWords(arrays["words"], arrays["offsets"], self.check, source.name)
        self.index = WordIndex(self.words, arrays["hashes"], arrays["rows"])

    def keep(self, wanted: frozenset[str] | None, limit: int) -> Kept:
        """The wanted words, looked up in the index, or all words; of the first `limit` rows."""
        if wanted is None:
            return Kept(self.words[:limit], np.arange(limit))
        listed = list(wanted)
        found = self.index.rows_of(listed)
        kept = [place for place in np.argsort(found).tolist() if 0 <= found[place] < limit]
        return Kept([listed[place] for place in kept], found[kept])

    def check(self) -> None:
        """Verify the checksums of words and index, once."""
        for name, values in self._unchecked.items():
            self.compare(name, values)
        self._unchecked = {}

    def compare(self, name: str, values: np.ndarray) -> None:
        """Verify the checksum of one dataset."""
        place = self._places[name]
        if zlib.crc32(values.data) != place.crc:
            start, end = place.offset, place.offset + values.nbytes
            raise self._damaged(f"{name!r} (bytes {start:,} to {end:,}) as it was written", "another checksum")

    def _check_version(self, file: h5py.File) -> None:
        found, version = _attribute(file.attrs, "format", "S"), _attribute(file.attrs, "version", "iu")
        if found != FORMAT:
            raise VectorFileError(
                f"{self.source.name} is an HDF5 file, but not an embkeras store (format {found!r}), the only kind that is "
                f"read. For ConceptNet Numberbatch's mini.h5, load its text form instead: numberbatch-en.txt.gz."
            )
        if version is None:
            raise self._damaged("the attribute version", "no whole number")
        if version != VERSION:
            raise VectorFileError(
                f"{self.source.name} is a store of version {version}, but this embkeras reads version {VERSION}."
            )

    def _place(self, file: h5py.File, name: str, dtypes: tuple[str, ...]) -> _Place:
        """Where a dataset is; links out of the file and other layouts are refused."""
        link = file.get(name, getlink=True)
        dataset = file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype not in dtypes:
            found = dataset.dtype if isinstance(dataset, h5py.Dataset) else "no dataset"
            raise self._damaged(f"a dataset {name!r} of {' or '.join(dtypes)}", found)
        layout, offset = dataset.id.get_create_plist(), dataset.id.get_offset()
        if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
            raise self._damaged(f"{name!r} in one piece", "another layout")
        if offset is None and dataset.size:
            raise self._damaged(f"{name!r} of shape {dataset.shape}", "no bytes of it")
        crc = _attribute(dataset.attrs, "crc32", "u")
        if crc is None:
            raise self._damaged(f"the attribute crc32 of {name!r}", "no checksum")
        return _Place(offset or 0, dataset.shape, dataset.dtype, int(crc))

    def _mapped(self, name: str) -> np.ndarray:
        offset, shape, dtype, _ = self._places[name]
        count = math.prod(shape)
        # An array without items has no bytes, whatever its shape.
        if offset + count * dtype.itemsize > len(self._map) or max(shape, default=0) > _LARGEST:
            raise self._damaged(f"{name!r} of shape {shape} at byte {offset:,}", f"{len(self._map):,} bytes in all")
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape) if count else np.empty(shape, dtype)

    def _check_shapes(self, words: np.ndarray, offsets: np.ndarray, hashes: np.ndarray, rows: np.ndarray) -> None:
        """One row, one hash and one offset per word, and one more offset."""
        shape = self.matrix.shape
        if len(shape) != 2 or not shape[1]:
            raise self._damaged("'matrix' of shape (words, width)", shape)
        expected = {"offsets": (shape[0] + 1,), "hashes": (shape[0],), "rows": (shape[0],), "words": (words.size,)}
        for name, wanted in expected.items():
            if self._places[name].shape != wanted:
                raise self._damaged(f"{name!r} of shape {wanted}", self._places[name].shape)
        if offsets[0] != 0 or offsets[-1] != len(words):
            raise self._damaged(f"offsets from 0 to {len(words):,}", f"{offsets[0]:,} to {offsets[-1]:,}")

    def _damaged(self, expected: str, found: object) -> VectorFileError:
        return VectorFileError(f"{self.source.name} is a damaged store: expected {expected}, found {found}.")
