"""Functions with a gradient of their own, called in graphs that can be freed.

TensorFlow registers each `tf.custom_gradient` that a graph calls for the life of the process, and with it the tensors of
that graph: in a train step, the whole step, once for each `fit`. A function that is traced by itself is registered once,
with a graph that holds nothing else.
"""

import functools
from collections.abc import Callable

import tensorflow as tf


def call_in_own_graph(function: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
    """`function(*tensors)`, where the function contains a `tf.custom_gradient`.

    Args:
        function: defined in a module (it is traced once for all that call it), closes over no tensor, and knows no shape
            before it runs.
        *tensors: all that it reads.

    Returns:
        What it returns, of unknown shape inside a graph: set it.
    """
    if tf.executing_eagerly():
        return function(*tensors)
    # Gradients come out of that graph without a shape, which some optimizers of Keras ask for: that of a reshape has its own.
    shaped = [tf.reshape(each, tf.shape(each)) if each.dtype.is_floating else each for each in tensors]
    return _traced(function, tuple(each.dtype for each in tensors))(*shaped)


@functools.cache
def _traced(function: Callable[..., tf.Tensor], dtypes: tuple[tf.DType, ...]) -> Callable[..., tf.Tensor]:
    return tf.function(function, input_signature=[tf.TensorSpec(None, each) for each in dtypes], autograph=False)
