"""Tripwires: private names of TensorFlow's graphs."""

import tensorflow as tf

from embkeras.keras_compat.graphs import functions_being_traced


def test_functions_are_counted():
    """None outside, one inside another, and no loops or conditions."""
    counts = {}

    def note(name, value):
        counts[name] = functions_being_traced()
        return value

    @tf.function
    def inner(x):
        return note("inner", x)

    @tf.function
    def outer(x):
        looped = tf.map_fn(lambda each: note("loop", each), x)
        chosen = tf.cond(x[0] > 0, lambda: note("condition", x), lambda: x)
        return note("outer", inner(x) + looped + chosen)

    outer(tf.constant([1.0]))
    note("eager", None)
    assert counts == {"inner": 2, "loop": 1, "condition": 1, "outer": 1, "eager": 0}
