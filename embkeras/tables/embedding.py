"""PretrainedEmbedding: a Keras Embedding that reads the rows of a batch and never the whole table."""

import inspect
import re
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import check_matrix, first_nonfinite_row, row_slices
from embkeras._checks import is_whole, number, one_of, shown, whole_number
from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.keras_compat.layers import called_with_values
from embkeras.keras_compat.variables import mark_unbounded, read_by_rows, stock_table
from embkeras.tables.own_graph import call_in_own_graph
from embkeras.tables.projection import Projection, scores_by
from embkeras.tables.resize import Resized, fresh_like
from embkeras.tables.row_io import (
    BLOCK,
    copy_of_table,
    copy_rows,
    fill_table,
    load_variable,
    read_rows,
    save_variable,
    table_of_calls,
    write_rows,
)
from embkeras.tables.stand_ins import stand_in_for
from embkeras.tables.zero_row import keep_zero

_SAMPLED_ROWS = 64
_KEY = "0"  # under which Keras stores the one variable of an Embedding
_ZERO_IF_MASKED = "0 if mask_zero else None"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # TensorFlow's scopes may also have ">" and "\\"


@keras.saving.register_keras_serializable("embkeras")
class PretrainedEmbedding(Projection, keras.layers.Embedding):
    """A `keras.layers.Embedding` for tables that were trained elsewhere; `build_embedding` makes one.

    It differs from the stock layer:

    - `call` reads the rows of the batch. The stock layer reads the variable, which after the first sparse update
      copies the whole table in every step.
    - Ids outside [0, input_dim) raise an error; the stock layer reads -1 as the last row. (On CPU. A GPU and XLA don't
      check: there, such an id reads zeros or the last row.)
    - The row of the padding is zeros and stays so under any use and optimizer, with or without a mask. Looking it up has
      no gradient.
    - `project` scores the rows: tied weights, for any form of table.
    - The config never contains the matrix. A layer made from a config alone (`from_config`, `clone_model`) therefore has
      a table of zeros until weights are loaded; using it before that warns.
    - `enable_lora` moves only the rows of ids that occur in training. The stock layer draws A, which has a row for each
      id, at random, so every row of the table moves as soon as B does.

    Args:
        input_dim: V, the number of token ids.
        output_dim: D, the width of a row.
        mask_zero: id 0 is padding: masked for the layers that follow.
        padding_id: id of the padding, or None if there is none; by default 0 if `mask_zero`.
        **kwargs: as for `keras.layers.Embedding`, without an `embeddings_initializer`.

    Input shape: integer ids of any shape. Output shape: the same with D at the end.

    Raises:
        ArgumentError: `weights` or an `embeddings_initializer` is given, or `padding_id` is outside the table or not 0
            although `mask_zero` masks 0.
    """

    padding_id: Any  # int or None
    starts_frozen = False  # trainable=False when it was made, and nobody has set the flag since it was built
    _merged: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # ids, their rows, and their rows of A

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = True,
        padding_id: int | str | None = _ZERO_IF_MASKED,
        **kwargs: Any,
    ):
        for name in ("weights", "embeddings_initializer"):
            if name in kwargs:
                raise ArgumentError(f"PretrainedEmbedding takes no {name}=: build_embedding fills its table.")
        kwargs["embeddings_initializer"] = "zeros"
        super().__init__(input_dim, output_dim, mask_zero=mask_zero, **kwargs)
        if padding_id == _ZERO_IF_MASKED:
            padding_id = 0 if mask_zero else None
        inside = padding_id is None or (is_whole(padding_id) and 0 <= padding_id < input_dim)
        if not inside or (mask_zero and padding_id != 0):
            rule = "0, because mask_zero=True masks id 0" if mask_zero else f"an integer in [0, {input_dim}), or None"
            raise ArgumentError(f"padding_id must be {rule}. Received: {shown(padding_id)} (layer {self.name!r}).")
        self.padding_id = padding_id
        self.starts_frozen = not self.trainable
        self._may_be_empty = True

    def build(self, input_shape: Any = None) -> None:
        """Make the table, of zeros until it is filled."""
        super().build(input_shape)
        read_by_rows(self.table_variable)
        keep_zero(self.table_variable, self.padding_id)

    @property
    def table_variable(self) -> keras.Variable:
        """The variable with one row a token id, without LoRA."""
        return stock_table(self)

    # Calls -----------------------------------------------------------------------------------------------------------

    def call(self, inputs: Any, reverse: bool = False, candidates: Any = None) -> Any:
        """The rows of `inputs`, in the layer's compute dtype; with `reverse`, what `project` returns."""
        if reverse:
            return self.scores(inputs, candidates)
        stand_in = stand_in_for(self)
        if stand_in is not None:
            return stand_in(inputs)
        self._warn_if_empty()
        return keras.ops.cast(self._rows(self._as_ids(inputs)), self.compute_dtype)

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        rows = tf.nn.embedding_lookup(self.table_variable.value, ids)
        if self.lora_enabled:
            a = tf.nn.embedding_lookup(self.lora_embeddings_a.value, ids)
            change = self._lora_scale() * (a @ tf.convert_to_tensor(self.lora_embeddings_b.value))
            rows += tf.cast(change, rows.dtype)  # A and B are float32 whatever the dtype of the table
        if self.padding_id is not None and self.trainable:  # a frozen table needs no mask
            rows = _no_gradient_where(ids == self.padding_id, rows)
        return rows

    def scores_of_all(self, vectors: tf.Tensor) -> tf.Tensor:
        """The product with every row; of LoRA without the product of A and B."""
        if self.quantization_mode is not None:
            return super().scores_of_all(vectors)
        self._warn_if_empty()
        scores = scores_by(vectors, tf.cast(self.table_variable.value, vectors.dtype))
        if self.lora_enabled:
            b = tf.convert_to_tensor(self.lora_embeddings_b.value)
            low = self._lora_scale() * tf.matmul(tf.cast(vectors, b.dtype), b, transpose_b=True)
            scores += tf.cast(scores_by(low, tf.convert_to_tensor(self.lora_embeddings_a.value)), scores.dtype)
        return scores

    def compute_output_spec(self, inputs: Any, reverse: bool = False, candidates: Any = None) -> keras.KerasTensor:
        """The shape of the ids with output_dim at the end, or of scores."""
        return self.scores_spec(inputs, candidates) if reverse else super().compute_output_spec(inputs)

    def quantized_call(self, inputs: Any, reverse: bool = False, candidates: Any = None) -> Any:
        """The rows of `inputs` from a quantized table, or what `project` returns."""
        if reverse:
            return self.scores(inputs, candidates)
        return super().quantized_call(self._as_ids(inputs))

    def _as_ids(self, inputs: Any) -> tf.Tensor:
        if isinstance(inputs, tf.RaggedTensor):
            raise ArgumentError(
                f"Token ids must be a dense batch, with short texts padded: ragged.to_tensor(). "
                f"Received: a RaggedTensor of shape {inputs.shape} (layer {self.name!r})."
            )
        ids = tf.convert_to_tensor(inputs)
        eager = tf.executing_eagerly()
        # Keras feeds float32 to a Sequential without an explicit input, so whole floats must pass.
        if eager and ids.dtype.is_floating:
            self._refuse_where(ids != tf.floor(ids), ids, "integers")
        elif not (ids.dtype.is_integer or ids.dtype.is_floating):
            raise ArgumentError(
                f"Token ids must be integers, as Vocabulary.encode_batch returns. "
                f"Received: dtype {ids.dtype.name} (layer {self.name!r})."
            )
        if ids.dtype not in (tf.int32, tf.int64):  # the only types that a gather takes
            ids = tf.cast(ids, tf.int64)
        if eager:
            self._refuse_where((ids < 0) | (ids >= self.input_dim), ids, f"in [0, {self.input_dim})")
        return ids

    def _refuse_where(self, bad: tf.Tensor, ids: tf.Tensor, rule: str) -> None:
        if bool(tf.reduce_any(bad)):
            place = tf.where(bad)[0].numpy().tolist()
            raise ArgumentError(
                f"Token ids must be {rule}. Received: {tf.gather_nd(ids, place).numpy()} at position {place} "
                f"(layer {self.name!r})."
            )

    # Rows in and out -------------------------------------------------------------------------------------------------

    def assign_table(self, matrix: np.ndarray) -> None:
        """Write `matrix` (input_dim, output_dim) into the table in blocks, so that it is never held twice.

        The row of the padding becomes zeros; with LoRA, A becomes zero again.

        Args:
            matrix: floats of shape (input_dim, output_dim).

        Raises:
            ArgumentError: the layer is not built or is quantized, or the matrix has the wrong shape or holds NaN,
                infinity or numbers that the dtype of the table can't hold.
        """
        check_built(self)
        if self.quantization_mode is not None:
            raise ArgumentError(f"Layer {self.name!r} is quantized: fill its table before quantize.")
        matrix = check_matrix(matrix, f"The table of layer {self.name!r}")
        if tuple(matrix.shape) != (self.input_dim, self.output_dim):
            raise ArgumentError(
                f"The table of layer {self.name!r} has the shape {(self.input_dim, self.output_dim)}. "
                f"Received: {tuple(matrix.shape)}."
            )
        dtype = tf.as_dtype(keras.backend.standardize_dtype(self.table_variable.dtype))
        bad = first_nonfinite_row(matrix, dtype.as_numpy_dtype if dtype.is_floating else np.float32)
        if bad is not None:
            raise ArgumentError(
                f"The table of layer {self.name!r} must be finite as {dtype.name}. "
                f"Received: NaN, infinity or a number too large in row {bad}, whose largest is {np.abs(matrix[bad]).max():g}."
            )
        self.mark_filled()
        self._fill(matrix)

    def mark_not_pretrained(self, rows: np.ndarray) -> None:
        """Say which rows are not pre-trained, a bool array of shape (input_dim,): `max_drift` of optimizers spares them."""
        mark_unbounded(self.table_variable, rows)

    def mark_filled(self) -> None:
        """Note that the table was filled: it may be zeros then, and no merge can be undone."""
        self._may_be_empty, self._merged = False, None

    def _fill(self, matrix: np.ndarray) -> None:
        fill_table(self.table_variable, matrix)
        self._clear_padding(self.table_variable)
        self._clear_a()

    def _clear_a(self) -> None:
        if self.lora_enabled:
            self.lora_embeddings_a.assign(np.zeros(tuple(self.lora_embeddings_a.shape)))

    def _clear_padding(self, variable: keras.Variable) -> None:
        if self.padding_id is not None:
            write_rows(variable, np.array([self.padding_id]), np.zeros((1, variable.shape[1])))

    def _clear_all_padding(self) -> None:
        self._clear_padding(self.table_variable)
        if self.lora_enabled:
            self._clear_padding(self.lora_embeddings_a)

    def matrix(self) -> np.ndarray:
        """A copy of the table.

        Equal to the layer at `arange(input_dim)`, up to the layer's compute dtype.

        Returns:
            float32 of shape (input_dim, output_dim); writing into it changes no weights.

        Raises:
            ArgumentError: the layer is not built.
        """
        check_built(self)
        self._warn_if_empty()
        plain = not self.lora_enabled and self.quantization_mode is None
        return copy_of_table(self.table_variable) if plain else table_of_calls(self)

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """Store the table as int8 with one scale a row, a quarter of its size; it can't train any more.

        Args:
            mode: "int8". (Keras unpacks the whole table of "int4" in each call.)
            type_check: ignored; Keras uses it to refuse subclasses.
            config: a `keras.quantizers` configuration, as for any Keras layer from Keras 3.12 on.

        Raises:
            ArgumentError: the layer is not built or has LoRA, or another mode; `config` under an older Keras.
        """
        check_built(self)
        one_of(mode, f"The mode of quantize (layer {self.name!r})", ("int8",))
        if self.lora_enabled:
            raise ArgumentError(f"quantize takes a plain table, but layer {self.name!r} has LoRA.")
        self._warn_if_empty()
        if config is None:
            super().quantize(mode, type_check=False)
        elif "config" in inspect.signature(keras.layers.Embedding.quantize).parameters:
            super().quantize(mode, type_check=False, config=config)
        else:
            raise ArgumentError(
                f"config (layer {self.name!r}) needs Keras 3.12 or newer; this is {keras.__version__}. Quantize without it. "
                f"Received: {shown(config)}."
            )

    def resized(
        self, sources: np.ndarray, values: Any = None, *, trains: np.ndarray | None = None, room: int = 0
    ) -> Resized:
        """A layer like this one with other rows, for `resize.take_over`.

        Args:
            sources: for each new id the old one, or -1.
            values: array of shape (len(sources), output_dim); only the rows of new ids, with source -1, are read.
            trains: if only some rows train, which of the new ids do: bool, shape (len(sources),).
            room: if only some rows train, room for at least this many more.

        Returns:
            The new layer, and from which old rows those of its variables come.

        Raises:
            ArgumentError: the layer is quantized.
        """
        if self.quantization_mode is not None:
            raise ArgumentError(f"Layer {self.name!r} is quantized: change its rows before quantize.")
        fresh = fresh_like(self, input_dim=len(sources))
        copy_rows(self.table_variable, fresh.table_variable, sources, values)
        if not self.lora_enabled:
            return Resized(fresh, [(self.table_variable, fresh.table_variable, sources)])
        a, b = self.lora_embeddings_a, self.lora_embeddings_b
        copy_rows(a, fresh.lora_embeddings_a, sources, np.zeros((len(sources), self.lora_rank), np.float32))
        fresh.lora_embeddings_b.assign(b)
        same = np.arange(self.lora_rank)
        return Resized(fresh, [(a, fresh.lora_embeddings_a, sources), (b, fresh.lora_embeddings_b, same)])

    # LoRA ------------------------------------------------------------------------------------------------------------

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "zeros",
        b_initializer: Any = "he_uniform",
    ) -> None:
        """Freeze the table and train a low-rank sum to it: table + lora_alpha / rank * A @ B. Call it before compile.

        A is (input_dim, rank), B is (rank, output_dim). LoRA is from Hu et al. 2022 (Low-Rank Adaptation of Large Language
        Models).

        Args:
            rank: columns of A.
            lora_alpha: the sum is scaled by lora_alpha / rank; by default by 1.
            a_initializer: with "zeros", rows that occur in no batch stay bit-identical. The row of the padding is always
                zeros.
            b_initializer: not zeros, or nothing would ever move.

        Raises:
            ArgumentError: a rank below 1, a lora_alpha that isn't a finite number above 0, or a layer that is not built,
                is quantized, or has LoRA already or a constraint.
        """
        rank = whole_number(rank, "rank", least=1, where=f"(layer {self.name!r})")
        if lora_alpha is not None:
            number(lora_alpha, "lora_alpha", above=0, where=f"(layer {self.name!r})")
        for refused, why in (
            (not self.built, "is not built"),
            (self.lora_enabled, "has LoRA already"),
            (self.quantization_mode is not None, "is quantized"),
            (self.embeddings_constraint is not None, "has a constraint"),
        ):
            if refused:
                raise ArgumentError(f"enable_lora takes a built layer with a plain table. Layer {self.name!r} {why}.")
        alpha = self.lora_alpha if lora_alpha is None and rank == self.lora_rank else lora_alpha  # Keras forgets it
        super().enable_lora(rank, alpha, a_initializer, b_initializer)
        read_by_rows(self.lora_embeddings_a, table=False)
        read_by_rows(self.lora_embeddings_b, table=False)
        keep_zero(self.lora_embeddings_a, self.padding_id)
        if a_initializer != "zeros":  # a model that builds its layers in `fit` has no values yet
            self._clear_padding(self.lora_embeddings_a)

    @keras.layers.Embedding.trainable.setter
    def trainable(self, value: bool) -> None:
        """Whether the layer trains: with LoRA, A and B alone."""
        keras.layers.Embedding.trainable.fset(self, value)
        self.starts_frozen = not (self.built or self.trainable)
        if self.lora_enabled:  # Keras would unfreeze the table too
            self.table_variable.trainable = False

    def __setattr__(self, name: str, value: Any) -> None:
        """As in Keras, which takes no note of a flag that is set to the value that it has."""
        if name == "trainable":
            type(self).trainable.fset(self, value)
        else:
            super().__setattr__(name, value)

    def merge_lora(self) -> None:
        """Write A @ B into the table and set A to zero; the layer returns the same vectors as before.

        The rows that change are kept in memory, for `unmerge_lora` to undo the last merge; they are not saved.

        Raises:
            ArgumentError: the layer has no LoRA.
        """
        self._check_lora()
        a = copy_of_table(self.lora_embeddings_a)
        ids = np.flatnonzero(a.any(axis=1))
        before, a = read_rows(self.table_variable, ids), a[ids]
        change = self._lora_scale() * (a @ keras.ops.convert_to_numpy(self.lora_embeddings_b))
        write_rows(self.table_variable, ids, before + change)
        write_rows(self.lora_embeddings_a, ids, np.zeros_like(a))
        if len(ids) or self._merged is None:
            self._merged = ids, before, a

    def unmerge_lora(self) -> None:
        """Restore table and A to what they were before `merge_lora`, bit for bit.

        Raises:
            ArgumentError: nothing was merged since the table was filled, or A was trained since, which would be lost.
        """
        self._check_lora()
        if self._merged is None:
            raise ArgumentError(f"unmerge_lora undoes merge_lora, but layer {self.name!r} has nothing merged.")
        a = self.lora_embeddings_a
        if any(read_rows(a, part).any() for part in row_slices(a.shape, BLOCK)):
            raise ArgumentError(f"unmerge_lora would lose what A of layer {self.name!r} has learned since the merge.")
        ids, before, merged_a = self._merged
        write_rows(self.table_variable, ids, before)
        write_rows(a, ids, merged_a)
        self._merged = None

    def _lora_scale(self) -> float:
        return self.lora_alpha / self.lora_rank

    def _check_lora(self) -> None:
        if not self.lora_enabled:
            raise ArgumentError(f"Layer {self.name!r} has no LoRA: call enable_lora first.")

    # Files -----------------------------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Write the table to the same file as Keras does, in blocks if the store allows it, then A and B of LoRA."""
        self._warn_if_empty()
        if not self.built or self.quantization_mode is not None:
            super().save_own_variables(store)
            return
        self._clear_all_padding()  # Keras' moving averages write past the variable
        for key, variable in self._stored().items():
            save_variable(store, key, variable)

    def load_own_variables(self, store: Any) -> None:
        """Read the table from any file that Keras can read, in blocks if the store allows it.

        From a file without LoRA, a layer with LoRA reads its table, and A becomes zero.
        """
        keys = set(store.keys())
        plain = self.built and self.quantization_mode is None
        if plain and keys in ({_KEY}, set(self._stored())):
            for key in sorted(keys):
                load_variable(store, key, self._stored()[key])
            if keys == {_KEY}:
                self._clear_a()
        else:
            super().load_own_variables(store)  # which raises Keras' own error
        self._merged = None
        if plain:
            self._clear_all_padding()

    def _stored(self) -> dict[str, keras.Variable]:
        """The variables by the keys under which Keras stores them."""
        low_rank = {"1": self.lora_embeddings_a, "2": self.lora_embeddings_b} if self.lora_enabled else {}
        return {_KEY: self.table_variable, **low_rank}

    def _warn_if_empty(self) -> None:
        """Warn once of a table of zeros that nobody filled, judged at the first use with values."""
        if not self._may_be_empty or not self.built or not called_with_values():
            return
        with tf.init_scope():  # out of the graph that is being traced, if any
            if not tf.executing_eagerly():
                return
            table = self.table_variable
            sample = np.unique(np.linspace(0, table.shape[0] - 1, _SAMPLED_ROWS).astype(np.int64))
            empty = not np.any(keras.ops.convert_to_numpy(tf.nn.embedding_lookup(table.value, sample)))
        self._may_be_empty = False
        if empty:
            warnings.warn(
                f"The table of layer {self.name!r} is all zeros: it was never filled. A layer made from a config "
                f"(clone_model, from_config) does not contain the matrix. Copy the weights with "
                f"clone.set_weights(model.get_weights()), or fill the layer with layer.assign_table(aligned.values).",
                EmbkerasWarning,
                stacklevel=2,
            )

    def get_config(self) -> dict[str, Any]:
        """The settings, without the matrix."""
        config = {**super().get_config(), "padding_id": self.padding_id}
        config.pop("embeddings_initializer")
        return config


