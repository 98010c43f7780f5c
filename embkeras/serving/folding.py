"""Embedding layers that read one table, for an export, whatever their inner form is.

LoRA, rows that train beside a base, a projection, several sources: all of these were for training. Where the table that
comes out of them takes fewer bytes than what it is made of, the export holds that table and nothing else.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.layers.combined import CombinedEmbedding
from embkeras.layers.embedding import PretrainedEmbedding
from embkeras.layers.naming import walk

_FLOAT_BYTES = 4


@contextmanager
def folded(model: keras.Model) -> Iterator[list[tf.Variable]]:
    """While it lasts, such layers of the model look up their table; gives all variables that the model then reads."""
    layers = _worth_folding(model)
    gone = {id(variable) for layer in layers for variable in layer.variables}
    tables = [tf.Variable(layer.matrix(), trainable=False, name="table") for layer in layers]
    try:
        for layer, table in zip(layers, tables, strict=True):
            vars(layer)["call"] = _lookup(table, layer.compute_dtype)  # before the method of the class
        yield [variable.value for variable in model.variables if id(variable) not in gone] + tables
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _worth_folding(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers whose table is smaller than their variables; not those inside of one that is folded as a whole."""
    found: list[keras.layers.Layer] = []
    inside: list[str] = []
    for path, layer in walk(model):
        ours = isinstance(layer, PretrainedEmbedding | CombinedEmbedding)
        if not ours or any(path.startswith(outer) for outer in inside) or any(layer is each for each in found):
            continue
        held = sum(np.prod(variable.shape) * _itemsize(variable) for variable in layer.variables)
        if held > layer.input_dim * layer.output_dim * _FLOAT_BYTES:
            found.append(layer)
            inside.append(f"{path}/")
    return found


def _itemsize(variable: keras.Variable) -> int:
    return tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).size


def _lookup(table: tf.Variable, dtype: str) -> Callable[[Any], tf.Tensor]:
    def call(inputs: Any) -> tf.Tensor:
        return tf.cast(tf.nn.embedding_lookup(table, tf.cast(inputs, tf.int64)), dtype)

    return call
