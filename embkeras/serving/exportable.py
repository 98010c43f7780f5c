"""What can be exported: the model, its vocabulary and the names that go with them, held against each other."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.contract import BAD_IDS
from embkeras.serving.folding import embeddings_of
from embkeras.serving.names import first_line
from embkeras.tables.addresses import walk
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.storage import STORED
from embkeras.text.vocabulary import Vocabulary

_LARGEST_EXACT_FLOAT_ID = 1 << 24
_LONGEST_LEAST = 64  # tokens: a model that reads no text of this length reads none


def check_arguments(model: Any, vocabulary: Any, dtype: str, bad_ids: str, class_names: Any) -> None:
    """Refuse values that mean nothing, whatever the model.

    Raises:
        ArgumentError: any of them.
    """
    if dtype not in STORED:
        raise ArgumentError(f"dtype must be one of {', '.join(STORED)}. Received: {dtype!r}.")
    if bad_ids not in BAD_IDS:
        raise ArgumentError(f"bad_ids must be one of {', '.join(BAD_IDS)}. Received: {bad_ids!r}.")
    if not isinstance(model, keras.Model) or not isinstance(vocabulary, Vocabulary):
        raise ArgumentError(
            f"export_saved_model takes a keras.Model and a Vocabulary. "
            f"Received: {type(model).__name__} and {type(vocabulary).__name__}."
        )
    if isinstance(class_names, str):
        raise ArgumentError(f"class_names must be a sequence of names. Received the string {class_names!r}.")
    seen = set()
    for name in () if class_names is None else class_names:
        if not isinstance(name, str) or "\n" in name or name in seen or name.encode(errors="replace").decode() != name:
            raise ArgumentError(f"class_names must be names of one line, each once. Received, among others: {name!r}.")
        seen.add(name)


def check_model(model: keras.Model, vocabulary: Vocabulary, dtype: str) -> None:
    """Refuse a model that cannot be asked in the ids of this vocabulary.

    Raises:
        SavedModelError: it cannot.
        ArgumentError: it has no table that `dtype` could be meant for.
    """
    if not model.built:
        raise SavedModelError(f"Model {model.name!r} is not built: call it once before exporting it.")
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none to show
    if len(inputs) > 1:
        raise SavedModelError(f"Model {model.name!r} must have one input of token ids. Received: {len(inputs)}.")
    if not vocabulary.oov_ids:
        raise SavedModelError("The vocabulary has no OOV id, which ids outside the table are mapped to.")
    _check_tables(model, len(vocabulary))
    if dtype != "float32" and not embeddings_of(model):
        raise ArgumentError(
            f"dtype={dtype!r} is for embedding layers of embkeras (build_embedding), of which model {model.name!r} has none."
        )
    floats = inputs and not keras.backend.is_int_dtype(inputs[0].dtype)
    if floats and len(vocabulary) > _LARGEST_EXACT_FLOAT_ID:
        raise SavedModelError(
            f"Model {model.name!r} takes {inputs[0].dtype} input, which cannot tell ids above "
            f"{_LARGEST_EXACT_FLOAT_ID:,} apart; give it keras.Input(..., dtype='int64')."
        )


def _check_tables(model: keras.Model, size: int) -> None:
    """Refuse a vocabulary of another size than the table that its ids are looked up in."""
    tables = {path: layer for path, layer in walk(model) if isinstance(layer, keras.layers.Embedding)}
    own = {path: layer for path, layer in tables.items() if isinstance(layer, PretrainedEmbedding)}
    # Other embeddings may stand for positions; without one of ours, any one of the vocabulary's size will do.
    wrong = [(path, layer.input_dim) for path, layer in (own or tables).items() if layer.input_dim != size]
    if wrong and (own or len(wrong) == len(tables)):
        raise SavedModelError(f"Layer {wrong[0][0]!r} has {wrong[0][1]} rows, but the vocabulary {size} tokens.")


def fixed_time(model: keras.Model) -> int | None:
    """The number of tokens that the model insists on, or None."""
    inputs = getattr(model, "inputs", None)
    return inputs[0].shape[1] if inputs and len(inputs[0].shape) > 1 else None


def output_names(model: keras.Model, least: int, class_names: Sequence[str] | None) -> list[str]:
    """Names of the outputs, in the order in which the model gives them."""
    answers = model(tf.zeros((1, least), tf.int64), training=False)
    if isinstance(answers, dict):
        named = sorted(answers)
    elif isinstance(answers, list | tuple):
        named = list(getattr(model, "output_names", None) or [f"output_{place}" for place in range(len(answers))])
    else:
        if class_names is not None and len(class_names) != answers.shape[-1]:
            raise ArgumentError(
                f"The model scores {answers.shape[-1]} classes. Received: {len(class_names)} class names."
            )
        return ["scores"]
    if len(set(named)) < len(named):
        raise SavedModelError(
            f"Outputs of model {model.name!r} share a name: {', '.join(named)}. Give them as a dictionary."
        )
    if class_names is not None:
        raise ArgumentError(
            f"class_names are for a model with one output. Model {model.name!r} has {', '.join(named)}."
        )
    return named


def least_length(model: keras.Model) -> int:
    """The shortest text, in tokens, that the model reads: a convolution without padding fails on shorter ones."""
    for length in range(1, _LONGEST_LEAST + 1):
        reason = why_not(model, length)
        if reason is None:
            return length
    raise SavedModelError(f"Model {model.name!r} reads no text of 1 to {_LONGEST_LEAST} tokens: {reason}")


def why_not(model: keras.Model, length: int) -> str | None:
    """Why the model cannot read a text of so many tokens, or None if it can."""
    try:
        model(tf.zeros((1, length), tf.int64), training=False)
    except Exception as error:  # whatever a layer makes of it
        return first_line(str(error))
    return None
