"""Embedding layers that read one stored table, for an export, whatever their inner form is.

LoRA, rows that train beside a base, a projection, several sources: all of these were for training. Where the table that
comes out of them takes fewer bytes than what it is made of, or where it is to be stored in fewer, the export holds that
table and nothing else. Rows are unpacked as they are read, and never the table as a whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.tables.addresses import walk
from embkeras.tables.combined import CombinedEmbedding
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.storage import StoredAccuracy, encode, stored_accuracy

_BYTES = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class Folded:
    """What a model reads while its layers are folded.

    Attributes:
        variables: every variable that it then reads.
        accuracy: by the path of each layer that is stored in fewer bytes, how near its rows stay.
    """

    variables: list[tf.Variable]
    accuracy: dict[str, StoredAccuracy]


@contextmanager
def folded(model: keras.Model, dtype: str = "float32") -> Iterator[Folded]:
    """While it lasts, our layers of the model look up their stored table, where that is smaller than what they have.

    Args:
        model: a built model.
        dtype: how tables are stored: "float32", "float16" or "int8".
    """
    layers = _worth_folding(model, dtype)
    gone = {id(variable) for layer in layers.values() for variable in layer.variables}
    tables: list[tf.Variable] = []
    accuracy = {}
    try:
        for path, layer in layers.items():
            matrix = layer.matrix()
            values, scales = encode(matrix, dtype)
            if dtype != "float32":
                accuracy[path] = stored_accuracy(matrix, _decoded(values, scales))
            held = [tf.Variable(part, trainable=False, name="table") for part in (values, scales) if part is not None]
            tables += held
            vars(layer)["call"] = _lookup(*held, dtype=layer.compute_dtype)  # before the method of the class
        yield Folded([each.value for each in model.variables if id(each) not in gone] + tables, accuracy)
    finally:
        for layer in layers.values():
            vars(layer).pop("call", None)


def embeddings_of(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Our embedding layers by their paths; of a combination, not those inside it."""
    found: dict[str, keras.layers.Layer] = {}
    for path, layer in walk(model):
        ours = isinstance(layer, PretrainedEmbedding | CombinedEmbedding)
        inside = any(path.startswith(f"{outer}/") for outer in found)
        if ours and not inside and not any(layer is each for each in found.values()):
            found[path] = layer
    return found


def _worth_folding(model: keras.Model, dtype: str) -> dict[str, keras.layers.Layer]:
    """Layers whose table, stored so, is smaller than their variables."""
    found = {}
    for path, layer in embeddings_of(model).items():
        held = sum(np.prod(variable.shape) * _itemsize(variable) for variable in layer.variables)
        row = layer.output_dim * _BYTES[dtype] + (4 if dtype == "int8" else 0)
        if held > layer.input_dim * row and layer.quantization_mode is None:
            found[path] = layer
    return found


def _itemsize(variable: keras.Variable) -> int:
    return tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).size


def _decoded(values: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    return values.astype(np.float32) if scales is None else values * scales[:, None]


def _lookup(table: tf.Variable, scales: tf.Variable | None = None, *, dtype: str) -> Callable[[Any], tf.Tensor]:
    def call(inputs: Any) -> tf.Tensor:
        ids = tf.cast(inputs, tf.int64)
        rows = tf.nn.embedding_lookup(table, ids)
        if scales is not None:
            rows = tf.cast(rows, tf.float32) * tf.nn.embedding_lookup(scales, ids)[..., None]
        return tf.cast(rows, dtype)

    return call
