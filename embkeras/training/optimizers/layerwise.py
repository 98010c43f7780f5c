"""layerwise_rates: smaller learning rates for lower layers, as multipliers of a row-wise optimizer."""

import math
from collections import defaultdict
from collections.abc import Sequence

import keras

from embkeras._checks import number, sequence, shown
from embkeras.errors import OptimizerError, UnknownLayerError
from embkeras.keras_compat.graph import calls_of, graph_of
from embkeras.tables.addresses import match_variables


def layerwise_rates(
    model: keras.Model, factor: float, layers: Sequence[str | Sequence[str]] | None = None
) -> dict[str, float]:
    """Multipliers of the learning rate: 1 for the top level of a model, `factor` times less for each level below.

    Lower layers of a pre-trained model know more of what holds for every task, and should move less (Howard and Ruder
    2018, Universal Language Model Fine-tuning). Pass the result to a row-wise optimizer.

    Without `layers`, levels are counted along the graph from the outputs down: a layer with a matrix or a table is a level
    of its own, and the lowest of several ways counts. A layer with vectors alone, such as a normalisation, belongs to the
    level of the layer that it reads. Layers of a functional or Sequential model inside are counted one by one.

    Args:
        model: a built model.
        factor: above 0, at most 1; from one level to the next.
        layers: instead, the levels in the model's order, from the input to the output, as `gradual_unfreeze` takes them
            (`read.layer_groups` of an encoder): each an address, or several. The last has 1, as have layers in no level.

    Returns:
        Address -> multiplier, top first.

    Raises:
        OptimizerError: a factor outside of (0, 1], a model without a graph where `layers` is missing, addresses that are
            not strings, or name nothing with weights.

    Examples:
        >>> ids = keras.Input((3,), dtype="int64")
        >>> vectors = keras.layers.Embedding(9, 4, name="embedding")(ids)
        >>> model = keras.Model(ids, keras.layers.Dense(2, name="head")(keras.layers.LSTM(4, name="lstm")(vectors)))
        >>> layerwise_rates(model, 0.5)
        {'head': 1.0, 'lstm': 0.5, 'embedding': 0.25}
        >>> layerwise_rates(model, 0.1, ["embedding", "lstm"])
        {'lstm': 1.0, 'embedding': 0.1}
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise OptimizerError(f"layerwise_rates takes a built keras.Model. Received: {shown(model)}.")
    factor = number(factor, "factor", above=0, most=1, error=OptimizerError)
    levels = _levels(model) if layers is None else _named(model, layers)
    return {address: factor**level for address, level in sorted(levels.items(), key=lambda pair: pair[1])}


def _named(model: keras.Model, layers: Sequence[str | Sequence[str]]) -> dict[str, int]:
    """The level of each address."""
    levels: dict[str, int] = {}
    items = list(sequence(layers, "layers", error=OptimizerError))
    for place, item in enumerate(items):
        for address in (item,) if isinstance(item, str) else sequence(item, "An item of layers", error=OptimizerError):
            if not isinstance(address, str) or address in levels:
                raise OptimizerError(f"layers must be distinct addresses. Received: {shown(address)} at place {place}.")
            try:
                found = match_variables(model, address)
            except UnknownLayerError as error:
                raise OptimizerError(f"layerwise_rates can't use {address!r} at place {place}. {error}") from None
            if not found:
                raise OptimizerError(f"layerwise_rates can't use {address!r} at place {place}: it has no weights.")
            levels[address] = len(items) - 1 - place
    return levels


def _levels(model: keras.Model) -> dict[str, int]:
    """The level of each layer with weights, by its path."""
    found: dict[int, tuple[str, int]] = {}
    _descend(model, "", 0, found)
    if not found:
        raise OptimizerError(f"layerwise_rates: model {model.name!r} has no layer with weights.")
    return dict(found.values())


def _descend(model: keras.Model, prefix: str, top: int, found: dict[int, tuple[str, int]]) -> int:
    """Note the levels of a model whose outputs are at level `top`; returns the level of what it reads."""
    graph = graph_of(model)
    if graph is None:
        raise OptimizerError(
            f"layerwise_rates reads the graph of a functional or Sequential model, and {model.name!r} has none. Give the "
            f"levels in the model's order: layers=['block_1', 'block_2', 'head']."
        )
    below: defaultdict[int, int] = defaultdict(lambda: top)  # by call: the level of what it makes
    lowest = top
    for call in reversed(calls_of(graph)):
        layer, level = call.operation, below[id(call)]
        weights = getattr(layer, "weights", [])
        if isinstance(layer, keras.Model) and graph_of(layer) is not None:
            reached = _descend(layer, f"{prefix}{layer.name}/", level, found)
        else:
            reached = level + any(math.prod(weight.shape) > max(weight.shape, default=1) for weight in weights)
            if weights:
                path, before = found.get(id(layer), (f"{prefix}{layer.name}", level))
                found[id(layer)] = path, max(before, level)
        for each in call.parent_nodes:
            below[id(each)] = max(below[id(each)], reached)
        lowest = max(lowest, reached)
    return lowest
