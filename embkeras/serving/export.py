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

from embkeras._files import written_beside
from embkeras.errors import ArgumentError, OutputError, SavedModelError
from embkeras.serving import contract as contracts
from embkeras.serving import names
from embkeras.serving.artifact import card_of, write_assets, write_card
from embkeras.serving.check import check_saved_model
from embkeras.serving.contract import Contract
from embkeras.serving.exportable import (
    check_arguments,
    check_model,
    fixed_time,
    least_length,
    output_names,
    why_not,
)
from embkeras.serving.folding import embeddings_of, folded
from embkeras.serving.model_card import check_about, model_card, write_about
from embkeras.serving.names import TOKENS_FILE, latest_version
from embkeras.serving.server_config import check_name, write_server_config
from embkeras.serving.warm_up import WARM_UP_LENGTHS, write_warm_up
from embkeras.text.vocabulary import Vocabulary


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
        ArgumentError: a version below 1, another dtype or policy, small rows for a model without a layer of ours, class
            names that are not one for each score, an `about` that JSON cannot hold, a name that needs quotes in a config.
        OutputError: the folder cannot be written.
    """
    path = _folder(path)
    target = path / str(_number(path, version))
    check_arguments(model, vocabulary, dtype, bad_ids, class_names)
    if with_config:
        check_name(path.name)
    if target.exists() and not overwrite:
        raise SavedModelError(
            f"Version {target.name} of {str(path)!r} exists already; versions are never overwritten without overwrite=True."
        )
    about = check_about(about)
    check_model(model, vocabulary, dtype)
    contract = _contract(model, vocabulary, bad_ids, class_names)
    try:
        with tempfile.TemporaryDirectory() as assets, written_beside(target, overwrite=overwrite) as beside:
            card = _write(model, contract, dtype, Path(assets), beside, target)
            (beside / "README.md").write_text(model_card(path.name, card, about), encoding="utf-8")
            write_about(beside / "assets", about)
            write_warm_up(beside, card)
            if check:
                _checked(beside, model, target)
            if with_config:
                write_server_config(path, path.name, pads=vocabulary.padding_id is not None)
    except OutputError:
        if version is not None or overwrite or not target.exists():
            raise
        # Somebody else took the number in the meantime.
        return export_saved_model(
            model,
            path,
            vocabulary=vocabulary,
            dtype=dtype,
            class_names=class_names,
            bad_ids=bad_ids,
            check=check,
            with_config=with_config,
            about=about,
        )
    return target


def _folder(path: Any) -> Path:
    """The model's folder, with a name also where it is "."."""
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"path must be the folder of a model. Received: {path!r}.")
    return Path(path) if Path(path).name else Path(path).resolve()


def _checked(beside: Path, model: keras.Model, target: Path) -> None:
    try:
        check_saved_model(beside, model=model)
    except SavedModelError as error:  # the folder has no name of its own yet
        raise SavedModelError(str(error).replace(repr(str(beside)), repr(str(target)))) from error.__cause__


def _write(
    model: keras.Model, contract: Contract, dtype: str, assets: Path, beside: Path, target: Path
) -> dict[str, Any]:
    """The SavedModel with its assets; gives the card."""
    module = tf.Module()
    # The functions are kept by the module until it is saved; the variables by one list, so that each is stored once.
    with folded(model, dtype) as stored:
        module.weights = stored.variables
        served = {
            names.SERVING: contracts.ids_signature(model, contract, tf.int64),
            names.SERVING_INT32: contracts.ids_signature(model, contract, tf.int32),
        }
        embeddings = embeddings_of(model)
        embed = next(iter(embeddings)) if len(embeddings) == 1 else None
        if embed is not None:
            served[names.EMBED] = contracts.embed_signature(embeddings[embed], contract)
        no_texts = contracts.why_no_texts(contract.vocabulary)
        files = write_assets(contract, assets, no_texts)
        if no_texts is None:
            module.table, lookup = contracts.token_lookup(contract.vocabulary, str(assets / TOKENS_FILE))
            served[names.TEXT] = contracts.text_signature(model, contract, lookup)
        card = card_of(target.parent.name, model, contract, stored, dtype, embed, no_texts)
        served[names.ABOUT] = contracts.about_signature(card)
        _check_variables(served, stored.variables, dtype)
    write_card(assets, card)
    module.assets = [tf.saved_model.Asset(str(assets / name)) for name in files]
    try:
        tf.saved_model.save(module, str(beside), signatures=served)
    except tf.errors.OpError as error:  # TensorFlow's own word for a full disk
        raise OutputError(f"Cannot write {str(target)!r}: {names.first_line(error.message)}") from error
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
    most = fixed_time(model)
    least = most or least_length(model)
    outputs = output_names(model, least, class_names)
    lengths = {min(max(least, length), most or length) for length in WARM_UP_LENGTHS}
    warm_up = [length for length in sorted(lengths) if why_not(model, max(length, most or 0)) is None]
    names = None if class_names is None else list(class_names)
    return Contract(vocabulary, outputs, bad_ids, least, most, names, warm_up)


def _number(path: Path, version: int | None) -> int:
    number = _next_version(path) if version is None else version
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ArgumentError(f"version must be an integer of at least 1. Received: {version!r}.")
    return number


def _next_version(path: Path) -> int:
    return (latest_version(path) or 0) + 1
