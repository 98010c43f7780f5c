"""Embedding tables and kernels as an export stores them, whatever their form in the model.

LoRA, rows that train beside a base, a projection, several sources: all of these are for training. Where the one table
they amount to takes fewer bytes than their variables, the export contains that table and nothing else. Rows are unpacked
as they are read, never the table as a whole. A kernel with LoRA is stored with A @ B in it.

The layers read what is stored only in the thread that traces the export's graph (`embkeras.tables.stand_ins`). The
model's other variables are shared, not copied.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.encoders.bottlenecks import unread
from embkeras.encoders.low_rank import LowRankKernel
from embkeras.keras_compat.variables import stock_kernel
from embkeras.tables.addresses import walk
from embkeras.tables.combined import CombinedEmbedding
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.stand_ins import stand_ins
from embkeras.tables.storage import STORAGE, StoredAccuracy, lookup_stored, scores_stored, stored_accuracy


@dataclass(frozen=True)
class Folded:
    """The embedding layers that an export stores as one table each, and the dense layers with LoRA in the kernel.

    Attributes:
        tables: layer -> the variables of its table: the values, and for int8 the scales.
        accuracy: by the path of each layer that is stored in fewer bytes, how close its rows stay.
        kernels: layer -> its kernel with A @ B.
    """

    tables: Mapping[keras.layers.Layer, list[tf.Variable]]
    accuracy: Mapping[str, StoredAccuracy]
    kernels: Mapping[LowRankKernel, tf.Variable]

    def variables(self, model: keras.Model) -> list[tf.Variable]:
        """Every variable that the export holds: those of the model, and what is stored in place of the folded layers'."""
        folded = unread(model) | {id(variable) for layer in self.tables for variable in layer.variables}
        for layer in self.kernels:
            folded |= {id(each) for each in (stock_kernel(layer), layer.low_rank.a, layer.low_rank.b)}
        shared = [each.value for each in model.variables if id(each) not in folded]
        return [*shared, *(variable for table in self.tables.values() for variable in table), *self.kernels.values()]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block, in this thread, the layers look their rows up in these tables and use these kernels."""
        tables = {layer: _Stored(layer.compute_dtype, table) for layer, table in self.tables.items()}
        with stand_ins(tables | {layer: _StoredKernel(layer, kernel) for layer, kernel in self.kernels.items()}):
            yield


@dataclass(frozen=True)
class _Stored:
    """The stored table of a layer, which is read in its place."""

    dtype: str
    table: list[tf.Variable]

    def __call__(self, ids: Any) -> tf.Tensor:
        return tf.cast(lookup_stored(tf.cast(ids, tf.int64), *self.table), self.dtype)

    def scores(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.cast(scores_stored(vectors, *self.table), self.dtype)


@dataclass(frozen=True)
class _StoredKernel:
    """What a dense layer makes of its stored kernel."""

    layer: LowRankKernel
    kernel: tf.Variable

    def __call__(self, inputs: Any) -> tf.Tensor:
        return self.layer.outputs(inputs, tf.cast(self.kernel, self.layer.compute_dtype))


def fold(model: keras.Model, dtype: str = "float32") -> Folded:
    """The tables of the model's embedding layers, stored as `dtype`, where that takes fewer bytes than their variables.

    And the kernels of its layers with LoRA.
    """
    tables, accuracy = {}, {}
    for path, layer in embeddings_of(model).items():
        if not _worth_folding(layer, dtype):
            continue
        matrix = layer.matrix()
        values, scales = STORAGE[dtype].encode(matrix)
        if dtype != "float32":
            accuracy[path] = stored_accuracy(matrix, STORAGE[dtype].decode(values, scales))
        tables[layer] = [
            tf.Variable(each, trainable=False, name="table") for each in (values, scales) if each is not None
        ]
    kernels = {
        layer: tf.Variable(layer.kernel, trainable=False, name="kernel")
        for _, layer in [("", model), *walk(model)]
        if isinstance(layer, LowRankKernel)
    }
    return Folded(tables, accuracy, kernels)


def embeddings_of(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The model's embkeras embedding layers by their paths; of a combination, not the layers inside it.

    Layers inside a layer can share a path: those after the first get a number.
    """
    found: dict[str, keras.layers.Layer] = {}
    for path, layer in walk(model):
        ours = isinstance(layer, PretrainedEmbedding | CombinedEmbedding)
        inside = any(path.startswith(f"{outer}/") for outer in found)
        if ours and not inside and not any(layer is each for each in found.values()):
            taken = sum(each == path or each.startswith(f"{path} ") for each in found)
            found[f"{path} {taken + 1}" if taken else path] = layer
    return found


def _worth_folding(layer: keras.layers.Layer, dtype: str) -> bool:
    """Whether the table takes fewer bytes than the layer's variables."""
    if layer.quantization_mode is not None:
        return False
    held = sum(
        np.prod(variable.shape) * tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).size
        for variable in layer.variables
    )
    return bool(held > layer.input_dim * STORAGE[dtype].row_bytes(layer.output_dim))
