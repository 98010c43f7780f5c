"""The description of an export: the card for programs, the README for people, and the other assets."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from embkeras import __version__
from embkeras._arrays import row_slices
from embkeras._checks import shown
from embkeras.errors import ArgumentError
from embkeras.serving.contract import Contract
from embkeras.serving.folding import Folded, embeddings_of
from embkeras.serving.names import (
    CARD,
    CARD_FILE,
    CARD_SHA256,
    CLASSES_FILE,
    IDS,
    MASK,
    METADATA_FILE,
    NEAREST,
    NEIGHBOURS,
    REQUEST,
    SCORES,
    VOCABULARY_FILE,
    K,
    card_sha256,
    text_inputs,
)
from embkeras.serving.nearest import Candidates
from embkeras.serving.server_files import warm_up_inputs
from embkeras.serving.spans import answers_questions
from embkeras.serving.text_encoder import tokenizer_fingerprint
from embkeras.serving.towers import Tower
from embkeras.serving.trust import weights_sha256
from embkeras.tables.addresses import walk
from embkeras.text.vocabulary import Vocabulary

_FIRST = (
    "encoding", "vocabulary_fingerprint", "tokenizer_fingerprint", "vocabulary_size", "padding_id", "oov_id", "min_length",
    "max_length",
)  # fmt: skip


def card_of(
    name: str,
    model: keras.Model,
    contract: Contract,
    folded: Folded,
    dtype: str,
    embed: str | None,
    no_text_reason: str | None,
    activations: Mapping[str, str | None],
    weights: Iterable[tf.Variable],
    towers: Iterable[Tower] = (),
    nearest: Candidates | None = None,
    no_nearest_reason: str | None = None,
) -> dict[str, Any]:
    """The card: what the export is, as plain data. `weights` are the variables that the export stores.

    Keys about ids at its top are those of the first input of ids.
    """
    tables = {}
    inputs = list(described_inputs(contract))
    first = next(each for each in inputs if each["kind"] == IDS)
    for path, layer in embeddings_of(model).items():
        accuracy = folded.accuracy.get(path) or getattr(layer, "accuracy", None)
        own = layer.quantization_mode or getattr(layer, "stored", "float32")
        tables[path] = {
            "rows": layer.input_dim,
            "width": layer.output_dim,
            "sha256": _sha256(layer.matrix()),
            "stored": dtype if layer in folded.tables else own,
            "accuracy": None if accuracy is None else str(accuracy),
            **({} if accuracy is None else asdict(accuracy)),
        }
    computed = {layer.compute_dtype for _, layer in walk(model)}
    card = {
        "format": "embkeras.saved_model",
        "version": 9,
        "name": name,
        **{key: first[key] for key in _FIRST},
        "inputs": inputs,
        "masks": [
            {"name": each.name, "of": each.group, "dtype": each.dtype, "place": place}
            for place, each in enumerate(contract.inputs)
            if each.kind == MASK
        ],
        "tables": tables,
        "weights_sha256": weights_sha256({id(each): each.numpy() for each in weights}.values()),
        "dtype": dtype,
        "precision": next((dtype for dtype in ("bfloat16", "float16") if dtype in computed), "float32"),
        "outputs": [each.name for each in contract.outputs],
        "answers": [
            {
                "name": each.name,
                "kind": each.kind,
                "of": each.of,
                "shape": list(each.shape),
                "activation": activations[each.name],
            }
            for each in contract.outputs
        ],
        "class_names": None if contract.class_names is None else list(contract.class_names),
        "out_of_range": contract.ids[0].out_of_range,
        "long_texts": contract.ids[0].long_texts,
        "warm_up": list(contract.warm_up),
        "embed": embed,
        "no_text_reason": no_text_reason,
        "towers": [
            {
                "name": each.name,
                "layer": each.path,
                "call": each.call,
                "inputs": [read.name for read in each.contract.asked],
                "width": each.width,
            }
            for each in towers
        ],
        "nearest": None if nearest is None else nearest.card(),
        "no_nearest_reason": no_nearest_reason,
        "embkeras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
    return card | {CARD_SHA256: card_sha256(card)}


def described_inputs(contract: Contract) -> Iterator[dict[str, Any]]:
    """Each input as plain data; `vocabulary_file` is the asset with its tokens, if its encoding is a Vocabulary."""
    files = _vocabulary_files(contract)
    for each in contract.asked:
        described: dict[str, Any] = {
            "name": each.name,
            "kind": each.kind,
            "dtype": each.dtype,
            "shape": list(each.shape),
        }
        described["beside"] = None if each.group == each.name else each.group
        fixed = None not in each.shape[1:]
        described["pads"] = fixed or each.padding_id is not None
        if each.encoding is not None:
            described |= {
                "encoding": type(each.encoding).__name__,
                "vocabulary_fingerprint": each.encoding.fingerprint,
                "tokenizer_fingerprint": tokenizer_fingerprint(each.encoding),
                "vocabulary_size": len(each.encoding),
                "vocabulary_file": files.get(each.name),
                "padding_id": each.padding_id,
                "padding_side": "start" if each.in_front else "end",
                "oov_id": each.oov_id,
                "min_length": each.min_length,
                "max_length": each.max_length,
            }
        yield described


def _vocabulary_files(contract: Contract) -> dict[str, str]:
    """The asset with the vocabulary of each input; one for all inputs that share it."""
    files: dict[str, str] = {}
    named: dict[tuple[str, str | None], str] = {}
    for each in contract.ids:
        if isinstance(each.encoding, Vocabulary):
            key = each.encoding.fingerprint, tokenizer_fingerprint(each.encoding)
            name = VOCABULARY_FILE if not named else f"{Path(VOCABULARY_FILE).stem}_{each.name}.json"
            files[each.name] = named.setdefault(key, name)
    return files


def _sha256(matrix: np.ndarray) -> str:
    """SHA-256 over the shape and the float32 rows of a table, as 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(matrix.shape).encode())
    for part in row_slices(matrix.shape):
        digest.update(np.ascontiguousarray(matrix[part], "<f4").tobytes())
    return digest.hexdigest()