def check_built(layer: keras.layers.Layer) -> None:
    """Raise ArgumentError if a layer is not built."""
    if not layer.built:
        raise ArgumentError(f"Layer {layer.name!r} has no table yet: build the layer, or call it once, first.")


def check_name(name: Any) -> str:
    """The name of a layer or model; ArgumentError if Keras would refuse it, or TensorFlow in a graph.

    After such a failure, Keras puts the name in front of those of the variables of all models made later.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError(
            f"name must be a string of ASCII letters, digits, '_', '.' and '-' that begins with a letter or digit. "
            f"Received: {shown(name)}."
        )
    return name


def check_dtype(dtype: Any, name: str) -> Any:
    """The dtype or policy of a layer of this name; ArgumentError unless its variables are floats."""
    try:
        policy = keras.dtype_policies.get(dtype)
        floats = policy.quantization_mode is None and tf.as_dtype(policy.variable_dtype).is_floating
    except (TypeError, ValueError, NotImplementedError):
        floats = False
    if not floats:
        raise ArgumentError(
            f"dtype must be a type of floats or a policy of one, such as 'float32', 'bfloat16' or 'mixed_float16': it is that of "
            f"the vectors, and ids may be of any integer type. To store vectors small, use build_embedding(stored='int8'). "
            f"Received: {shown(dtype)} (layer {name!r})."
        )
    return dtype


def _no_gradient_where(mask: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`rows` unchanged, with a gradient of zero where `mask` is true. (Masking the rows themselves costs twice as much.)"""
    masked = call_in_own_graph(_masked_gradient, mask, rows)
    masked.set_shape(rows.shape)
    return masked


def _masked_gradient(mask: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient
    def masked(values: tf.Tensor) -> Any:
        return tf.identity(values), lambda gradient: gradient * tf.cast(~mask, gradient.dtype)[..., None]

    return masked(rows)
