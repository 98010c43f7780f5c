"""Where a model's graph can be cut: below, nothing trains, so what it computes for a row never changes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from embkeras.keras_compat.graph import calls_of
from embkeras.tables.addresses import walk

Call = Any  # of a layer or operation in a graph: see `keras_compat.graph.calls_of`
Values = dict[int, Any]  # id of a symbolic tensor -> its value


@dataclass(frozen=True, eq=False)
class Cut:
    """A graph in two parts.

    Attributes:
        below: the calls that run once, in order: the longest frozen prefix.
        above: all others, in order.
        crossing: the symbolic tensors that the upper part reads and the lower one makes.
    """

    below: tuple[Call, ...]
    above: tuple[Call, ...]
    crossing: tuple[Any, ...]

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers below, each once."""
        found = {id(call.operation): call.operation for call in self.below}
        return [each for each in found.values() if isinstance(each, keras.layers.Layer)]

    @property
    def weights(self) -> list[keras.Variable]:
        """The weights below, each once."""
        return list({id(weight): weight for layer in self.layers for weight in layer.weights}.values())

    def holds_for(self, model: keras.Model) -> bool:
        """Whether nothing below trains now."""
        trains = {id(variable) for variable in model.trainable_variables}
        return trains.isdisjoint(id(weight) for weight in self.weights) and not any(map(_changes, self.layers))

    def same_place(self, other: "Cut | None") -> bool:
        """Whether another cut has the same calls below."""
        return other is not None and [*map(id, self.below)] == [*map(id, other.below)]


def find_cut(model: keras.Model, graph: Any) -> Cut | None:
    """The cut above the longest frozen prefix of a graph, or None if no layer with weights is frozen below what trains.

    A frozen layer with weights goes below with everything that it reads, a dropout too. Layers without weights go there as
    well if they only read what is below, or what is computed without weights like the mask of a table, but not a dropout: it
    belongs to what trains. What has no row for each row of the data stays above, and so does a frozen layer that changes in
    training: a BatchNormalization that isn't frozen itself.

    Args:
        model: with the flags that count.
        graph: of the model.
    """
    if not model.trainable_variables:
        return None
    calls, rows = calls_of(graph), graph.inputs[0].shape[0]
    outputs = {id(tensor) for tensor in graph.outputs}
    blocked: set[int] = set()
    while True:
        below = _below(model, graph, calls, blocked)
        above = [call for call in calls if id(call) not in below]
        read = outputs | {id(tensor) for call in above for tensor in call.input_tensors}
        made = [(call, tensor) for call in calls if id(call) in below for tensor in call.outputs if id(tensor) in read]
        wrong = {id(call) for call, tensor in made if not tensor.shape or tensor.shape[0] != rows}
        if not wrong:
            break
        blocked |= wrong
    if not made or not any(map(_weighs, (call.operation for call in calls if id(call) in below))):
        return None
    lower = tuple(call for call in calls if id(call) in below)
    return Cut(lower, tuple(above), tuple({id(tensor): tensor for _, tensor in made}.values()))


def _below(model: keras.Model, graph: Any, calls: Sequence[Call], blocked: set[int]) -> set[int]:
    """Ids of the calls below the cut."""
    trains = {id(variable) for variable in model.trainable_variables}
    maker = {id(tensor): call for call in calls for tensor in call.outputs}
    inputs = {id(tensor) for tensor in graph.inputs}
    frozen: set[int] = set()
    for call in calls:
        parents = [maker[id(each)] for each in call.input_tensors if id(each) not in inputs]
        if id(call) not in blocked and all(id(each) in frozen for each in parents) and _is_frozen(call, trains):
            frozen.add(id(call))
    below: set[int] = set()
    for call in reversed(calls):
        needed = id(call) in below
        if needed or (id(call) in frozen and _weighs(call.operation)):
            below |= {id(call)} | {id(maker[id(each)]) for each in call.input_tensors if id(each) not in inputs}
    light: set[int] = set()  # no weights here nor in what is read, such as the mask of a table: below or above
    for call in calls:
        parents = [maker[id(each)] for each in call.input_tensors if id(each) not in inputs]
        if id(call) in below or id(call) not in frozen or _draws(call.operation):
            continue
        if all(id(each) in light for each in parents):
            light.add(id(call))
        elif all(id(each) in below | light for each in parents):
            below |= {id(call)} | _with_parents((each for each in parents if id(each) in light), maker)
    return below


def _with_parents(calls: Iterable[Call], maker: Mapping[int, Call]) -> set[int]:
    """Ids of calls, and of those whose outputs they read."""
    found: set[int] = set()
    left = list(calls)
    while left:
        call = left.pop()
        found.add(id(call))
        left += [maker[id(each)] for each in call.input_tensors if id(each) in maker]
    return found


def _is_frozen(call: Call, trains: set[int]) -> bool:
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer):
        return True
    return trains.isdisjoint(id(weight) for weight in layer.weights) and not _changes(layer)


def _changes(layer: keras.layers.Layer) -> bool:
    """Whether a call in training changes the layer, or adds to the loss, although none of its variables trains."""
    for each in (layer, *(inner for _, inner in walk(layer))):
        statistics = isinstance(each, keras.layers.BatchNormalization) and each.trainable
        if statistics or getattr(each, "stateful", False) or getattr(each, "activity_regularizer", None) is not None:
            return True
    return False


def _weighs(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer) and bool(operation.weights)


def _draws(operation: Any) -> bool:
    """Whether a layer without weights draws random numbers: Keras counts the generator's state among the variables."""
    return isinstance(operation, keras.layers.Layer) and len(operation.variables) > len(operation.weights)


def dropping(layers: Iterable[keras.layers.Layer]) -> list[str]:
    """Names of the layers that draw random numbers, alone or in a layer inside them, unless all their rates are 0."""
    return [layer.name for layer in layers if any(map(_drops, (layer, *(inner for _, inner in walk(layer)))))]


def _drops(layer: keras.layers.Layer) -> bool:
    inside = {id(variable) for _, each in walk(layer) for variable in each.variables}
    own = {id(variable) for variable in layer.variables} - {id(weight) for weight in layer.weights} - inside
    rates = [
        getattr(layer, name) for name in ("rate", "dropout", "recurrent_dropout", "stddev") if hasattr(layer, name)
    ]
    return bool(own) and (not rates or any(rates))


def run_calls(calls: Iterable[Call], values: Mapping[int, Any], operation_fn: Callable[..., Any]) -> Values:
    """Run calls in order, and return the values of all tensors.

    Args:
        calls: each reads what earlier ones make, or `values`.
        values: of the tensors that are known.
        operation_fn: makes of a layer the function to call in its place.
    """
    known = dict(values)
    for call in calls:
        args, kwargs = call.arguments.fill_in(known)
        outputs = operation_fn(call.operation)(*args, **kwargs)
        known.update(zip(map(id, call.outputs), keras.tree.flatten(outputs), strict=False))
    return known
