"""export_saved_model: a SavedModel that is asked in integer token ids.

It is written with `tf.saved_model.save` and not with `model.export`, which stores every variable twice and takes the
type of its input from the model's own input, often float32.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from embkeras.errors import ArgumentError, OutputError, SavedModelError
from embkeras.files import written_beside
from embkeras.layers.embedding import PretrainedEmbedding
from embkeras.layers.naming import walk
from embkeras.serving.folding import folded
from embkeras.vectors.vocabulary import Vocabulary

VOCABULARY_FILE, CARD_FILE = "vocabulary.json", "embkeras.json"
_LARGEST_EXACT_FLOAT_ID = 1 << 24


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    vocabulary: Vocabulary,
    version: int | None = None,
    dtype: str = "float32",
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write `path/<version>/`, ready for TensorFlow Serving or `tf.saved_model.load`.

    The signature `serving_default` takes `token_ids`, int64 of shape (batch, time), and returns a dictionary:
    `scores` for a model with one output, the model's own names for one with several. Ids outside [0, V) are read as
    the vocabulary's OOV id ("[UNK]"). The table is stored once; a layer made of several variables (LoRA, rows that train
    beside a base, combinations, a projection) becomes one table where that is smaller. `assets/` holds the vocabulary
    and, with its fingerprint, the class names. The folder appears whole or not at all.

    Args:
        model: a built Keras model with one input of ids.
        path: the model's folder; TensorFlow Serving calls this `base_path`.
        vocabulary: what the ids mean; it must be as large as every embedding table of the model.
        version: a new number; by default the next free one, from 1.
        dtype: of the stored table; "float32" is the only one so far.
        class_names: one name for each class.

    Returns:
        The folder of this version.

    Raises:
        SavedModelError: the vocabulary does not fit the model, the version exists, or the model has several inputs.
        ArgumentError: a version below 1, another dtype, or another number of class names than scores.
        OutputError: the folder cannot be written.
    """
    if dtype != "float32":
        raise ArgumentError(f'dtype must be "float32". Received: {dtype!r}.')
    path = Path(path)
    number = _next_version(path) if version is None else version
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ArgumentError(f"version must be an integer of at least 1. Received: {version!r}.")
    target = path / str(number)
    if target.exists():
        raise SavedModelError(f"Version {number} of {str(path)!r} exists already; versions are never overwritten.")
    if not isinstance(model, keras.Model) or not isinstance(vocabulary, Vocabulary):
        raise ArgumentError(
            f"export_saved_model takes a keras.Model and a Vocabulary. "
            f"Received: {type(model).__name__} and {type(vocabulary).__name__}."
        )
    _check_model(model, vocabulary)
    outputs = _output_names(model, class_names)
    card = {
        "format": "embkeras.saved_model",
        "version": 1,
        "vocabulary_fingerprint": vocabulary.fingerprint,
        "outputs": list(outputs),
        "class_names": None if class_names is None else [str(name) for name in class_names],
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
    with tempfile.TemporaryDirectory() as assets, written_beside(target, overwrite=False) as beside:
        vocabulary.save(Path(assets, VOCABULARY_FILE))
        Path(assets, CARD_FILE).write_text(json.dumps(card, indent=1), encoding="ascii")
        module = tf.Module()
        module.assets = [tf.saved_model.Asset(str(Path(assets, name))) for name in (VOCABULARY_FILE, CARD_FILE)]
        ids = tf.TensorSpec((None, _fixed_time(model)), tf.int64, name="token_ids")
        with folded(model) as variables:
            module.weights = variables  # every variable is reached by this one list, so it is stored once
            serve = tf.function(_server(model, vocabulary, outputs), input_signature=[ids])
            serving = serve.get_concrete_function()
        try:
            tf.saved_model.save(module, str(beside), signatures={"serving_default": serving})
        except tf.errors.OpError as error:  # TensorFlow's own word for a full disk
            raise OutputError(f"Cannot write {str(target)!r}: {_first_line(error.message)}") from error
    return target


def _server(model: keras.Model, vocabulary: Vocabulary, outputs: Sequence[str]) -> Callable[[tf.Tensor], dict]:
    size, oov = len(vocabulary), vocabulary.oov_ids[0]

    def serving_default(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        outside = (token_ids < 0) | (token_ids >= size)
        answers = model(tf.where(outside, tf.constant(oov, tf.int64), token_ids), training=False)
        if isinstance(answers, dict):
            return {name: answers[name] for name in outputs}
        return dict(zip(outputs, answers if isinstance(answers, list | tuple) else [answers], strict=True))

    return serving_default


def _check_model(model: keras.Model, vocabulary: Vocabulary) -> None:
    if not model.built:
        raise SavedModelError(f"Model {model.name!r} is not built: call it once before exporting it.")
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none to show
    if len(inputs) > 1:
        raise SavedModelError(f"Model {model.name!r} must have one input of token ids. Received: {len(inputs)}.")
    if not vocabulary.oov_ids:
        raise SavedModelError("The vocabulary has no OOV id, which ids outside the table are mapped to.")
    _check_tables(model, len(vocabulary))
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


def _fixed_time(model: keras.Model) -> int | None:
    """The number of tokens that the model insists on, or None."""
    inputs = getattr(model, "inputs", None)
    return inputs[0].shape[1] if inputs and len(inputs[0].shape) > 1 else None


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


def _output_names(model: keras.Model, class_names: Sequence[str] | None) -> list[str]:
    """Names of the outputs, in the order in which the model gives them."""
    answers = model(tf.zeros((1, _fixed_time(model) or 1), tf.int64), training=False)
    if isinstance(answers, dict):
        return sorted(answers)
    if isinstance(answers, list | tuple):
        return list(model.output_names)
    if isinstance(class_names, str):
        raise ArgumentError(f"class_names must be a sequence of names. Received the string {class_names!r}.")
    if class_names is not None and len(class_names) != answers.shape[-1]:
        raise ArgumentError(f"The model scores {answers.shape[-1]} classes. Received: {len(class_names)} class names.")
    return ["scores"]


def latest_version(path: Path) -> int | None:
    """The highest version under a model's folder, or None; folders that are not numbers do not count."""
    if not path.is_dir():
        return None
    numbers = [int(child.name) for child in path.iterdir() if child.is_dir() and re.fullmatch("[0-9]+", child.name)]
    return max(numbers, default=None)


def _next_version(path: Path) -> int:
    return (latest_version(path) or 0) + 1
