"""What a reader is asked for, which rows of a file it keeps, and the table that they are copied into."""

import codecs
import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from embkeras._arrays import first_nonfinite_row, row_slices
from embkeras.errors import ArgumentError, OutputError, VectorFileError
from embkeras.vectors.io.separators import Separator
from embkeras.vectors.io.source import Progress, Source
from embkeras.vectors.store import KeyedVectors, Provenance
from embkeras.vectors.subwords import Subwords
from embkeras.vectors.words import Words, hash_filter

_CHUNK = 1 << 20  # bytes of a table that grows
_CHUNK_ON_DISK = 1 << 26
_OnDisk = tuple[Path, contextlib.ExitStack]  # a folder, and what closes the files in it
_ON_DISK: ContextVar[_OnDisk | None] = ContextVar("on_disk", default=None)


@dataclass(frozen=True)
class Request:
    """The checked arguments of `load_vectors`. `wanted` contains every spelling to keep, or is None to keep all rows."""

    wanted: frozenset[str] | None = None
    words_file: Path | None = None
    limit: int | None = None
    encoding: str = "utf-8"
    errors: str = "strict"
    dtype: str = "float32"
    progress: Progress | None = None
    separator: Separator | None = None
    width: int | None = None
    header: bool | str | None = None  # "ignore" skips it

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding)  # raises for encodings of bytes, such as base64
        except (LookupError, ValueError, TypeError):
            raise ArgumentError(
                f"encoding must be the name of a text encoding, such as 'utf-8'. Received: {self.encoding!r}."
            ) from None

    def in_utf8(self, raw: bytes, place: Callable[[], str]) -> tuple[bytes, bool]:
        """A word in UTF-8, whatever the encoding of the file, and whether it was valid in that encoding.

        Args:
            raw: its bytes in the file.
            place: returns its place, for error messages.

        Raises:
            VectorFileError: the word is invalid and errors="strict".
        """
        try:
            return raw.decode(self.encoding).encode(), True
        except UnicodeError as error:
            if self.errors == "strict":
                raise VectorFileError(
                    f"{place()}: the word {bytes(raw[:40])!r} is not valid {self.encoding} (byte "
                    f'{getattr(error, "start", 0)}). Pass another encoding=, or errors="replace" or "skip".'
                ) from None
            return raw.decode(self.encoding, "replace").encode(errors="replace"), False


def keyed_vectors(
    words: Sequence[str],
    matrix: Any,
    source: Source,
    format: str,
    request: Request,
    *,
    subwords: Subwords | None = None,
    key_to_index: Mapping[str, int] | None = None,
    **counts: Any,
) -> KeyedVectors:
    """The kept rows as KeyedVectors, with the counts of the reader in their provenance.

    Subwords stay complete whatever `words` and `limit` select: they are for the words that have no row.
    """
    if not words and request.wanted is None:
        raise VectorFileError(f"{source.name} contains no vectors.")
    provenance = Provenance(str(source.shown), format, wanted=request.wanted, limit=request.limit, **counts)
    return KeyedVectors(
        words, np.asanyarray(matrix), subwords=subwords, provenance=provenance, key_to_index=key_to_index
    )


@dataclass(frozen=True, eq=False)
class Kept:
    """The kept words in the order of the file, the row of each in the file (int64, ascending), and the reader's counts."""

    words: Sequence[str]
    rows: np.ndarray
    counts: dict[str, Any] = field(default_factory=dict)


