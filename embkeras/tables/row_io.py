"""Tables read from and written to variables and Keras' weight files in blocks, so that none is in memory twice.

Reading a whole variable that was ever read or written by rows copies it, and TensorFlow keeps the memory of the copy;
NumPy and Keras then copy once or twice more. A block costs 4 MB whatever the size of the table.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from embkeras._arrays import row_slices
from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import hdf5_group, replicas

BLOCK = 1 << 20  # numbers per block; more is no faster, and TensorFlow keeps the memory of several
# What HDF5 stores unchanged; Keras marks bfloat16 with an attribute of its own.
_PLAIN_DTYPES = ("float16", "float32", "float64")


def write_rows(variable: keras.Variable, rows: np.ndarray | slice, values: Any) -> None:
    """Write `values` into some rows of a variable, on every replica."""
    values = tf.cast(values, variable.dtype)
    for replica in replicas(variable):
        # `variable[a:b].assign` copies the whole variable, and a raw slice assignment takes 4 times as long.
        replica.scatter_update(tf.IndexedSlices(values, tf.convert_to_tensor(_numbers(rows))))


def read_rows(variable: keras.Variable, rows: np.ndarray | slice) -> np.ndarray:
    """Some rows of a variable; on several replicas those of the first."""
    return tf.nn.embedding_lookup(replicas(variable)[0], _numbers(rows)).numpy()


def _numbers(rows: np.ndarray | slice) -> np.ndarray:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


def fill_table(variable: keras.Variable, source: Any) -> None:
    """Write `source`, an array or HDF5 dataset of the same shape, into a table block by block, on every replica."""
    for part in row_slices(variable.shape, BLOCK):
        write_rows(variable, part, source[part])


def row_blocks(variable: keras.Variable) -> Iterator[tuple[slice, np.ndarray]]:
    """The table as (which rows, their values) from top to bottom; on several replicas that of the first."""
    for part in row_slices(variable.shape, BLOCK):
        yield part, read_rows(variable, part)


def copy_of_table(variable: keras.Variable) -> np.ndarray:
    """A float32 copy, shape (rows, width)."""
    return table_from(variable.shape, lambda part: read_rows(variable, part))


def table_of_calls(layer: keras.layers.Layer) -> np.ndarray:
    """A float32 table of what the layer returns for each id, shape (input_dim, output_dim)."""
    return table_from((layer.input_dim, layer.output_dim), lambda part: ops.cast(layer(_numbers(part)), "float32"))


def table_from(shape: tuple[int, int], read: Callable[[slice], Any]) -> np.ndarray:
    """A float32 table of the blocks of rows that `read` returns; no other whole table is made."""
    table = np.empty(shape, np.float32)
    for part in row_slices(shape, BLOCK):
        table[part] = ops.convert_to_numpy(read(part))
    return table


def copy_rows(
    before: keras.Variable, after: keras.Variable, sources: np.ndarray, values: np.ndarray | None = None
) -> None:
    """Write row `sources[i]` of `before` into row i of `after`; for -1 `values[i]`, or nothing if there are no values."""
    for part in row_slices((len(sources), math.prod(after.shape[1:])), BLOCK):
        rows = np.arange(part.start, part.stop)
        known = rows[sources[part] >= 0]
        write_rows(after, known, read_rows(before, sources[known]))
        new = rows[sources[part] < 0]
        if values is not None and len(new):
            write_rows(after, new, values[new])


def save_variable(store: Any, key: str, variable: keras.Variable) -> None:
    """Do `store[key] = variable`, but with a float table in blocks if the store allows it; the file is the same.

    `store` is what Keras passes to `save_own_variables`. Sharded files, which count the bytes that they are given, `.npz`
    and dictionaries take whole arrays only; a bfloat16 table is written as a whole too.
    """
    group = hdf5_group(store)
    dtype = keras.backend.standardize_dtype(replicas(variable)[0].dtype)
    plain = len(variable.shape) == 2 and dtype in _PLAIN_DTYPES
    if group is None or hasattr(store, "max_shard_size") or not plain:
        store[key] = ops.convert_to_numpy(variable)
        return
    dataset = group.create_dataset(key, tuple(variable.shape), dtype)
    for part, rows in row_blocks(variable):
        dataset[part] = rows


def load_variable(store: Any, key: str, variable: keras.Variable) -> None:
    """Do `variable.assign(store[key])`, but with a float table in blocks if the store allows it.

    `store` is what Keras passes to `load_own_variables`. Keras itself reads, or refuses with its own message, what is not
    in an HDF5 file, has another shape or is bfloat16.

    Raises:
        ArgumentError: the values are in another file. (Keras refuses such a file from 3.13 on.)
    """
    group = hdf5_group(store)
    if group is not None and not is_inside(group, key):
        raise ArgumentError(
            f"The weights file says that the values of {variable.path!r} are in another file (an external link, external "
            f"storage or a virtual data set). Such a file could read any file of yours: save the model's weights again."
        )
    if group is not None and is_plain_table(group, key) and group[key].shape == tuple(variable.shape):
        fill_table(variable, group[key])
    else:
        variable.assign(store[key])


def is_inside(group: h5py.Group, key: str) -> bool:
    """Whether the values of this name, if there are any, are in the group's own file."""
    if key not in group and group.get(key, getlink=True) is None:
        return True
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        return False
    dataset = group[key]
    return not (isinstance(dataset, h5py.Dataset) and (dataset.external or dataset.is_virtual))


def is_plain_table(group: h5py.Group, key: str) -> bool:
    """Whether an HDF5 group has a float table of this name inside its own file."""
    if not is_inside(group, key) or key not in group:
        return False
    dataset = group[key]
    return isinstance(dataset, h5py.Dataset) and dataset.ndim == 2 and dataset.dtype.name in _PLAIN_DTYPES
