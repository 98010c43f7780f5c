"""table_of_saved_model: the table of an embedding in a SavedModel, with its words.

It is read from the checkpoint inside; no graph is loaded and nothing of the model runs.

Private name used here: `_CHECKPOINTABLE_OBJECT_GRAPH`, the entry of a checkpoint in which TensorFlow keeps the names that
its variables had. `tests/layers/test_saved_tables.py` fails when it goes.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from embkeras._arrays import first_nonfinite_row
from embkeras.errors import ArgumentError, EmbkerasError, EmbkerasWarning, VectorFileError, VocabularyError
from embkeras.tables.stored_tables import StoredTable
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.io.rows import Request, keep_listed
from embkeras.vectors.io.words_file import read_words
from embkeras.vectors.store import KeyedVectors, Provenance

_NAMES = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VOCABULARY = Path("assets", "vocabulary.json")  # where export_saved_model puts it
# The last part of a table's name: of Keras' layer, of a layer whose rows partly train, of an export's own table.
_TABLES = ("embeddings", "base", "table")
_PARTS = ("base", "scales", "places", "shared")
_LOW_RANK = ("lora_embeddings_a", "lora_embeddings_b")
_QUANTIZED = "embeddings_scale"  # what Keras divides an int8 table by


def table_of_saved_model(
    path: str | os.PathLike, variable: str | None = None, *, words_file: str | os.PathLike | None = None
) -> KeyedVectors:
    """The vectors of an embedding table in a SavedModel: what `export_saved_model`, `model.export` or TensorFlow wrote.

    Args:
        path: the folder that holds `saved_model.pb`; for an export of ours, that of a version.
        variable: name of the table, such as "embedding/embeddings"; not needed where there is one.
        words_file: one word a row: a list (`.txt`, `.json`, `.parquet`), or a vocabulary that was saved. By default the
            vocabulary that `export_saved_model` put into the SavedModel.

    Returns:
        One row an id, float32, the special tokens among them. Of several ids for words out of the vocabulary, which have
        one name, the first is kept.

    Raises:
        VectorFileError: no SavedModel, a damaged one, one without such a table or without its words.
        ArgumentError: several tables and no `variable`, or one that is not there; the message names them.
    """
    path = Path(path)
    if not (path / "saved_model.pb").is_file():
        raise VectorFileError(f"{str(path)!r} is no SavedModel: there is no saved_model.pb in it.")
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        tables = _tables(reader, _named(reader))
        name = _chosen(tables, variable, path)
        table = _read(reader, tables[name], f"The table {name!r} of {str(path)!r}")
    except EmbkerasError:
        raise
    except (tf.errors.OpError, DecodeError, LookupError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VectorFileError(f"{str(path)!r} is not a whole SavedModel: {reason}") from error
    words = _words(path, None if words_file is None else Path(words_file))
    if len(words) != table.rows:
        raise VectorFileError(f"{table.name} has {table.rows:,} rows, but there are {len(words):,} words.")
    return _vectors(table, words, path)


def _vectors(table: StoredTable, words: list[str], path: Path) -> KeyedVectors:
    kept = keep_listed(words, Request())
    repeated = kept.counts["duplicates"]
    if repeated:
        warnings.warn(
            f"{str(path)!r} holds {repeated:,} rows whose word had come before; the first was kept.",
            EmbkerasWarning,
            stacklevel=3,
        )
    matrix = table.read(kept.rows)
    bad = first_nonfinite_row(matrix)
    if bad is not None:
        raise VectorFileError(f"{table.name} holds NaN or infinity in row {kept.rows[bad]} (word {kept.words[bad]!r}).")
    return KeyedVectors(kept.words, matrix, provenance=Provenance(str(path), "saved_model", **kept.counts))


def _named(reader: Any) -> dict[str, str]:
    """Name of each variable -> its key in the checkpoint; a variable that was stored twice counts once."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_NAMES))
    named: dict[str, str] = {}
    for node in graph.nodes:
        for attribute in node.attributes:
            if reader.has_tensor(attribute.checkpoint_key):
                named.setdefault(attribute.full_name or attribute.checkpoint_key, attribute.checkpoint_key)
    return named


def _tables(reader: Any, named: dict[str, str]) -> dict[str, dict[str, str]]:
    """Name of each table -> the keys of its parts by what they are."""
    shapes = reader.get_variable_to_shape_map()
    tables: dict[str, dict[str, str]] = {}
    for name, key in named.items():
        layer, _, last = name.rpartition("/")
        beside = {
            part: named[f"{layer}/{part}"] for part in (*_PARTS, *_LOW_RANK, _QUANTIZED) if f"{layer}/{part}" in named
        }
        moves = last == "embeddings" and "base" in beside  # the rows that train, which are no table by themselves
        if last in _TABLES and len(shapes[key]) == 2 and not moves:
            if last == "base" and f"{layer}/embeddings" in named:
                beside["moving"] = named[f"{layer}/embeddings"]
            whole = last == "base" or not set(beside).isdisjoint((*_LOW_RANK, _QUANTIZED))
            tables[name] = {**(beside if whole else {}), "base": key}
    return tables


def _chosen(tables: dict[str, dict[str, str]], variable: str | None, path: Path) -> str:
    if not tables:
        raise VectorFileError(f"{str(path)!r} holds no word vectors: none of its variables is an embedding table.")
    if variable is None and len(tables) == 1:
        return next(iter(tables))
    if variable not in tables:
        raise ArgumentError(
            f"{str(path)!r} holds {len(tables)} tables: variable= says which to read. "
            f"Received: {variable!r}; there are {', '.join(map(repr, tables))}."
        )
    return variable


def _read(reader: Any, keys: dict[str, str], name: str) -> StoredTable:
    if _LOW_RANK[0] in keys:
        raise VectorFileError(
            f"{name} has LoRA beside it, whose scale a SavedModel does not tell. Read the .keras file."
        )
    parts = {part: reader.get_tensor(key) for part, key in keys.items()}
    if _QUANTIZED in parts:
        parts |= {"scales": parts.pop(_QUANTIZED), "divided": True}
    return StoredTable(name, **parts)


def _words(path: Path, words_file: Path | None) -> list[str]:
    if words_file is not None:
        if words_file.suffix == ".json":
            try:
                return list(Vocabulary.load(words_file).tokens)
            except VocabularyError:
                pass  # a plain list
        return read_words(words_file).words
    if not (path / _VOCABULARY).is_file():
        raise VectorFileError(
            f"{str(path)!r} does not say what its ids mean: there is no {_VOCABULARY}, which export_saved_model writes. "
            f"Give words_file= with a word for each row."
        )
    try:
        return list(Vocabulary.load(path / _VOCABULARY).tokens)
    except VocabularyError as error:
        raise VectorFileError(str(error)) from error
