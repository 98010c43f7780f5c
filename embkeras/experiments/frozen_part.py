"""When a run's frozen layers can run once for all epochs: if that changes nothing, and costs less."""

from typing import Any

import keras

from embkeras.experiments.data import Data, is_dataset
from embkeras.keras_compat.graph import graph_of
from embkeras.tables.combined import CombinedEmbedding
from embkeras.training.frozen_trunk.cut import dropping, find_cut
from embkeras.training.rebuild import is_built


def runs_once(model: keras.Model, data: Data) -> bool:
    """Whether `fit_on_frozen` trains what `fit` trains, with less work in each step.

    It does where nothing below what trains drops out, and where more than a table is frozen, or a text is one vector
    already: reading the kept vectors of all its tokens costs more than looking them up.

    Args:
        model: compiled, with the flags that it trains with.
        data: what it trains on.

    Examples:
        >>> inputs = keras.Input((3,))
        >>> hidden = keras.layers.Dense(4, trainable=False)(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
        >>> part = keras.ops.ones((4, 3)), keras.ops.ones(4)
        >>> runs_once(model, Data(part, part, part))
        True
    """
    graph = graph_of(model) if is_built(model) else None
    own_step = any(getattr(type(model), step) is not getattr(keras.Model, step) for step in ("train_step", "test_step"))
    if graph is None or own_step or is_dataset(data.train) or model.distribute_strategy.num_replicas_in_sync > 1:
        return False
    cut = find_cut(model, graph)
    if cut is None or dropping(cut.layers):
        return False
    return any(map(_computes, cut.layers)) or all(len(tensor.shape) == 2 for tensor in cut.crossing)


def _computes(layer: Any) -> bool:
    """Whether a layer with weights does more than look up rows."""
    return bool(layer.weights) and not isinstance(layer, keras.layers.Embedding | CombinedEmbedding)
