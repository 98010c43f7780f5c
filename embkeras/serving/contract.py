"""What an export answers: ids of two widths, texts, and vectors, each as a function that TensorFlow traces.

Ids come first, and are brought into one form before the model sees them: each text at the front of its row, padding
behind it. So a text has the same scores alone, padded, in a batch, and with zeros in front of it; TensorFlow Serving
pads a batch with the first number of each request, and a client may send a 0 in front for that reason.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from embkeras.text.tokenizer import WHITE_SPACE
from embkeras.text.vocabulary import Vocabulary

BAD_IDS = ("oov", "error")
SEPARATOR = "\t"
_NONE = -1  # no id


@dataclass(frozen=True)
class Contract:
    """How requests are read, whatever the model.

    Attributes:
        vocabulary: what the ids mean.
        outputs: names of the model's outputs, in its order.
        bad_ids: "oov": ids outside the table are read as the first OOV id; "error": they are refused.
        least: tokens that a text is filled up to.
        most: tokens that a model of one length takes, or None.
        class_names: for the output `classes`, or None.
        warm_up: lengths of the requests that a server asks itself first.
    """

    vocabulary: Vocabulary
    outputs: Sequence[str]
    bad_ids: str = "oov"
    least: int = 1
    most: int | None = None
    class_names: Sequence[str] | None = None
    warm_up: Sequence[int] = ()

    @property
    def padding(self) -> int:
        """The padding id, or a number that is no id."""
        return _NONE if self.vocabulary.padding_id is None else self.vocabulary.padding_id

    @property
    def oov(self) -> int:
        """The id that stands for what is unknown."""
        return self.vocabulary.oov_ids[0]

    def outside(self, ids: tf.Tensor) -> tf.Tensor:
        """Which ids are no row of the table."""
        return (ids < 0) | (ids >= len(self.vocabulary))

    def checked(self, ids: tf.Tensor) -> tf.Tensor:
        """int64 ids inside the table: those outside are refused, or read as "[UNK]"."""
        # A session of the C API, and so TensorFlow Serving, feeds any shape, whatever the signature says.
        ids = tf.ensure_shape(tf.cast(ids, tf.int64), (None, None))
        outside = self.outside(ids)
        if self.bad_ids == "error":
            rule = f"token_ids must lie in [0, {len(self.vocabulary)}). Received, among others:"
            refused = tf.debugging.Assert(~tf.reduce_any(outside), [rule, tf.boolean_mask(ids, outside)], summarize=5)
            with tf.control_dependencies([refused] if refused is not None else []):
                ids = tf.identity(ids)
        return tf.where(outside, tf.constant(self.oov, tf.int64), ids)

    def at_the_front(self, ids: tf.Tensor) -> tf.Tensor:
        """Checked ids with each text at the front of its row, as wide as the longest; one without tokens is one "[UNK]"."""
        lacking = tf.maximum(self.least - tf.shape(ids)[1], 0)
        fill = self.oov if self.padding == _NONE else self.padding
        ids = tf.pad(ids, [[0, 0], [0, lacking]], constant_values=tf.constant(fill, tf.int64))
        if self.padding == _NONE:
            return ids
        padding = ids == self.padding
        ids = tf.gather(ids, tf.argsort(tf.cast(padding, tf.int32), axis=1, stable=True), axis=1, batch_dims=1)
        empty = tf.reduce_all(padding, axis=1, keepdims=True)
        first = tf.range(tf.shape(ids)[1])[None] == 0
        ids = tf.where(empty & first, tf.constant(self.oov, tf.int64), ids)
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(~padding, tf.int32), axis=1))
        ids = ids[:, : tf.maximum(longest, max(1, self.least))]
        return ids if self.most is None else self._not_longer(ids)

    def _not_longer(self, ids: tf.Tensor) -> tf.Tensor:
        """Refuse a text of more tokens than the model takes; padding behind it does not count."""
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(ids != self.padding, tf.int32), axis=1))
        rule = f"The model takes texts of up to {self.most} tokens. Received:"
        fits = tf.debugging.Assert(longest <= self.most, [rule, longest])
        with tf.control_dependencies([fits] if fits is not None else []):
            ids = tf.identity(ids)
        return tf.ensure_shape(ids[:, : self.most], (None, self.most))

    def named(self, answers: Any, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """The model's answers by name, class names beside scores."""
        if not isinstance(answers, dict):
            answers = dict(zip(self.outputs, answers if isinstance(answers, list | tuple) else [answers], strict=True))
        named = {name: answers[name] for name in self.outputs}
        if self.bad_ids == "error":  # XLA leaves assertions out: there a refused row says that it has no scores
            bad = tf.reduce_any(self.outside(tf.cast(ids, tf.int64)), axis=1)
            named = {name: _nan_where(bad, scores) for name, scores in named.items()}
        if self.class_names is not None:
            names = tf.constant([list(self.class_names)])
            named["classes"] = tf.tile(names, [tf.shape(ids)[0], 1])
        return named


