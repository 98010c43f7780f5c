"""Encodings as TensorFlow graphs, so that a server can take texts.

An encoding without such a form is exported without the signature `text`; the export's card says why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import tensorflow as tf

from embkeras.serving.names import TOKENS_FILE
from embkeras.text.tokenizer import WHITE_SPACE
from embkeras.text.vocabulary import Vocabulary

_SEPARATOR = "\t"


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
    lines = _token_lines(encoding)
    if not lines:
        return None, "the vocabulary has no token that can occur in a text"
    file = assets / TOKENS_FILE
    file.write_bytes(lines.encode("utf-8", "surrogatepass"))
    initializer = tf.lookup.TextFileInitializer(str(file), tf.string, 0, tf.int64, 1, delimiter=_SEPARATOR)
    table = tf.lookup.StaticHashTable(initializer, default_value=-1)
    buckets = tf.constant(encoding.oov_ids, tf.int64)

    def encode(texts: tf.Tensor) -> tf.RaggedTensor:
        lowered = tf.strings.lower(texts) if tokenizer.lowercase else texts
        spaced = tf.strings.join([" ", lowered, " "])
        for pattern, rewrite in tokenizer.rules:
            spaced = tf.strings.regex_replace(spaced, pattern, rewrite)
        tokens = tf.strings.split(spaced)
        ids = table.lookup(tokens.values)
        bucket = tf.strings.to_hash_bucket_fast(tokens.values, len(encoding.oov_ids))
        ids = tf.where(ids < 0, tf.gather(buckets, bucket), ids)
        return tf.RaggedTensor.from_row_splits(ids, tokens.row_splits)

    return TextGraph(encode, table), None


def _token_lines(vocabulary: Vocabulary) -> str:
    """One token and its id a line. Tokens that no text contains are left out: special ones, and those with white space."""
    tokens = vocabulary.token_to_id.items()
    return "".join(
        f"{token}{_SEPARATOR}{id_}\n" for token, id_ in tokens if token and not set(token) & set(WHITE_SPACE)
    )
