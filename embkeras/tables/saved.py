"""load_table: the embedding table of a saved model, with its words."""

import io
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import first_nonfinite_row
from embkeras._checks import path as checked_path
from embkeras.errors import ArgumentError, EmbkerasError, VectorFileError
from embkeras.keras_compat.checkpoints import variable_keys
from embkeras.tables.addresses import walk
from embkeras.tables.row_io import is_plain_table, table_of_calls
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.store import KeyedVectors, Provenance


def load_table(
    path: str | os.PathLike[str], layer: str | None = None, *, words: Vocabulary | Sequence[str] | None = None
) -> KeyedVectors:
    """The vectors of an embedding layer in a `.keras` file or a SavedModel.

    Keras loads a `.keras` file in safe mode; without the model's classes, a plain table is read from the weights. A
    SavedModel's table is read from its checkpoint; only the table of an export that is not plain (int8, LoRA) runs its
    graph, so load those only from sources you trust.

    Args:
        path: the file, or the folder that contains `saved_model.pb`.
        layer: path of the layer, such as "encoder/embedding"; not needed if there is one.
        words: the word of each id. By default those of a TextVectorization or StringLookup layer of the model, or of the
            export's vocabulary.

    Returns:
        One row per word, float32, special tokens included; of several ids with the same word, the first.

    Raises:
        VectorFileError: the file is missing or damaged, or has no such table, or NaN in it.
        ArgumentError: no `layer` although there are several, an unknown one, or words that are missing or don't match.
    """
    path = checked_path(path, "path")
    try:
        table, known = _from_saved_model(path, layer) if path.is_dir() else _from_file(path, layer)
    except EmbkerasError:
        raise
    except Exception as error:  # Keras, TensorFlow, h5py and zipfile raise almost anything for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VectorFileError(f"{str(path)!r} can't be read as a saved model: {reason}") from error
    given = known if words is None else list(words.tokens if isinstance(words, Vocabulary) else words)
    if len(given) != len(table):
        raise ArgumentError(
            f"The table in {str(path)!r} has {len(table):,} rows: pass words= with a word for each, such as a Vocabulary. "
            f"Received: {len(given):,} words{' from the model' if words is None else ''}."
        )
    bad = first_nonfinite_row(table)
    if bad is not None:
        raise VectorFileError(f"{str(path)!r} holds NaN or infinity in row {bad} (word {given[bad]!r}).")
    first = {word: row for row, word in reversed(list(enumerate(given)))}
    rows = sorted(first.values())
    origin = Provenance(str(path), "saved model", len(table), duplicates=len(table) - len(rows))
    return KeyedVectors([given[row] for row in rows], table[rows], provenance=origin)


def _from_file(path: Path, layer: str | None) -> tuple[np.ndarray, list[str]]:
    try:
        layers = dict(walk(keras.saving.load_model(path, compile=False, safe_mode=True)))
    except (TypeError, ValueError) as error:
        if layer is None or not zipfile.is_zipfile(path):
            raise
        return _from_weights(path, layer, error), []
    names = [
        name for name, each in layers.items() if hasattr(each, "matrix") or isinstance(each, keras.layers.Embedding)
    ]
    outermost = [name for name in names if not any(name.startswith(f"{other}/") for other in names)]
    if layer is None and len(outermost) == 1:
        layer = outermost[0]
    if layer not in names:
        raise ArgumentError(f"layer must be one of {names} of {str(path)!r}. Received: {layer!r}.")
    table = layers[layer]
    known = {tuple(map(str, each.get_vocabulary())) for each in layers.values() if hasattr(each, "get_vocabulary")}
    fitting = [list(words) for words in known if len(words) == table.input_dim]
    words = fitting[0] if len(fitting) == 1 else []
    if hasattr(table, "matrix"):
        return table.matrix(), words
    quantized = table.quantization_mode is not None
    return table_of_calls(table) if quantized else np.array(table.embeddings, np.float32), words


def _from_weights(path: Path, layer: str, error: Exception) -> np.ndarray:
    """The one data set of the layer. Reading the weights checks their checksum; links out of the file are refused."""
    names: dict[str, str] = {}

    def visit(key: str, item: Any) -> None:
        if key.endswith("/vars") and "name" in item.attrs:
            names[key.removesuffix("/vars")] = str(item.attrs["name"])

    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with h5py.File(io.BytesIO(weights), "r") as file:
        file.visititems(visit)
        outer = sorted(names.items())
        keys = {"/".join(name for at, name in outer if f"{key}/".startswith(f"{at}/")): key for key in names}
        group = file[f"{keys[layer]}/vars"] if layer in keys else {}
        if list(group) == ["0"] and is_plain_table(group, "0"):
            return np.asarray(group["0"], np.float32)
    raise VectorFileError(
        f"Keras can't load {str(path)!r} ({str(error).splitlines()[0]}), and its weights have no plain table of a layer "
        f"{layer!r}: import the missing classes first. Layers there: {', '.join(keys)}."
    )


def _from_saved_model(path: Path, layer: str | None) -> tuple[np.ndarray, list[str]]:
    """A plain table is read from the checkpoint; another form is what the export's signature `embed` returns."""
    vocabulary = path / "assets" / "vocabulary.json"
    words = list(Vocabulary.load(vocabulary).tokens) if vocabulary.exists() else []
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    keys, shapes, dtypes = variable_keys(reader), reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    names = [name for name in keys if name == "table" or name.endswith("embeddings")]
    tables = [name for name in names if len(shapes[keys[name]]) == 2 and dtypes[keys[name]].is_floating]
    wanted = [name for name in tables if layer is None or f"/{name}".endswith((f"/{layer}", f"/{layer}/embeddings"))]
    # Variables beside the table, such as LoRA's or scales, change what the layer returns.
    beside = Counter(name.rpartition("/")[0] for name in keys if "/" in name)
    if len(wanted) == 1 and beside[wanted[0].rpartition("/")[0]] <= 1:
        return np.asarray(reader.get_tensor(keys[wanted[0]]), np.float32), words
    if len(tables) > 1:
        raise ArgumentError(f"layer must be one of {sorted(tables)} of {str(path)!r}. Received: {layer!r}.")
    embed = tf.saved_model.load(str(path)).signatures.get("embed")
    if embed is None or not words:
        raise VectorFileError(f"{str(path)!r} has no plain embedding table, and no signature 'embed' that returns one.")
    return embed(token_ids=tf.range(len(words), dtype=tf.int64)[None])["vectors"][0].numpy(), words
