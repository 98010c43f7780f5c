"""WordDropout: in training, some words become "[UNK]", so that its row learns to stand for unknown words."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from embkeras._checks import number, whole_number
from embkeras.errors import ArgumentError


@keras.saving.register_keras_serializable("embkeras")
class WordDropout(keras.layers.Layer):
    """Replace each id by the OOV id with probability `rate`, in training only. Put it before the embedding.

    A vocabulary made from the training texts contains all their words, so without this layer training hardly ever reads
    the row of "[UNK]". Iyyer et al. 2015 (Deep Unordered Composition Rivals Syntactic Methods for Text Classification)
    drop words from the text; here they become "[UNK]", so a text keeps its length and is never empty. Padding is never
    replaced, so masks don't change. The row only learns if it trains: `build_embedding(aligned, trainable="oov")`, or True.

    Args:
        rate: probability that a word is replaced, from 0 to below 1; in the paper, 0.3 worked well.
        oov_id: the id that replaces it, `vocabulary.oov_id`.
        padding_id: the id that is never replaced, `vocabulary.padding_id`; None if there is none.
        seed: seed of the random draws; by default different in each process. `ResumableBackup` continues with the next
            draw.
        **kwargs: as for any Keras layer.

    Input shape: integer ids of any shape. Output shape and dtype: the same.

    Raises:
        ArgumentError: a rate outside [0, 1), an id or seed that isn't an integer >= 0, or the same id for both; when
            called, a RaggedTensor.

    Examples:
        >>> import numpy as np
        >>> words = WordDropout(0.5, seed=0)
        >>> words(np.array([[4, 7, 2, 0, 0]])).numpy().tolist()
        [[4, 7, 2, 0, 0]]
        >>> dropped = words(np.full((100, 100), 7), training=True).numpy()
        >>> np.unique(dropped).tolist(), bool(abs((dropped == 1).mean() - 0.5) < 0.05)
        ([1, 7], True)
    """

    rate: float
    oov_id: int
    padding_id: int | None
    seed: int | None
    seed_generator: Any

    def __init__(
        self, rate: float, oov_id: int = 1, padding_id: int | None = 0, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.rate, self.oov_id = number(rate, "rate", least=0, below=1), whole_number(oov_id, "oov_id", least=0)
        self.padding_id = None if padding_id is None else whole_number(padding_id, "padding_id", least=0)
        self.seed = None if seed is None else whole_number(seed, "seed", least=0)
        if oov_id == padding_id:
            raise ArgumentError(
                f"oov_id and padding_id must differ: words must not become padding. Received: {oov_id} twice."
            )
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.supports_masking = True
        self.autocast = False  # float32 ids would lose their last digits in float16

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The ids, some of them replaced in training."""
        if isinstance(inputs, tf.RaggedTensor):  # without this check, Keras would take it until training begins
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
