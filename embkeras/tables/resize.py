"""A layer with tables of another shape: for a vocabulary that grew or shrank, or more rows that train.

A variable can't change its shape. So a new layer is built in the ordinary way and filled from the old one; then the old
one, which models and schedules know, takes over the variables of the new one.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from embkeras.keras_compat.layers import may_train, replace_variables, unlocked
from embkeras.tables.storage import BaseTable

_SETTINGS = ("input_dim", "trainable_rows", "stored")


@dataclass(frozen=True, eq=False)
class Resized:
    """A new layer, and where the rows of its trainable variables come from.

    Attributes:
        layer: the new layer, built and filled.
        moves: (variable of the old layer, variable of the new one, the old row of each new row or -1).
    """

    layer: keras.layers.Embedding
    moves: list[tuple[keras.Variable, keras.Variable, np.ndarray]]


def fresh_like(layer: keras.layers.Embedding, **changes: Any) -> Any:
    """A built layer with the same settings except `changes`, whose variables have the same paths; its table is empty."""
    fresh = type(layer).from_config({**layer.get_config(), **changes})
    with _scope_of(layer.table_variable.path, skip=2):  # the layer opens its own scope
        fresh.build()
    fresh.mark_filled()
    return fresh


def take_over(layer: keras.layers.Embedding, fresh: keras.layers.Embedding, keep: Sequence[str] = ()) -> None:
    """Give `layer` the variables of `fresh`, which must not be used afterwards.

    Args:
        layer: the layer that models know.
        fresh: a layer from `fresh_like`, filled.
        keep: attributes whose variables of `layer` stay.
    """
    stay = {id(getattr(fresh, name)): getattr(layer, name) for name in keep}
    after = [(stay.get(id(each), each), may_train(fresh, each)) for each in fresh.variables]
    trainable, starts_frozen = layer.trainable, layer.starts_frozen
    layer.trainable = True
    replace_variables(layer, list(layer.variables), after)
    with unlocked(layer):
        for name, value in list(vars(fresh).items()):
            if name in _SETTINGS or (isinstance(value, keras.Variable | BaseTable) and name not in keep):
                setattr(layer, name, value)  # as TensorFlow does, which would otherwise keep and export the old table
    layer.mark_filled()
    layer.trainable = trainable
    layer.starts_frozen = starts_frozen


def replace_map(layer: keras.layers.Layer, name: str, values: np.ndarray) -> None:
    """Replace a variable of a layer that never trains, such as a map of ids, by one of another shape."""
    before = getattr(layer, name)
    with unlocked(layer), _scope_of(before.path, skip=1):
        after = layer.add_weight(
            shape=values.shape, initializer="zeros", dtype=before.dtype, name=before.name, trainable=False
        )
        setattr(layer, name, after)
    replace_variables(layer, [before], [])
    after.assign(values)


@contextmanager
def _scope_of(path: str, skip: int) -> Iterator[None]:
    """The name scopes in which the variable of this path was made, without the last `skip` parts."""
    with ExitStack() as scopes:
        for name in path.split("/")[:-skip]:
            scopes.enter_context(keras.name_scope(name))
        yield
