"""export_saved_model: a SavedModel that takes token ids.

It is written with `tf.saved_model.save`: `model.export` stores every variable twice, and gives the input the type of the
model's own input, often float32.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import flag, one_of, sequence, shown, whole_number
from embkeras._progress import progress
from embkeras.errors import ArgumentError, OutputError, SavedModelError
from embkeras.keras_compat.versions import check_versions
from embkeras.serving import contract as contracts
from embkeras.serving import names
from embkeras.serving.card import card_of, checked_metadata, readme, write_assets
from embkeras.serving.check import check_saved_model
from embkeras.serving.contract import OUT_OF_RANGE, Contract, text_graph
from embkeras.serving.folding import embeddings_of, fold
from embkeras.serving.reasons import reason
from embkeras.serving.remote import StoreFolder, destination, written
from embkeras.serving.server_files import WARM_UP_LENGTHS, checked_labels, write_server_config, write_warm_up
from embkeras.tables.addresses import walk
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.storage import STORAGE
from embkeras.text.encoding import Encoding

_LARGEST_EXACT_FLOAT_ID = 1 << 24
_LONGEST_TRIED = 64  # tokens: a model that can't read any text up to this length is refused


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    vocabulary: Encoding,
    version: int | None = None,
    dtype: str = "float32",
    class_names: Sequence[str] | None = None,
    out_of_range: str = "oov",
    overwrite: bool = False,
    check: bool = True,
    with_config: bool = False,
    labels: Mapping[str, int | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path | Any:
    """Write `path/<version>/`, ready for TensorFlow Serving or `tf.saved_model.load`.

    The signatures: `serving_default` takes `token_ids`, int64 of shape (batch, time), and `serving_int32` the same in half
    the bytes; `text` takes strings, if the vocabulary has a TensorFlow graph; `embed` returns `vectors` for ids, if the
    model has exactly one embkeras embedding; `card` returns the card, which lets a client compare vocabularies. Answers
    are dictionaries: `scores` for a model with one output, the model's own names for several, and `classes`, the class
    names, if given.

    A text has the same scores alone, padded, in any batch, and with padding in front; a text without tokens is read as one
    unknown token. The table is stored once. A layer made of several variables (LoRA, rows that train beside a base,
    combinations, a projection) becomes one table where that is smaller. `assets/` contains the vocabulary, class names
    and versions, `assets.extra/` warm-up requests, and `README.md` describes the export for people. The folder appears
    complete or not at all. The model doesn't change, and other threads may use it during the export.

    Args:
        model: a built Keras model with one input of ids.
        path: the model's folder; TensorFlow Serving calls this `base_path`. Also the address of a folder in an object store,
            such as "s3://bucket/models/tweets": the export is made on this machine and then sent, `saved_model.pb` last.
        vocabulary: what the ids mean: a `Vocabulary` or another `Encoding`, as large as every embedding table of the model.
        version: a new number; by default the next free one, from 1.
        dtype: how embkeras tables are stored: "float32", "float16", or "int8" with one scale a row. Rows are unpacked as
            they are read; the card says how close they stay.
        class_names: one name for each class.
        out_of_range: "oov" reads ids outside [0, V) as the vocabulary's OOV id ("[UNK]"), "error" refuses the request.
            (XLA drops the refusal: there the scores of such a text are NaN.)
        overwrite: replace the version if it exists.
        check: run `check_saved_model` before the folder gets its name.
        with_config: write settings for TensorFlow Serving beside the versions.
        labels: names of versions for these settings, such as {"stable": 3, "canary": None}, where None is the version that is
            written. Servers then load the labelled versions alone.
        metadata: sections of the README by title: a text, a DataFrame (such as `schedule.history`), numbers by name, or any
            other data that JSON can hold. They are stored in `assets/metadata.json` too.

    Returns:
        The folder of this version; for an address, the address of this version, a str.

    Raises:
        SavedModelError: the vocabulary doesn't fit the model, the version exists, the model has several inputs or can't be
            traced, or the export fails the check: for example because its scores depend on padding.
        ArgumentError: an argument of another type or outside its choices, a dtype other than "float32" for a model without
            an embkeras embedding, class names that are not one for each score, metadata that JSON can't hold, a name that
            needs quotes in a config.
        OutputError: the folder can't be written.
        MissingDependencyError: the package of an object store is not installed.
        KerasVersionError: this version of Keras lacks a private name that embkeras uses.
    """
    check_versions()
    folder = destination(path)
    folder = folder.resolve() if isinstance(folder, Path) and folder.name in ("", "..") else folder
    if version is not None:
        whole_number(version, "version", least=1, most=names.LARGEST_VERSION)
    one_of(dtype, "dtype", STORAGE)
    one_of(out_of_range, "out_of_range", OUT_OF_RANGE)
    for name, value in (("overwrite", overwrite), ("check", check), ("with_config", with_config)):
        flag(value, name)
    if with_config:
        names.check_model_name(folder.name)
        if not isinstance(folder, Path):
            raise ArgumentError(
                f"with_config=True writes files for a folder on this machine. Received: {str(folder)!r}."
            )
    class_names, metadata = _checked_class_names(class_names), checked_metadata(metadata)
    _check_model(model, vocabulary, dtype)
    _check_state(model)
    target = _target(folder, version, overwrite)
    if labels and not with_config:
        raise ArgumentError(f"labels are settings of a server: pass with_config=True too. Received: {shown(labels)}.")
    labels = checked_labels(labels, names.versions(folder))
    with progress("exporting") as report:
        contract = _contract(model, vocabulary, out_of_range, class_names)
        while True:
            report(1, 3)
            try:
                with tempfile.TemporaryDirectory() as assets, written(target, overwrite=overwrite) as beside:
                    card = _write(model, contract, dtype, metadata, Path(assets), beside, target)
                    (beside / "README.md").write_text(readme(card, metadata), encoding="utf-8")
                    write_warm_up(beside, card)
                    report(2, 3)
                    if check:
                        _check(beside, model, vocabulary, target)
                    if with_config and isinstance(folder, Path):
                        numbers = {label: number or int(target.name) for label, number in labels.items()}
                        write_server_config(folder, folder.name, pads=vocabulary.padding_id is not None, labels=numbers)
                return target if isinstance(target, Path) else str(target)
            except OutputError:
                if version is not None or overwrite or not target.exists():
                    raise
                target = _target(folder, None, overwrite)  # another process took the number in the meantime


def _target(path: Path | StoreFolder, version: int | None, overwrite: bool) -> Any:
    """The folder to write."""
    existing = names.versions(path)
    if version is None:
        number = max(existing, default=0) + 1
        if number > names.LARGEST_VERSION:
            raise SavedModelError(
                f"{str(path)!r} has no free version above {number - 1}. Give version= or another path."
            )
        return path / str(number)
    if version in existing and not overwrite:
        raise SavedModelError(
            f"Version {version} of {str(path)!r} already exists. Pass overwrite=True to replace {existing[version].name!r}, "
            f"or another version."
        )
    return existing.get(version, path / str(version))


def _check(beside: Path, model: keras.Model, vocabulary: Encoding, target: Path | StoreFolder) -> None:
    """Check the export under the name that it will have."""
    try:
        check_saved_model(beside, model=model, vocabulary=vocabulary)
    except SavedModelError as error:
        raise SavedModelError(str(error).replace(repr(str(beside)), repr(str(target)))) from error.__cause__


def _write(
    model: keras.Model,
    contract: Contract,
    dtype: str,
    metadata: Mapping[str, Any],
    assets: Path,
    beside: Path,
    target: Path | StoreFolder,
) -> dict[str, Any]:
    """Write the SavedModel with its assets; returns the card."""
    module = tf.Module()
    # The module keeps what the functions need until it is saved; one list of the variables, so that each is stored once.
    folded = fold(model, dtype)
    module.weights = folded.variables(model)
    graph, no_text_reason = text_graph(contract.encoding, assets)
    module.text_graph = None if graph is None else graph.resources
    embeddings = embeddings_of(model)
    embed = next(iter(embeddings)) if len(embeddings) == 1 else None
    with folded.reading():
        served = {
            names.SERVING: contracts.ids_signature(model, contract, tf.int64),
            names.SERVING_INT32: contracts.ids_signature(model, contract, tf.int32),
        }
        if embed is not None:
            served[names.EMBED] = contracts.embed_signature(embeddings[embed], contract)
        if graph is not None:
            served[names.TEXT] = contracts.text_signature(model, contract, graph)
    _check_variables(served, module.weights, dtype)
    card = card_of(target.parent.name, model, contract, folded, dtype, embed, no_text_reason, module.weights)
    served[names.CARD] = contracts.card_signature(card)
    module.assets = [tf.saved_model.Asset(str(file)) for file in write_assets(contract, assets, card, metadata)]
    try:
        tf.saved_model.save(module, str(beside), signatures=served)
    except tf.errors.OpError as error:  # what TensorFlow raises for a full disk
        raise OutputError(f"Cannot write {str(target)!r}: {reason(error.message)}") from error
    return card


def _check_state(model: keras.Model) -> None:
    """Refuse layers that remember what they read: a server answers many clients, and each request stands alone."""
    for path, layer in walk(model):
        if getattr(layer, "stateful", False):
            raise SavedModelError(
                f"Layer {path!r} is stateful: what it keeps of one request would change the answers to the next. Build the "
                f"model again with stateful=False, and copy the weights: new.set_weights(model.get_weights())."
            )


def _check_variables(served: Mapping[str, Any], stored: Sequence[tf.Variable], dtype: str) -> None:
    """Refuse a model that reads variables which the export doesn't contain; TensorFlow's own message is obscure."""
    held = {id(variable) for variable in stored}
    read = {each.name for function in served.values() for each in function.graph.variables if id(each) not in held}
    if read:
        raise SavedModelError(
            f"The export doesn't contain every variable that the model reads. Missing: {', '.join(sorted(read))}. A table "
            f"stored in another form (dtype={dtype!r}; LoRA, rows beside a base) can only be read by its own layer, not "
            f"as layer.embeddings or in a tf.function of the model: use layer.project(vectors) for tied weights, or export "
            f"a plain table with dtype='float32'. A layer's own tf.Variable must be a keras.Variable."
        )


def _checked_class_names(class_names: Any) -> list[str] | None:
    """The names as a list: an ordered series of distinct one-line names."""
    if class_names is None:
        return None
    listed = list(sequence(class_names, "class_names"))
    if isinstance(class_names, Set | Mapping):
        raise ArgumentError(f"class_names must be in the order of the scores. Received: {shown(class_names)}.")
    for place, name in enumerate(listed):
        valid = isinstance(name, str) and "\n" not in name and name.encode(errors="replace").decode() == name
        if not valid or name in listed[:place]:
            raise ArgumentError(
                f"class_names must be distinct names of one line each. Received: {shown(name)} at class {place}."
            )
    return listed


def _check_model(model: Any, encoding: Any, dtype: str) -> None:
    """Refuse a model that can't take the ids of this encoding, or has no table that `dtype` could apply to."""
    if not isinstance(model, keras.Model) or not isinstance(encoding, Encoding):
        raise ArgumentError(
            f"export_saved_model takes a keras.Model and a Vocabulary or another Encoding. "
            f"Received: {type(model).__name__} and {type(encoding).__name__}."
        )
    if not model.built:
        raise SavedModelError(f"Model {model.name!r} is not built: call it once before exporting it.")
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none
    if len(inputs) > 1:
        raise SavedModelError(f"Model {model.name!r} must have one input of token ids. Received: {len(inputs)} inputs.")
    if len(inputs) == 1 and len(inputs[0].shape) != 2:
        raise SavedModelError(
            f"Model {model.name!r} must take token ids of shape (batch, time). Received: an input of shape "
            f"{inputs[0].shape}. One id for each row is a text of length 1: keras.Input((1,), dtype='int64')."
        )
    if encoding.oov_id is None and not (getattr(encoding, "drop_unknown", False) and encoding.padding_id is not None):
        raise SavedModelError(
            "The vocabulary has no OOV id, which ids outside the table and empty texts are read as. "
            'Add an "[UNK]" token to it.'
        )
    _check_tables(model, len(encoding))
    if dtype != "float32" and not embeddings_of(model):
        raise ArgumentError(
            f"dtype={dtype!r} applies to embkeras embeddings (build_embedding), and model {model.name!r} has none."
        )
    floats = inputs and not keras.backend.is_int_dtype(inputs[0].dtype)
    if floats and len(encoding) > _LARGEST_EXACT_FLOAT_ID:
        raise SavedModelError(
            f"Model {model.name!r} takes {inputs[0].dtype} input, which can't distinguish ids above "
            f"{_LARGEST_EXACT_FLOAT_ID:,}; give it keras.Input(..., dtype='int64')."
        )


