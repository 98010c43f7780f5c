"""WordDropout: in training, words that become "[UNK]", so that its row learns what to say for a word it does not know."""

import numbers
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from embkeras.errors import ArgumentError


@keras.saving.register_keras_serializable("embkeras")
class WordDropout(keras.layers.Layer):
    """Replace each id by the OOV id with probability `rate`, in training only; it stands before the embedding.

    A vocabulary made from the training texts knows all their words, so the row of "[UNK]" is hardly ever read in
    training and has learned nothing when new texts read it. Iyyer et al. 2015 (Deep Unordered Composition Rivals
    Syntactic Methods for Text Classification) drop words from the text; here they become "[UNK]", so that its row is
    read, and a text keeps its length. A text that loses every word is one of "[UNK]", never an empty one. Padding is
    never replaced, so masks stay as they are.

    The row only learns if it may move: `build_embedding(aligned, trainable="oov")`, or True.

    Args:
        rate: probability of a word to be replaced, from 0 to below 1; the paper found 0.3 to do well.
        oov_id: the id put in its place, `vocabulary.oov_ids[0]`.
        padding_id: the id that is never replaced, `vocabulary.padding_id`; None where there is none.
        seed: an integer by which the words are drawn; by default another one in each process. What was drawn last is
            a variable of the model, as with Dropout, so that `ResumableBackup` goes on with the next draw.
        **kwargs: as for any Keras layer.

    Input shape: integer ids of any shape. Output shape and dtype: the same.

    Raises:
        ArgumentError: a rate outside [0, 1), an id that is not an integer >= 0, the same id for both, or another seed;
            when called, a RaggedTensor.

    Example:
        >>> import numpy as np
        >>> words = WordDropout(0.5, seed=0)
        >>> words(np.array([[4, 7, 2, 0, 0]])).numpy().tolist()
        [[4, 7, 2, 0, 0]]
        >>> dropped = words(np.full((100, 100), 7), training=True).numpy()
        >>> np.unique(dropped).tolist(), bool(abs((dropped == 1).mean() - 0.5) < 0.05)
        ([1, 7], True)
    """

    def __init__(
        self, rate: float, oov_id: int = 1, padding_id: int | None = 0, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
            raise ArgumentError(f"rate must be a probability in [0, 1). Received: {rate!r}.")
        for what, value, may_be_none in (("oov_id", oov_id, False), ("padding_id", padding_id, True)):
            if not (_is_natural(value) or (may_be_none and value is None)):
                raise ArgumentError(f"{what} must be an integer >= 0{' or None' * may_be_none}. Received: {value!r}.")
        if oov_id == padding_id:
            raise ArgumentError(
                f"A word cannot become padding: oov_id and padding_id differ. Received: {oov_id} for both."
            )
        if not (seed is None or _is_natural(seed)):
            raise ArgumentError(f"seed must be an integer >= 0 or None. Received: {seed!r}.")
        self.rate, self.oov_id = float(rate), int(oov_id)
        self.padding_id = None if padding_id is None else int(padding_id)
        self.seed = None if seed is None else int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.supports_masking = True
        self.autocast = False  # ids that come as float32 would lose their last digits in float16

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The ids, some of them replaced in training."""
        if isinstance(inputs, tf.RaggedTensor):  # Keras would take it until training begins
            raise ArgumentError(f"Layer {self.name!r} takes padded ids: ids.to_tensor(0). Received: a RaggedTensor.")
        if not training or not self.rate:
            return inputs
        ids = ops.convert_to_tensor(inputs)
        dropped = keras.random.uniform(ops.shape(ids), dtype="float32", seed=self.seed_generator) < self.rate
        if self.padding_id is not None:
            dropped = ops.logical_and(dropped, ids != self.padding_id)
        return ops.where(dropped, ops.full_like(ids, self.oov_id), ids)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """Shape and dtype stay."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        own = {"rate": self.rate, "oov_id": self.oov_id, "padding_id": self.padding_id, "seed": self.seed}
        return {**super().get_config(), **own}


def _is_natural(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 0
