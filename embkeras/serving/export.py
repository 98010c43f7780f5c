"""export_saved_model: a SavedModel that is asked in integer token ids.

It is written with `tf.saved_model.save` and not with `model.export`, which stores every variable twice and takes the
type of its input from the model's own input, often float32.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import ArgumentError, OutputError, SavedModelError
from embkeras.files import written_beside
from embkeras.layers.base_table import STORED
from embkeras.layers.embedding import PretrainedEmbedding
from embkeras.layers.naming import walk
from embkeras.serving import names, signatures
from embkeras.serving.artifact import card_of, write_assets, write_card
from embkeras.serving.check import check_saved_model
from embkeras.serving.folding import embeddings_of, folded
from embkeras.serving.model_card import check_about, model_card, write_about
from embkeras.serving.names import TOKENS_FILE, latest_version
from embkeras.serving.server_config import write_server_config
from embkeras.serving.signatures import BAD_IDS, Contract
from embkeras.serving.warm_up import write_warm_up
from embkeras.vectors.vocabulary import Vocabulary

_LARGEST_EXACT_FLOAT_ID = 1 << 24
_LONGEST_LEAST = 64  # tokens: a model that reads no text of this length reads none


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    vocabulary: Vocabulary,
    version: int | None = None,
    dtype: str = "float32",
    class_names: Sequence[str] | None = None,
    bad_ids: str = "oov",
    overwrite: bool = False,
    check: bool = True,
    with_config: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write `path/<version>/`, ready for TensorFlow Serving or `tf.saved_model.load`.

    The signatures: `serving_default` takes `token_ids`, int64 of shape (batch, time), and `serving_int32` the same in half
    the bytes; `text` takes strings, where the vocabulary has a tokenizer; `embed` gives `vectors` for ids, where the
    model has one embedding of ours; `about` gives the card, by which a client knows the vocabulary. Answers are
    dictionaries: `scores` for a model with one output, the model's own names for one with several, and `classes`, the
    names of the classes, where they are given.

    A text has the same scores alone, padded, in any batch, and with zeros in front; one without tokens is one "[UNK]".
    The table is stored once; a layer made of several variables (LoRA, rows that train beside a base, combinations, a
    projection) becomes one table where that is smaller. `assets/` holds the vocabulary, class names and versions,
    `assets.extra/` warm-up requests, and `README.md` says all this to people. The folder appears whole or not at all.

    Args:
        model: a built Keras model with one input of ids.
        path: the model's folder; TensorFlow Serving calls this `base_path`.
        vocabulary: what the ids mean; it must be as large as every embedding table of the model.
        version: a new number; by default the next free one, from 1.
        dtype: how tables of our layers are stored: "float32", "float16", or "int8" with one scale a row. Rows are
            unpacked as they are read; the card says how near they stay.
        class_names: one name for each class.
        bad_ids: "oov" reads ids outside [0, V) as the vocabulary's OOV id ("[UNK]"), "error" refuses the request. (XLA
            leaves the refusal out: there the scores of such a text are NaN.)
        overwrite: replace the version if it exists.
        check: run `check_saved_model` on the folder before it gets its name.
        with_config: write settings for TensorFlow Serving beside the versions.
        about: sections of the model card by title: a text, a DataFrame (such as `schedule.history`), numbers by name;
            they are kept in `assets/about.json` too.

    Returns:
        The folder of this version.

    Raises:
        SavedModelError: the vocabulary does not fit the model, the version exists, the model has several inputs, or
            the export does not pass the check: its scores depend on padding, for one.
        ArgumentError: a version below 1, another dtype or policy, another number of class names than scores.
        OutputError: the folder cannot be written.
    """
    path = Path(path)
    target = path / str(_number(path, version))
    _check_arguments(model, vocabulary, dtype, bad_ids)
    if target.exists() and not overwrite:
        raise SavedModelError(
            f"Version {target.name} of {str(path)!r} exists already; versions are never overwritten without overwrite=True."
        )
    about = check_about(about)
    _check_model(model, vocabulary)
    contract = _contract(model, vocabulary, bad_ids, class_names)
    with tempfile.TemporaryDirectory() as assets, written_beside(target, overwrite=overwrite) as beside:
        card = _write(model, contract, dtype, Path(assets), beside, str(target))
        (beside / "README.md").write_text(model_card(path.name, card, about), encoding="utf-8")
        write_about(beside / "assets", about)
        write_warm_up(beside, path.name, names.SERVING, len(vocabulary), contract.least)
        if check:
            check_saved_model(beside, model=model)
    if with_config:
        write_server_config(path, path.name)
    return target


