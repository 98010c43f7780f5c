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
from embkeras.serving.names import CARD, CARD_FILE, CLASSES_FILE, METADATA_FILE, REQUEST, VOCABULARY_FILE
from embkeras.serving.text_encoder import tokenizer_fingerprint
from embkeras.serving.trust import weights_sha256
from embkeras.tables.addresses import walk
from embkeras.text.vocabulary import Vocabulary


def card_of(
    name: str,
    model: keras.Model,
    contract: Contract,
    folded: Folded,
    dtype: str,
    embed: str | None,
    no_text_reason: str | None,
    weights: Iterable[tf.Variable],
) -> dict[str, Any]:
    """The card: what the export is, as plain data. `weights` are the variables that the export stores."""
    encoding, tables = contract.encoding, {}
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
    return {
        "format": "embkeras.saved_model",
        "version": 5,
        "name": name,
        "encoding": type(encoding).__name__,
        "vocabulary_fingerprint": encoding.fingerprint,
        "tokenizer_fingerprint": tokenizer_fingerprint(encoding),
        "vocabulary_size": len(encoding),
        "padding_id": encoding.padding_id,
        "oov_id": contract.oov_id,
        "tables": tables,
        "weights_sha256": weights_sha256({id(each): each.numpy() for each in weights}.values()),
        "dtype": dtype,
        "precision": next((dtype for dtype in ("bfloat16", "float16") if dtype in computed), "float32"),
        "outputs": list(contract.outputs),
        "class_names": None if contract.class_names is None else list(contract.class_names),
        "out_of_range": contract.out_of_range,
        "min_length": contract.min_length,
        "max_length": contract.max_length,
        "warm_up": list(contract.warm_up),
        "embed": embed,
        "no_text_reason": no_text_reason,
        "embkeras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


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
    if isinstance(contract.encoding, Vocabulary):
        written.append(contract.encoding.save(folder / VOCABULARY_FILE))
    return written


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
    ids = f"`assets/{VOCABULARY_FILE}` lists the tokens and their ids."
    if card["encoding"] != Vocabulary.__name__:
        ids = f"The ids are those of the {card['encoding']} with the fingerprint below."
    text = f"""# {card["name"]}

A text classifier that takes token ids, exported by embkeras. {ids}

| signature | input and output |
|---|---|
{signatures}

{_example(card)}

| | |
|---|---|
{facts}
"""
    return text + "".join(f"\n## {title}\n\n{_section(value)}\n" for title, value in metadata.items())


def _example(card: Mapping[str, Any]) -> str:
    padding = card["padding_id"]
    ids = ([] if padding is None else [padding]) + [card["vocabulary_size"] - 1] * (card["max_length"] or 2)
    body = json.dumps({"instances": [ids[: card["max_length"]]]})
    text = f"""A request over REST:

    curl -d '{body}' http://HOST:8501/v1/models/{card["name"]}:predict"""
    if padding is None:
        return text
    return f"""{text}

A request may start with {padding}, the padding id. It must do so if the server batches requests of different lengths: the server
pads shorter requests with their first number."""


def _signatures(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    outputs = ", ".join(f"`{name}`" for name in card["outputs"])
    unknown = "are dropped" if card["oov_id"] == card["padding_id"] else "are read as unknown tokens"
    policy = unknown if card["out_of_range"] == "oov" else "are refused"
    size = card["vocabulary_size"]
    yield "serving_default", f"`token_ids` int64 (batch, time) -> {outputs}; ids outside [0, {size}) {policy}"
    yield "serving_int32", "the same for int32 ids, half the bytes"
    if card["no_text_reason"] is None:
        yield "text", f"`text` strings (batch,) -> {outputs}"
    else:
        yield "~~text~~", f"not available: {card['no_text_reason']}"
    yield (
        CARD,
        f"`{REQUEST}` int32 (batch,) -> `{CARD}`: the contents of `assets/{CARD_FILE}`, so that clients can compare",
    )
    if card["embed"]:
        yield "embed", f"`token_ids` int64 (batch, time) -> `vectors` (batch, time, width) of layer {card['embed']}"


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "tokens", f"{card['vocabulary_size']:,}"
    yield "vocabulary fingerprint", f"`{card['vocabulary_fingerprint']}`"
    for path, table in card["tables"].items():
        parts = [f"{table['rows']:,} x {table['width']}", table["stored"], table["accuracy"], f"`{table['sha256']}`"]
        yield f"table {path}", ", ".join(part for part in parts if part)
    if card["class_names"]:
        yield "classes", ", ".join(card["class_names"])
    if card["max_length"]:
        yield "length", f"{card['max_length']} tokens; shorter texts are padded, longer ones are refused"
    else:
        yield "minimum length", f"{card['min_length']} tokens; shorter texts are padded"
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
