"""export_saved_model: a SavedModel that takes token ids.

It is written with `tf.saved_model.save`: `model.export` stores every variable twice, and gives the input the type of the
model's own input, often float32.
"""

import os
import re
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
from embkeras.serving.card import card_of, checked_metadata, described_inputs, readme, write_assets
from embkeras.serving.check import check_saved_model
from embkeras.serving.contract import Contract
from embkeras.serving.describe import Trial, activation_of, inputs_of
from embkeras.serving.folding import embeddings_of, fold
from embkeras.serving.inputs import OUT_OF_RANGE, Input
from embkeras.serving.local import ExportedModel
from embkeras.serving.nearest import Search, candidates_of, search_of
from embkeras.serving.reasons import reason
from embkeras.serving.remote import StoreFolder, destination, written
from embkeras.serving.server_files import checked_labels, write_server_config, write_warm_up
from embkeras.serving.strings import Split, check_texts, split_strings
from embkeras.serving.text_graphs import TextGraph, text_graph, token_graph
from embkeras.serving.towers import Tower, towers_of
from embkeras.tables.addresses import LayerRef, walk
from embkeras.tables.storage import STORAGE
from embkeras.text.encoding import Encoding


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    vocabulary: Encoding | Mapping[str, Encoding] | None = None,
    version: int | None = None,
    dtype: str = "float32",
    class_names: Sequence[str] | None = None,
    out_of_range: str = "oov",
    long_texts: str = "cut",
    overwrite: bool = False,
    check: bool = True,
    with_config: bool = False,
    labels: Mapping[str, int | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
    towers: Mapping[str, LayerRef] | None = None,
    candidates: Any = None,
    similarity: str = "dot",
) -> Path | Any:
    """Write `path/<version>/`, ready for TensorFlow Serving or `tf.saved_model.load`.

    The signatures: `serving_default` takes `token_ids`, int64 of shape (batch, time), and `serving_int32` the same in half
    the bytes; `text` takes strings, if the vocabulary has a TensorFlow graph, as words and a BERT's word pieces have
    (byte-level BPE and unigram pieces don't: `TextEncoder` makes their ids from the assets); `embed` returns `vectors` for
    ids, if the model has exactly one embkeras embedding; `card` returns the card, which lets a client compare vocabularies.
    Answers are dictionaries: `scores` for a model with one output, the model's own names for several, and `classes`, the
    class names, if given.

    A model with several inputs keeps their names: ids of shape (batch,), (batch, time) or (batch, sentences, time), and
    numbers as they are; `text` takes a string in place of each text's ids. Where a model answers for each token, row k of
    the answer belongs to token k of the request, wherever the padding is, and is zeros on padding.

    A model that takes strings is split behind each `TextVectorization` that its strings lead into: `serving_default` takes
    the ids, and `text` the strings, with the scores of `model.predict` (but for a text without tokens). So is one behind
    each `StringLookup` that takes a single string for each row, such as a user or a category: that is one token, looked up
    as it is written, and ids of the signature are (batch,). `text` takes such a token in place of any single id.

    Each of `towers` adds a signature of its name, which takes the inputs that the tower reads and returns `vectors`
    (batch, width). `nearest` takes those of the first tower and `k`, and returns the k most similar of the last one's
    vectors: every vector is compared, in blocks.

    A pair of texts for an encoder is one text with the separator as its tokenizer writes it: "first[SEP]second" of a BERT.

    A padding mask is made from the ids, so no request has one: an input of the ids' shape called `padding_mask` or
    `attention_mask` (`encoder_padding_mask` beside `encoder_token_ids`) that `vocabulary` doesn't name. Where a table of
    positions ends, so do the texts of a model of any length. The inputs of a subclassed model are those that it was
    called with, by their keys; `input_0`, `input_1`, ... in a list; numbers as float32. Answers in half precision are
    returned as float32.

    A text has the same scores alone, padded, in any batch, and with padding in front; a text without tokens is read as one
    unknown token. The table is stored once. A layer made of several variables (LoRA, rows that train beside a base,
    combinations, a projection) becomes one table where that is smaller. `assets/` contains the vocabulary, class names
    and versions, `assets.extra/` warm-up requests, and `README.md` describes the export for people. The folder appears
    complete or not at all. The model doesn't change, and other threads may use it during the export.

    Args:
        model: a built Keras model.
        path: the model's folder; TensorFlow Serving calls this `base_path`. Also the address of a folder in an object store,
            such as "s3://bucket/models/tweets": the export is made on this machine and then sent, `saved_model.pb` last.
        vocabulary: what the ids mean: a `Vocabulary` or another `Encoding`, as large as every embedding table of the model;
            or a dictionary of them by the names of the inputs. With one for all, every integer input takes ids; with a
            dictionary, those that it names. Strings need none: theirs is that of the layer.
        version: a new number; by default the next free one, from 1.
        dtype: how embkeras tables are stored: "float32", "float16", or "int8" with one scale a row. Rows are unpacked as
            they are read; the card says how close they stay.
        class_names: one name for each class; two for a single score of a sigmoid, the probability of the second.
        out_of_range: "oov" reads ids outside [0, V) as the vocabulary's OOV id ("[UNK]"), "error" refuses the request.
            (XLA drops the refusal: there the scores of such a text are NaN.)
        long_texts: for a model of fixed length, or with a table of positions: "cut" drops the end of a text of more
            tokens, or its beginning if the encoding's `padding_side` is "start", as `encode_batch` and `pad_sequences` do;
            "error" refuses the request. A text of an encoder keeps its special tokens where it is cut.
        overwrite: replace the version if it exists.
        check: run `check_saved_model` before the folder gets its name.
        with_config: write settings for TensorFlow Serving beside the versions.
        labels: names of versions for these settings, such as {"stable": 3, "canary": None}, where None is the version that is
            written. Servers then load the labelled versions alone.
        metadata: sections of the README by title: a text, a DataFrame (such as `schedule.history`), numbers by name, or any
            other data that JSON can hold. They are stored in `assets/metadata.json` too.
        towers: name -> layer whose output is that tower's vector, such as {"query": "query_tower", "item": "item_tower"}; a
            layer that is called on several inputs is meant for the input of the tower's name. The first tower asks, and the
            vectors of the last one are searched. One tower can be both.
        candidates: what is searched: the inputs of the last tower, one row for each vector, as `ExportedModel.scores` takes
            them, or with texts in place of ids. By default every id of a tower that takes single ids, without those of
            padding and unknown tokens. The vectors are stored in float32, once, and not at all where the tower is an
            embedding whose table is in the export.
        similarity: of vectors in `nearest`: their "dot" product or "cosine".

    Returns:
        The folder of this version; for an address, the address of this version, a str.

    Raises:
        SavedModelError: a vocabulary doesn't fit its input, the version exists, the model can't be traced or takes strings
            that lead elsewhere than into one `TextVectorization` or `StringLookup`, or the export fails the check: for
            example because its scores depend on padding.
        ArgumentError: an argument of another type or outside its choices, a dtype other than "float32" for a model without
            an embkeras embedding, class names that are not one for each score, metadata that JSON can't hold, a name that
            needs quotes in a config.
        UnknownLayerError: a tower that the model doesn't have.
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
    one_of(long_texts, "long_texts", names.LONG_TEXTS)
    for name, value in (("overwrite", overwrite), ("check", check), ("with_config", with_config)):
        flag(value, name)
    if with_config:
        names.check_model_name(folder.name)
        if not isinstance(folder, Path):
            raise ArgumentError(
                f"with_config=True writes files for a folder on this machine. Received: {str(folder)!r}."
            )
    class_names, metadata = _checked_class_names(class_names), checked_metadata(metadata)
    split = split_strings(model, vocabulary)
    model, vocabulary = split.model, split.vocabulary
    _check_model(model, vocabulary, dtype)
    _check_state(model)
    target = _target(folder, version, overwrite)
    if labels and not with_config:
        raise ArgumentError(f"labels are settings of a server: pass with_config=True too. Received: {shown(labels)}.")
    labels = checked_labels(labels, names.versions(folder))
    with progress("exporting") as report:
        contract, steps = _contract(model, vocabulary, out_of_range, long_texts, class_names)
        found = towers_of(model, contract, steps, towers)
        search = search_of(found, candidates, similarity, list(described_inputs(contract)))
        while True:
            report(1, 3)
            try:
                with tempfile.TemporaryDirectory() as assets, written(target, overwrite=overwrite) as beside:
                    card = _write(model, contract, dtype, metadata, found, search, Path(assets), beside, target)
                    (beside / "README.md").write_text(readme(card, metadata), encoding="utf-8")
                    write_warm_up(beside, card)
                    report(2, 3)
                    if check:
                        _check(beside, split, target)
                    if with_config and isinstance(folder, Path):
                        numbers = {label: number or int(target.name) for label, number in labels.items()}
                        pads = all(each["pads"] for each in card["inputs"])
                        write_server_config(folder, folder.name, pads=pads, labels=numbers)
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


def _check(beside: Path, split: Split, target: Path | StoreFolder) -> None:
    """Check the export under the name that it will have."""
    try:
        check_saved_model(beside, model=split.model, vocabulary=split.vocabulary)
        if split.whole is not None:
            check_texts(split, ExportedModel(beside, vocabulary=split.vocabulary))
    except SavedModelError as error:
        raise SavedModelError(str(error).replace(repr(str(beside)), repr(str(target)))) from error.__cause__


def _write(
    model: keras.Model,
    contract: Contract,
    dtype: str,
    metadata: Mapping[str, Any],
    towers: Sequence[Tower],
    search: tuple[Search | None, str | None],
    assets: Path,
    beside: Path,
    target: Path | StoreFolder,
) -> dict[str, Any]:
    """Write the SavedModel with its assets; returns the card."""
    module = tf.Module()
    # The module keeps what the functions need until it is saved; one list of the variables, so that each is stored once.
    folded = fold(model, dtype)
    module.weights = folded.variables(model)
    graphs, no_text_reason = _text_graphs(contract, assets)
    module.text_graphs = [graph.resources for graph in graphs.values() if graph.resources is not None]
    embeddings = embeddings_of(model)
    embed = _embedded(embeddings, contract)
    with folded.reading():
        served = {
            names.SERVING: contracts.ids_signature(model, contract, tf.int64),
            names.SERVING_INT32: contracts.ids_signature(model, contract, tf.int32),
        }
        if embed is not None:
            served[names.EMBED] = contracts.embed_signature(embeddings[embed[0]], embed[1])
        if no_text_reason is None:
            served[names.TEXT] = contracts.text_signature(model, contract, graphs)
        for tower in towers:
            served[tower.name] = contracts.ids_signature(tower, tower.contract, tf.int64)
        nearest = None if search[0] is None else candidates_of(search[0], served[search[0].searched.name])
        if nearest is not None:
            served[names.NEAREST] = contracts.nearest_signature(nearest.asked, nearest.asked.contract, nearest.nearest)
            if nearest.stored is not None:
                module.candidates = nearest.stored
                module.weights = [*module.weights, nearest.stored]
    _check_variables(served, module.weights, dtype)
    activations = {
        each.name: activation_of(_inside(served[names.SERVING], each.name), model) for each in contract.outputs
    }
    _check_binary(contract, activations)
    layer = None if embed is None else embed[0]
    card = card_of(
        target.parent.name,
        model,
        contract,
        folded,
        dtype,
        layer,
        no_text_reason,
        activations,
        module.weights,
        towers,
        nearest,
        search[1],
    )
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


def _text_graphs(contract: Contract, assets: Path) -> tuple[dict[str, TextGraph], str | None]:
    """The encodings of all ids as TensorFlow graphs by input, and None, or the reason why there is no signature `text`."""
    graphs: dict[str, TextGraph] = {}
    made: dict[tuple[int, int], TextGraph] = {}
    for place, each in enumerate(contract.ids):
        if each.rank == 3 or each.encoding is None:
            return {}, f"the input {each.name} takes documents of sentences"
        key = id(each.encoding), each.rank
        if key not in made:
            folder = assets / f"text_{place}" if place else assets
            folder.mkdir(exist_ok=True)
            graph, why = (token_graph if each.rank == 1 else text_graph)(each.encoding, folder)
            if graph is None:
                return {}, why if len(contract.ids) == 1 else f"{why} (input {each.name})"
            made[key] = graph
        graphs[each.name] = made[key]
    return graphs, None


def _embedded(embeddings: Mapping[str, Any], contract: Contract) -> tuple[str, Input] | None:
    """The path of the only embkeras embedding and the first input with its ids, for the signature `embed`."""
    if len(embeddings) != 1:
        return None
    ((path, layer),) = embeddings.items()
    fitting = [each for each in contract.ids if each.size == layer.input_dim]
    return (path, fitting[0]) if len({id(each.encoding) for each in fitting}) == 1 else None


def _inside(function: Any, output: str) -> Any:
    """An output as a tensor of a signature's graph."""
    return function.graph.structured_outputs[output]