def _write(
    model: keras.Model, contract: Contract, dtype: str, assets: Path, beside: Path, target: str
) -> dict[str, Any]:
    """The SavedModel with its assets; gives the card."""
    module = tf.Module()
    # The functions are kept by the module until it is saved; the variables by one list, so that each is stored once.
    with folded(model, dtype) as stored:
        module.weights = stored.variables
        served = {
            names.SERVING: signatures.ids_signature(model, contract, tf.int64),
            names.SERVING_INT32: signatures.ids_signature(model, contract, tf.int32),
        }
        embeddings = embeddings_of(model)
        embed = next(iter(embeddings)) if len(embeddings) == 1 else None
        if embed is not None:
            served[names.EMBED] = signatures.embed_signature(embeddings[embed], contract)
        no_texts = signatures.why_no_texts(contract.vocabulary)
        files = write_assets(contract, assets, no_texts)
        if no_texts is None:
            module.table, lookup = signatures.token_lookup(contract.vocabulary, str(assets / TOKENS_FILE))
            served[names.TEXT] = signatures.text_signature(model, contract, lookup)
        card = card_of(model, contract, stored, dtype, embed, no_texts)
        served[names.ABOUT] = signatures.about_signature(card)
        _check_variables(served, stored.variables, dtype)
    write_card(assets, card)
    module.assets = [tf.saved_model.Asset(str(assets / name)) for name in files]
    try:
        tf.saved_model.save(module, str(beside), signatures=served)
    except tf.errors.OpError as error:  # TensorFlow's own word for a full disk
        raise OutputError(f"Cannot write {target!r}: {_first_line(error.message)}") from error
    return card


def _check_variables(served: Mapping[str, Any], stored: Sequence[tf.Variable], dtype: str) -> None:
    """Refuse a model that reads what the export does not hold, in words that TensorFlow has not."""
    held = {id(variable) for variable in stored}
    read = {each.name for function in served.values() for each in function.graph.variables if id(each) not in held}
    if read:
        raise SavedModelError(
            f"The export does not hold every variable that the model reads. Missing: {', '.join(sorted(read))}. A table that is "
            f"stored in another form (dtype={dtype!r}; LoRA, rows beside a base) can be read by its own layer only, not by tied "
            f"weights: export a plain table with dtype='float32'. A layer's own tf.Variable must be a keras.Variable."
        )


def _contract(model: keras.Model, vocabulary: Vocabulary, bad_ids: str, class_names: Sequence[str] | None) -> Contract:
    most = _fixed_time(model)
    least = most or _least(model)
    outputs = _output_names(model, least, class_names)
    names = None if class_names is None else [str(name) for name in class_names]
    return Contract(vocabulary, outputs, bad_ids, least, most, names)


def _least(model: keras.Model) -> int:
    """The shortest text, in tokens, that the model reads: a convolution without padding fails on shorter ones."""
    reason = ""
    for length in range(1, _LONGEST_LEAST + 1):
        try:
            model(tf.zeros((1, length), tf.int64), training=False)
        except Exception as error:  # whatever a layer makes of it
            reason = _first_line(str(error))
        else:
            return length
    raise SavedModelError(f"Model {model.name!r} reads no text of 1 to {_LONGEST_LEAST} tokens: {reason}")


def _number(path: Path, version: int | None) -> int:
    number = _next_version(path) if version is None else version
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ArgumentError(f"version must be an integer of at least 1. Received: {version!r}.")
    return number


def _check_arguments(model: Any, vocabulary: Any, dtype: str, bad_ids: str) -> None:
    if dtype not in STORED:
        raise ArgumentError(f"dtype must be one of {', '.join(STORED)}. Received: {dtype!r}.")
    if bad_ids not in BAD_IDS:
        raise ArgumentError(f"bad_ids must be one of {', '.join(BAD_IDS)}. Received: {bad_ids!r}.")
    if not isinstance(model, keras.Model) or not isinstance(vocabulary, Vocabulary):
        raise ArgumentError(
            f"export_saved_model takes a keras.Model and a Vocabulary. "
            f"Received: {type(model).__name__} and {type(vocabulary).__name__}."
        )


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


def _output_names(model: keras.Model, least: int, class_names: Sequence[str] | None) -> list[str]:
    """Names of the outputs, in the order in which the model gives them."""
    answers = model(tf.zeros((1, least), tf.int64), training=False)
    if isinstance(answers, dict):
        return sorted(answers)
    if isinstance(answers, list | tuple):
        return list(model.output_names)
    if isinstance(class_names, str):
        raise ArgumentError(f"class_names must be a sequence of names. Received the string {class_names!r}.")
    if class_names is not None and len(class_names) != answers.shape[-1]:
        raise ArgumentError(f"The model scores {answers.shape[-1]} classes. Received: {len(class_names)} class names.")
    return ["scores"]


def _next_version(path: Path) -> int:
    return (latest_version(path) or 0) + 1