def _nan_where(bad: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    if not scores.dtype.is_floating:
        return scores
    bad = tf.reshape(bad, [-1] + [1] * (scores.shape.rank - 1))
    return tf.where(bad, tf.constant(float("nan"), scores.dtype), scores)


def ids_signature(model: keras.Model, contract: Contract, dtype: tf.DType) -> tf.types.experimental.ConcreteFunction:
    """`token_ids` (batch, time) of this type -> the model's outputs."""

    def serve(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = contract.at_the_front(contract.checked(token_ids))
        return contract.named(model(ids, training=False), token_ids)

    return _traced(serve, tf.TensorSpec((None, None), dtype, name="token_ids"))


def embed_signature(layer: keras.layers.Layer, contract: Contract) -> tf.types.experimental.ConcreteFunction:
    """`token_ids` (batch, time) -> `vectors` (batch, time, width), padding as zeros."""

    def embed(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"vectors": tf.cast(layer(contract.checked(token_ids)), tf.float32)}

    return _traced(embed, tf.TensorSpec((None, None), tf.int64, name="token_ids"))


def about_signature(card: Mapping[str, Any]) -> tf.types.experimental.ConcreteFunction:
    """`asked` (batch,) -> `card` (batch,): the card as JSON, once for each number, whatever it is.

    The input is there since TensorFlow Serving's REST interface refuses a signature without one, and the answer has
    one row for each row of it since batching refuses any other.
    """
    text = json.dumps(card)

    def about(asked: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"card": tf.fill(tf.shape(asked), text)}

    return _traced(about, tf.TensorSpec((None,), tf.int32, name="asked"))


def text_signature(
    model: keras.Model, contract: Contract, lookup: Callable[[tf.Tensor], tf.Tensor]
) -> tf.types.experimental.ConcreteFunction:
    """`text` (batch,) -> the model's outputs; `lookup` gives the ids of tokens."""
    tokenizer = contract.vocabulary.tokenizer

    def serve(text: tf.Tensor) -> dict[str, tf.Tensor]:
        lowered = tf.strings.lower(text) if tokenizer.lowercase else text
        spaced = tf.strings.join([" ", lowered, " "])
        for pattern, rewrite in tokenizer.rules:
            spaced = tf.strings.regex_replace(spaced, pattern, rewrite)
        tokens = tf.strings.split(spaced)
        ids = tf.RaggedTensor.from_row_splits(lookup(tokens.values), tokens.row_splits)
        padding = contract.oov if contract.padding == _NONE else contract.padding
        ids = contract.at_the_front(ids.to_tensor(tf.constant(padding, tf.int64)))
        return contract.named(model(ids, training=False), ids)

    return _traced(serve, tf.TensorSpec((None,), tf.string, name="text"))


def token_lookup(vocabulary: Vocabulary, tokens_file: str) -> tuple[tf.lookup.StaticHashTable, Callable]:
    """A table from a file of tokens and ids, and a function from tokens to ids as `vocabulary.encode` gives them."""
    initializer = tf.lookup.TextFileInitializer(tokens_file, tf.string, 0, tf.int64, 1, delimiter=SEPARATOR)
    table = tf.lookup.StaticHashTable(initializer, default_value=_NONE)
    buckets = tf.constant(vocabulary.oov_ids, tf.int64)

    def lookup(tokens: tf.Tensor) -> tf.Tensor:
        ids = table.lookup(tokens)
        bucket = tf.strings.to_hash_bucket_fast(tokens, len(vocabulary.oov_ids))
        return tf.where(ids < 0, tf.gather(buckets, bucket), ids)

    return table, lookup


def token_lines(vocabulary: Vocabulary) -> str:
    """The contents of that file. Tokens that no text gives are left out: special ones, and those with white space."""
    tokens = vocabulary.token_to_id.items()
    return "".join(f"{token}{SEPARATOR}{id_}\n" for token, id_ in tokens if token and not set(token) & set(WHITE_SPACE))


def why_no_texts(vocabulary: Vocabulary) -> str | None:
    """Why an export with this vocabulary cannot read texts, or None if it can."""
    if vocabulary.tokenizer is None:
        return "the vocabulary has no tokenizer"
    if vocabulary.padding_id is None:
        return "the vocabulary has no padding id, with which texts of several lengths could share a batch"
    if not token_lines(vocabulary):
        return "the vocabulary has no token that a text could hold"
    return None


def _traced(function: Callable, spec: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    return tf.function(function, input_signature=[spec]).get_concrete_function()
