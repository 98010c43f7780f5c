"""RowEmbedding: a base that never trains, a small table of the rows that do, and a map from id to row of that table.

Masking the gradient of one table would not be enough: weight decay and moments move masked rows too, and each step costs
the whole table.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import as_array, row_slices
from embkeras._checks import one_of, whole_number
from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import mark_unbounded, read_by_rows
from embkeras.tables.embedding import PretrainedEmbedding, check_built
from embkeras.tables.projection import scores_by
from embkeras.tables.resize import Resized, fresh_like, take_over
from embkeras.tables.row_io import BLOCK, copy_rows, load_variable, read_rows, table_from, write_rows
from embkeras.tables.storage import STORAGE, BaseTable, StoredAccuracy, stored_accuracy
from embkeras.tables.zero_row import keep_zero


@keras.saving.register_keras_serializable("embkeras")
class RowEmbedding(PretrainedEmbedding):
    """A table of which only some rows train, or none, and which may be stored small; `build_embedding` makes one.

    Rows that don't train stay bit-identical under every optimizer, with weight decay and regularizers too, and optimizer
    slots and steps cost only what the training rows cost. Schedules freeze and unfreeze the layer like any other, and
    `.matrix()` returns the whole table.

    Args:
        input_dim: V, the number of token ids.
        output_dim: D, the width of a row.
        trainable_rows: R, how many rows may train. `train_rows` sets which; the weights contain it.
        stored: how the base is stored: "float32", "float16", or "int8" with one float32 scale a row.
        mask_zero: id 0 is padding: masked for the layers that follow.
        **kwargs: as for `PretrainedEmbedding`; a regularizer or constraint applies to the rows that train.

    Attributes:
        accuracy: a `StoredAccuracy` of the table that the layer was last filled with; None if it is exact.

    Input shape: integer ids of any shape. Output shape: the same with D at the end.
    """

    built: bool
    accuracy: StoredAccuracy | None
    _name_of_moving = "embeddings"
    _moving: Any
    _places: Any

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        trainable_rows: int = 0,
        stored: str = "float32",
        mask_zero: bool = True,
        **kwargs: Any,
    ):
        for name in ("lora_rank", "quantization_config"):
            if kwargs.get(name) is not None:
                raise ArgumentError(
                    f"A layer of which only some rows train takes no {name}. Received: {kwargs[name]!r}."
                )
        super().__init__(input_dim, output_dim, mask_zero=mask_zero, **kwargs)
        self.trainable_rows = whole_number(trainable_rows, "trainable_rows", least=0, most=input_dim)
        self.stored = one_of(stored, "stored", STORAGE)
        self.accuracy = None

    def build(self, input_shape: Any = None) -> None:
        """Make the base and, if any rows train, their table and the map."""
        if self.built:
            return
        self._base = BaseTable(self, self.stored)
        keep_zero(self._base.values, self.padding_id)
        self._moving = self._places = None
        if self.trainable_rows:
            # The last row belongs to all ids that don't train: its gradient and its value are always zero.
            self._moving = self.add_weight(
                shape=(self.trainable_rows + 1, self.output_dim),
                initializer="zeros",
                dtype="float32",
                name=self._name_of_moving,
                regularizer=self.embeddings_regularizer,
                constraint=self.embeddings_constraint,
            )
            read_by_rows(self._moving)
            self._places = self.add_weight(  # a variable, since a constant would be written into every graph
                shape=(self.input_dim,),
                initializer=keras.initializers.Constant(self.trainable_rows),
                dtype="int32",
                name="places",
                trainable=False,
            )
        self.built = True

    @property
    def table_variable(self) -> keras.Variable:
        """The stored numbers of the base."""
        return self._base.values

    @property
    def moving_rows(self) -> keras.Variable | None:
        """The variable of the rows that train, in the order in which they joined; None if there is no room for any."""
        return self._moving

    # Which rows train ------------------------------------------------------------------------------------------------

    def train_rows(self, mask: np.ndarray) -> int:
        """Let rows train, from their current values; those that train already continue.

        The slots of a built optimizer are not touched: `unfreeze_rows` takes care of them too.

        Args:
            mask: bool, shape (input_dim,), true for the rows to add. Together with those that train already, there may be
                at most `trainable_rows`.

        Returns:
            How many rows were added.

        Raises:
            ArgumentError: the layer is not built, or the mask has the wrong dtype or shape, too many rows, or the padding
                row.
        """
        check_built(self)
        before = self.trainable_mask
        mask = check_mask(mask, self.input_dim) | before
        if mask.sum() > self.trainable_rows:
            raise ArgumentError(
                f"Layer {self.name!r} has room for {self.trainable_rows} rows that train. Received: a mask of {mask.sum()}."
            )
        check_no_padding(mask, self.padding_id)
        new = np.flatnonzero(mask & ~before)
        places = before.sum() + np.arange(len(new))
        if len(new):
            self._join(new, places)
            write_rows(self._places, new, places.astype(np.int32))
        return len(new)

    def _join(self, ids: np.ndarray, places: np.ndarray) -> None:
        """Fill these places of the table of the rows that train, which no row had before, for rows that join."""
        for part in row_slices((len(ids), self.output_dim), BLOCK):
            write_rows(self._moving, places[part], self._base[ids[part]])

    def _starts_from(self, rows: np.ndarray) -> np.ndarray:
        """What the table of the rows that train holds for rows of these values."""
        return rows

    @property
    def takes_rows(self) -> bool:
        """Whether further rows can join those that train."""
        return self.trainable_rows > 0

    def mark_not_pretrained(self, rows: np.ndarray) -> None:
        """Say which rows are not pre-trained, as for `PretrainedEmbedding`; only those that train are noted."""
        if self._moving is not None:
            moving = np.zeros(self.trainable_rows + 1, bool)
            moving[self._places_by_id()[rows & self.trainable_mask]] = True
            mark_unbounded(self._moving, moving)

    @property
    def trainable_mask(self) -> np.ndarray:
        """Which rows train while the layer does: bool, shape (input_dim,)."""
        check_built(self)
        return self._places_by_id() >= 0

    def _places_by_id(self) -> np.ndarray:
        """The place of each id in the table of the rows that train, or -1."""
        if self._places is None:
            return np.full(self.input_dim, -1)
        places = keras.ops.convert_to_numpy(self._places)
        return np.where(places < self.trainable_rows, places, -1)

    # Rows out and in -------------------------------------------------------------------------------------------------

    @property
    def embeddings(self) -> tf.Tensor:
        """The whole table as a tensor, computed at each access; gradients reach the rows that train."""
        check_built(self)
        return self._rows(tf.range(self.input_dim))

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        rows = self._base.lookup(ids)
        if self._moving is None:
            return rows
        places = tf.nn.embedding_lookup(self._places.value, ids)
        moving = tf.nn.embedding_lookup(self._moving.value, places)
        return tf.where((places < self.trainable_rows)[..., None], moving, rows)

    def scores_of_all(self, vectors: tf.Tensor) -> tf.Tensor:
        """The product with the base, and in the places of the rows that train the product with those."""
        self._warn_if_empty()
        vectors = tf.cast(vectors, "float32")
        scores = self._base.scores(vectors)
        if self._moving is None:
            return scores
        rows = tf.nn.embedding_lookup(self._moving.value, tf.range(self.trainable_rows + 1))  # a gradient by rows
        places = tf.convert_to_tensor(self._places.value)
        return tf.where(places < self.trainable_rows, tf.gather(scores_by(vectors, rows), places, axis=-1), scores)

    def matrix(self) -> np.ndarray:
        """A float32 copy of the table, shape (input_dim, output_dim): the base with the rows that train in it."""
        check_built(self)
        self._warn_if_empty()
        table = table_from(self._base.shape, self._base.__getitem__)
        places = self._places_by_id()
        ids = np.flatnonzero(places >= 0)
        for part in row_slices((len(ids), self.output_dim), BLOCK):
            table[ids[part]] = read_rows(self._moving, places[ids[part]])
        return table

    def _fill(self, matrix: np.ndarray) -> None:
        self._base.fill(matrix, self.padding_id)
        places = self._places_by_id()
        ids = np.flatnonzero(places >= 0)
        for part in row_slices((len(ids), self.output_dim), BLOCK):
            write_rows(self._moving, places[ids[part]], self._starts_from(matrix[ids[part]]))
        self.accuracy = None if self.stored == "float32" else stored_accuracy(matrix, self.matrix())

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: LoRA moves every row."""
        raise ArgumentError(f"enable_lora moves every row, but of layer {self.name!r} only some may move.")

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """Store the base as int8 with one scale a row; the rows that train stay float32 and continue to train.

        As for `PretrainedEmbedding`, but `config` is ignored: rows are quantized as Keras does by default.

        Raises:
            ArgumentError: the layer is not built, or another mode.
        """
        check_built(self)
        one_of(mode, f"The mode of quantize (layer {self.name!r})", ("int8",))
        if self.stored != "int8":
            before, fresh = self.matrix(), fresh_like(self, stored="int8")
            fresh._base.fill(self._base)
            take_over(self, fresh, keep=self._kept_by_quantize())
            self.accuracy = stored_accuracy(before, self.matrix())

    def _kept_by_quantize(self) -> tuple[str, ...]:
        """Attributes that hold the variables beside the base."""
        return ("_moving", "_places") if self.trainable_rows else ()

    def resized(
        self, sources: np.ndarray, values: Any = None, *, trains: np.ndarray | None = None, room: int = 0
    ) -> Resized:
        """A layer like this one with other rows, for `take_over`; as for `PretrainedEmbedding`."""
        places = np.where(sources >= 0, self._places_by_id()[sources], -1)
        # Rows that trained keep their order, so that the same rows keep their places.
        ids = np.flatnonzero(places >= 0)
        ids = ids[np.argsort(places[ids], kind="stable")]
        if trains is not None:
            ids = np.concatenate([ids, np.flatnonzero(trains & (sources < 0))])
        free = self.trainable_rows - int(self.trainable_mask.sum())
        count = len(ids) + max(room, free)
        fresh = fresh_like(self, input_dim=len(sources), trainable_rows=count)
        fresh._base.take(self._base, sources, values)
        if not count:
            return Resized(fresh, [])
        map_ = np.full(len(sources), count, np.int32)
        map_[ids] = np.arange(len(ids))
        fresh._places.assign(map_)
        before = np.concatenate([places[ids], np.full(count + 1 - len(ids), -1)])
        rows = np.zeros((count + 1, self.output_dim), np.float32)
        new = np.flatnonzero(before[: len(ids)] < 0)
        if len(new):
            rows[new] = self._starts_from(values[ids[new]])
        if self._moving is None:
            fresh._moving.assign(rows)
            return Resized(fresh, [])
        copy_rows(self._moving, fresh._moving, before, rows)
        return Resized(fresh, [(self._moving, fresh._moving, before)])

    # Files -----------------------------------------------------------------------------------------------------------

    def load_own_variables(self, store: Any) -> None:
        """Read base, table and map, tables in blocks if the store allows it."""
        stored = self._stored()
        if set(store.keys()) != set(stored):
            raise ArgumentError(
                f"The weights for layer {self.name!r} are not those of a layer with trainable_rows={self.trainable_rows} "
                f"and stored={self.stored!r}: expected {len(stored)} variables. Received: {len(store.keys())}."
            )
        for key, variable in stored.items():
            load_variable(store, key, variable)
        self._clear_padding(self._base.values)

    def _stored(self) -> dict[str, keras.Variable]:
        every = (self._base.values, self._moving, self._places, self._base.scales) if self.built else ()
        return {str(key): variable for key, variable in enumerate(every) if variable is not None}

    def get_config(self) -> dict[str, Any]:
        """The settings; tables and map are weights."""
        return {**super().get_config(), "trainable_rows": self.trainable_rows, "stored": self.stored}


def check_mask(mask: Any, rows: int, what: str = "A mask of rows") -> np.ndarray:
    """A mask as an array; ArgumentError unless it is bool of shape (rows,)."""
    mask = as_array(mask, what)
    if mask.dtype != bool or mask.shape != (rows,):
        raise ArgumentError(f"{what} must be bool of shape ({rows},). Received: {mask.dtype} of shape {mask.shape}.")
    return mask


def check_no_padding(mask: np.ndarray, padding_id: int | None) -> None:
    """Raise ArgumentError for a mask that includes the padding row."""
    if padding_id is not None and mask[padding_id]:
        raise ArgumentError(f"The padding row (id {padding_id}) never trains. Received: a mask that includes it.")
