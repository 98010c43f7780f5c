"""The graph of a functional model: its calls in order, a run of some of them, and the masks of tensors.

Private names used here, because there is no public way: `_nodes_by_depth` and `_run_through_graph` of `Functional`, which
Keras' own `call` of the model goes through; `_functional` of `Sequential`; the functions for masks of tensors.
`tests/keras_compat/test_graph.py` fails when one of them goes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from embkeras.keras_compat.private import NAME, Private, in_code, of_module, private_module

_FUNCTION, _FUNCTIONAL = "keras.src.ops.function", "keras.src.models.functional"
_MASKING = "keras.src.backend.common.masking"

PRIVATE = (
    # The module of functional models isn't declared: without it keras.Model itself can't be made.
    Private(
        f"{_FUNCTION}.Function", ("_nodes_by_depth",), lambda: in_code(private_module(_FUNCTION).Function.__init__)
    ),
    Private(f"{_FUNCTION}.Function", ("_run_through_graph",), lambda: private_module(_FUNCTION).Function),
    of_module(_MASKING, "get_keras_mask", "set_keras_mask"),
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


@contextmanager
def run_by(graph: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Within this context, a call of the model runs `function` and not its whole graph.

    Args:
        graph: of the model.
        function: called with the flat inputs, in the graph's order and dtypes, and with what makes of a layer the
            function to call in its place: it passes on what the model was called with, such as `training`.
    """

    def run(inputs: Any, operation_fn: Callable[..., Any] = lambda operation: operation, call_fn: Any = None) -> Any:
        return function(inputs, operation_fn)

    graph._run_through_graph = run
    try:
        yield
    finally:
        vars(graph).pop("_run_through_graph", None)


def mask_of(tensor: Any) -> Any:
    """The mask that a layer has given a tensor, or None."""
    return private_module(_MASKING).get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Give a tensor its mask."""
    private_module(_MASKING).set_keras_mask(tensor, mask)
