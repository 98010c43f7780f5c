"""Layers: the layers inside a layer, a layer whose variables are replaced, a call without values, and its name scopes.

Private names used here, because there is no public way: `_layers` (Keras lists the layers of a model publicly, but not
those of a layer), `_tracker`, `_track_variable`, `_untrack_variable` and `_trainable_variables` of layers; the class name
`FuncGraph` of a `tf.function`'s graph (bodies of loops and conditions have classes derived from it) and its `outer_graph`;
Keras' global list `name_scope_stack`, and its global attributes `symbolic_scope` (set while it works out shapes) and
`shared_objects/id_to_obj_map` (set while it makes a model from a file).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import keras
import tensorflow as tf

from embkeras.keras_compat.private import NAME, Private, in_code, of_module, private_module, sample_layer

_STATE = "keras.src.backend.common.global_state"
_GRAPHS = "tensorflow.python.framework.func_graph"
_SCOPES = "name_scope_stack"
_SYMBOLIC, _LOADING = "symbolic_scope", "shared_objects/id_to_obj_map"


def _within_a_scope() -> SimpleNamespace:
    with keras.name_scope(NAME):
        stack = private_module(_STATE).get_global_attribute(_SCOPES)
    return SimpleNamespace() if stack is None else SimpleNamespace(**{_SCOPES: stack})


PRIVATE = (
    Private(
        "keras.layers.Layer",
        ("_layers", "_tracker", "_track_variable", "_untrack_variable", "_trainable_variables"),
        sample_layer,
    ),
    Private("keras.layers.Layer._tracker", ("lock", "unlock"), lambda: sample_layer()._tracker),
    of_module(_GRAPHS, "FuncGraph"),
    Private(f"{_GRAPHS}.FuncGraph", ("outer_graph",), lambda: private_module(_GRAPHS).FuncGraph),
    of_module(_STATE, "get_global_attribute"),
    Private("the global attributes of Keras", (_SCOPES,), _within_a_scope),
    Private(
        "the global attributes of Keras",
        (_SYMBOLIC,),
        lambda: in_code(private_module("keras.src.backend.common.symbolic_scope").SymbolicScope.__enter__),
    ),
    Private(
        "the global attributes of Keras",
        (_LOADING,),
        lambda: in_code(private_module("keras.src.saving.serialization_lib").ObjectSharingScope.__enter__),
    ),
)


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside a layer or model."""
    return list(layer.layers if isinstance(layer, keras.Model) else layer._layers)


def may_train(layer: keras.layers.Layer, variable: keras.Variable) -> bool:
    """Whether a variable of the layer trains while the layer is trainable."""
    return any(each is variable for each in layer._trainable_variables)


def replace_variables(
    layer: keras.layers.Layer, before: Iterable[keras.Variable], after: Iterable[tuple[keras.Variable, bool]]
) -> None:
    """Make a built layer track other variables.

    Args:
        layer: the layer; it must be trainable, so that Keras files each variable under the right list.
        before: variables that the layer no longer tracks.
        after: variables that it tracks from now on, and whether each may train.
    """
    with unlocked(layer):
        for variable in before:
            layer._untrack_variable(variable)
        for variable, trains in after:
            variable.trainable = trains  # Keras files one that is frozen now among those that never train
            layer._track_variable(variable)


@contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Within this context a built layer takes new variables and layers."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def functions_being_traced() -> int:
    """How many `tf.function`s are being traced, one inside the other; bodies of loops and conditions don't count."""
    count, graph = 0, tf.compat.v1.get_default_graph()
    while hasattr(graph, "outer_graph"):
        count += type(graph).__name__ == "FuncGraph"
        graph = graph.outer_graph
    return count


def called_with_values() -> bool:
    """Whether a call that happens now computes something for its caller, at once or in a graph that will run.

    Keras also calls layers without values, to work out shapes, and while it makes a model from a file, before it reads the
    weights. What a table holds then says nothing.
    """
    return all(private_module(_STATE).get_global_attribute(name) is None for name in (_SYMBOLIC, _LOADING))


@contextmanager
def restored_name_scopes() -> Iterator[None]:
    """Close the name scopes that a failing call leaves open.

    Keras enters a layer's name scope before TensorFlow refuses its name, and never leaves it: the paths of all variables
    created later would begin with that name.
    """
    scopes = private_module(_STATE).get_global_attribute(_SCOPES, default=[], set_to_default=True)
    depth = len(scopes)
    try:
        yield
    finally:
        del scopes[depth:]
