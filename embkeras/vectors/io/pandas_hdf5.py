"""A DataFrame that pandas wrote to HDF5 in its "fixed" format, such as ConceptNet Numberbatch's `mini.h5`.

The words are the index of the frame, the numbers of a row its columns. They are kept as they stand: Numberbatch's words
begin with the language (`/c/en/cat`), and the int8 of its `mini.h5` become the same numbers in floats, unscaled;
`provenance.stored` then says "int8". Read with h5py alone: neither pytables nor the pickles that it may hold.
See https://github.com/commonsense/conceptnet-numberbatch.
"""

from typing import Any

import h5py
import numpy as np

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.hdf5 import is_hdf5, opened
from embkeras.vectors.io.kept_rows import MOST_DEFLATED, batches_of, blocks_of, keep_raw, take
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors

_PARTS = {"axis0", "axis1", "block0_items", "block0_values"}


def recognises(source: Source) -> bool:
    """Whether the file is HDF5; what it holds is told when it is read."""
    return is_hdf5(source)


def read(source: Source, request: Request) -> KeyedVectors:
    """Read the frame that `member` names, or the only one."""
    with opened(source) as file:
        frame = _frame(file, source)
        words, values = _dataset(frame, "axis1", source), _values(frame, source)
        if words.dtype.kind != "S" or words.shape != values.shape[:1]:
            raise _unfit(frame, "an index of strings, one a row", f"{words.dtype} {words.shape}", source)
        kept = keep_raw(batches_of(words), source, request)
        # Whatever the file says of its size, no more is held than the rows that are kept and a block.
        matrix = take(kept, values.shape[1], blocks_of(values, kept.rows, request), source, request)
        stored = None if values.dtype.kind == "f" else str(values.dtype)
        return keyed_vectors(kept.words, matrix, source, "pandas-h5", request, stored=stored, **kept.counts)


def _frame(file: h5py.File, source: Source) -> h5py.Group:
    """The group of the frame that is meant; a frame is known by its datasets, for not every writer sets the attributes."""
    hard = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    groups = {name: set(file[name]) for name in hard if isinstance(file[name], h5py.Group)}
    frames = [name for name, inside in groups.items() if inside >= _PARTS and "axis2" not in inside]
    if source.member is None and len(frames) == 1:
        return file[frames[0]]
    if source.member in frames:
        return file[source.member]
    if frames:
        raise ArgumentError(
            f"{str(source.path)!r} holds {len(frames)} frames: member= says which to read. "
            f"Received: {source.member!r}; there are {', '.join(frames[:20])}."
        )
    what = f"there are {', '.join(list(file)[:5]) or 'no groups'}"
    if any("table" in inside for inside in groups.values()):
        what = 'its frame is in the "table" format: write it with to_hdf(..., format="fixed")'
    raise VectorFileError(
        f"{source.name} is an HDF5 file, but neither embkeras's store nor a DataFrame of pandas in the fixed format: {what}."
    )


def _values(frame: h5py.Group, source: Source) -> h5py.Dataset:
    """The numbers of the frame, which must be of one type: pandas puts each type into a block of its own."""
    blocks = sum(name.endswith("_values") for name in frame)
    if blocks != 1:
        raise _unfit(frame, "numbers of one type, in one block", f"{blocks} blocks", source)
    values = _dataset(frame, "block0_values", source)
    if len(values.shape) != 2 or not values.shape[1] or values.dtype.kind not in "fiu":
        raise _unfit(frame, "numbers of shape (words, width)", f"{values.dtype} {values.shape}", source)
    columns, items = _dataset(frame, "axis0", source), _dataset(frame, "block0_items", source)
    if "O" in (columns.dtype.kind, items.dtype.kind):
        raise _unfit(frame, "columns named by numbers or by text", "pickled names, which are not opened", source)
    if columns.shape != items.shape or items.shape != values.shape[1:] or not np.array_equal(columns[()], items[()]):
        raise _unfit(frame, f"{values.shape[1]} columns in their order", f"{columns.shape} and {items.shape}", source)
    return values


def _dataset(frame: h5py.Group, name: str, source: Source) -> h5py.Dataset:
    """A dataset of the frame, if the file has bytes enough for what it is said to hold."""
    if not isinstance(frame.get(name, getlink=True), h5py.HardLink) or not isinstance(frame[name], h5py.Dataset):
        raise _unfit(frame, f"a dataset {name!r}", "none", source)
    dataset = frame[name]
    stored, size = dataset.id.get_storage_size(), source.path.stat().st_size
    if stored > size or dataset.nbytes > stored * (1 if dataset.chunks is None else MOST_DEFLATED):
        raise _unfit(frame, f"{dataset.nbytes:,} bytes of {name!r} {dataset.shape}", f"{stored:,} of {size:,}", source)
    return dataset


def _unfit(frame: h5py.Group, expected: str, found: Any, source: Source) -> VectorFileError:
    return VectorFileError(f"{source.name}, frame {frame.name[1:]!r}: expected {expected}, found {found}.")
