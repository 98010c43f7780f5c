"""Matrices that an export stores in 4 or 8 bits a number, and unpacks once, when it is loaded.

Groups of 32 neighbours in a row share a scale, as in GGUF files: 8 bits are that of Q8_0 (a scale), 4 bits that of Q4_1 (a scale
and the least number). A matrix that came from such a file is stored without another loss.
"""

from typing import Any
from uuid import uuid4

import keras
import numpy as np
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.tables.projection import scores_by

GROUP = 32
BITS = {"int4": 4, "int8": 8}


def pack(matrix: np.ndarray, bits: int, what: str) -> list[np.ndarray]:
    """A matrix (rows, columns) in 4 or 8 bits: the numbers, the scale of each group, and for 4 bits its least number.

    Raises:
        SavedModelError: numbers too large for the float16 of a scale.
    """
    rows, columns = matrix.shape
    padded = np.pad(matrix.astype(np.float32), ((0, 0), (0, -columns % GROUP)), mode="edge")
    groups = padded.reshape(rows, -1, GROUP)
    limit = float(np.finfo(np.float16).max)
    if np.abs(groups).max(initial=0) > limit:
        raise SavedModelError(
            f"{what} has numbers beyond {limit:g}, which packed weights can't hold: store it as float32."
        )
    if bits == 8:
        scale = (np.abs(groups).max(axis=2) / 127).astype(np.float16)
        return [_steps(groups, scale, -127, 127).astype(np.int8).reshape(rows, -1), scale]
    least = groups.min(axis=2).astype(np.float16)
    scale = ((groups.max(axis=2) - least.astype(np.float32)) / 15).astype(np.float16)
    steps = _steps(groups - least.astype(np.float32)[..., None], scale, 0, 15).astype(np.uint8).reshape(rows, -1)
    return [steps[:, ::2] | steps[:, 1::2] << 4, scale, least]


def unpack(parts: list[Any], columns: int) -> tf.Tensor:
    """The matrix (rows, columns) that `pack` was given, up to its rounding, in a graph."""
    numbers, scale, *least = map(tf.convert_to_tensor, parts)
    rows = tf.shape(numbers)[0]
    if least:
        numbers = tf.stack([numbers & 15, tf.bitwise.right_shift(numbers, tf.constant(4, tf.uint8))], axis=-1)
    groups = tf.cast(tf.reshape(numbers, (rows, -1, GROUP)), tf.float32) * tf.cast(scale, tf.float32)[..., None]
    if least:
        groups += tf.cast(least[0], tf.float32)[..., None]
    return tf.reshape(groups, (rows, -1))[:, :columns]


class Unpacked(tf.saved_model.experimental.TrackableResource):
    """A matrix whose packed form alone is stored; loading the export unpacks it into memory.

    Args:
        matrix: (rows, columns).
        bits: 4 or 8.
        what: its name, for errors.

    Attributes:
        parts: the variables that are stored; whoever saves the export must track them.
    """

    def __init__(self, matrix: np.ndarray, bits: int, what: str):
        super().__init__()
        self.shape = matrix.shape
        self.parts = [tf.Variable(part, trainable=False, name="packed") for part in pack(matrix, bits, what)]
        # A name of its own: two exports in one process must not share memory.
        self.shared_name = f"embkeras_{uuid4().hex}"
        self._initialize()  # made here, not inside of a graph that reads it

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=self.shape, shared_name=self.shared_name)

    def _initialize(self) -> None:
        value = tf.ensure_shape(unpack([part.value() for part in self.parts], self.shape[1]), self.shape)
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=value)

    def free(self) -> None:
        """Free the memory that this process took for it."""
        tf.raw_ops.DestroyResourceOp(resource=self.resource_handle, ignore_lookup_error=True)

    def value(self) -> tf.Tensor:
        """The matrix, in a graph."""
        found = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=tf.float32)
        return tf.ensure_shape(found, self.shape)


class UnpackedKernel:
    """What a dense layer without bias makes of its unpacked kernel, which is stored (out, in), and its adapter of that."""

    def __init__(self, matrix: Unpacked, adapter: keras.layers.Layer | None = None):
        self.matrix, self.adapter = matrix, adapter

    def __call__(self, inputs: Any) -> tf.Tensor:
        """The product of vectors and the kernel."""
        made = tf.cast(scores_by(tf.cast(inputs, tf.float32), self.matrix.value()), inputs.dtype)
        return made if self.adapter is None else self.adapter(made)


class UnpackedTable:
    """What an embedding layer makes of its unpacked table."""

    def __init__(self, matrix: Unpacked, dtype: str):
        self.matrix, self.dtype = matrix, dtype

    def __call__(self, ids: Any) -> tf.Tensor:
        """The rows of ids."""
        rows = tf.raw_ops.ResourceGather(
            resource=self.matrix.resource_handle, indices=tf.cast(ids, tf.int64), dtype=tf.float32
        )
        return tf.cast(tf.ensure_shape(rows, (*ids.shape, self.matrix.shape[1])), self.dtype)

    def scores(self, vectors: tf.Tensor) -> tf.Tensor:
        """The product with every row."""
        return tf.cast(scores_by(tf.cast(vectors, tf.float32), self.matrix.value()), self.dtype)


def _steps(groups: np.ndarray, scale: np.ndarray, least: int, most: int) -> np.ndarray:
    """Numbers in units of their group's scale, rounded."""
    wide = scale.astype(np.float32)[..., None]
    return np.clip(np.rint(np.divide(groups, wide, out=np.zeros_like(groups), where=wide > 0)), least, most)