def write_assets(contract: Contract, folder: Path, card: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Path]:
    """Write the vocabulary, class names, metadata and card; returns their files."""
    files = {CARD_FILE: json.dumps(card, indent=1), METADATA_FILE: _as_json(metadata)}
    if contract.class_names is not None:
        files[CLASSES_FILE] = "".join(f"{name}\n" for name in contract.class_names)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("utf-8"))
    written = [folder / name for name in files]
    vocabularies = _vocabulary_files(contract)
    saved = {vocabularies[each.name]: each.encoding for each in contract.ids if each.name in vocabularies}
    return written + [encoding.save(folder / name) for name, encoding in saved.items()]  # type: ignore[union-attr]


def checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sections of the README: title -> a text, a DataFrame, or any other data that JSON can hold.

    Raises:
        ArgumentError: titles that are not strings, or what JSON can't hold: NaN and infinity are among it.
    """
    metadata = {} if metadata is None else metadata
    rule = "metadata must map section titles to texts, DataFrames or other data for JSON."
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"{rule} Received: {shown(metadata)}.")
    for title, value in metadata.items():
        if not isinstance(title, str):
            raise ArgumentError(f"{rule} Received: {shown(title)}: {shown(value)}.")
        try:
            _as_json(value).encode("utf-8")
            f"{title}{_section(value)}".encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                f"metadata must be data that JSON can hold. Received in section {shown(title)}: {error}."
            ) from error
    return dict(metadata)


def _as_json(metadata: Any) -> str:
    """Sections as JSON: a table is a list of rows by column, NumPy's numbers and arrays are Python's, other objects are text.

    What is missing in a table is null. Anywhere else NaN, and infinity everywhere, is a ValueError: JSON has neither.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, pd.DataFrame):
            numbers = value.select_dtypes("number").to_numpy("float64", na_value=np.nan)
            if np.isinf(numbers).any():
                raise ValueError("infinity in a DataFrame, for which JSON has no number")
            return json.loads(value.to_json(orient="records"))
        if isinstance(value, Mapping):  # json takes a dict only
            return dict(value)
        return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)

    return json.dumps(metadata, indent=1, default=plain, allow_nan=False)