def _check_binary(contract: Contract, activations: Mapping[str, str | None]) -> None:
    """Two class names for one score need a sigmoid: its score is the probability of the second."""
    for each in contract.outputs if contract.class_names is not None else ():
        if each.shape[-1] == 1 and len(contract.class_names or ()) == 2 and activations[each.name] != "sigmoid":
            raise ArgumentError(
                "class_names must have one name for each of 1 scores, or two if the score is a sigmoid's: the probability of "
                "the second. Received: 2 names, and a score without keras.layers.Dense(1, activation='sigmoid')."
            )


def _check_variables(served: Mapping[str, Any], stored: Sequence[tf.Variable], dtype: str) -> None:
    """Refuse a model that reads variables which the export doesn't contain; TensorFlow's own message is obscure."""
    wrong = next((each.name for each in stored if not re.match("[A-Za-z0-9.]", each.name)), None)
    if wrong is not None:  # Keras names a layer of the class _Block "__block"
        raise SavedModelError(
            f"TensorFlow can't save the variable {wrong!r}: its name must begin with a letter or a digit. Name its layer "
            f"(name='block'), or its class without '_' in front."
        )
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


def _check_model(model: Any, vocabulary: Any, dtype: str) -> None:
    """Refuse what isn't a built model with vocabularies, or has no table that `dtype` could apply to."""
    given = list(vocabulary.values()) if isinstance(vocabulary, Mapping) else [vocabulary]
    wrong = [each for each in given if not isinstance(each, Encoding)]
    if not isinstance(model, keras.Model) or wrong or not given:
        raise ArgumentError(
            f"export_saved_model takes a keras.Model and a Vocabulary or another Encoding, or a dictionary of them by input. "
            f"Received: {type(model).__name__} and {type((wrong or [vocabulary])[0]).__name__}."
        )
    if not model.built:
        raise SavedModelError(f"Model {model.name!r} is not built: call it once before exporting it.")
    if dtype != "float32" and not embeddings_of(model):
        raise ArgumentError(
            f"dtype={dtype!r} applies to embkeras embeddings (build_embedding), and model {model.name!r} has none."
        )


def _contract(
    model: keras.Model,
    vocabulary: Encoding | Mapping[str, Encoding],
    out_of_range: str,
    long_texts: str,
    class_names: Sequence[str] | None,
) -> tuple[Contract, int]:
    """How the model is served: its inputs, its outputs, and the lengths that it reads; and one that all inputs can have."""
    trial = Trial(model, inputs_of(model, vocabulary, out_of_range, long_texts))
    answers = trial.outputs(class_names)
    contract = Contract(trial.inputs, answers, class_names, trial.warm_up(), trial.needs_row())
    return contract, trial.least
