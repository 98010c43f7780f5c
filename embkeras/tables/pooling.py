"""From the vectors of a text to one vector, the same for a text alone, padded, or in a batch.

Each layer gives an empty text (all padding) a defined, finite answer.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from embkeras.errors import ArgumentError


@keras.saving.register_keras_serializable("embkeras")
class PadToLength(keras.layers.Layer):
    """Append id 0 to ids of shape (batch, time) until time is at least `length`; longer ones pass unchanged.

    An LSTM cannot run over no time step, nor a convolution over fewer steps than its width.
    """

    def __init__(self, length: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.length = length

    def call(self, ids: Any) -> Any:
        """Ids of shape (batch, max(time, length))."""
        lacking = ops.maximum(self.length - ops.shape(ids)[1], 0)
        padding = ops.zeros((ops.shape(ids)[0], lacking), ids.dtype)
        return ops.concatenate([ids, padding], axis=1)

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        """The shape: time stays unknown, unless it was known."""
        batch, time = ids.shape
        return keras.KerasTensor((batch, None if time is None else max(time, self.length)), ids.dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "length": self.length}


@keras.saving.register_keras_serializable("embkeras")
class MaskedMean(keras.layers.Layer):
    """Mean over the time steps that the mask keeps: (batch, time, D) -> (batch, D); zeros where it keeps none.

    With word vectors this is the composition of Iyyer et al. 2015 (Deep Unordered Composition Rivals Syntactic
    Methods for Text Classification).
    """

    supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The mean of each text."""
        if mask is None:
            mask = ops.ones(ops.shape(inputs)[:2], "bool")
        # Not in float16: the sum of many loses digits, and would depend on the padding among them.
        wide = keras.backend.result_type(inputs.dtype, "float32")
        weights, values = ops.expand_dims(ops.cast(mask, wide), -1), ops.cast(inputs, wide)
        # where, not a product: 0 * infinity in a padding row would be NaN.
        total = ops.sum(ops.where(weights > 0, values, ops.zeros_like(values)), axis=1)
        return ops.cast(total / ops.maximum(ops.sum(weights, axis=1), 1), inputs.dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """No time axis is left to mask."""
        return

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, D)."""
        return input_shape[0], input_shape[-1]


@keras.saving.register_keras_serializable("embkeras")
class MaskedConvolutions(keras.layers.Layer):
    """Convolutions of several widths and max-over-time: (batch, time, D) -> (batch, filters * widths).

    The sentence encoder of Kim 2014 (Convolutional Neural Networks for Sentence Classification). Only windows that lie
    within the text count; a text shorter than a window has one, filled up with zeros.

    Args:
        filters: filters of each width.
        widths: widths of the windows, in tokens.
    """

    supports_masking = True

    def __init__(self, filters: int, widths: Sequence[int] = (3, 4, 5), **kwargs: Any):
        super().__init__(**kwargs)
        self.filters, self.widths = filters, tuple(widths)
        if filters < 1 or not self.widths or min(self.widths) < 1:
            raise ArgumentError(
                f"filters and widths must be at least 1. Received: filters={filters}, widths={self.widths}."
            )
        self.convolutions = [
            keras.layers.Conv1D(filters, width, activation="relu", dtype=self.dtype_policy, name=f"width_{width}")
            for width in self.widths
        ]

    def build(self, input_shape: Any) -> None:
        """Build every convolution for vectors of width D."""
        for convolution in self.convolutions:
            convolution.build((None, None, input_shape[-1]))

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The largest answer of each filter to a window of the text."""
        if mask is None:
            mask = ops.ones(ops.shape(inputs)[:2], "bool")
        inputs = ops.where(ops.expand_dims(mask, -1), inputs, ops.zeros_like(inputs))
        # Position of the last token + 1, so that padding in front counts as zeros in the text, as an LSTM sees it.
        steps = ops.arange(1, ops.shape(mask)[1] + 1)
        lengths = ops.max(ops.where(mask, steps, ops.zeros_like(steps)), axis=1, keepdims=True)
        return ops.concatenate([self._pooled(layer, inputs, lengths) for layer in self.convolutions], axis=-1)

    def _pooled(self, convolution: keras.layers.Conv1D, inputs: Any, lengths: Any) -> Any:
        answers = convolution(inputs)
        starts = ops.arange(ops.shape(answers)[1])
        within = starts < ops.maximum(lengths - convolution.kernel_size[0] + 1, 1)
        # relu makes every answer >= 0, so zero is below or equal to all that count.
        return ops.max(ops.where(ops.expand_dims(within, -1), answers, ops.zeros_like(answers)), axis=1)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """No time axis is left to mask."""
        return

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, filters * widths)."""
        return input_shape[0], self.filters * len(self.widths)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "filters": self.filters, "widths": self.widths}