def _check_tables(model: keras.Model, size: int) -> None:
    """Refuse a vocabulary of another size than the table that its ids are looked up in."""
    tables = {path: layer for path, layer in walk(model) if isinstance(layer, keras.layers.Embedding)}
    own = {path: layer for path, layer in tables.items() if isinstance(layer, PretrainedEmbedding)}
    # Other embeddings may be for positions; without an embkeras one, any one of the vocabulary's size will do.
    wrong = [(path, layer.input_dim) for path, layer in (own or tables).items() if layer.input_dim != size]
    if wrong and (own or len(wrong) == len(tables)):
        path, rows = wrong[0]
        raise SavedModelError(f"Layer {path!r} has {rows} rows, but the vocabulary has {size} tokens.")


def _contract(model: keras.Model, encoding: Encoding, out_of_range: str, class_names: Sequence[str] | None) -> Contract:
    """How the model is served: its outputs and the lengths that it reads."""
    inputs = getattr(model, "inputs", None)
    max_length = inputs[0].shape[1] if inputs and len(inputs[0].shape) > 1 else None
    tried = [max_length] if max_length else range(1, _LONGEST_TRIED + 1)
    min_length = next((length for length in tried if _failure(model, length) is None), None)
    if min_length is None:  # a convolution without padding fails on the shortest texts only
        raise SavedModelError(
            f"Model {model.name!r} can't read a text of {tried[0]} to {tried[-1]} tokens: {_failure(model, tried[-1])}"
        )
    outputs = _output_names(model, min_length, class_names)
    lengths = {min(max(min_length, length), max_length or length) for length in WARM_UP_LENGTHS}
    readable = [length for length in sorted(lengths) if _failure(model, max(length, max_length or 0)) is None]
    return Contract(encoding, outputs, out_of_range, min_length, max_length, class_names, readable)


