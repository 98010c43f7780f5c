"""The graph of a functional model: its calls in order.

Private names used here, because there is no public way: `_nodes_by_depth` of `Functional`, which Keras' own `call` of the
model goes through; `_functional` of `Sequential`. `tests/keras_compat/test_graph.py` fails when one of them goes.
"""

from typing import Any

import keras

from embkeras.keras_compat.private import NAME, Private, in_code, private_module

_FUNCTION, _FUNCTIONAL = "keras.src.ops.function", "keras.src.models.functional"

PRIVATE = (
    # The module of functional models isn't declared: without it keras.Model itself can't be made.
    Private(
        f"{_FUNCTION}.Function", ("_nodes_by_depth",), lambda: in_code(private_module(_FUNCTION).Function.__init__)
    ),
    Private("keras.Sequential", ("_functional",), lambda: keras.Sequential(name=NAME)),
)


def graph_of(model: keras.Model) -> Any:
    """The functional model whose graph is all that a call of `model` computes; None if there is none.

    A subclassed model has no graph, and that of a functional or sequential model with a `call` of its own is not what it
    computes.
    """
    functional = private_module(_FUNCTIONAL).Functional
    if isinstance(model, functional):
        return model if type(model).call is functional.call else None
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    return None


def calls_of(graph: Any) -> list[Any]:
    """The calls of layers and operations in a graph, in the order in which Keras runs them.

    Each has `operation`, `arguments`, `input_tensors`, `outputs` and `parent_nodes`; tensors are the symbolic ones.
    """
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth] if node.operation and not node.is_input]
