"""BaseTable: a table that never trains, stored in fewer bytes where that is asked for, rows shared by several ids.

float16 halves a table. int8 quarters it: a row is divided by a scale of its own, its largest absolute value / 127
(row-wise absmax quantization, as in Dettmers et al. 2022, LLM.int8()).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import BLOCK, unit_rows
from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import read_by_rows
from embkeras.tables.row_io import blocks, read_rows, write_rows

STORED = ("float32", "float16", "int8")
_LARGEST = 127


@dataclass(frozen=True)
class StoredAccuracy:
    """How near the rows that a layer gives are to those that it was filled with; rows of zeros are left out.

    Attributes:
        smallest_cosine: that of the row that suffered most.
        mean_cosine: mean over the rows.
    """

    smallest_cosine: float
    mean_cosine: float

    def __str__(self) -> str:
        return f"cosine to the given rows: {self.smallest_cosine:.6f} at least, {self.mean_cosine:.6f} on average"


class BaseTable:
    """The variables of such a table; they belong to the layer that it is made for.

    Args:
        layer: the layer, which is being built.
        rows: B, rows that are stored; fewer than ids where some share one.
        stored: "float32", "float16" or "int8".
    """

    def __init__(self, layer: keras.layers.Layer, rows: int, stored: str):
        self.rows, self.stored = rows, stored
        self.ids, self.width = layer.input_dim, layer.output_dim
        self.givers: np.ndarray | None = np.arange(rows) if rows == self.ids else None
        settings = {"trainable": False, "initializer": "zeros", "autocast": False}
        self.values = layer.add_weight(shape=(rows, self.width), dtype=stored, name="base", **settings)
        read_by_rows(self.values)
        self.scales = self.places = None
        if stored == "int8":
            self.scales = layer.add_weight(shape=(rows,), dtype="float32", name="scales", **settings)
        if rows < self.ids:
            self.places = layer.add_weight(shape=(self.ids,), dtype="int32", name="shared", **settings)

    def variables(self) -> Iterator[keras.Variable]:
        """Those that there are."""
        return (each for each in (self.values, self.scales, self.places) if each is not None)

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """The rows of `ids` in a graph, float32."""
        if self.places is not None:
            ids = tf.nn.embedding_lookup(self.places.value, ids)
        rows = tf.cast(tf.nn.embedding_lookup(self.values.value, ids), "float32")
        return rows if self.scales is None else rows * tf.nn.embedding_lookup(self.scales.value, ids)[..., None]

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The same, as NumPy."""
        return self._stored_rows(self.places_of(ids))

    def _stored_rows(self, places: np.ndarray) -> np.ndarray:
        rows = read_rows(self.values, places).astype(np.float32)
        return rows if self.scales is None else rows * read_rows(self.scales, places)[:, None]

    def places_of(self, ids: np.ndarray) -> np.ndarray:
        """The row that is stored for each id."""
        return ids if self.places is None else read_rows(self.places, ids)

    def share(self, places: np.ndarray, givers: np.ndarray) -> None:
        """Say which row each id has, shape (ids,), and which id gives each row when the table is filled, shape (rows,).

        Raises:
            ArgumentError: no rows are shared, another shape, or a row that its giver does not have.
        """
        places, givers = np.asarray(places), np.asarray(givers)
        if self.places is None or places.shape != (self.ids,) or givers.shape != (self.rows,):
            raise ArgumentError(
                f"Rows are shared by {self.rows} < {self.ids} rows: one place for each of {self.ids} ids and one id for "
                f"each row. Received: shapes {places.shape} and {givers.shape}."
            )
        inside = places.min() >= 0 and places.max() < self.rows and givers.min() >= 0 and givers.max() < self.ids
        if not inside or not np.array_equal(places[givers], np.arange(self.rows)):
            raise ArgumentError("Every shared row belongs to the id that gives it. Received: others.")
        self.places.assign(places.astype(np.int32))
        self.givers = givers

    def fill(self, matrix: np.ndarray, zero_id: int | None) -> None:
        """Store the rows that `matrix`, shape (ids, width), has for their givers; the row of `zero_id` as zeros.

        Raises:
            ArgumentError: after loading a table with shared rows, which does not say who gives them; a number that
                float16 cannot hold.
        """
        if self.givers is None:
            raise ArgumentError(
                "A table with shared rows can be filled after share_rows has said which. It was not said."
            )
        for start, stop in blocks((self.rows, self.width)):
            rows = np.array(matrix[self.givers[start:stop]], np.float32)
            rows[self.givers[start:stop] == zero_id] = 0
            self._write(np.arange(start, stop), rows)

    def copy(self, other: "BaseTable") -> None:
        """Take over the rows of a table of the same ids and rows, which may be stored otherwise."""
        for start, stop in blocks((self.rows, self.width)):
            self._write(np.arange(start, stop), other._stored_rows(np.arange(start, stop)))
        if self.places is not None:
            self.places.assign(other.places)
        self.givers = other.givers

    def take(self, other: "BaseTable", sources: np.ndarray, values: np.ndarray | None, ids: np.ndarray) -> None:
        """Fill row i with what `other` stores for the id `sources[i]`, bit by bit, or with `values[ids[i]]` for -1."""
        for start, stop in blocks((self.rows, self.width)):
            part, rows = sources[start:stop], np.arange(start, stop)
            known, new = rows[part >= 0], rows[part < 0]
            places = other.places_of(part[part >= 0])
            write_rows(self.values, known, read_rows(other.values, places))
            if self.scales is not None:
                write_rows(self.scales, known, read_rows(other.scales, places))
            if len(new):
                self._write(new, np.asarray(values[ids[new]], np.float32))

    def _write(self, places: np.ndarray, rows: np.ndarray) -> None:
        values, scales = encode(rows, self.stored)
        write_rows(self.values, places, values)
        if self.scales is not None:
            write_rows(self.scales, places, scales)


def encode(rows: np.ndarray, stored: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows as they are stored, and for int8 their scales, shape (rows,).

    Raises:
        ArgumentError: a number that float16 cannot hold.
    """
    if stored == "int8":
        scales = np.abs(rows).max(axis=1, initial=0).astype(np.float32) / _LARGEST
        scales[scales == 0] = 1
        return np.rint(rows / scales[:, None]).astype(np.int8), scales
    if stored == "float16" and np.abs(rows).max(initial=0) > np.finfo(np.float16).max:
        raise ArgumentError(f'float16 holds numbers up to 65504. Received: {np.abs(rows).max()} (try stored="int8").')
    return rows.astype(stored), None


def stored_accuracy(given: np.ndarray, kept: np.ndarray) -> StoredAccuracy:
    """Cosines between two tables of the shape (rows, width), row by row."""
    cosines = []
    step = max(1, BLOCK // given.shape[1])
    for start in range(0, len(given), step):
        first, second = (unit_rows(table[start : start + step]) for table in (given, kept))
        cosines.append(np.einsum("ij,ij->i", first, second)[first.any(axis=1)])
    every = np.concatenate(cosines)
    return (
        StoredAccuracy(float(every.min()), float(every.mean(dtype=np.float64))) if len(every) else StoredAccuracy(1, 1)
    )


def check_stored(stored: str) -> str:
    """The name of a way of storing.

    Raises:
        ArgumentError: there is no such way.
    """
    if stored not in STORED:
        raise ArgumentError(f"stored must be one of {', '.join(STORED)}. Received: {stored!r}.")
    return stored
