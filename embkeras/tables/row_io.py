"""Tables in and out of TensorFlow variables and Keras' weight files in blocks of rows: never a second whole table.

A whole read of a variable that was ever read or written by rows copies it, and TensorFlow keeps the memory of the copy;
NumPy and Keras then copy once or twice more. A block costs 4 MB whatever the table's size.
"""

from collections.abc import Iterator
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from embkeras.keras_compat.variables import replicas
from embkeras.keras_compat.weight_files import hdf5_group

BLOCK = 1 << 20  # numbers moved at once; more is no faster, and TensorFlow keeps the memory of several
# What HDF5 stores as it is; bfloat16 needs a mark beside it, which is Keras' business.
_PLAIN_DTYPES = ("float16", "float32", "float64")


def fill_table(variable: keras.Variable, source: Any) -> None:
    """Write `source` into a table, block by block, on every replica.

    Args:
        variable: float table of shape (rows, width).
        source: array or HDF5 dataset of the same shape; it may lie on disk.
    """
    for start, stop in blocks(variable.shape):
        write_rows(variable, np.arange(start, stop), source[start:stop])


def write_rows(variable: keras.Variable, rows: np.ndarray, values: Any) -> None:
    """Write `values` into some rows of a variable, on every replica."""
    values = tf.cast(values, variable.dtype)
    for replica in replicas(variable):
        # `variable[a:b].assign` copies the whole variable, and a raw slice assignment takes 4 times as long.
        replica.scatter_update(tf.IndexedSlices(values, tf.convert_to_tensor(rows)))


def read_rows(variable: keras.Variable, rows: np.ndarray) -> np.ndarray:
    """Some rows of a variable; on several replicas those of the first."""
    return tf.nn.embedding_lookup(replicas(variable)[0], rows).numpy()


def row_blocks(variable: keras.Variable) -> Iterator[tuple[int, np.ndarray]]:
    """The table as (first row, rows) from top to bottom; on several replicas that of the first."""
    for start, stop in blocks(variable.shape):
        yield start, read_rows(variable, np.arange(start, stop))


def copy_of_table(variable: keras.Variable) -> np.ndarray:
    """A float32 copy, shape (rows, width): the only whole table that is made."""
    copy = np.empty(tuple(variable.shape), np.float32)
    for start, rows in row_blocks(variable):
        copy[start : start + len(rows)] = rows
    return copy


def table_of_calls(layer: keras.layers.Layer) -> np.ndarray:
    """A float32 table of what the layer gives for each id, shape (input_dim, output_dim)."""
    table = np.empty((layer.input_dim, layer.output_dim), np.float32)
    for start, stop in blocks(table.shape):
        table[start:stop] = keras.ops.convert_to_numpy(keras.ops.cast(layer(np.arange(start, stop)), "float32"))
    return table


def save_table(store: Any, key: str, variable: keras.Variable) -> bool:
    """Write a table as `store[key] = variable` does, the file being the same, but in blocks.

    Args:
        store: what Keras hands to `save_own_variables`.
        key: name of the variable in the store.
        variable: float table of shape (rows, width).

    Returns:
        False, and nothing is written, where the store takes whole arrays only: sharded files, which count what they
        are given, `.npz`, dictionaries; and for bfloat16.
    """
    group = hdf5_group(store)
    dtype = keras.backend.standardize_dtype(replicas(variable)[0].dtype)
    if group is None or hasattr(store, "max_shard_size") or dtype not in _PLAIN_DTYPES:
        return False
    dataset = group.create_dataset(key, tuple(variable.shape), dtype)
    for start, rows in row_blocks(variable):
        dataset[start : start + len(rows)] = rows
    return True


def load_table(store: Any, key: str, variable: keras.Variable) -> bool:
    """Read a table as `variable.assign(store[key])` does, but in blocks.

    Args:
        store: what Keras hands to `load_own_variables`.
        key: name of the variable in the store.
        variable: float table of shape (rows, width).

    Returns:
        False, and nothing is read, where the store is not an HDF5 file, or its dataset has another shape, is bfloat16,
        or lies outside the file; Keras then reads it, or refuses it with its own message.
    """
    group = hdf5_group(store)
    if group is None or not isinstance(group.get(key, getlink=True), h5py.HardLink):
        return False
    dataset = group[key]
    if not _is_plain(dataset) or dataset.shape != tuple(variable.shape):
        return False
    fill_table(variable, dataset)
    return True


def _is_plain(dataset: Any) -> bool:
    """Whether an HDF5 object is an array inside its own file. (Keras refuses links out of it, for safety.)"""
    return (
        isinstance(dataset, h5py.Dataset)
        and not dataset.external
        and not dataset.is_virtual
        and dataset.dtype.name in _PLAIN_DTYPES
    )


def blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The blocks of a table of this shape as (first row, row behind the last)."""
    rows, width = shape
    step = max(1, BLOCK // width)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
