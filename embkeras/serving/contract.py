"""The signatures of an export: ids of two widths, texts, and vectors, each a function that TensorFlow traces.

Ids are brought into one form before the model sees them: each text at the front of its row, padding behind it, or at the
end if the encoding's `padding_side` is "start". So a text has the same scores alone, padded, in a batch, and with padding in
front. (TensorFlow Serving pads a batch with the first number of each request, so clients may send the padding id first.)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.keras_compat.layers import restored_name_scopes
from embkeras.serving.names import CARD, REQUEST, TEXT, TOKEN_IDS, TOKENS_FILE
from embkeras.serving.reasons import reason, root_cause
from embkeras.text.encoding import Encoding
from embkeras.text.tokenizer import UNICODE, WHITE_SPACE
from embkeras.text.vocabulary import Vocabulary

OUT_OF_RANGE = ("oov", "error")
Signature: TypeAlias = tf.types.experimental.ConcreteFunction


@dataclass(frozen=True)
class Contract:
    """How requests are read, whatever the model.

    Attributes:
        encoding: what the ids mean.
        outputs: names of the model's outputs, in its order.
        out_of_range: "oov": ids outside the table are read as the OOV id; "error": they are refused.
        min_length: tokens to which a shorter text is padded.
        max_length: tokens that a model of fixed length takes, or None.
        class_names: for the output `classes`, or None.
        warm_up: lengths of the requests that a server runs when it loads the model.
    """

    encoding: Encoding
    outputs: Sequence[str]
    out_of_range: str = "oov"
    min_length: int = 1
    max_length: int | None = None
    class_names: Sequence[str] | None = None
    warm_up: Sequence[int] = ()

    @property
    def oov_id(self) -> int:
        """What unknown tokens are read as: the OOV id or, where they are dropped, the padding id."""
        oov_id = self.encoding.oov_id
        found = self.encoding.padding_id if oov_id is None else oov_id
        if found is None:
            raise SavedModelError("An encoding needs an OOV id or a padding id. Received: neither.")
        return found

    @property
    def oov(self) -> tf.Tensor:
        """`oov_id` as a tensor."""
        return tf.constant(self.oov_id, tf.int64)

    @property
    def fill(self) -> tf.Tensor:
        """What lengthens short texts: the padding id, or the OOV id if there is none."""
        return self.oov if self.encoding.padding_id is None else tf.constant(self.encoding.padding_id, tf.int64)

    def outside(self, ids: tf.Tensor) -> tf.Tensor:
        """Which ids are not rows of the table."""
        return (ids < 0) | (ids >= len(self.encoding))

    def checked(self, ids: tf.Tensor) -> tf.Tensor:
        """int64 ids inside the table: others are refused, or read as the OOV id."""
        # A session of the C API, and so TensorFlow Serving, feeds any shape, whatever the signature says.
        ids = tf.ensure_shape(tf.cast(ids, tf.int64), (None, None))
        outside = self.outside(ids)
        if self.out_of_range == "error":
            ids = _refused_where(outside, ids, ids, f"token_ids must lie in [0, {len(self.encoding)}).")
        return tf.where(outside, self.oov, ids)

    def packed(self, ids: tf.Tensor) -> tf.Tensor:
        """Checked ids with all padding of a row on one side, as wide as the longest text; an empty text is one OOV id."""
        missing = tf.maximum(self.min_length - tf.shape(ids)[1], 0)
        ids = tf.pad(ids, [[0, 0], [0, missing]], constant_values=self.fill)
        if self.encoding.padding_id is None:
            return ids if self.max_length is None else tf.ensure_shape(ids, (None, self.max_length))
        padding = ids == self.fill
        in_front = padding_in_front(self.encoding)
        order = tf.argsort(tf.cast(padding ^ in_front, tf.int32), axis=1, stable=True)
        ids = tf.gather(ids, order, axis=1, batch_dims=1)
        empty = tf.reduce_all(padding, axis=1, keepdims=True)
        last = tf.shape(ids)[1] - 1
        places = tf.range(last + 1)[None]
        ids = tf.where(empty & (places == (last if in_front else 0)), self.oov, ids)
        # Counted in the mask, not in the rows moved above: XLA compiles no slice of that length.
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(~padding, tf.int32), axis=1))
        width = tf.maximum(longest, max(1, self.min_length))
        ids = tf.reverse(tf.reverse(ids, [1])[:, :width], [1]) if in_front else ids[:, :width]
        if self.max_length is None:
            return ids
        lengths = tf.reduce_sum(tf.cast(~padding, tf.int32), axis=1)
        rule = f"The model takes texts of up to {self.max_length} tokens."
        ids = _refused_where(lengths > self.max_length, lengths, ids, rule)
        return tf.ensure_shape(ids[:, : self.max_length], (None, self.max_length))

    def named(self, answers: Any, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """The model's answers by name, class names beside scores."""
        named = answers_by_name(answers, self.outputs)
        if self.out_of_range == "error":  # XLA drops assertions: there, NaN marks a text that must be refused
            bad = tf.reduce_any(self.outside(tf.cast(ids, tf.int64)), axis=1)
            named = {name: _nan_where(bad, scores) for name, scores in named.items()}
        if self.class_names is not None:
            named["classes"] = tf.tile(tf.constant([list(self.class_names)]), [tf.shape(ids)[0], 1])
        return named


