"""Layers in front of the blocks of an encoder and behind them, and an activation: they save and load without keras-hub."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from embkeras._checks import whole_number
from embkeras.errors import ArgumentError


@keras.saving.register_keras_serializable("embkeras")
def gelu_tanh(values: Any) -> Any:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016), which Hugging Face calls "gelu_new"."""
    return ops.gelu(values, approximate=True)


@keras.saving.register_keras_serializable("embkeras")
class PaddingMask(keras.layers.Layer):
    """True where an id is not the padding: (batch, time) -> bool (batch, time).

    Args:
        padding_id: the id of the padding.
        in_front: so many virtual tokens stand before the ids, and are no padding: bool (batch, in_front + time).
        **kwargs: as for any Keras layer.
    """

    def __init__(self, padding_id: int = 0, in_front: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.padding_id = whole_number(padding_id, "padding_id", least=0)
        self.in_front = whole_number(in_front, "in_front", least=0)

    def call(self, ids: Any) -> Any:
        """The mask of a batch of ids."""
        found = ops.not_equal(ids, ops.cast(self.padding_id, ids.dtype))
        return ops.pad(found, [[0, 0], [self.in_front, 0]], constant_values=True) if self.in_front else found

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        """The shape of the ids, and the tokens in front."""
        batch, time = ids.shape
        return keras.KerasTensor((batch, None if time is None else time + self.in_front), "bool")

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "padding_id": self.padding_id, "in_front": self.in_front}


PROMPTS = "prompts"  # the name of the layer in models


@keras.saving.register_keras_serializable("embkeras")
class SoftPrompts(keras.layers.Layer):
    """Puts vectors of its own in front of those of a text: (batch, time, D) -> (batch, input_dim + time, D).

    These are the virtual tokens of prompt tuning (Lester et al. 2021).

    Args:
        input_dim: how many.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, input_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_dim = whole_number(input_dim, "input_dim", least=1)

    def build(self, input_shape: Any) -> None:
        """Make the vectors, zeros until they are filled."""
        self.table = self.add_weight(name="embeddings", shape=(self.input_dim, input_shape[-1]), initializer="zeros")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """Both, in this order."""
        own = ops.cast(self.table, vectors.dtype)[None]
        return ops.concatenate([ops.repeat(own, ops.shape(vectors)[0], axis=0), vectors], axis=1)

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """The shape with more tokens."""
        batch, time, width = vectors.shape
        return keras.KerasTensor((batch, None if time is None else time + self.input_dim, width), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, without the vectors."""
        return {**super().get_config(), "input_dim": self.input_dim}


