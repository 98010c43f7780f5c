"""Encodings as TensorFlow graphs: texts or single tokens to ids, inside an export."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import tensorflow as tf

from embkeras.serving.names import TOKENS_FILE
from embkeras.serving.word_piece_graph import word_piece_graph
from embkeras.text.encoding import Encoding
from embkeras.text.pieces import PieceTokenizer
from embkeras.text.tokenizer import UNICODE, WHITE_SPACE
from embkeras.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class TextGraph:
    """An encoding as a TensorFlow graph.

    Attributes:
        encode: texts, shape (batch,) -> a RaggedTensor of int64 ids, (batch, None); they must be those of `encode_batch`. Of
            single tokens: (batch,) -> int64 ids (batch,).
        resources: what the SavedModel has to keep for it, such as lookup tables, or None.
    """

    encode: Callable[[tf.Tensor], Any]
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
    if isinstance(tokenizer, PieceTokenizer):
        pieces, why = word_piece_graph(encoding)
        if pieces is None:
            return None, f"the pieces of an encoder's tokenizer are made by TextEncoder, not in a graph: {why}"
        return TextGraph(pieces, None), None
    if not tokenizer.split:
        return None, "the vocabulary's tokenizer takes a text as one token, and the model takes texts of several"
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


def token_graph(encoding: Encoding, assets: Path) -> tuple[TextGraph | None, str | None]:
    """A TensorFlow graph from single tokens to ids, and why it could not be made: one of the two is None.

    Each is looked up as it is written, as in `encoded_tokens`: a token with spaces stays one, that of the padding is the
    padding.

    Args:
        encoding: what the ids mean, with an OOV id or a padding id.
        assets: folder for files that the graph reads.
    """
    if not isinstance(encoding, Vocabulary):
        return None, f"{type(encoding).__name__} has no single tokens"
    if len(encoding.oov_ids) > 1 and encoding.tokenizer is None:
        return None, (
            "the vocabulary has several OOV ids and no tokenizer: Tokenizer(lowercase=False, split=False) takes a text "
            "as one token"
        )
    known = encoding.token_to_id
    words = [token for token in known if token and not set(token) & set("\r\n")]
    if not words:
        return None, "the vocabulary has no token that a file can hold"
    file = assets / TOKENS_FILE
    file.write_bytes("".join(f"{word}\n" for word in words).encode("utf-8", "surrogatepass"))
    index = tf.lookup.TextFileIndex
    initializer = tf.lookup.TextFileInitializer(str(file), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
    table = tf.lookup.StaticHashTable(initializer, default_value=-1)
    in_file = {known[word] for word in words}
    rest = [id_ for id_ in range(len(encoding)) if id_ not in in_file]
    # Line k is the k-th id in the file: as many ids more as there are others before it.
    before = tf.constant([id_ - place for place, id_ in enumerate(rest)], tf.int64)
    compared = {encoding.tokens[id_]: id_ for id_ in rest if id_ not in encoding.oov_ids}
    unknown = tf.constant(encoding.oov_ids or (encoding.padding_id,), tf.int64)

    def encode(tokens: tf.Tensor) -> tf.Tensor:
        ids = tf.gather(unknown, tf.strings.to_hash_bucket_fast(tokens, unknown.shape[0]))
        for token, id_ in compared.items():
            ids = tf.where(tokens == token, tf.constant(id_, tf.int64), ids)
        lines = table.lookup(tokens)
        return tf.where(lines < 0, ids, lines + tf.searchsorted(before, lines, side="right", out_type=tf.int64))

    return TextGraph(encode, table), None