class RowSelector:
    """Decides which rows of a file are kept, as its words come.

    If some words are wanted, the first row of each is kept. If all are, `keep` keeps every row, and `finish` says which to
    leave out again because their word occurred earlier.

    Args:
        request: the wanted words, their encoding, and what to do with undecodable words.

    Attributes:
        duplicates: words that were kept already.
        undecodable: words that are invalid in the encoding.
    """

    def __init__(self, request: Request):
        self._request = request
        self._parts: list[Words] = []  # if all words are wanted
        self._rows: dict[str, int] = {}  # if some are
        self._may_be_wanted = None if request.wanted is None else hash_filter(request.wanted)
        self.duplicates = self.undecodable = 0
        self._utf8 = codecs.lookup(request.encoding).name == "utf-8"

    def keep(self, words: Words, place: Callable[[int], str]) -> list[int]:
        """Which of the file's next words are kept.

        Args:
            words: the words, in the encoding of the file.
            place: returns the place of one of them, for error messages.

        Raises:
            VectorFileError: a word is invalid in the encoding and errors="strict".
        """
        allowed = None
        if not (self._utf8 and words.are_utf8()):
            decoded = [self._request.in_utf8(raw, lambda i=i: place(i)) for i, raw in enumerate(words.raws())]  # type: ignore[misc]
            words, valid = Words.of([raw for raw, _ in decoded]), np.array([good for _, good in decoded], bool)
            self.undecodable += int((~valid).sum())
            if self._request.errors == "skip":
                allowed = valid
        return self.keep_decoded(words, allowed)

    def keep_decoded(self, words: Words, allowed: np.ndarray | None = None) -> list[int]:
        """The same for words in UTF-8, of which only those where the mask `allowed` is true can be kept."""
        if self._may_be_wanted is None:
            self._parts.append(words if allowed is None else words.only(allowed))
            return list(range(len(words))) if allowed is None else np.flatnonzero(allowed).tolist()
        likely = self._may_be_wanted(words.hashes)
        if allowed is not None:
            likely &= allowed
        strings = map(bytes.decode, words.only(likely).raws())
        return self.keep_strings(zip(np.flatnonzero(likely).tolist(), strings, strict=True))

    def keep_strings(self, words: Iterable[tuple[int, str]]) -> list[int]:
        """The same for pairs of a number and a word; returns the numbers of the kept words."""
        wanted, rows = self._request.wanted, self._rows
        kept = []
        for number, word in words:
            if word in rows:
                self.duplicates += 1
            elif wanted is None or word in wanted:
                rows[word] = len(rows)
                kept.append(number)
        return kept

    def finish(self, name: str) -> tuple[Sequence[str], Mapping[str, int], list[int]]:
        """The kept words, the row of each, and which of the kept rows to leave out, ascending.

        Args:
            name: name of the file in error messages.
        """
        if not self._parts:
            return list(self._rows), self._rows, []
        joined = Words.joined(self._parts)
        self._parts = []  # not in memory twice
        words, index, repeated = joined.packed(name)
        self.duplicates = len(repeated)
        return words, index, repeated

    def keyed(
        self, matrix: np.ndarray, source: Source, format: str, rows: int, subwords: Subwords | None = None
    ) -> KeyedVectors:
        """The kept words and the matrix of the kept rows, of `rows` rows that were read."""
        words, index, repeated = self.finish(source.name)
        return keyed_vectors(
            words,
            without_rows(matrix, repeated),
            source,
            format,
            self._request,
            rows=rows,
            duplicates=self.duplicates,
            undecodable=self.undecodable,
            key_to_index=index,
            subwords=subwords,
        )


def keep_listed(words: Iterable[str | None], request: Request) -> Kept:
    """Select from a list with one word per row, up to the limit; of a repeated word the first row is kept.

    Args:
        words: the words; None for a row to leave out.
        request: the wanted words and the limit.
    """
    selector, read = RowSelector(request), -1

    def numbered() -> Iterator[tuple[int, str]]:
        nonlocal read
        for read, word in enumerate(islice(words, request.limit)):
            if word is not None:
                yield read, word

    rows = selector.keep_strings(numbered())
    counts = {"rows": read + 1, "duplicates": selector.duplicates}
    return Kept(selector.finish("")[0], np.array(rows, np.int64), counts)


@contextlib.contextmanager
def tables_in(folder: Path) -> Iterator[None]:
    """In this block, the tables of readers are memory maps of nameless files in a folder: no table has to fit into memory.

    A file goes away with its table, also if the process is killed.
    """
    with contextlib.ExitStack() as files:
        token = _ON_DISK.set((folder, files))
        try:
            yield
        finally:
            _ON_DISK.reset(token)


def _extend(file: IO[bytes], size: int, folder: Path) -> None:
    """Make a file larger, if the disk has room for it: writing to a map without room would end the process."""
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    except OSError as error:
        raise OutputError(
            f"Cannot write a temporary table of {size:,} bytes into {str(folder)!r}: {error.strerror}."
        ) from None


