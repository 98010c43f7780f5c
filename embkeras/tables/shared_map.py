"""MappedEmbedding: one trained matrix moves all rows alike, those of words that training never reads included.

    row of an id = B + B W + R        B (V, D): the vectors, which never train;  W (D, D) and R (V, D): zeros, trained

Fine-tuned word by word, the words of the training texts move away from those that mean the same and occur in none of them.
Here a word that never occurs is B + B W: it moves with the others. W reads the vectors as they were; a Dense layer after
a table that trains is no substitute, since what its input is changes in each step.

Adam moves each entry by about the learning rate in a step, so vectors with smaller entries are moved further:
`aligned.transformed(postprocess.rescale)` before `build_embedding`.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import row_slices
from embkeras.errors import ArgumentError
from embkeras.tables.embedding import check_built
from embkeras.tables.own_graph import call_in_own_graph
from embkeras.tables.partial_rows import RowEmbedding
from embkeras.tables.projection import scores_by
from embkeras.tables.resize import Resized
from embkeras.tables.row_io import BLOCK, read_rows

MAPS = ("map", "map+rows")  # values of `trainable` that make such a layer


@keras.saving.register_keras_serializable("embkeras")
class MappedEmbedding(RowEmbedding):
    """A table of frozen vectors B that returns B + B W + R; `build_embedding(trainable="map")` or "map+rows" makes one.

    Its variables are "embedding/map" (W) and, if any rows train by themselves, "embedding/rows" (R): schedules and
    `learning_rate_multipliers` take these addresses. A step costs what the rows of the batch cost, and a product of its
    distinct rows and W. `.matrix()` returns the folded table, which is all that an export contains. A word that
    `change_vocabulary` adds is B + B W at once. `assign_table` sets B, and W and R to zeros.

    Args:
        input_dim: V, the number of token ids.
        output_dim: D, the width of a row.
        trainable_rows: how many rows may train by themselves, as for `RowEmbedding`; 0 for "map".
        **kwargs: as for `RowEmbedding`.

    Input shape: integer ids of any shape. Output shape: the same with D at the end.
    """

    _map: Any
    _name_of_moving = "rows"

    def build(self, input_shape: Any = None) -> None:
        """Make the base, the map, and the table of the rows that train by themselves."""
        if self.built:
            return
        # Computed in float32 whatever the policy, like the rows.
        self._map = self.add_weight(
            shape=(self.output_dim, self.output_dim), initializer="zeros", dtype="float32", name="map", autocast=False
        )
        super().build(input_shape)

    @property
    def map_matrix(self) -> np.ndarray:
        """A copy of W, float32 of shape (output_dim, output_dim)."""
        check_built(self)
        return np.array(keras.ops.convert_to_numpy(self._map))

    @property
    def takes_rows(self) -> bool:
        """Further rows can join at any time."""
        return True

    def _join(self, ids: np.ndarray, places: np.ndarray) -> None:
        """Nothing to write: places that no row had before are zeros."""

    def _starts_from(self, rows: np.ndarray) -> np.ndarray:
        return np.zeros_like(rows)

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        distinct, places = tf.unique(tf.reshape(ids, (-1,)))
        rows = _mapped(
            self._base.lookup(distinct), tf.convert_to_tensor(self._map.value), tf.reshape(places, tf.shape(ids))
        )
        if self._moving is None:
            return rows
        places = tf.nn.embedding_lookup(self._places.value, ids)
        moving = tf.nn.embedding_lookup(self._moving.value, places)
        return rows + tf.where((places < self.trainable_rows)[..., None], moving, tf.zeros_like(moving))

    def scores_of_all(self, vectors: tf.Tensor) -> tf.Tensor:
        """The product with every row, without a table of them: W is applied to the vectors."""
        self._warn_if_empty()
        vectors = tf.cast(vectors, "float32")
        mapped = vectors + tf.matmul(vectors, tf.convert_to_tensor(self._map.value), transpose_b=True)
        scores = self._base.scores(mapped)
        if self._moving is None:
            return scores
        rows = tf.nn.embedding_lookup(self._moving.value, tf.range(self.trainable_rows + 1))  # a gradient by rows
        places = tf.convert_to_tensor(self._places.value)
        own = tf.gather(scores_by(vectors, rows), places, axis=-1)
        return scores + tf.where(places < self.trainable_rows, own, tf.zeros_like(own))

    def matrix(self) -> np.ndarray:
        """A float32 copy of the folded table B + B W + R, shape (input_dim, output_dim)."""
        check_built(self)
        self._warn_if_empty()
        both = self.map_matrix + np.eye(self.output_dim, dtype=np.float32)
        table, places = np.empty(self._base.shape, np.float32), self._places_by_id()
        for part in row_slices(table.shape, BLOCK):
            block, own = table[part], places[part]
            np.matmul(self._base[part], both, out=block)
            moving = own >= 0
            if moving.all():
                block += read_rows(self._moving, own)
            elif moving.any():
                block[moving] += read_rows(self._moving, own[moving])
        return table

    def _fill(self, matrix: np.ndarray) -> None:
        self._map.assign(np.zeros((self.output_dim, self.output_dim), np.float32))
        super()._fill(matrix)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the map moves all rows already, and R each of them."""
        raise ArgumentError(
            f"enable_lora takes a plain table (build_embedding(trainable=True)), but layer {self.name!r} has a shared map."
        )

    def _kept_by_quantize(self) -> tuple[str, ...]:
        return ("_map", *super()._kept_by_quantize())

    def resized(
        self, sources: np.ndarray, values: Any = None, *, trains: np.ndarray | None = None, room: int = 0
    ) -> Resized:
        """A layer like this one with other rows; where every row trains by itself, new ones do too, from B + B W."""
        if self.trainable_mask.sum() == self.input_dim - (self.padding_id is not None):
            trains = sources < 0
        elif not self.trainable_rows:
            trains = None
        resized = super().resized(sources, values, trains=trains, room=room)
        fresh: Any = resized.layer
        fresh._map.assign(self._map)
        return Resized(fresh, [*resized.moves, (self._map, fresh._map, np.arange(self.output_dim))])

    def _stored(self) -> dict[str, keras.Variable]:
        return {**super()._stored(), **({"map": self._map} if self.built else {})}


def _mapped(rows: tf.Tensor, kernel: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Row `places[...]` of rows + rows @ kernel; the gradient of the kernel sums the occurrences of each row first."""
    mapped = call_in_own_graph(_with_summed_gradient, rows, kernel, places)
    mapped.set_shape([*places.shape, rows.shape[-1]])
    return mapped


def _with_summed_gradient(rows: tf.Tensor, kernel: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient
    def mapped(kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(upstream, (-1, tf.shape(rows)[-1]))
            summed = tf.math.unsorted_segment_sum(flat, tf.reshape(places, (-1,)), tf.shape(rows)[0])
            return tf.matmul(rows, summed, transpose_a=True)

        return tf.gather(rows + tf.matmul(rows, kernel), places), gradient

    return mapped(kernel)
