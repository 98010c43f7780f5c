"""A layer takes over the variables of another: how a layer that models know gets tables of another shape.

A variable cannot change its shape. So a fresh layer is made in the ordinary way and filled from the one before; then
the one before, which is the one that models and schedules know, goes on with its variables.

Private names used here, because Keras offers no public way: `_tracker`, `_track_variable`, `_untrack_variable`,
`_trainable_variables` of layers, and `_embeddings` of the stock layer. `tests/layers/test_takeover.py` fails when one of
them goes.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from embkeras.tables.storage import BaseTable

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
    trainable, may_train = layer.trainable, {id(variable) for variable in fresh._trainable_variables}
    layer.trainable = True
    layer._tracker.unlock()
    for variable in list(layer.variables):
        layer._untrack_variable(variable)
    for variable in list(fresh.variables):
        # One that is tracked while it is frozen would count among those that never train, and stay frozen for good.
        each = stay.get(id(variable), variable)
        each.trainable = id(variable) in may_train
        layer._track_variable(each)
    for name, value in list(vars(fresh).items()):
        if name in _SETTINGS or (isinstance(value, keras.Variable | BaseTable) and name not in keep):
            setattr(layer, name, value)  # and not past TensorFlow, which would hold the table before, and export it
    layer._tracker.lock()
    layer.filled()
    type(layer).trainable.fset(layer, trainable)  # an assignment of the flag that it has does nothing


def replace_map(layer: keras.layers.Layer, name: str, values: np.ndarray) -> None:
    """Give a layer another map in place of a variable that never trains, which has another shape."""
    before = getattr(layer, name)
    layer._tracker.unlock()
    layer._untrack_variable(before)
    with ExitStack() as scopes:
        for part in before.path.split("/")[:-1]:
            scopes.enter_context(keras.name_scope(part))
        after = layer.add_weight(
            shape=values.shape, initializer="zeros", dtype=before.dtype, name=before.name, trainable=False
        )
    setattr(layer, name, after)
    layer._tracker.lock()
    after.assign(values)
