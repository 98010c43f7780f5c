"""Layers between token ids and the first block of an encoder, and an activation: they save and load without keras-hub."""

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
    """True where an id is not the padding: (batch, time) -> bool (batch, time)."""

    def __init__(self, padding_id: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.padding_id = whole_number(padding_id, "padding_id", least=0)

    def call(self, ids: Any) -> Any:
        """The mask of a batch of ids."""
        return ops.not_equal(ids, ops.cast(self.padding_id, ids.dtype))

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        """The shape of the ids."""
        return keras.KerasTensor(ids.shape, "bool")

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "padding_id": self.padding_id}


@keras.saving.register_keras_serializable("embkeras")
class PositionTable(keras.layers.Layer):
    """Adds row t of a table to the vector of token t: (batch, time, D) -> the same.

    Args:
        input_dim: rows of the table: the most tokens of a text. Longer texts are an error.
    """

    def __init__(self, input_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_dim = whole_number(input_dim, "input_dim", least=1)

    def build(self, input_shape: Any) -> None:
        """Make the table, of zeros until it is filled."""
        self.table = self.add_weight(name="embeddings", shape=(self.input_dim, input_shape[-1]), initializer="zeros")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """The sums."""
        time = ops.shape(vectors)[1]
        if not tf.is_tensor(time):
            if time is not None and time > self.input_dim:
                raise ArgumentError(self._too_long(time))
            return vectors + ops.cast(self.table, vectors.dtype)[:time]
        check = tf.debugging.assert_less_equal(time, self.input_dim, message=self._too_long("more"))
        with tf.control_dependencies([] if check is None else [check]):
            return vectors + ops.cast(self.table, vectors.dtype)[:time]

    def _too_long(self, time: Any) -> str:
        return (
            f"Texts may have up to {self.input_dim} tokens: the table of positions of layer {self.name!r} ends there. Cut them "
            f"with encode_batch(texts, {self.input_dim}). Received: {time} tokens."
        )

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """The shape of the vectors."""
        return keras.KerasTensor(vectors.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, without the table."""
        return {**super().get_config(), "input_dim": self.input_dim}


@keras.saving.register_keras_serializable("embkeras")
class SegmentTable(keras.layers.Layer):
    """Adds the row of the first segment to every vector: (batch, time, D) -> the same. The other rows are kept.

    Args:
        input_dim: rows of the table.
    """

    def __init__(self, input_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_dim = whole_number(input_dim, "input_dim", least=1)

    def build(self, input_shape: Any) -> None:
        """Make the table, of zeros until it is filled."""
        self.table = self.add_weight(name="embeddings", shape=(self.input_dim, input_shape[-1]), initializer="zeros")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """The sums."""
        return vectors + ops.cast(self.table, vectors.dtype)[0]

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """The shape of the vectors."""
        return keras.KerasTensor(vectors.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, without the table."""
        return {**super().get_config(), "input_dim": self.input_dim}


@keras.saving.register_keras_serializable("embkeras")
class FirstToken(keras.layers.Layer):
    """The vector of the first token, such as "[CLS]": (batch, time, D) -> (batch, D)."""

    def call(self, vectors: Any) -> Any:
        """The first vector of each text."""
        return vectors[:, 0]

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, D)."""
        return input_shape[0], input_shape[-1]
