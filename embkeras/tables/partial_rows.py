"""RowEmbedding: a base that never trains, a small table of the rows that do, and a map from id to row of it.

One table whose gradient is masked would not do: weight decay and moments move masked rows too, and each step costs the
whole table. So the table is split. The map is a variable, since a constant would be written into every graph.

Private name used here: `_embeddings`, the variable of the stock layer, which holds the base.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import read_by_rows
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.row_io import blocks, load_table, read_rows, save_table, write_rows
from embkeras.tables.storage import BaseTable, StoredAccuracy, check_stored, stored_accuracy
from embkeras.tables.takeover import fresh_like, take_over


@keras.saving.register_keras_serializable("embkeras")
class RowEmbedding(PretrainedEmbedding):
    """A table of which some rows train or none, and which may be stored small; `build_embedding` makes one.

    Rows that do not train stay bit-identical under every optimizer, weight decay and regularizers included, and
    optimizer slots and steps cost what the training rows cost. Schedules freeze and thaw it like any layer, and
    `.matrix()` gives the whole table.

    Args:
        input_dim: V, the number of token ids.
        output_dim: D, the width of a row.
        trainable_rows: R, room for this many rows that train. Which ones is set by `choose_rows` and `train_rows`, and
            saved with the weights.
        stored: how the base is stored: "float32", "float16", or "int8" with one float32 scale a row.
        stored_rows: B, the rows of the base, if ids share some; `share_rows` says which. By default V.
        mask_zero: id 0 is padding: masked for the layers that follow.
        **kwargs: as for `PretrainedEmbedding`; a regularizer or constraint applies to the rows that train.

    Attributes:
        accuracy: a `StoredAccuracy` of the table that the layer was filled with last, or None.

    Input shape: integer ids of any shape. Output shape: the same with D behind.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        trainable_rows: int = 0,
        stored: str = "float32",
        stored_rows: int | None = None,
        mask_zero: bool = True,
        **kwargs: Any,
    ):
        for name in ("lora_rank", "quantization_config"):
            if kwargs.get(name) is not None:
                raise ArgumentError(f"A layer of which only some rows train takes no {name}.")
        super().__init__(input_dim, output_dim, mask_zero=mask_zero, **kwargs)
        self.trainable_rows = _count(trainable_rows, "trainable_rows", 0, input_dim)
        self.stored_rows = _count(input_dim if stored_rows is None else stored_rows, "stored_rows", 1, input_dim)
        self.stored = check_stored(stored)
        self.accuracy: StoredAccuracy | None = None

    def build(self, input_shape: Any = None) -> None:
        """Make the base, the table of the rows that train, and the maps, as far as there are any."""
        if self.built:
            return
        self._base = BaseTable(self, self.stored_rows, self.stored)
        self._embeddings = self._base.values
        self._moving = self._places = None
        if self.trainable_rows:
            # The row behind the last belongs to all ids that do not train: its gradient and its value are always zero.
            # The name is what optimizers know tables by.
            self._moving = self.add_weight(
                shape=(self.trainable_rows + 1, self.output_dim),
                initializer="zeros",
                dtype="float32",
                name="embeddings",
                regularizer=self.embeddings_regularizer,
                constraint=self.embeddings_constraint,
            )
            read_by_rows(self._moving)
            self._places = self.add_weight(
                shape=(self.input_dim,),
                initializer=keras.initializers.Constant(self.trainable_rows),
                dtype="int32",
                name="places",
                trainable=False,
            )
        self.built = True

    # Which rows ------------------------------------------------------------------------------------------------------

    def choose_rows(self, mask: np.ndarray) -> None:
        """Say which rows train, once; `train_rows` adds others.

        Args:
            mask: bool, shape (input_dim,), true for at most `trainable_rows` ids, and not for the padding.

        Raises:
            ArgumentError: the layer is not built, rows train already, or a mask of another kind or shape, of too many
                rows or the padding.
        """
        chosen = int(self.trainable_mask.sum())
        if chosen:
            raise ArgumentError(
                f"choose_rows is said once; train_rows adds rows. Of layer {self.name!r} {chosen} rows train already."
            )
        self.train_rows(mask)

    def train_rows(self, mask: np.ndarray) -> int:
        """Let further rows train, from where they stand; those that train already go on.

        Of an optimizer that is built, the slots of these rows are not looked at: `unfreeze_rows` does that too.

        Args:
            mask: bool, shape (input_dim,). With those that train already they must find room in `trainable_rows`.

        Returns:
            How many rows were added.

        Raises:
            ArgumentError: as for `choose_rows`.
        """
        self._check_built()
        before = self.trainable_mask
        new = np.flatnonzero(self._check_mask(check_mask(mask, self.input_dim) | before) & ~before)
        places = before.sum() + np.arange(len(new))
        if len(new):
            write_rows(self._moving, places, self._base.read(new))
            write_rows(self._places, new, places.astype(np.int32))
        return len(new)

    def share_rows(self, row_of: np.ndarray, kept: np.ndarray) -> None:
        """Say which row of the base each id has, before the table is filled.

        Args:
            row_of: integers, shape (input_dim,), in [0, stored_rows).
            kept: the id that gives each row, shape (stored_rows,).

        Raises:
            ArgumentError: the layer is not built or shares no rows, or arrays that do not fit it or each other.
        """
        self._check_built()
        self._base.share(row_of, kept)

    @property
    def trainable_mask(self) -> np.ndarray:
        """Which rows train while the layer does: bool, shape (input_dim,)."""
        self._check_built()
        if self._places is None:
            return np.zeros(self.input_dim, bool)
        return keras.ops.convert_to_numpy(self._places) < self.trainable_rows

    def _check_mask(self, mask: Any) -> np.ndarray:
        mask = check_mask(mask, self.input_dim)
        if mask.sum() > self.trainable_rows:
            raise ArgumentError(
                f"Layer {self.name!r} has room for {self.trainable_rows} rows that train. Received: a mask of {mask.sum()}."
            )
        if self.padding_id is not None and mask[self.padding_id]:
            raise ArgumentError(f"The padding row (id {self.padding_id}) never trains. Received: a mask that names it.")
        return mask

    # Rows out and in -------------------------------------------------------------------------------------------------

    @property
    def embeddings(self) -> tf.Tensor:
        """The whole table as a tensor, through which the rows that train learn; made anew each time it is asked for."""
        self._check_built()
        return self._rows(tf.range(self.input_dim))

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        rows = self._base.lookup(ids)
        if self._moving is None:
            return rows
        places = tf.nn.embedding_lookup(self._places.value, ids)
        moving = tf.nn.embedding_lookup(self._moving.value, places)
        return tf.where((places < self.trainable_rows)[..., None], moving, rows)

    def matrix(self) -> np.ndarray:
        """A float32 copy of the table, shape (input_dim, output_dim): the base with the rows that train in it.

        Raises:
            ArgumentError: the layer is not built.
        """
        self._check_built()
        self._warn_of_empty_table()
        table = np.empty((self.input_dim, self.output_dim), np.float32)
        for start, stop in blocks(table.shape):
            table[start:stop] = self._base.read(np.arange(start, stop))
        ids, places = self._chosen()
        if len(ids):
            table[ids] = read_rows(self._moving, places)
        return table

    def _chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids that train, and the place of each in the small table."""
        ids = np.flatnonzero(self.trainable_mask)
        return ids, read_rows(self._places, ids) if len(ids) else ids

    def _fill(self, matrix: np.ndarray) -> None:
        self._base.fill(matrix, self.padding_id)
        ids, places = self._chosen()
        if len(ids):
            write_rows(self._moving, places, matrix[ids])
        exact = self.stored == "float32" and self.stored_rows == self.input_dim
        self.accuracy = None if exact else stored_accuracy(matrix, self.matrix())

    # Files -----------------------------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Write the tables and maps, tables in blocks where the store lets us."""
        self._warn_of_empty_table()
        for key, variable in self._stored():
            if len(variable.shape) == 1 or not save_table(store, key, variable):
                store[key] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote."""
        stored = list(self._stored())
        if set(store.keys()) != {key for key, _ in stored}:
            raise ArgumentError(
                f"The weights for layer {self.name!r} are not those of a table of which only some rows train. "
                f"Received: {len(store.keys())} variables, not {len(stored)}."
            )
        for key, variable in stored:
            if len(variable.shape) == 1 or not load_table(store, key, variable):
                variable.assign(store[key])

    def _stored(self) -> Iterator[tuple[str, keras.Variable]]:
        base = self._base if self.built else None
        every = (base.values, self._moving, self._places, base.scales, base.places) if base else ()
        return ((str(key), variable) for key, variable in enumerate(every) if variable is not None)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: LoRA moves every row."""
        raise ArgumentError(f"enable_lora would move every row, and of layer {self.name!r} only some may move.")

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """Keep the base as int8 with one scale a row; the rows that train stay float32, and train on.

        Args:
            mode: "int8".
            type_check: not used.
            config: not used: a row is quantized as Keras does it by default.

        Raises:
            ArgumentError: the layer is not built, or another mode.
        """
        self._check_built()
        if mode != "int8":
            raise ArgumentError(f'quantize takes the mode "int8". Received: {mode!r} (layer {self.name!r}).')
        if self.stored != "int8":
            before, fresh = self.matrix(), fresh_like(self, stored="int8")
            fresh._base.copy(self._base)
            take_over(self, fresh, keep=("_moving", "_places") if self.trainable_rows else ())
            self.accuracy = stored_accuracy(before, self.matrix())

    def get_config(self) -> dict[str, Any]:
        """The settings, without the tables and without the maps: all are weights."""
        own = {"trainable_rows": self.trainable_rows, "stored": self.stored, "stored_rows": self.stored_rows}
        return {**super().get_config(), **own}


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


def _count(value: Any, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ArgumentError(f"{what} must be an integer from {low} to input_dim={high}. Received: {value!r}.")
    return int(value)
