"""Layers of a decoder in the form of Llama, which also compute new tokens alone, beside kept keys and values.

The token table is a layer of `build_embedding`, which scores the tokens too. keras-hub's Llama has one start of positions for
a whole batch, so it knows neither padding in front nor several texts in a row, and its cache has a fixed length.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from embkeras._checks import number, whole_number
from embkeras.errors import ArgumentError
from embkeras.tables.stand_ins import stand_in_for

Kept = tuple[Any, Any]  # keys and values of earlier tokens, each (batch, key_value_heads, time, head_width)


@keras.saving.register_keras_serializable("embkeras")
class CausalPlaces(keras.layers.Layer):
    """Which tokens each token may see, and the rotation of its place: ids (batch, time) -> three tensors.

    A token sees itself and the earlier ones of its segment, and its place is their number: padding, wherever it is, is seen
    by no token and moves none. Without segments, everything that is no padding is one.

    The three: a bool tensor (batch, time, time), true where the token of the second axis is seen, and cosine and sine (batch,
    time, pairs) of the angles of each place.

    Args:
        padding_id: the id that fills short texts.
        frequencies: how fast each pair of a head's numbers turns, in radians a position.
        in_front: so many virtual tokens stand before the ids, seen by the tokens of every segment: all times are longer by them.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, padding_id: int, frequencies: Sequence[float], in_front: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.padding_id = whole_number(padding_id, "padding_id", least=0)
        self.in_front = whole_number(in_front, "in_front", least=0)
        self.frequencies = [number(each, "frequencies", above=0) for each in frequencies]

    def call(self, ids: Any, segments: Any = None, start: Any = 0) -> Any:
        """The places of the tokens from `start` on, a number of tokens."""
        if segments is None:
            segments = ops.cast(ops.not_equal(ids, ops.cast(self.padding_id, ids.dtype)), "int32")
        if self.in_front:
            segments = ops.pad(segments, [[0, 0], [self.in_front, 0]], constant_values=-1)
        places = ops.arange(ops.shape(segments)[1])
        asked, asked_segments = places[start:], segments[:, start:, None]
        seen = asked_segments == segments[:, None, :]
        if self.in_front:
            seen |= (places < self.in_front) & (asked_segments != 0)
        seen &= (asked[:, None] >= places)[None]
        place = ops.sum(ops.cast(seen, "float32"), axis=-1) - 1
        angles = place[..., None] * ops.convert_to_tensor(self.frequencies, "float32")
        return seen, ops.cast(ops.cos(angles), self.compute_dtype), ops.cast(ops.sin(angles), self.compute_dtype)

    def compute_output_spec(self, ids: Any, segments: Any = None, start: Any = 0) -> Any:
        """The shapes of the three."""
        batch, time = ids.shape
        time = None if time is None else time + self.in_front
        cosines, sines = (keras.KerasTensor((batch, time, len(self.frequencies)), self.compute_dtype) for _ in range(2))
        return keras.KerasTensor((batch, time, time), "bool"), cosines, sines

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        names = ("padding_id", "frequencies", "in_front")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class CausalAttention(keras.layers.Layer):
    """Attention with rotary positions, whose query heads may share keys and values (Ainslie et al. 2023)."""

    def __init__(self, heads: int, key_value_heads: int, head_width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads, self.key_value_heads, self.head_width = heads, key_value_heads, head_width

    def build(self, input_shape: Any) -> None:
        """Make the four dense layers."""
        width, dtype = input_shape[-1], self.dtype_policy
        wide, narrow = self.heads * self.head_width, self.key_value_heads * self.head_width
        self.query = keras.layers.Dense(wide, use_bias=False, dtype=dtype, name="query")
        self.key = keras.layers.Dense(narrow, use_bias=False, dtype=dtype, name="key")
        self.value = keras.layers.Dense(narrow, use_bias=False, dtype=dtype, name="value")
        self.attention_output = keras.layers.Dense(width, use_bias=False, dtype=dtype, name="attention_output")
        for layer in (self.query, self.key, self.value):
            layer.build(input_shape)
        self.attention_output.build((*input_shape[:-1], wide))
        self.built = True

    def call(self, x: Any, seen: Any, cosines: Any, sines: Any, kept: Kept | None = None) -> tuple[Any, Any, Any]:
        """The output, and the keys and values of all tokens so far."""
        shape = ops.shape(x)
        query = _turned(self._by_head(through(self.query, x)), cosines, sines)
        key, value = _turned(self._by_head(through(self.key, x)), cosines, sines), self._by_head(through(self.value, x))
        if kept is not None:
            key = ops.concatenate([ops.cast(kept[0], key.dtype), key], axis=2)
            value = ops.concatenate([ops.cast(kept[1], value.dtype), value], axis=2)
        # The query heads that share keys stand behind each other: a product for each head of keys.
        query = ops.reshape(query, (shape[0], self.key_value_heads, -1, self.head_width))
        scores = ops.matmul(query, ops.swapaxes(key, 2, 3)) * self.head_width**-0.5
        share = self.heads // self.key_value_heads
        scores = ops.reshape(scores, (shape[0], self.key_value_heads, share, shape[1], -1))
        scores = ops.where(seen[:, None, None], ops.cast(scores, "float32"), -1e30)
        weights = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        weights = ops.reshape(weights, (shape[0], self.key_value_heads, share * shape[1], -1))
        mixed = ops.reshape(ops.matmul(weights, value), (shape[0], self.heads, shape[1], self.head_width))
        mixed = ops.reshape(ops.swapaxes(mixed, 1, 2), (shape[0], shape[1], self.heads * self.head_width))
        return through(self.attention_output, mixed), key, value

    def _by_head(self, x: Any) -> Any:
        """(batch, time, heads * width) -> (batch, heads, time, width)."""
        shape = ops.shape(x)
        return ops.swapaxes(ops.reshape(x, (shape[0], shape[1], -1, self.head_width)), 1, 2)


@keras.saving.register_keras_serializable("embkeras")
class DecoderBlock(keras.layers.Layer):
    """A block of a decoder in the form of Llama: (batch, time, width) -> the same.

    Args:
        inner_width: width inside the feed-forward.
        heads: query heads.
        key_value_heads: keys and values, a divisor of `heads`.
        head_width: width of each head.
        epsilon: of the norms.
        **kwargs: as for any Keras layer.
    """

    def __init__(
        self,
        inner_width: int,
        heads: int,
        key_value_heads: int,
        head_width: int,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.inner_width = whole_number(inner_width, "inner_width", least=1)
        self.heads = whole_number(heads, "heads", least=1)
        self.key_value_heads = whole_number(key_value_heads, "key_value_heads", least=1)
        self.head_width = whole_number(head_width, "head_width", least=2)
        self.epsilon = number(epsilon, "epsilon", above=0)
        if self.heads % self.key_value_heads:
            raise ArgumentError(
                f"heads must be a multiple of key_value_heads={self.key_value_heads}. Received: {self.heads}."
            )

    def build(self, input_shape: Any) -> None:
        """Make the layers inside."""
        dtype, inner = self.dtype_policy, (*input_shape[:-1], self.inner_width)

        def norm(name: str) -> keras.layers.Layer:
            return keras.layers.RMSNormalization(epsilon=self.epsilon, dtype=dtype, name=name)

        def dense(units: int, name: str) -> keras.layers.Layer:
            return keras.layers.Dense(units, use_bias=False, dtype=dtype, name=name)

        self.attention_norm, self.feedforward_norm = norm("self_attention_layer_norm"), norm("feedforward_layer_norm")
        self.attention = CausalAttention(
            self.heads, self.key_value_heads, self.head_width, dtype=dtype, name="self_attention_layer"
        )
        self.gate, self.intermediate = (
            dense(self.inner_width, "feedforward_gate"),
            dense(self.inner_width, "feedforward_intermediate"),
        )
        self.output_dense = dense(input_shape[-1], "feedforward_output")
        for layer in (self.attention_norm, self.attention, self.feedforward_norm, self.gate, self.intermediate):
            layer.build(input_shape)
        self.output_dense.build(inner)
        self.built = True

    def call(self, x: Any, seen: Any, cosines: Any, sines: Any) -> Any:
        """The vectors of a whole text."""
        return self.beside(x, seen, cosines, sines, None)[0]

    def beside(self, x: Any, seen: Any, cosines: Any, sines: Any, kept: Kept | None) -> tuple[Any, Kept]:
        """The vectors of new tokens beside what is kept of earlier ones, and what is kept of all."""
        attended, *kept_now = self.attention(self.attention_norm(x), seen, cosines, sines, kept)
        x = x + attended
        y = self.feedforward_norm(x)
        inner = ops.silu(through(self.gate, y)) * through(self.intermediate, y)
        return x + through(self.output_dense, inner), (kept_now[0], kept_now[1])

    def compute_output_spec(self, x: Any, *_: Any) -> keras.KerasTensor:
        """The shape of the vectors."""
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        names = ("inner_width", "heads", "key_value_heads", "head_width", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _turned(x: Any, cosines: Any, sines: Any) -> Any:
    """Heads (batch, heads, time, width) turned by the angles of their places (batch, time, width / 2)."""
    first, second = ops.split(x, 2, axis=-1)
    cosines, sines = cosines[:, None], sines[:, None]
    return ops.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def through(layer: keras.layers.Layer, x: Any) -> Any:
    """What a dense layer, or what stands in for it in an export, makes of x."""
    stand_in = stand_in_for(layer)
    return layer(x) if stand_in is None else stand_in(x)


def no_kept(block: DecoderBlock, batch: Any) -> Kept:
    """What is kept before the first token."""
    nothing = tf.zeros((batch, block.key_value_heads, 0, block.head_width), block.compute_dtype)
    return nothing, nothing
