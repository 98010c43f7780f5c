"""PretrainedEmbedding: a Keras Embedding that reads the rows of a batch and never the whole table.

Private name used here: `_embeddings`, the variable of the stock layer. Its public name `embeddings` is a property that
adds LoRA's whole product to the table. `tests/layers/test_embedding.py` fails when the name goes.
"""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import check_matrix, first_nonfinite_row
from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.keras_compat.variables import read_by_rows
from embkeras.tables.low_rank import LowRank
from embkeras.tables.row_io import (
    copy_of_table,
    fill_table,
    load_table,
    save_table,
    table_of_calls,
    write_rows,
)
from embkeras.tables.stand_ins import stand_in_for

_SAMPLED_ROWS = 64
_KEY = "0"  # under which Keras stores the one variable of an Embedding
_WHERE_MASK_ZERO = "0 if mask_zero else None"


@keras.saving.register_keras_serializable("embkeras")
class PretrainedEmbedding(LowRank, keras.layers.Embedding):
    """A `keras.layers.Embedding` for tables that were trained elsewhere; `build_embedding` makes one.

    It differs from the stock layer in what it reads and what it writes down:

    - `call` reads the rows of the batch. The stock layer reads the variable, which after the first sparse update
      copies the whole table in every step.
    - Ids outside [0, input_dim) are refused; the stock layer takes -1 for the last row. (On CPU. A GPU and XLA do not
      check: the gather there gives zeros or the last row.)
    - The row of the padding is zeros and gets no gradient, with or without a mask.
    - The config never holds the matrix. A layer made from a config alone (`from_config`, `clone_model`) therefore has
      a table of zeros until weights are loaded; using it before that warns.

    Args:
        input_dim: V, the number of token ids.
        output_dim: D, the width of a row.
        mask_zero: id 0 is padding: masked for the layers that follow.
        padding_id: id of the padding, or None where there is none; by default 0 if `mask_zero`.
        **kwargs: as for `keras.layers.Embedding`, without an `embeddings_initializer`.

    Input shape: integer ids of any shape. Output shape: the same with D behind.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = True,
        padding_id: int | str | None = _WHERE_MASK_ZERO,
        **kwargs: Any,
    ):
        for name in ("weights", "embeddings_initializer"):
            if name in kwargs:
                raise ArgumentError(f"PretrainedEmbedding takes no {name}=: build_embedding fills its table.")
        kwargs["embeddings_initializer"] = "zeros"
        super().__init__(input_dim, output_dim, mask_zero=mask_zero, **kwargs)
        self.padding_id = (0 if mask_zero else None) if padding_id == _WHERE_MASK_ZERO else padding_id
        self._check_padding_id()
        self._may_be_empty = True

    def _check_padding_id(self) -> None:
        id_, rule = self.padding_id, f"an integer in [0, {self.input_dim}), or None"
        if self.mask_zero:
            rule = "0 where id 0 is masked"
        integer = isinstance(id_, int | np.integer) and not isinstance(id_, bool)
        inside = id_ is None or (integer and 0 <= id_ < self.input_dim)
        if not inside or (self.mask_zero and id_ != 0):
            raise ArgumentError(f"padding_id must be {rule}. Received: {id_!r} (layer {self.name!r}).")

    def build(self, input_shape: Any = None) -> None:
        """Make the table, of zeros until it is filled."""
        super().build(input_shape)
        read_by_rows(self._embeddings)

    def call(self, inputs: Any) -> Any:
        """The rows of `inputs`, in the layer's compute dtype."""
        stand_in = stand_in_for(self)
        if stand_in is not None:
            return stand_in(inputs)
        self._warn_of_empty_table()
        ids = self._as_ids(inputs)
        return keras.ops.cast(self._rows(ids), self.compute_dtype)

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        rows = tf.nn.embedding_lookup(self._embeddings.value, ids)
        if self.lora_enabled:
            rows += self._low_rank_rows(ids)
        if self.padding_id is not None and self.trainable:  # a table that does not train needs no mask at all
            rows = _no_gradient_where(ids == self.padding_id, rows)
        return rows

    def quantized_call(self, inputs: Any) -> Any:
        """The rows of `inputs` from a quantized table."""
        return super().quantized_call(self._as_ids(inputs))

    def _as_ids(self, inputs: Any) -> tf.Tensor:
        if isinstance(inputs, tf.RaggedTensor):
            raise ArgumentError(
                f"Token ids must be a dense batch, short texts filled up with padding: ragged.to_tensor(). "
                f"Received: a RaggedTensor of shape {inputs.shape} (layer {self.name!r})."
            )
        ids = tf.convert_to_tensor(inputs)
        eager = tf.executing_eagerly()
        # Keras feeds float32 to a Sequential without an explicit input, so whole floats must pass.
        if eager and not ids.dtype.is_integer and not bool(tf.reduce_all(tf.equal(ids, tf.floor(ids)))):
            raise ArgumentError(
                f"Token ids must be integers. Received: {_first_where(ids, ids != tf.floor(ids))} (layer {self.name!r})."
            )
        if ids.dtype not in (tf.int32, tf.int64):  # a gather takes no others
            ids = tf.cast(ids, tf.int64)
        if eager:
            bad = (ids < 0) | (ids >= self.input_dim)
            if bool(tf.reduce_any(bad)):
                raise ArgumentError(
                    f"Token ids must lie in [0, {self.input_dim}). Received: {_first_where(ids, bad)} "
                    f"(layer {self.name!r})."
                )
        return ids

    def assign_table(self, matrix: np.ndarray) -> None:
        """Write `matrix` (input_dim, output_dim) into the table in blocks, so that it is never held twice.

        The row of the padding becomes zeros; with LoRA, A begins at zero again.

        Raises:
            ArgumentError: the layer is not built or is quantized, or the matrix has another shape or holds NaN or
                infinity.
        """
        self._check_built()
        if self.quantization_mode is not None:
            raise ArgumentError(f"A quantized table takes no other rows: layer {self.name!r}. Fill it before quantize.")
        matrix = check_matrix(matrix, f"The table of layer {self.name!r}")
        bad = first_nonfinite_row(matrix)
        if bad is not None:
            raise ArgumentError(
                f"The table of layer {self.name!r} must be finite. Received NaN or infinity in row {bad}."
            )
        if tuple(matrix.shape) != (self.input_dim, self.output_dim):
            raise ArgumentError(
                f"The table of layer {self.name!r} has the shape {(self.input_dim, self.output_dim)}. "
                f"Received: {tuple(matrix.shape)}."
            )
        self.filled()
        self._fill(matrix)

    def filled(self) -> None:
        """Note that the table was filled: one of zeros is then what was wanted, and no merge can be undone."""
        self._may_be_empty, self._merged = False, None

    def _fill(self, matrix: np.ndarray) -> None:
        fill_table(self._embeddings, matrix)
        self._clear_padding()
        if self.lora_enabled:
            self.lora_embeddings_a.assign(np.zeros(tuple(self.lora_embeddings_a.shape)))

    def _clear_padding(self) -> None:
        if self.padding_id is not None:
            write_rows(self._embeddings, np.array([self.padding_id]), np.zeros((1, self.output_dim)))

    def matrix(self) -> np.ndarray:
        """A float32 copy of the table, shape (input_dim, output_dim).

        Equal to the layer at `arange(input_dim)`, up to the layer's compute dtype.

        Raises:
            ArgumentError: the layer is not built.
        """
        self._check_built()
        self._warn_of_empty_table()
        return copy_of_table(self._embeddings) if self._is_one_table() else table_of_calls(self)

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """Keep the table as int8 with one scale a row, a quarter of its size; it cannot train any more.

        Args:
            mode: "int8". (Keras unpacks a table of "int4" as a whole in each call.)
            type_check: not used; Keras refuses subclasses by it.
            config: a `keras.quantizers` configuration, as for any Keras layer.

        Raises:
            ArgumentError: the layer is not built, another mode, or a layer with LoRA.
        """
        self._check_built()
        if mode != "int8":
            raise ArgumentError(f'quantize takes the mode "int8". Received: {mode!r} (layer {self.name!r}).')
        if self.lora_enabled:
            raise ArgumentError(f"quantize takes a plain table. Layer {self.name!r} has LoRA.")
        self._warn_of_empty_table()
        super().quantize(mode, type_check=False, config=config)

    def _check_built(self) -> None:
        if not self.built:
            raise ArgumentError(f"Layer {self.name!r} has no table yet: build it, or call it once, first.")

    def _is_one_table(self) -> bool:
        """Whether the table is all there is: no LoRA term to add to it, no quantized form to unpack."""
        return not self.lora_enabled and self.quantization_mode is None

    def save_own_variables(self, store: Any) -> None:
        """Write the table: the same file as Keras writes, in blocks where the store lets us; A and B of LoRA behind it."""
        self._warn_of_empty_table()
        if not self.built or self.quantization_mode is not None:
            super().save_own_variables(store)
            return
        if not save_table(store, _KEY, self._embeddings):
            store[_KEY] = keras.ops.convert_to_numpy(self._embeddings)
        for key, variable in self._lora_variables():
            store[key] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Read the table: any file that Keras can read, in blocks where the store lets us.

        Of a file without LoRA, the table becomes the base and A begins at zero.
        """
        keys = set(store.keys())
        plain = self.built and self.quantization_mode is None
        whole = plain and keys == {_KEY, *dict(self._lora_variables())}
        if whole or (plain and self.lora_enabled and keys == {_KEY}):
            if not load_table(store, _KEY, self._embeddings):
                self._embeddings.assign(store[_KEY])
            for key, variable in self._lora_variables():
                if key in keys:
                    variable.assign(store[key])
                elif variable is self.lora_embeddings_a:
                    variable.assign(np.zeros(tuple(variable.shape)))
        else:
            super().load_own_variables(store)  # which refuses it with Keras' own message
        self._merged = None
        if plain:
            self._clear_padding()

    def _lora_variables(self) -> list[tuple[str, keras.Variable]]:
        return [("1", self.lora_embeddings_a), ("2", self.lora_embeddings_b)] if self.lora_enabled else []

    def _warn_of_empty_table(self) -> None:
        """Once: a table that nobody filled and that holds only zeros was forgotten."""
        if not self._may_be_empty or not self.built:
            return
        with tf.init_scope():  # out of the graph that is being traced, if any
            if not tf.executing_eagerly():
                return
            sample = np.unique(np.linspace(0, self._embeddings.shape[0] - 1, _SAMPLED_ROWS).astype(np.int64))
            empty = not np.any(keras.ops.convert_to_numpy(tf.nn.embedding_lookup(self._embeddings.value, sample)))
        self._may_be_empty = False
        if empty:
            warnings.warn(
                f"The table of layer {self.name!r} is all zeros: it was never filled. A layer made from a config "
                f"(clone_model, from_config) does not hold the matrix. Carry the weights over with "
                f"clone.set_weights(model.get_weights()), or fill the layer with layer.assign_table(aligned.values).",
                EmbkerasWarning,
                stacklevel=2,
            )

    def get_config(self) -> dict[str, Any]:
        """The settings, without the matrix."""
        config = {**super().get_config(), "padding_id": self.padding_id}
        config.pop("embeddings_initializer")
        return config


def _no_gradient_where(mask: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`rows` as they are, from which no gradient flows back where `mask` is true: zeros stay zeros.

    To mask the rows themselves would cost twice as much, forward and backward.
    """

    @tf.custom_gradient
    def masked(values: tf.Tensor) -> Any:
        return tf.identity(values), lambda gradient: gradient * tf.cast(~mask, gradient.dtype)[..., None]

    return masked(rows)


def _first_where(ids: tf.Tensor, bad: tf.Tensor) -> str:
    place = tf.where(bad)[0].numpy().tolist()
    return f"{tf.gather_nd(ids, place).numpy()} at position {place}"