def _failure(model: keras.Model, length: int) -> str | None:
    """Why the model can't read a text of this many tokens, or None if it can."""
    try:
        contracts.scores_of(model, tf.zeros((1, length), tf.int64))
    except Exception as error:  # anything a layer raises
        return reason(str(error))
    return None


def _output_names(model: keras.Model, min_length: int, class_names: Sequence[str] | None) -> list[str]:
    """Names of the outputs, in the order in which the model returns them."""
    answers = contracts.scores_of(model, tf.zeros((1, min_length), tf.int64))
    if isinstance(answers, dict):
        named = sorted(answers)
    elif isinstance(answers, list | tuple):
        named = list(getattr(model, "output_names", None) or [f"output_{place}" for place in range(len(answers))])
    else:
        if class_names is not None and len(class_names) != answers.shape[-1]:
            raise ArgumentError(
                f"class_names must have one name for each of {answers.shape[-1]} scores. Received: {len(class_names)}."
            )
        return ["scores"]
    if len(set(named)) < len(named):
        raise SavedModelError(
            f"Outputs of model {model.name!r} share a name: {', '.join(named)}. Return them as a dictionary."
        )
    if class_names is not None:
        raise ArgumentError(f"class_names need a model with one output. Model {model.name!r} has {', '.join(named)}.")
    return named
