"""A layer takes over the variables of another: how a layer that models know gets tables of another shape.

A variable cannot change its shape. So a fresh layer is made in the ordinary way and filled from the one before; then
the one before, which is the one that models and schedules know, goes on with its variables.

Private names used here, because Keras offers no public way: `_tracker`, `_track_variable`, `_untrack_variable` of
layers, and `_embeddings` of the stock layer. `tests/layers/test_takeover.py` fails when one of them goes.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import keras

from embkeras.layers.base_table import BaseTable

_SETTINGS = ("input_dim", "trainable_rows", "stored", "stored_rows")


def fresh_like(layer: keras.layers.Embedding, **changes: Any) -> Any:
    """A built layer of the same settings but for `changes`, whose variables have the same paths; to be filled."""
    fresh = type(layer).from_config({**layer.get_config(), **changes})
    with ExitStack() as scopes:
        for name in layer._embeddings.path.split("/")[:-2]:
            scopes.enter_context(keras.name_scope(name))
        fresh.build()
    fresh.filled()
    return fresh


def take_over(layer: keras.layers.Embedding, fresh: keras.layers.Embedding, keep: Sequence[str] = ()) -> None:
    """Let `layer` go on with the variables of `fresh`, which is not to be used any more.

    Args:
        layer: the layer that models know.
        fresh: what `fresh_like` gave, filled.
        keep: attributes whose variables of `layer` stay.
    """
    stay = {id(getattr(fresh, name)): getattr(layer, name) for name in keep}
    layer._tracker.unlock()
    for variable in list(layer.variables):
        layer._untrack_variable(variable)
    for variable in list(fresh.variables):
        layer._track_variable(stay.get(id(variable), variable))
    layer._tracker.lock()
    for name, value in vars(fresh).items():
        if name in _SETTINGS or (isinstance(value, keras.Variable | BaseTable) and name not in keep):
            vars(layer)[name] = value  # past Keras' own tracking: it is done
    layer.filled()
    layer.trainable = layer.trainable
