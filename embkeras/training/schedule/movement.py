"""Whether layers that began to train have moved: a train step of the user's own may leave them out without an error."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import keras

from embkeras._arrays import row_slices
from embkeras.keras_compat.optimizers import parts
from embkeras.keras_compat.variables import replicas
from embkeras.tables.row_io import BLOCK, read_rows
from embkeras.training.optimizers.multipliers import RateMultipliers
from embkeras.training.schedule.rates import rate_or_none


class Thawed:
    """Layers whose variables joined the training, and what these held then.

    Kept is a checksum of each variable, not a copy of a table.

    Args:
        layers: the layers.
        joined: ids of the variables that begin to train.
    """

    def __init__(self, layers: Sequence[keras.layers.Layer], joined: set[int]):
        self._before = {
            layer: [(variable, checksum(variable)) for variable in layer.trainable_variables if id(variable) in joined]
            for layer in layers
        }

    def unmoved(self, optimizer: Any) -> list[keras.layers.Layer]:
        """The layers of which no variable that joined has another value now, although `optimizer` would move it.

        Not those that something else, such as a DriftMonitor at its bound, has frozen again.
        """
        return [
            layer
            for layer, before in self._before.items()
            if layer.trainable
            and any(would_move(optimizer, variable) for variable, _ in before)
            and all(checksum(variable) == total for variable, total in before)
        ]


def would_move(optimizer: Any, variable: keras.Variable) -> bool:
    """Whether a step changes a variable: it isn't empty, and neither its learning rate nor its multiplier is 0."""
    return (
        math.prod(variable.shape) > 0
        and any(rate_or_none(part) != 0 for part in parts(optimizer))
        and all(part.multiplier_of(variable) != 0 for part in parts(optimizer) if isinstance(part, RateMultipliers))
    )


def checksum(variable: keras.Variable) -> int:
    """CRC-32 of a variable's bytes, read in blocks of rows; on several replicas that of the first."""
    if len(variable.shape) == 0:
        return zlib.crc32(keras.ops.convert_to_numpy(replicas(variable)[0]).tobytes())
    total = 0
    for part in row_slices((variable.shape[0], math.prod(variable.shape[1:])), BLOCK):
        total = zlib.crc32(read_rows(variable, part).tobytes(), total)
    return total
