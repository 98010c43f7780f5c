"""Tied weights: an embedding layer also scores its rows, as the output of a language model or a recommender does.

`matmul(h, transpose(layer.embeddings))` does that for a plain table, with a score for the padding too. `layer.project(h)` is
the same for every form of a table, leaves the padding out, and with `ids` reads and trains the rows of candidates alone.
"""

from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import shown
from embkeras.errors import ArgumentError
from embkeras.tables.stand_ins import stand_in_for

# The score of the padding: exp of it is exactly 0 in every dtype, float16 can hold it and what is added to it, and a loss
# whose label is padding stays finite, so that a sample weight of 0 can still drop it. (-inf * 0 is NaN.)
EXCLUDED = -30_000.0
_projecting: ContextVar[bool] = ContextVar("projecting", default=False)


class Projection(keras.layers.Layer):
    """Base of layers from ids to vectors of width `output_dim`: the same layer from vectors to scores of its ids.

    A functional model calls a layer twice, so the layer's `call` takes `reverse=True`, and with it `candidates`.
    """

    input_dim: int
    output_dim: int
    mask_zero: bool
    padding_id: Any  # int or None

    def project(self, vectors: Any, ids: Any = None) -> Any:
        """The scores of ids for vectors: the product of the vectors and the rows (Press & Wolf 2017, Using the Output
        Embedding to Improve Language Models).

        The gradient of all scores is dense: each step then costs the whole table, and row-wise optimizers warn of it once.
        With `ids` (the labels and some negatives, as in sampled softmax) it reaches the rows of those ids only.

        Args:
            vectors: floats of shape (..., output_dim), a tensor or the output of a layer in a functional model.
            ids: the candidates: integer ids of shape (n,), the same for all vectors, or (..., n), for each vector its own.
                By default all ids.

        Returns:
            Scores of shape (..., input_dim) or (..., n), in the layer's compute dtype. The score of the padding is -30000,
            which softmax turns into exactly 0, and has no gradient. A mask of the vectors stays.

        Raises:
            ArgumentError: vectors of another width or that aren't floats, or ids whose shape doesn't fit them.

        Examples:
            >>> import numpy as np
            >>> from embkeras.tables.builders import build_embedding
            >>> from embkeras.text.vocabulary import Vocabulary
            >>> from embkeras.vectors.aligned import AlignedMatrix
            >>> words = Vocabulary(["", "[UNK]", "cat", "dog"])
            >>> layer = build_embedding(AlignedMatrix(np.eye(4, dtype="float32"), words))
            >>> layer.project(np.array([[0.5, 1, 2, 3]], "float32")).numpy().tolist()
            [[-30000.0, 1.0, 2.0, 3.0]]
            >>> layer.project(np.array([[0.5, 1, 2, 3]], "float32"), ids=np.array([3, 1])).numpy().tolist()
            [[3.0, 1.0]]
        """
        vectors = self._tensor(vectors, "vectors")
        if ids is None:
            return self(vectors, reverse=True)
        return self(vectors, reverse=True, candidates=self._tensor(ids, "ids"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any Keras layer; the mask of scores is that of the vectors, not one of ids."""
        token = _projecting.set(bool(kwargs.get("reverse")))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _projecting.reset(token)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which ids are not padding, if id 0 is masked; of scores, the mask of their vectors."""
        if _projecting.get():
            return mask
        return keras.ops.not_equal(inputs, 0) if self.mask_zero else None

    def scores_spec(self, vectors: Any, candidates: Any) -> keras.KerasTensor:
        """Shape and dtype of the scores of `vectors`."""
        self._check_vectors(vectors, candidates)
        count = self.input_dim if candidates is None else candidates.shape[-1]
        return keras.KerasTensor((*vectors.shape[:-1], count), self.compute_dtype)

    def scores(self, vectors: Any, candidates: Any) -> tf.Tensor:
        """What `call` returns with `reverse=True`."""
        self._check_vectors(vectors, candidates)
        vectors = tf.cast(vectors, self.compute_dtype)
        if candidates is None:
            ids, stand_in = tf.range(self.input_dim), stand_in_for(self)
            scores = self.scores_of_all(vectors) if stand_in is None else stand_in.scores(vectors)
        else:
            ids = candidates
            rows = self.vectors_of(ids)
            shared = ids.shape.rank == 1
            scores = scores_by(vectors, rows) if shared else tf.squeeze(tf.matmul(rows, vectors[..., None]), -1)
        scores = tf.cast(scores, self.compute_dtype)
        if self.padding_id is None:
            return scores
        return tf.where(ids == tf.cast(self.padding_id, ids.dtype), tf.constant(EXCLUDED, scores.dtype), scores)

    def vectors_of(self, ids: Any) -> Any:
        """The layer's vectors of `ids`."""
        return self.call(ids) if self.quantization_mode is None else self.quantized_call(ids)

    def scores_of_all(self, vectors: tf.Tensor) -> tf.Tensor:
        """The product with every row; forms that can do with less than one table of all vectors override it."""
        return scores_by(vectors, self.vectors_of(tf.range(self.input_dim)))

    def _tensor(self, value: Any, what: str) -> Any:
        """A tensor of values or of Keras."""
        if isinstance(value, keras.KerasTensor):
            return value
        try:
            return tf.convert_to_tensor(value)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"project takes {what} as a dense tensor. Received: {shown(value)} (layer {self.name!r})."
            ) from error

    def _check_vectors(self, vectors: Any, candidates: Any) -> None:
        shape, dtype = tuple(vectors.shape), keras.backend.standardize_dtype(vectors.dtype)
        if not shape or shape[-1] not in (None, self.output_dim) or "float" not in dtype:
            raise ArgumentError(
                f"project takes vectors, floats of shape (..., {self.output_dim}). "
                f"Received: {dtype} of shape {shape} (layer {self.name!r})."
            )
        if candidates is None:
            return
        ids = tuple(candidates.shape)
        if not (len(ids) == 1 or _fits(ids[:-1], shape[:-1])):
            raise ArgumentError(
                f"project takes ids of shape (n,), the same for all vectors, or {(*shape[:-1], 'n')}, for each vector its "
                f"own. Received: {ids} (layer {self.name!r})."
            )


def scores_by(vectors: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """The product of vectors (..., width) and rows (n, width): (..., n). Flat, since products of batches are slower."""
    flat = tf.matmul(tf.reshape(vectors, (-1, rows.shape[-1])), rows, transpose_b=True)
    scores = tf.reshape(flat, tf.concat([tf.shape(vectors)[:-1], tf.shape(rows)[:1]], 0))
    return tf.ensure_shape(scores, (*vectors.shape[:-1], rows.shape[0]))


def _fits(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    return len(shape) == len(other) and all(
        one is None or two is None or one == two for one, two in zip(shape, other, strict=True)
    )
