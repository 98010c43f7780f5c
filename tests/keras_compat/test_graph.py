"""Graphs of models, and a call that runs another function."""

import keras
import numpy as np

from embkeras.keras_compat.graph import calls_of, graph_of, mask_of, run_by, set_mask


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


def test_another_function_runs_in_place_of_the_graph():
    """It takes the flat inputs and passes `training` on; afterwards the model is as it was, also after an error."""
    inputs, seen = keras.Input((2,)), []
    net = keras.Model(inputs, keras.layers.Dense(2)(inputs) + inputs)

    def function(inputs, operation_fn):
        seen.append(inputs[0].shape)
        return operation_fn(keras.layers.Dropout(0.999999))(inputs[0])

    with run_by(net, function):
        assert not np.any(net(np.ones((3, 2)), training=True)) and np.all(net(np.ones((3, 2)), training=False))
    assert seen == [(3, 2), (3, 2)] and "_run_through_graph" not in vars(net)
    assert np.array_equal(net(np.ones((3, 2)), training=True), net(np.ones((3, 2))))


def test_masks_of_tensors():
    """What an Embedding sets is read, and what is set is used."""
    vectors = keras.layers.Embedding(3, 2, mask_zero=True)(np.array([[1, 0]]))
    assert np.array_equal(mask_of(vectors), [[True, False]])
    plain = keras.ops.ones((1, 2, 2))
    assert mask_of(plain) is None
    set_mask(plain, keras.ops.convert_to_tensor([[False, False]]))
    assert not np.any(keras.layers.SimpleRNN(1)(plain))
