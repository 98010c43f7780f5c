"""A decoder's model taken apart, to compute new tokens beside the kept keys and values of earlier ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import shown
from embkeras.encoders.decoders.layers import CausalPlaces, DecoderBlock, Kept, no_kept
from embkeras.encoders.decoders.reading import PretrainedDecoder
from embkeras.encoders.layers import SoftPrompts
from embkeras.errors import ArgumentError
from embkeras.tables.embedding import PretrainedEmbedding


@dataclass(frozen=True, eq=False)
class Steps:
    """The layers of a decoder's model, in order.

    Attributes:
        words: the token table.
        prompts: the virtual tokens in front of every text, if there are any.
        places: what each token sees.
        blocks: the blocks.
        norm: the norm behind them.
        output: the table that scores the tokens: `words`, where it is tied.
    """

    words: PretrainedEmbedding
    prompts: SoftPrompts | None
    places: CausalPlaces
    blocks: tuple[DecoderBlock, ...]
    norm: keras.layers.Layer
    output: PretrainedEmbedding

    @classmethod
    def of(cls, model: Any, read: PretrainedDecoder | None = None) -> "Steps":
        """The layers of a model that `read.model()` made.

        Raises:
            ArgumentError: another model, or one that belongs to another decoder than `read`.
        """
        layers = list(model.layers) if isinstance(model, keras.Model) else []
        named = {layer.name: layer for layer in layers}
        words, norm = named.get("token_embedding"), named.get("output_layer_norm")
        places = next((layer for layer in layers if isinstance(layer, CausalPlaces)), None)
        blocks = tuple(layer for layer in layers if isinstance(layer, DecoderBlock))
        if not isinstance(words, PretrainedEmbedding) or norm is None or places is None or not blocks:
            raise ArgumentError(f"This takes a model from load_decoder(path).model(). Received: {shown(model)}.")
        if read is not None and (words.input_dim, places.in_front) != (len(read.tokenizer), read.prompts):
            raise ArgumentError(
                f"The model must come from read.model(), with a table of {len(read.tokenizer)} rows and {read.prompts} prompts. "
                f"Received: model {model.name!r} with {words.input_dim} rows and {places.in_front} prompts."
            )
        return cls(words, named.get("prompts"), places, blocks, norm, named.get("output_embedding", words))

    def nothing(self, batch: Any) -> list[Kept]:
        """What is kept before the first token."""
        return [no_kept(block, batch) for block in self.blocks]

    def specs(self) -> list[tuple[tf.TensorSpec, tf.TensorSpec]]:
        """The shapes of what is kept, for any number of texts and tokens."""
        shapes = [(None, block.key_value_heads, None, block.head_width) for block in self.blocks]
        return [
            (tf.TensorSpec(shape, block.compute_dtype),) * 2 for shape, block in zip(shapes, self.blocks, strict=True)
        ]

    def graph(self) -> Any:
        """`__call__` as a graph for any number of texts and tokens."""
        ids = tf.TensorSpec((None, None), tf.int64)
        return tf.function(lambda ids, kept: self(ids, kept), input_signature=[ids, self.specs()])

    def __call__(self, ids: tf.Tensor, kept: Sequence[Kept]) -> tuple[tf.Tensor, list[Kept]]:
        """The scores of every token behind each text, and what is kept of all tokens.

        Args:
            ids: all tokens so far, (batch, time), padding anywhere.
            kept: what is kept of the first of them; the others are new.

        Returns:
            Scores (batch, V + 1) behind the last token of each row that is no padding, and the keys and values.
        """
        start, in_front = tf.shape(kept[0][0])[2], self.places.in_front
        seen, cosines, sines = self.places(ids, start=start)
        ids = ids[:, tf.maximum(start - in_front, 0) :]
        x, now = self.words(ids), []
        if self.prompts is not None:  # with the first tokens
            x = self.prompts(x)[:, tf.minimum(start, in_front) :]
        for block, earlier in zip(self.blocks, kept, strict=True):
            x, more = block.beside(x, seen, cosines, sines, earlier)
            now.append(more)
        tokens = tf.cast(ids != self.places.padding_id, tf.int32)
        last = tf.reduce_max(tokens * tf.range(tf.shape(tokens)[1]), axis=1) + tf.maximum(in_front - start, 0)
        x = self.norm(tf.gather(x, last, axis=1, batch_dims=1))
        return tf.cast(self.output.project(x), tf.float32), now
