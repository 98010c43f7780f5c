"""TensorFlow's graphs while they are traced.

Private: the class name `FuncGraph` of the graph of a `tf.function` (bodies of loops and conditions have classes derived from
it), and its attribute `outer_graph`. TensorFlow has no public way to tell whether a function is traced inside another.
"""

import tensorflow as tf


def functions_being_traced() -> int:
    """How many `tf.function`s are being traced, one inside the other; bodies of loops and conditions don't count."""
    count, graph = 0, tf.compat.v1.get_default_graph()
    while hasattr(graph, "outer_graph"):
        count += type(graph).__name__ == "FuncGraph"
        graph = graph.outer_graph
    return count
