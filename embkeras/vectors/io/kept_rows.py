"""Which rows of a table are kept, and their copy: for the formats whose words and matrix stand apart."""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from embkeras._arrays import BLOCK, first_nonfinite_row
from embkeras.errors import VectorFileError
from embkeras.vectors.io.request import Request
from embkeras.vectors.io.selection import Selection
from embkeras.vectors.io.source import Source
from embkeras.vectors.words import Words

MOST_DEFLATED = 1032  # times smaller than it was: deflate cannot do better
_BYTES = 1 << 22  # of words, looked at together


@dataclass(frozen=True)
class Kept:
    """The words kept, in the order of the file, the row of each (int64, ascending), and what was counted on the way."""

    words: Sequence[str]
    rows: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


def keep(words: Iterable[str], request: Request) -> Kept:
    """Go through the words of a file, up to the limit, and keep those asked for; of a repeated word the first row."""
    rows: dict[str, int] = {}
    read = duplicates = 0
    for row, word in enumerate(islice(words, request.limit)):
        read += 1
        if request.wanted is None or word in request.wanted:
            duplicates += rows.setdefault(word, row) != row
    counts = {"rows": read, "duplicates": duplicates}
    return Kept(list(rows), np.fromiter(rows.values(), np.int64, len(rows)), counts)


def keep_raw(batches: Iterable[list[bytes]], source: Source, request: Request) -> Kept:
    """The same for words that come in the encoding of the request, some at a time."""
    selection, rows, read = Selection(request), [], 0
    for raws in batches:
        raws = raws if request.limit is None else raws[: request.limit - read]
        rows += [read + i for i in selection.keep(Words.of(raws), partial(_place, source, read))]
        read += len(raws)
        if read == request.limit:
            break
    words, _, repeated = selection.finish(source.name)
    counts = {"rows": read, "duplicates": selection.duplicates, "undecodable": selection.undecodable}
    return Kept(list(words), np.delete(np.array(rows, np.int64), repeated), counts)


def _place(source: Source, first: int, i: int) -> str:
    return f"{source.name}, row {first + i}"


def batches_of(array: Any) -> Iterator[list[Any]]:
    """The items of an array of strings or an HDF5 dataset of them, some at a time."""
    step = words_at_once(array.dtype.itemsize)
    for start in range(0, len(array), step):
        yield array[start : start + step].tolist()


def words_at_once(size: int) -> int:
    """How many words of so many bytes each are worked on at once."""
    return max(1, _BYTES // max(1, size))


def rows_at_once(width: int) -> int:
    """How many rows of so many numbers are worked on at once."""
    return max(1, BLOCK // width)


def blocks_of(array: Any, rows: np.ndarray, request: Request) -> Iterator[tuple[int, np.ndarray]]:
    """The row at which each block of an array (rows, width) begins, and the block, where `rows` (ascending) are in it.

    Args:
        array: anything of two axes that gives an array for a slice: memory-mapped, or an HDF5 dataset.
        rows: the rows wanted.
        request: whose `progress` is told.
    """
    step = rows_at_once(array.shape[1])
    for start in (np.unique(rows // step) * step).tolist():
        yield start, array[start : start + step]
        let_go(array)
        if request.progress is not None:
            request.progress(min(start + step, len(array)), len(array))


def let_go(array: Any) -> None:
    """Give back the pages of a memory-mapped file, which would count as memory of this process though they are not kept."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.madvise(mmap.MADV_DONTNEED)


def take(
    kept: Kept, width: int, blocks: Iterable[tuple[int, np.ndarray]], source: Source, request: Request
) -> np.ndarray:
    """Copy the rows kept out of blocks that come in the order of the file, as `request.dtype`.

    Args:
        kept: the rows.
        width: numbers in a row.
        blocks: the row at which each begins, and its numbers; blocks without a row kept may be missing.
        source: named in messages.
        request: the type of the result.

    Raises:
        VectorFileError: NaN, infinity, or more than the type can hold; the message names row and word.
    """
    taken = np.empty((len(kept.rows), width), request.dtype)
    done = 0
    for start, block in blocks:
        end = done + int(np.searchsorted(kept.rows[done:], start + len(block)))
        rows = kept.rows[done:end]
        if len(rows):
            # A block that is kept whole needs no copy before the one into the result.
            with np.errstate(over="ignore"):
                taken[done:end] = block if len(rows) == len(block) else block[rows - start]
            bad = first_nonfinite_row(taken[done:end])
            if bad is not None:
                raise nonfinite(int(rows[bad]), kept.words[done + bad], source, request)
        done = end
    return taken


def nonfinite(row: int, word: str, source: Source, request: Request) -> VectorFileError:
    """The refusal of NaN, infinity and what the type cannot hold."""
    return VectorFileError(
        f"{source.name} holds NaN, infinity or more than {request.dtype} can hold in row {row} (word {word!r})."
    )
