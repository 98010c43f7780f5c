"""From the vectors of a text to one vector, which is the same for a text alone, padded, or in a batch.

For an empty text (all padding), each layer returns defined, finite numbers.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from embkeras._checks import whole_number
from embkeras.errors import ArgumentError

_STEPS = "_embkeras_steps"  # an attribute of tensors, as Keras' own `_keras_mask`


def with_steps(ids: Any, steps: int) -> Any:
    """The same ids (batch, time), known to have that many time steps or more: `PadToLength` needs no operation for them."""
    setattr(ids, _STEPS, steps)
    return ids


@keras.saving.register_keras_serializable("embkeras")
class PadToLength(keras.layers.Layer):
    """Append id 0 to ids of shape (batch, time) until time is at least `length`; longer ones pass unchanged.

    An LSTM needs at least one time step, and a convolution at least as many as its width.
    """

    def __init__(self, length: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.length = whole_number(length, "length", least=0)

    def call(self, ids: Any) -> Any:
        """Ids of shape (batch, max(time, length))."""
        if getattr(ids, _STEPS, 0) >= self.length:
            return ids
        lacking = ops.maximum(self.length - ops.shape(ids)[1], 0)
        padding = ops.zeros((ops.shape(ids)[0], lacking), ids.dtype)
        return ops.concatenate([ids, padding], axis=1)

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        """The shape; a known time is at least `length`."""
        batch, time = ids.shape
        return keras.KerasTensor((batch, None if time is None else max(time, self.length)), ids.dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "length": self.length}


@keras.saving.register_keras_serializable("embkeras")
class MaskedMean(keras.layers.Layer):
    """Mean over the time steps that the mask keeps: (batch, time, D) -> (batch, D); zeros if it keeps none.

    With word vectors this is the composition of Iyyer et al. 2015 (Deep Unordered Composition Rivals Syntactic
    Methods for Text Classification).
    """

    supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The mean of each text."""
        kept = ops.expand_dims(ops.ones(ops.shape(inputs)[:2], "bool") if mask is None else ops.cast(mask, "bool"), -1)
        # Not in float16: a sum of many numbers loses digits, and would depend on the padding.
        wide = keras.backend.result_type(inputs.dtype, "float32")
        values, count = ops.cast(inputs, wide), ops.sum(ops.cast(kept, wide), axis=1)
        # where, not a product: 0 * infinity in a padding row would be NaN.
        total = ops.sum(ops.where(kept, values, ops.zeros((), wide)), axis=1)
        return ops.cast(total / ops.maximum(count, 1), inputs.dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """None: no time axis is left to mask."""
        return

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, D)."""
        return input_shape[0], input_shape[-1]


@keras.saving.register_keras_serializable("embkeras")
class MaskedConvolutions(keras.layers.Layer):
    """Convolutions of several widths and max-over-time: (batch, time, D) -> (batch, filters * widths).

    The sentence encoder of Kim 2014 (Convolutional Neural Networks for Sentence Classification). Only windows within the
    text count; a text shorter than a window has one, padded with zeros.

    Args:
        filters: filters of each width.
        widths: widths of the windows, in tokens.
        **kwargs: as for any Keras layer.
    """

    supports_masking = True

    def __init__(self, filters: int, widths: Sequence[int] = (3, 4, 5), **kwargs: Any):
        super().__init__(**kwargs)
        self.filters = whole_number(filters, "filters", least=1)
        self.widths = tuple(whole_number(width, "Each of widths", least=1) for width in widths)
        if not self.widths:
            raise ArgumentError("widths must have at least one width. Received: ().")
        self.convolutions = [
            keras.layers.Conv1D(filters, width, activation="relu", dtype=self.dtype_policy, name=f"width_{width}")
            for width in self.widths
        ]

    def build(self, input_shape: Any) -> None:
        """Build every convolution for vectors of width D."""
        for convolution in self.convolutions:
            convolution.build((None, None, input_shape[-1]))

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The largest output of each filter over the windows of the text."""
        if mask is None:
            mask = ops.ones(ops.shape(inputs)[:2], "bool")
        inputs = ops.where(ops.expand_dims(mask, -1), inputs, ops.zeros_like(inputs))
        # Position of the last token + 1: padding in front counts as zeros in the text, as for an LSTM.
        steps = ops.arange(1, ops.shape(mask)[1] + 1)
        lengths = ops.max(ops.where(mask, steps, ops.zeros_like(steps)), axis=1, keepdims=True)
        return ops.concatenate([self._pooled(layer, inputs, lengths) for layer in self.convolutions], axis=-1)

    def _pooled(self, convolution: keras.layers.Conv1D, inputs: Any, lengths: Any) -> Any:
        outputs = convolution(inputs)
        starts = ops.arange(ops.shape(outputs)[1])
        within = starts < ops.maximum(lengths - convolution.kernel_size[0] + 1, 1)
        # after relu all outputs are >= 0, so zeros never win
        return ops.max(ops.where(ops.expand_dims(within, -1), outputs, ops.zeros_like(outputs)), axis=1)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """None: no time axis is left to mask."""
        return

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """(batch, filters * widths)."""
        return input_shape[0], self.filters * len(self.widths)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "filters": self.filters, "widths": self.widths}
