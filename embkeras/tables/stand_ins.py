"""Stand-ins: functions that replace the call of a layer in one thread, while other threads call the layer.

An export traces its graph with stand-ins that read the stored tables and kernels, so the live model never changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import keras
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.keras_compat.layers import functions_being_traced


class StandIn(Protocol):
    """What replaces the call of a layer. That of an embedding layer also has `scores(vectors)`: the product with every row."""

    def __call__(self, inputs: Any, /) -> tf.Tensor:
        """The rows of ids, or what a dense layer makes of its inputs."""


# A ContextVar belongs to one thread or task.
_active: ContextVar[Mapping[int, StandIn]] = ContextVar("stand_ins")


@contextmanager
def stand_ins(lookups: Mapping[keras.layers.Layer, StandIn]) -> Iterator[None]:
    """Within the block, in this thread, calls of these layers return `lookup(ids)`, and their scores `lookup.scores(...)`."""
    token = _active.set({id(layer): lookup for layer, lookup in lookups.items()})
    try:
        yield
    finally:
        _active.reset(token)


def stand_in_for(layer: keras.layers.Layer) -> Any:
    """The `StandIn` of `layer` in this thread, or None.

    Raises:
        SavedModelError: the layer is called in a `tf.function` of the model's own. It would keep the graph that it
            traces here and use it in every later call of the live model.
    """
    lookup = _active.get({}).get(id(layer))
    if lookup is not None and functions_being_traced() > 1:
        raise SavedModelError(
            f"Layer {layer.name!r} is called inside a tf.function of the model, which would keep the exported table. "
            f"Remove that tf.function, or export a plain table with dtype='float32'."
        )
    return lookup