def readme(card: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The README of an export, as Markdown."""
    signatures = "\n".join(f"| `{name}` | {what} |" for name, what in _signatures(card))
    facts = "\n".join(f"| {name} | {value} |" for name, value in _facts(card))
    ids = " ".join(dict.fromkeys(_ids(card, each) for each in card["inputs"] if each["kind"] == IDS))
    text = f"""# {card["name"]}

{_what(card)}, exported by embkeras. {ids}

| signature | input and output |
|---|---|
{signatures}

{_example(card)}

| | |
|---|---|
{facts}
"""
    return text + "".join(f"\n## {title}\n\n{_section(value)}\n" for title, value in metadata.items())


def _what(card: Mapping[str, Any]) -> str:
    if answers_questions(card):
        return "A model that finds answers to questions in a text, and takes token ids"
    if len(card["inputs"]) == 1 and all(each["kind"] == "row" for each in card["answers"]):
        return "A text classifier that takes token ids"
    return "A model that takes token ids"


def _ids(card: Mapping[str, Any], each: Mapping[str, Any]) -> str:
    """What the ids of an input mean."""
    of = "" if len(card["inputs"]) == 1 else f" of `{each['name']}`"
    if each["vocabulary_file"] is None:
        return f"The ids{of} are those of the {each['encoding']} with the fingerprint below."
    return f"`assets/{each['vocabulary_file']}` lists the tokens{of} and their ids."


def _example(card: Mapping[str, Any]) -> str:
    first = {name: values[0].tolist() for name, values in next(iter(warm_up_inputs(card)), {}).items()}
    if len(card["inputs"]) > 1:
        body = json.dumps({"instances": [first]})
        return f"""A request over REST:

    curl -d '{body}' http://HOST:8501/v1/models/{card["name"]}:predict"""
    padding = card["padding_id"] if len(card["inputs"][0]["shape"]) == 2 else None
    fixed = card["inputs"][0]["shape"][-1]
    ids = ([] if padding is None else [padding]) + [card["vocabulary_size"] - 1] * (fixed or 2)
    ids = ids[: card["max_length"]] if len(card["inputs"][0]["shape"]) == 2 else first[card["inputs"][0]["name"]]
    body = json.dumps({"instances": [ids]})
    text = f"""A request over REST:

    curl -d '{body}' http://HOST:8501/v1/models/{card["name"]}:predict"""
    if answers_questions(card):
        text = f"""With embkeras: `ServingClient(URL, encoder=FOLDER).answer(question, context)`. {text}"""
    if padding is None:
        return text
    return f"""{text}

A request may start with {padding}, the padding id. It must do so if the server batches requests of different lengths: the server
pads shorter requests with their first number."""


def _signatures(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    inputs = card["inputs"]
    outputs = ", ".join(f"`{name}`" for name in card["outputs"])
    taken = _taken(inputs)
    outside = "; ".join(
        f"ids outside [0, {each['vocabulary_size']})"
        + ("" if len(inputs) == 1 else f" in `{each['name']}`")
        + f" {_policy(card, each)}"
        for each in inputs
        if each["kind"] == IDS
    )
    yield "serving_default", f"{taken} -> {outputs}; {outside}" + "".join(map(_token_rows, card["answers"]))
    yield "serving_int32", "the same for int32 ids, half the bytes"
    if card["no_text_reason"] is None:
        texts = text_inputs([each["name"] for each in inputs if each["kind"] == IDS])
        features = ", ".join(f"`{each['name']}`" for each in inputs if each["kind"] != IDS)
        beside = f", beside {features}" if features else ""
        kinds = {each["name"]: "tokens" if len(each["shape"]) == 1 else "strings" for each in inputs}
        taken = ", ".join(f"`{asked}` {kinds[name]} (batch,)" for name, asked in texts.items())
        yield "text", f"{taken}{beside} -> {outputs}"
    else:
        yield "~~text~~", f"not available: {card['no_text_reason']}"
    yield (
        CARD,
        f"`{REQUEST}` int32 (batch,) -> `{CARD}`: the contents of `assets/{CARD_FILE}`, so that clients can compare",
    )
    if card["embed"]:
        yield "embed", f"`token_ids` int64 (batch, time) -> `vectors` (batch, time, width) of layer {card['embed']}"
    reads = {each["name"]: [one for one in inputs if one["name"] in each["inputs"]] for each in card["towers"]}
    for each in card["towers"]:
        made = f"`vectors` float32 (batch, {each['width']}) of layer {each['layer']}"
        yield each["name"], f"{_taken(reads[each['name']])} -> {made}"
    if (near := card["nearest"]) is not None:
        rows = "candidates" if near["ids_of"] is None else f"ids of `{near['ids_of']}`"
        yield (
            NEAREST,
            f"{_taken(reads[near['tower']])}, `{K}` int32 (batch,) -> `{NEIGHBOURS}` int64 (batch, k), the k best of "
            f"{near['count'] - len(near['excluded']):,} {rows} by {near['similarity']}, and their `{SCORES}`; where a row's "
            f"own k ends, -1 and zeros",
        )
    elif card["towers"]:
        yield f"~~{NEAREST}~~", f"not available: {card['no_nearest_reason']}"


def _taken(inputs: Iterable[Mapping[str, Any]]) -> str:
    """Inputs with their types."""
    return ", ".join(f"`{each['name']}` {each['dtype']} ({_axes(each)})" for each in inputs)


def _axes(each: Mapping[str, Any]) -> str:
    """The axes of an input, as a tuple is written."""
    shape = each["shape"]
    if each["kind"] == IDS:
        return ("batch,", "batch, time", "batch, sentences, time")[len(shape) - 1]
    rest = ", ".join("any" if size is None else str(size) for size in shape[1:])
    return f"batch, {rest}" if rest else "batch,"


def _policy(card: Mapping[str, Any], each: Mapping[str, Any]) -> str:
    unknown = "are dropped" if each["oov_id"] == each["padding_id"] else "are read as unknown tokens"
    return unknown if card["out_of_range"] == "oov" else "are refused"


def _token_rows(answer: Mapping[str, Any]) -> str:
    """Where the rows of an output belong."""
    if answer["of"] is None:
        return ""
    return f"; row k of `{answer['name']}` belongs to row k of `{answer['of']}` wherever its padding is, and is zeros on padding"


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    ids = [each for each in card["inputs"] if each["kind"] == IDS]
    for each in ids:
        of = "" if len(card["inputs"]) == 1 else f" of {each['name']}"
        yield f"tokens{of}", f"{each['vocabulary_size']:,}"
        yield f"vocabulary fingerprint{of}", f"`{each['vocabulary_fingerprint']}`"
    for path, table in card["tables"].items():
        parts = [f"{table['rows']:,} x {table['width']}", table["stored"], table["accuracy"], f"`{table['sha256']}`"]
        yield f"table {path}", ", ".join(part for part in parts if part)
    if card["class_names"]:
        yield "classes", ", ".join(card["class_names"])
    for each in ids:
        of = "" if len(card["inputs"]) == 1 else f" of {each['name']}"
        longer = "cut" if card["long_texts"] == "cut" else "refused"
        if each["max_length"] and each["max_length"] == each["min_length"]:
            yield f"length{of}", f"{each['max_length']} tokens; shorter texts are padded, longer ones are {longer}"
        elif each["max_length"]:
            yield f"length{of}", f"up to {each['max_length']} tokens; longer texts are {longer}"
        elif len(each["shape"]) > 1:
            yield f"minimum length{of}", f"{each['min_length']} tokens; shorter texts are padded"
    yield "made with", f"embkeras {card['embkeras']}, Keras {card['keras']}, TensorFlow {card['tensorflow']}"


def _section(value: Any) -> str:
    """A section as Markdown: a text as it is, a table, or JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, pd.DataFrame):
        heads, rows = list(value.columns), [list(row) for row in value.itertuples(index=False)]
    elif isinstance(value, Mapping) and not any(isinstance(each, Mapping | list | tuple) for each in value.values()):
        heads, rows = [" ", " "], [[key, each] for key, each in value.items()]
    else:
        return f"```json\n{_as_json(value)}\n```"
    lines = [" | ".join(map(_cell, row)) for row in (heads, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(heads) + "|", *(f"| {line} |" for line in lines[1:])])


def _cell(value: Any) -> str:
    """A value in a cell of a table."""
    return " ".join(str(value).replace("|", "\\|").splitlines()) or " "
