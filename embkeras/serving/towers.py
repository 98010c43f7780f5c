"""Towers: layers inside a model whose output is one vector for each row, such as those of users and of items.

A tower is found by calling the model and noting what the layer returns, so the model may be built in any way. Each becomes a
signature that takes the inputs which the tower reads, and no others.
"""

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import shown
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.contract import Contract, Output, scores_of
from embkeras.serving.describe import sources
from embkeras.serving.inputs import Input
from embkeras.serving.reasons import reason
from embkeras.tables.addresses import LayerRef, as_refs, layer_path, match_layer


@dataclass(frozen=True, eq=False)
class Tower:
    """A tower, which can be called like a model of its own inputs.

    Attributes:
        name: of its signature.
        path: of its layer.
        layer: whose output is the vectors.
        call: which call of the layer in one call of the model, from 0.
        width: numbers in a vector.
        contract: of its signature: the inputs that it reads, and one output.
        model: the whole model.
        every: all inputs of the model.
        steps: a length that the inputs read by other parts of the model can have.
    """

    name: str
    path: str
    layer: keras.layers.Layer
    call: int
    width: int
    contract: Contract
    model: keras.Model
    every: Sequence[Input]
    steps: int

    def __call__(self, values: Any, training: bool = False) -> tf.Tensor:
        """Vectors (batch, width) for the tower's inputs; the model's other inputs are zeros, whose results aren't used."""
        reads = self.contract.inputs
        given = dict(values) if isinstance(values, Mapping) else {reads[0].name: values}
        batch = tf.shape(given[reads[0].name])[0]
        for each in self.every:
            if each.name not in given:
                sizes = [self.steps if size is None else size for size in each.shape[1:]]
                given[each.name] = tf.zeros([batch, *sizes], each.dtype)
        with recorded(self.layer) as outputs:
            scores_of(self.model, {each.name: given[each.name] for each in self.every})
        return outputs[self.call]


@contextmanager
def recorded(layer: keras.layers.Layer) -> Iterator[list[Any]]:
    """Within the block, what a layer returns in this thread, one entry for each call; the layer works as before."""
    thread, before, original = threading.get_ident(), vars(layer).get("call"), layer.call
    outputs: list[Any] = []

    @functools.wraps(original)
    def call(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        if threading.get_ident() == thread:
            outputs.append(answer)
        return answer

    layer.call = call
    try:
        yield outputs
    finally:
        if before is None:
            del layer.call
        else:
            layer.call = before


def towers_of(model: keras.Model, whole: Contract, steps: int, towers: Mapping[str, LayerRef] | None) -> list[Tower]:
    """The towers that a user names, in that order.

    Args:
        model: the model.
        whole: its contract.
        steps: a length that all inputs of any length can have.
        towers: name -> layer.

    Raises:
        ArgumentError: not a dictionary, or a name that a signature can't have.
        UnknownLayerError: the model has no such layer, or several.
        SavedModelError: a layer that doesn't return one vector for each row.
    """
    rule = 'towers must map names to layers, such as {"query": "query_tower", "item": "item_tower"}.'
    if towers is not None and (not isinstance(towers, Mapping) or not towers):
        raise ArgumentError(f"{rule} Received: {shown(towers)}.")
    found = []
    for name, ref in (towers or {}).items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ArgumentError(f"{rule} Names have letters, digits and '_'. Received: {shown(name)}.")
        if name in names.SIGNATURES:
            raise ArgumentError(f"A tower can't have the name of another signature. Received: {shown(name)}.")
        (ref,) = as_refs([ref], f"towers[{name!r}]", ArgumentError)
        found.append(_tower(model, whole, steps, name, match_layer(model, ref)))
    return found


def _tower(model: keras.Model, whole: Contract, steps: int, name: str, layer: keras.layers.Layer) -> Tower:
    path, inputs = layer_path(model, layer), whole.inputs
    outputs: list[Any] = []

    def call(**values: tf.Tensor) -> Any:
        with recorded(layer) as found:
            answers = scores_of(model, {each.name: values[each.name] for each in inputs})  # in their order
        outputs.extend(found)
        return answers

    specs = {each.name: tf.TensorSpec(each.shape, each.dtype, name=each.name) for each in inputs}
    try:
        graph = tf.function(call, autograph=False).get_concrete_function(**specs).graph
    except Exception as error:  # anything a layer raises
        raise SavedModelError(
            f"Model {model.name!r} can't be traced as a TensorFlow graph: {reason(str(error))}"
        ) from error
    if not outputs:
        raise SavedModelError(f"Layer {path!r} of tower {name!r} is not called when model {model.name!r} is.")
    fed = {id(tensor): tensor.op.name for tensor in graph.inputs if tensor.op.name in specs}  # not variables
    calls = []  # the inputs that each call reads
    for output in outputs:
        if (
            not tf.is_tensor(output)
            or output.shape.rank != 2
            or output.shape[1] is None
            or not output.dtype.is_floating
        ):
            got = (
                f"{output.dtype.name} of shape {tuple(output.shape)}" if tf.is_tensor(output) else type(output).__name__
            )
            raise SavedModelError(
                f"A tower's layer must return one vector for each row, (batch, width). Layer {path!r} of tower {name!r} "
                f"returns {got}."
            )
        if getattr(output, "graph", None) is not graph:
            raise SavedModelError(
                f"Layer {path!r} of tower {name!r} is called inside a tf.function, a loop or a condition of the model, "
                f"from which its output can't be read."
            )
        calls.append({fed[id(each)] for each in sources(output) if id(each) in fed})
    if not all(calls):
        raise SavedModelError(f"Layer {path!r} of tower {name!r} reads no input of model {model.name!r}.")
    place = _chosen(name, path, calls)
    leaders = {each.group for each in inputs if each.name in calls[place]}
    reads = [each for each in inputs if each.name in calls[place] | leaders]
    width = int(outputs[place].shape[1])
    contract = Contract(reads, [Output(names.VECTORS, "row", (None, width))], needs_row=whole.needs_row)
    return Tower(name, path, layer, place, width, contract, model, inputs, steps)


def _chosen(name: str, path: str, calls: Sequence[set[str]]) -> int:
    """Which call of a layer a tower is: the only one, or the only one that reads the input of the tower's name."""
    if len(calls) == 1:
        return 0
    own = [place for place, reads in enumerate(calls) if name in reads]
    if len(own) != 1:
        listed = "; ".join(", ".join(sorted(reads)) for reads in calls)
        raise SavedModelError(
            f"Layer {path!r} is called {len(calls)} times, on {listed}. Name the tower like the input of the call that you "
            f"mean, or put a keras.layers.Identity behind it and give its path. Received: {name!r}."
        )
    return own[0]
