"""Graphs of models."""

import keras

from embkeras.keras_compat.graph import calls_of, graph_of


def test_calls_in_their_order():
    """Of a functional and a Sequential model; each knows the calls that it reads."""
    x = keras.Input((3,))
    first, second = keras.layers.Dense(2), keras.layers.Dense(2)
    calls = calls_of(graph_of(keras.Model(x, second(first(x)))))
    assert [call.operation for call in calls] == [first, second] and calls[1].parent_nodes == [calls[0]]
    assert [call.operation for call in calls_of(graph_of(keras.Sequential([x, first])))] == [first]


def test_models_without_a_graph():
    """A subclassed model, and a functional one with a call of its own."""

    class Own(keras.Model):
        def call(self, x):
            return x

    x = keras.Input((3,))
    assert graph_of(Own()) is None and graph_of(Own(x, keras.layers.Dense(2)(x))) is None
