"""RowEmbedding: an embedding table of which only chosen rows may move.

One table whose gradient is masked would not do: weight decay and moments move masked rows too, and each step costs the
whole table. So the table is split: a base that never trains, a small table of the rows that do, and a map from id to
row of the small table. The map is a variable, since a constant would be written into every graph.

Private name used here: `_embeddings`, the variable of the stock layer, which holds the base.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.layers.embedding import PretrainedEmbedding
from embkeras.layers.table_io import load_table, save_table


@keras.saving.register_keras_serializable("embkeras")
class RowEmbedding(PretrainedEmbedding):
    """A table of which only some rows train; `build_embedding(aligned, trainable="oov")` makes one.

    The other rows stay bit-identical under every optimizer, weight decay and regularizers included, and optimizer slots
    and steps cost what the training rows cost. Schedules freeze and thaw it like any layer, and `.matrix()` gives the
    whole table.

    Args:
        input_dim: V, the number of token ids.
        output_dim: D, the width of a row.
        trainable_rows: R, how many rows train. Which ones is set by `choose_rows` and saved with the weights.
        mask_zero: id 0 is padding: masked for the layers that follow.
        **kwargs: as for `PretrainedEmbedding`; a regularizer or constraint applies to the rows that train.

    Input shape: integer ids of any shape. Output shape: the same with D behind.
    """

    def __init__(self, input_dim: int, output_dim: int, trainable_rows: int, mask_zero: bool = True, **kwargs: Any):
        number = isinstance(trainable_rows, int | np.integer) and not isinstance(trainable_rows, bool)
        if not number or not 0 < trainable_rows <= input_dim:
            raise ArgumentError(
                f"trainable_rows must be an integer from 1 to input_dim={input_dim}. Received: {trainable_rows!r}."
            )
        for name in ("lora_rank", "quantization_config"):
            if kwargs.get(name) is not None:
                raise ArgumentError(f"A layer of which only some rows train takes no {name}.")
        super().__init__(input_dim, output_dim, mask_zero=mask_zero, **kwargs)
        self.trainable_rows = int(trainable_rows)

    def build(self, input_shape: Any = None) -> None:
        """Make the base, the table of the rows that train, and the map."""
        if self.built:
            return
        shape = (self.input_dim, self.output_dim)
        self._embeddings = self.add_weight(shape=shape, initializer="zeros", name="base", trainable=False)
        # The row behind the last belongs to all ids that do not train: its gradient and its value are always zero.
        # The name is what optimizers know tables by.
        self._moving = self.add_weight(
            shape=(self.trainable_rows + 1, self.output_dim),
            initializer="zeros",
            name="embeddings",
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )
        self._places = self.add_weight(
            shape=(self.input_dim,),
            initializer=keras.initializers.Constant(self.trainable_rows),
            dtype="int32",
            name="places",
            trainable=False,
        )
        self._embeddings.row_reads = self._moving.row_reads = True
        self.built = True

    def choose_rows(self, mask: np.ndarray) -> None:
        """Say which rows train, before the table is filled.

        Args:
            mask: bool, shape (input_dim,), true for exactly `trainable_rows` ids.

        Raises:
            ArgumentError: the layer is not built, or a mask of another kind, shape or number.
        """
        self._check_built()
        mask = check_mask(mask, self.input_dim)
        if mask.sum() != self.trainable_rows:
            raise ArgumentError(
                f"Layer {self.name!r} has room for {self.trainable_rows} rows that train. Received: a mask of {mask.sum()}."
            )
        places = np.full(self.input_dim, self.trainable_rows, np.int32)
        places[mask] = np.arange(self.trainable_rows)
        self._places.assign(places)

    @property
    def trainable_mask(self) -> np.ndarray:
        """Which rows train while the layer does: bool, shape (input_dim,)."""
        self._check_built()
        return keras.ops.convert_to_numpy(self._places) < self.trainable_rows

    @property
    def embeddings(self) -> tf.Tensor:
        """The whole table as a tensor; made anew each time it is asked for."""
        self._check_built()
        ids = tf.where(self._places.value < self.trainable_rows)
        rows = tf.nn.embedding_lookup(self._moving.value, tf.gather(self._places.value, ids[:, 0]))
        return tf.tensor_scatter_nd_update(self._embeddings.value, ids, rows)

    def call(self, inputs: Any) -> Any:
        """The rows of `inputs`, in the layer's compute dtype."""
        self._warn_of_empty_table()
        ids = self._as_ids(inputs)
        places = tf.nn.embedding_lookup(self._places.value, ids)
        still = tf.nn.embedding_lookup(self._embeddings.value, ids)
        moving = tf.nn.embedding_lookup(self._moving.value, places)
        rows = tf.where((places < self.trainable_rows)[..., None], moving, still)
        return keras.ops.cast(rows, self.compute_dtype)

    def assign_table(self, matrix: np.ndarray) -> None:
        """Write `matrix` (input_dim, output_dim) into the base and the rows that train.

        Raises:
            ArgumentError: as for `PretrainedEmbedding`.
        """
        super().assign_table(matrix)
        ids, places = self._chosen()
        rows = np.zeros(tuple(self._moving.shape), np.float32)
        rows[places] = matrix[ids]
        self._moving.assign(rows)

    def matrix(self) -> np.ndarray:
        """A float32 copy of the table, shape (input_dim, output_dim): the base with the rows that train in it.

        Raises:
            ArgumentError: the layer is not built.
        """
        table = super().matrix()
        ids, places = self._chosen()
        table[ids] = keras.ops.convert_to_numpy(self._moving)[places]
        return table

    def _chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids that train, and the place of each in the small table."""
        places = keras.ops.convert_to_numpy(self._places)
        ids = np.flatnonzero(places < self.trainable_rows)
        return ids, places[ids]

    def save_own_variables(self, store: Any) -> None:
        """Write base, moving rows and map, tables in blocks where the store lets us."""
        self._warn_of_empty_table()
        for key, variable in self._stored():
            if variable is self._places or not save_table(store, key, variable):
                store[key] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote."""
        stored = self._stored()
        if set(store.keys()) != {key for key, _ in stored}:
            raise ArgumentError(
                f"The weights for layer {self.name!r} are not those of a table of which only some rows train. "
                f"Received: {len(store.keys())} variables, not {len(stored)}."
            )
        for key, variable in stored:
            if variable is self._places or not load_table(store, key, variable):
                variable.assign(store[key])

    def _stored(self) -> list[tuple[str, keras.Variable]]:
        return list(zip("012", (self._embeddings, self._moving, self._places), strict=True)) if self.built else []

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: LoRA moves every row."""
        raise ArgumentError(f"enable_lora would move every row, and of layer {self.name!r} only some may move.")

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a quantized table cannot train."""
        raise ArgumentError(f"Layer {self.name!r} has rows that train, and a quantized table cannot.")

    def get_config(self) -> dict[str, Any]:
        """The settings, without the tables and without the map: both are weights."""
        return {**super().get_config(), "trainable_rows": self.trainable_rows}


def check_mask(mask: Any, rows: int) -> np.ndarray:
    """A mask of rows as an array.

    Raises:
        ArgumentError: not bool, or not of the shape (rows,).
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (rows,):
        raise ArgumentError(
            f"A mask of rows must be bool of the shape ({rows},). Received: {mask.dtype} of the shape {mask.shape}."
        )
    return mask