def scores_of(model: keras.Model, ids: Any) -> Any:
    """What a model returns for ids, (batch, time), passed in the structure in which it takes its only input."""
    structure = getattr(model, "input", None)  # only functional models have one, and layers called symbolically
    if structure is not None and len(keras.tree.flatten(structure)) == 1:
        ids = keras.tree.pack_sequence_as(structure, [ids])
    return model(ids, training=False)


def padding_in_front(encoding: Any) -> bool:
    """Whether the model was trained with padding in front of each text."""
    return getattr(encoding, "padding_side", "end") == "start"


def answers_by_name(answers: Any, outputs: Sequence[str]) -> dict[str, Any]:
    """What a model returns (a tensor, several, or a dictionary) as a dictionary of these outputs."""
    if not isinstance(answers, dict):
        answers = dict(zip(outputs, answers if isinstance(answers, list | tuple) else [answers], strict=True))
    return {name: answers[name] for name in outputs}


@dataclass(frozen=True)
class TextGraph:
    """An encoding as a TensorFlow graph.

    Attributes:
        encode: texts, shape (batch,) -> a RaggedTensor of int64 ids, (batch, None); they must be those of `encode_batch`.
        resources: what the SavedModel has to keep for it, such as lookup tables.
    """

    encode: Callable[[tf.Tensor], tf.RaggedTensor]
    resources: Any


@singledispatch
def text_graph(encoding: Any, assets: Path) -> tuple[TextGraph | None, str | None]:
    """The encoding as a TensorFlow graph and None, or None and the reason why it has no such form.

    Args:
        encoding: any Encoding. Register a function for a new type with `text_graph.register`.
        assets: folder for files that the graph reads.
    """
    return None, f"{type(encoding).__name__} has no TensorFlow graph"


@text_graph.register
def _(encoding: Vocabulary, assets: Path) -> tuple[TextGraph | None, str | None]:
    tokenizer = encoding.tokenizer
    if tokenizer is None:
        return None, "the vocabulary has no tokenizer"
    if encoding.padding_id is None:
        return None, "the vocabulary has no padding id, so texts of different lengths can't share a batch"
    # Without tokens that no text contains: the empty one, and those with white space.
    words = [token for token in encoding.token_to_id if token and not set(token) & set(WHITE_SPACE)]
    if not words:
        return None, "the vocabulary has no token that can occur in a text"
    file = assets / TOKENS_FILE
    lines = (f"{word}\t{encoding.token_to_id[word]}\n" for word in words)
    file.write_bytes("".join(lines).encode("utf-8", "surrogatepass"))
    initializer = tf.lookup.TextFileInitializer(str(file), tf.string, 0, tf.int64, 1, delimiter="\t")
    table = tf.lookup.StaticHashTable(initializer, default_value=-1)
    buckets = tf.constant(encoding.oov_ids, tf.int64)

    def encode(texts: tf.Tensor) -> tf.RaggedTensor:
        lowered = texts
        if tokenizer.lowercase:
            lowered = tf.strings.lower(texts, encoding="utf-8" if tokenizer.lowercase == UNICODE else "")
        spaced = tf.strings.join([" ", lowered, " "])
        for pattern, rewrite in tokenizer.rules:
            spaced = tf.strings.regex_replace(spaced, pattern, rewrite)
        tokens = tf.strings.split(spaced)
        ids = table.lookup(tokens.values)
        if encoding.drop_unknown:
            return tf.ragged.boolean_mask(tokens.with_values(ids), tokens.with_values(ids >= 0))
        bucket = tf.strings.to_hash_bucket_fast(tokens.values, len(encoding.oov_ids))
        ids = tf.where(ids < 0, tf.gather(buckets, bucket), ids)
        return tf.RaggedTensor.from_row_splits(ids, tokens.row_splits)

    return TextGraph(encode, table), None


