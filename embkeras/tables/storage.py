"""How tables are stored: as float32, float16 (half the bytes) or int8 (a quarter), and a table that never trains.

int8 divides each row by a scale of its own, its largest absolute value / 127 (row-wise absmax quantization, as in Dettmers
et al. 2022, LLM.int8()).
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import row_slices, unit_rows
from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import read_by_rows
from embkeras.tables.projection import scores_by
from embkeras.tables.row_io import BLOCK, copy_rows, read_rows, write_rows


@dataclass(frozen=True)
class Storage:
    """One way to store a table.

    Attributes:
        dtype: dtype of the stored numbers, and its key in `STORAGE`.
        tolerance: how much the scores of a model may change, relative to the largest score or 1.
        scaled: whether each row has a float32 scale that its numbers are multiplied by.
    """

    dtype: str
    tolerance: float
    scaled: bool = False

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of this width, its scale included."""
        return width * np.dtype(self.dtype).itemsize + 4 * self.scaled

    def encode(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows as they are stored, shape (rows, width), and their scales, shape (rows,), or None.

        Raises:
            ArgumentError: a number that the dtype can't hold.
        """
        if self.scaled:
            scales = np.abs(rows).max(axis=1, initial=0).astype(np.float32) / np.iinfo(self.dtype).max
            scales[scales == 0] = 1
            return np.rint(rows / scales[:, None]).astype(self.dtype), scales
        limit, largest = np.finfo(self.dtype).max, np.abs(rows).max(initial=0)
        if largest > limit:
            raise ArgumentError(f"{self.dtype} holds numbers up to {limit:g}. Received: {largest:g}. Store it as int8.")
        return rows.astype(self.dtype), None

    @staticmethod
    def decode(values: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """What `encode` returned, as float32 rows."""
        rows = values.astype(np.float32)
        return rows if scales is None else rows * scales[:, None]


# The single registry of ways to store a table: layers, export and check look here.
STORAGE = {each.dtype: each for each in (Storage("float32", 0.0), Storage("float16", 1e-2), Storage("int8", 0.1, True))}


@dataclass(frozen=True)
class StoredAccuracy:
    """How close the rows that a layer returns are to those that it was filled with; rows of zeros don't count.

    Attributes:
        smallest_cosine: of the row that changed most.
        mean_cosine: mean over the rows.
    """

    smallest_cosine: float
    mean_cosine: float

    def __str__(self) -> str:
        return f"cosine to the given rows: {self.smallest_cosine:.6f} at least, {self.mean_cosine:.6f} on average"


def stored_accuracy(given: np.ndarray, kept: np.ndarray) -> StoredAccuracy:
    """The cosine between each row of two tables of the same shape (rows, width)."""
    cosines = [np.ones(0, np.float32)]
    for part in row_slices(given.shape):
        first, second = unit_rows(given[part]), unit_rows(kept[part])
        cosines.append(np.einsum("ij,ij->i", first, second)[first.any(axis=1)])
    every = np.concatenate(cosines)
    if not len(every):
        return StoredAccuracy(1.0, 1.0)
    return StoredAccuracy(float(every.min()), float(every.mean(dtype=np.float64)))


def lookup_stored(ids: tf.Tensor, values: Any, scales: Any = None) -> tf.Tensor:
    """The rows of `ids` in a graph, decoded: float32 if they have scales, otherwise in the dtype of `values`."""
    rows = tf.nn.embedding_lookup(values, ids)
    return rows if scales is None else tf.cast(rows, "float32") * tf.nn.embedding_lookup(scales, ids)[..., None]


def scores_stored(vectors: tf.Tensor, values: Any, scales: Any = None) -> tf.Tensor:
    """The products of vectors (..., width) and every row of a stored table: float32 if they have scales."""
    values = tf.convert_to_tensor(values)
    if scales is None:
        return scores_by(vectors, tf.cast(values, vectors.dtype))
    return scores_by(tf.cast(vectors, "float32"), tf.cast(values, "float32")) * scales


class BaseTable:
    """A table that never trains, stored in any of the ways above; the layer that is being built owns its variables."""

    def __init__(self, layer: keras.layers.Layer, stored: str):
        self.storage = STORAGE[stored]
        self.shape = layer.input_dim, layer.output_dim
        settings = {"trainable": False, "initializer": "zeros", "autocast": False}
        self.values = layer.add_weight(shape=self.shape, dtype=stored, name="base", **settings)
        read_by_rows(self.values)
        self.scales = None
        if self.storage.scaled:
            self.scales = layer.add_weight(shape=self.shape[:1], dtype="float32", name="scales", **settings)

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """The rows of `ids` in a graph, float32."""
        scales = None if self.scales is None else self.scales.value
        return tf.cast(lookup_stored(ids, self.values.value, scales), "float32")

    def scores(self, vectors: tf.Tensor) -> tf.Tensor:
        """The products of vectors and every row in a graph."""
        return scores_stored(vectors, self.values.value, None if self.scales is None else self.scales.value)

    def __getitem__(self, ids: np.ndarray | slice) -> np.ndarray:
        """Some rows, float32."""
        scales = None if self.scales is None else read_rows(self.scales, ids)
        return Storage.decode(read_rows(self.values, ids), scales)

    def fill(self, source: Any, zero_id: int | None = None) -> None:
        """Store the rows of `source`, an array or another BaseTable of the same shape; zeros for `zero_id`.

        Raises:
            ArgumentError: a number that the dtype can't hold.
        """
        for part in row_slices(self.shape, BLOCK):
            rows = np.array(source[part], np.float32)
            if zero_id is not None and part.start <= zero_id < part.stop:
                rows[zero_id - part.start] = 0
            self._write(part, rows)

    def take(self, other: "BaseTable", sources: np.ndarray, values: Any) -> None:
        """Fill row i with row `sources[i]` of a table that is stored the same way, bit by bit, or for -1 with `values[i]`."""
        copy_rows(other.values, self.values, sources)
        if self.scales is not None:
            copy_rows(other.scales, self.scales, sources)
        new = np.flatnonzero(sources < 0)
        for part in row_slices((len(new), self.shape[1]), BLOCK):
            self._write(new[part], np.asarray(values[new[part]], np.float32))

    def _write(self, ids: np.ndarray | slice, rows: np.ndarray) -> None:
        values, scales = self.storage.encode(rows)
        write_rows(self.values, ids, values)
        if self.scales is not None:
            write_rows(self.scales, ids, scales)