class Table:
    """A table that is filled from the top, whether or not the number of rows is known beforehand.

    If it is unknown, the table grows in chunks, which `matrix` joins. Each chunk is a memory map of its own, which goes back
    to the system as soon as it is copied, so the peak is the table and one chunk. (Memory from malloc may stay with the
    process.) If more rows come than expected, the expected ones are one such chunk.

    Inside `tables_in`, the chunks follow one another in a file, and only the last one is mapped.

    Args:
        width: numbers per row.
        dtype: type of the numbers.
        rows: the expected number of rows, if known. Rows that are never written take no memory.
    """

    def __init__(self, width: int, dtype: str, rows: int | None = None):
        self._width, self._dtype = width, np.dtype(dtype)
        self._chunks: list[np.ndarray] = []
        self._used: list[int] = []
        self._file: IO[bytes] | None = None
        on_disk = _ON_DISK.get()
        if on_disk is not None:
            self._folder, files = on_disk
            self._file = files.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
        elif rows is not None:
            self._append(np.empty((rows, width), self._dtype))

    def reserve(self, count: int) -> np.ndarray:
        """The next `count` rows, for writing."""
        if not self._chunks or self._used[-1] + count > len(self._chunks[-1]):
            row = self._width * self._dtype.itemsize
            if self._file is not None:
                self._append(self._next_of(self._file, max(count, _CHUNK_ON_DISK // row)))
            else:
                rows = max(count, _CHUNK // row)
                self._append(np.frombuffer(mmap.mmap(-1, rows * row), self._dtype).reshape(rows, self._width))
        start = self._used[-1]
        self._used[-1] += count
        return self._chunks[-1][start : start + count]

    def add(self, rows: np.ndarray) -> np.ndarray:
        """Append rows of any float type, and return them as the table holds them.

        Values that the table's type can't hold become infinity, which the caller must refuse.
        """
        added = self.reserve(len(rows))
        with np.errstate(over="ignore"):
            added[:] = rows
        return added

    def matrix(self) -> np.ndarray:
        """All reserved rows as one array; the table is empty afterwards."""
        chunks, used = self._chunks, self._used
        self._chunks, self._used = [], []
        total = sum(used)
        if self._file is not None and total:
            self._file.truncate(total * self._width * self._dtype.itemsize)
            return np.memmap(self._file, self._dtype, "r+", shape=(total, self._width))
        if len(chunks) == 1 and chunks[0].flags.owndata:
            return chunks[0] if used[0] == len(chunks[0]) else chunks[0][: used[0]]
        matrix = np.empty((total, self._width), self._dtype)
        row = 0
        for count in used:
            matrix[row : row + count] = chunks.pop(0)[:count]
            row += count
        return matrix

    def _next_of(self, file: IO[bytes], rows: int) -> np.ndarray:
        """The next rows of the file; the earlier ones are unmapped as soon as nobody writes to them."""
        row = self._width * self._dtype.itemsize
        begin, size = sum(self._used) * row, rows * row
        _extend(file, begin + size, self._folder)
        self._chunks.clear()
        skipped = begin % mmap.ALLOCATIONGRANULARITY  # a map begins at a page
        mapped = mmap.mmap(file.fileno(), skipped + size, offset=begin - skipped)
        return np.frombuffer(mapped, self._dtype, rows * self._width, skipped).reshape(rows, self._width)

    def _append(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        self._used.append(0)


def without_rows(matrix: np.ndarray, rows: list[int]) -> np.ndarray:
    """The matrix without some rows, given in ascending order. The others move up in place: no second table."""
    if not rows:
        return matrix
    width = matrix.shape[1]
    numbers = matrix.reshape(-1)  # in one dimension, NumPy moves overlapping numbers without a copy
    kept = rows[0]
    for row, after in zip(rows, [*rows[1:], len(matrix)], strict=True):
        count = after - row - 1
        numbers[kept * width : (kept + count) * width] = numbers[(row + 1) * width : after * width]
        kept += count
    return matrix[:kept]


def blocks_of(
    array: Any, rows: np.ndarray, progress: Progress | None, shape: tuple[int, ...] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each block of a matrix, and the block; blocks without any of `rows` (ascending) are left out.

    Args:
        array: anything that returns an array for a slice of rows, such as a memory map.
        rows: the rows to read.
        progress: called after each block.
        shape: (rows, width) of the matrix, if `array` doesn't say it.
    """
    shape = array.shape if shape is None else shape
    for part in row_slices(shape):
        first, last = np.searchsorted(rows, [part.start, part.stop])
        if first < last:
            yield part.start, array[part]
            release_pages(array)
            if progress is not None:
                progress(part.stop, shape[0])


def release_pages(array: Any) -> None:
    """Release the pages of a memory-mapped file, which would otherwise count as memory of this process."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.madvise(mmap.MADV_DONTNEED)


def take(
    kept: Kept, width: int, blocks: Iterable[tuple[int, np.ndarray]], source: Source, request: Request
) -> np.ndarray:
    """Copy the kept rows out of blocks that come in the order of the file, as `request.dtype`.

    Args:
        kept: the rows.
        width: numbers per row.
        blocks: the first row of each block, and its numbers; blocks without a kept row may be missing.
        source: named in error messages.
        request: the type of the result.

    Raises:
        VectorFileError: NaN, infinity, or a number that the type can't hold; the message names row and word.
    """
    table = Table(width, request.dtype, len(kept.rows))
    done = 0
    for start, block in blocks:
        end = done + int(np.searchsorted(kept.rows[done:], start + len(block)))
        rows = kept.rows[done:end]
        if len(rows):
            # A block that is kept completely is copied once, directly into the result.
            bad = first_nonfinite_row(table.add(block if len(rows) == len(block) else block[rows - start]))
            if bad is not None:
                raise VectorFileError(
                    f"{source.name} contains NaN, infinity or a number too large for {request.dtype} in row "
                    f"{int(rows[bad])} (word {kept.words[done + bad]!r})."
                )
        done = end
    return table.matrix()