@keras.saving.register_keras_serializable("embkeras")
class WithoutPrompts(keras.layers.Layer):
    """Leaves the first vectors of a text out: (batch, count + time, D) -> (batch, time, D)."""

    def __init__(self, count: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.count = whole_number(count, "count", least=1)

    def call(self, vectors: Any) -> Any:
        """The other vectors."""
        return vectors[:, self.count :]

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """The shape with fewer tokens."""
        batch, time, width = vectors.shape
        return keras.KerasTensor((batch, None if time is None else time - self.count, width), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable("embkeras")
class PositionTable(keras.layers.Layer):
    """Adds row t of a table to the vector of token t: (batch, time, D) -> the same.

    Args:
        input_dim: rows of the table: the most tokens of a text. Longer texts are an error.
        in_front: so many vectors stand before those of a text, which may have that many tokens less.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, input_dim: int, in_front: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_dim = whole_number(input_dim, "input_dim", least=1)
        self.in_front = whole_number(in_front, "in_front", least=0, most=self.input_dim - 1)

    @property
    def most(self) -> int:
        """The most tokens of a text."""
        return self.input_dim - self.in_front

    def build(self, input_shape: Any) -> None:
        """Make the table, of zeros until it is filled."""
        self.table = self.add_weight(name="embeddings", shape=(self.input_dim, input_shape[-1]), initializer="zeros")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """The sums."""
        time = ops.shape(vectors)[1]
        if not tf.is_tensor(time):
            if time is not None and time > self.input_dim:
                raise ArgumentError(self._too_long(time - self.in_front))
            return vectors + ops.cast(self.table, vectors.dtype)[:time]
        check = tf.debugging.assert_less_equal(time, self.input_dim, message=self._too_long("more"))
        with tf.control_dependencies([] if check is None else [check]):
            return vectors + ops.cast(self.table, vectors.dtype)[:time]

    def _too_long(self, time: Any) -> str:
        return (
            f"Texts may have up to {self.most} tokens: the table of positions of layer {self.name!r} ends there. Cut them "
            f"with encode_batch(texts, {self.most}). Received: {time} tokens."
        )

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """The shape of the vectors."""
        return keras.KerasTensor(vectors.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, without the table."""
        return {**super().get_config(), "input_dim": self.input_dim, "in_front": self.in_front}


@keras.saving.register_keras_serializable("embkeras")
class SegmentTable(keras.layers.Layer):
    """Adds the row of a token's segment to its vector: (batch, time, D) -> the same.

    Every token is in segment 0, or with a separator: those behind the first separator, the second one included, are in
    segment 1.

    Args:
        input_dim: rows of the table.
        separator_id: the id that ends a segment, such as that of "[SEP]"; by default there is none, and no ids are needed.
        in_front: so many vectors stand before those of the ids, in segment 0.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, input_dim: int, separator_id: int | None = None, in_front: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.in_front = whole_number(in_front, "in_front", least=0)
        self.separator_id = None if separator_id is None else whole_number(separator_id, "separator_id", least=0)
        self.input_dim = whole_number(input_dim, "input_dim", least=1 if separator_id is None else 2)

    def build(self, input_shape: Any) -> None:
        """Make the table, of zeros until it is filled."""
        self.table = self.add_weight(name="embeddings", shape=(self.input_dim, input_shape[-1]), initializer="zeros")
        self.built = True

    def call(self, vectors: Any, ids: Any = None) -> Any:
        """The sums."""
        table = ops.cast(self.table, vectors.dtype)
        if self.separator_id is None:
            return vectors + table[0]
        ends = ops.cast(ops.equal(ids, ops.cast(self.separator_id, ids.dtype)), "int32")
        before = ops.cumsum(ends, axis=1) - ends
        if self.in_front:
            before = ops.pad(before, [[0, 0], [self.in_front, 0]])
        return vectors + ops.where((before == 1)[..., None], table[1], table[0])

    def compute_output_spec(self, vectors: Any, ids: Any = None) -> keras.KerasTensor:
        """The shape of the vectors."""
        return keras.KerasTensor(vectors.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, without the table."""
        own = {"input_dim": self.input_dim, "separator_id": self.separator_id, "in_front": self.in_front}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("embkeras")
class UnitLength(keras.layers.Layer):
    """Vectors divided by their length, so that their dot product is the cosine."""

    def call(self, vectors: Any) -> Any:
        """The vectors; one of zeros stays zeros."""
        return ops.normalize(vectors, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """The same."""
        return tuple(input_shape)


@keras.saving.register_keras_serializable("embkeras")
class FirstToken(keras.layers.Layer):
    """The vector of the first token, such as "[CLS]": (batch, time, D) -> (batch, D)."""

    def call(self, vectors: Any) -> Any:
        """The first vector of each text."""
        return vectors[:, 0]

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, D)."""
        return input_shape[0], input_shape[-1]


@keras.saving.register_keras_serializable("embkeras")
class ContextMask(keras.layers.Layer):
    """True for the pieces of the second text of a pair, and at the first place: (batch, time) -> bool (batch, time).

    Args:
        separator_id: the id behind the first text.
        special_ids: ids that are no piece of a text: those around the texts, and the padding.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, separator_id: int, special_ids: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.separator_id = whole_number(separator_id, "separator_id", least=0)
        self.special_ids = [whole_number(id_, "special_ids", least=0) for id_ in special_ids]

    def call(self, ids: Any) -> Any:
        """The mask of a batch of ids."""
        behind = ops.cumsum(ops.cast(ops.equal(ids, ops.cast(self.separator_id, ids.dtype)), "int32"), axis=1) > 0
        for id_ in self.special_ids:
            behind = ops.logical_and(behind, ops.not_equal(ids, ops.cast(id_, ids.dtype)))
        first = ops.equal(ops.cumsum(ops.ones_like(ids), axis=1), 1)
        return ops.logical_or(behind, first)

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        """The shape of the ids."""
        return keras.KerasTensor(ids.shape, "bool")

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "separator_id": self.separator_id, "special_ids": self.special_ids}


@keras.saving.register_keras_serializable("embkeras")
class PlaceProbabilities(keras.layers.Layer):
    """The probability of each place of a text, zero where a mask is False: (batch, time, K) -> (batch, time).

    Args:
        column: which of the K scores of a place counts.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, column: int, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.column = whole_number(column, "column", least=0)

    def call(self, scores: Any, allowed: Any) -> Any:
        """A softmax over the places that are allowed; training reads its logits."""
        return keras.activations.softmax(ops.where(allowed, scores[..., self.column], -1e9))

    def compute_output_spec(self, scores: Any, allowed: Any) -> keras.KerasTensor:
        """(batch, time)."""
        return keras.KerasTensor(scores.shape[:-1], self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "column": self.column}