def ids_signature(model: keras.Model, contract: Contract, dtype: tf.DType) -> Signature:
    """`token_ids` (batch, time) of this type -> the model's outputs."""

    def serve(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = contract.packed(contract.checked(token_ids))
        return contract.named(scores_of(model, ids), token_ids)

    return _traced(serve, tf.TensorSpec((None, None), dtype, name=TOKEN_IDS))


def embed_signature(layer: keras.layers.Layer, contract: Contract) -> Signature:
    """`token_ids` (batch, time) -> `vectors` (batch, time, width), padding as zeros."""

    def embed(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"vectors": tf.cast(layer(contract.checked(token_ids)), tf.float32)}

    return _traced(embed, tf.TensorSpec((None, None), tf.int64, name=TOKEN_IDS))


def text_signature(model: keras.Model, contract: Contract, graph: TextGraph) -> Signature:
    """`text` (batch,) -> the model's outputs."""

    def serve(text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = contract.packed(graph.encode(text).to_tensor(contract.fill))
        return contract.named(scores_of(model, ids), ids)

    return _traced(serve, tf.TensorSpec((None,), tf.string, name=TEXT))


def card_signature(card: Mapping[str, Any]) -> Signature:
    """`request` (batch,) -> `card` (batch,): the card as JSON, once for each number; the numbers don't matter.

    TensorFlow Serving's REST interface refuses a signature without an input, and batching one without a row for each.
    """

    def answer(request: tf.Tensor) -> dict[str, tf.Tensor]:
        return {CARD: tf.fill(tf.shape(request), json.dumps(card))}

    return _traced(answer, tf.TensorSpec((None,), tf.int32, name=REQUEST))


def _refused_where(bad: tf.Tensor, values: tf.Tensor, ids: tf.Tensor, rule: str) -> tf.Tensor:
    """The ids; a request with a bad value is refused with the rule, the first such value, and its text."""

    def refuse() -> tf.Tensor:
        place = tf.where(bad)[0]
        parts = [f"{rule} Received", tf.gather_nd(values, place), "in text", place[0]]  # XLA can't format a string
        with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=parts, summarize=1)]):
            return tf.constant(False)

    with tf.control_dependencies([tf.cond(tf.reduce_any(bad), refuse, lambda: tf.constant(True))]):
        return tf.identity(ids)


def _nan_where(bad: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    if not scores.dtype.is_floating:
        return scores
    bad = tf.reshape(bad, [-1] + [1] * (scores.shape.rank - 1))
    return tf.where(bad, tf.constant(float("nan"), scores.dtype), scores)


def _traced(function: Callable[[tf.Tensor], dict[str, tf.Tensor]], spec: tf.TensorSpec) -> Signature:
    try:
        with restored_name_scopes():
            return tf.function(function, input_signature=[spec]).get_concrete_function()
    except Exception as error:  # anything a layer raises
        cause = root_cause(error)
        if isinstance(cause, SavedModelError):
            raise SavedModelError(str(cause)) from error
        raise SavedModelError(
            f"The model can't be traced as a TensorFlow graph: {type(cause).__name__}: {reason(str(cause))}"
        ) from error
