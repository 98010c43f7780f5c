"""Functions with a gradient of their own: graphs that call them are freed."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.tables.builders import build_embedding
from embkeras.tables.own_graph import call_in_own_graph


def trebled(values):
    """The same values, with three times their gradient."""
    return tf.custom_gradient(lambda same: (tf.identity(same), lambda gradient: 3 * gradient))(values)


def graphs():
    """How many there are, without those that wait for the garbage collector."""
    keras.backend.clear_session()
    gc.collect()
    return sum(isinstance(each, tf.Graph) for each in gc.get_objects())


@pytest.mark.parametrize("trainable", [True, "map+rows"])
def test_the_graph_of_a_train_step_is_freed(aligned, trainable):
    """Training again and again in one process must not hold on to what is over."""
    counts = []
    for _ in range(3):
        net = keras.Sequential([build_embedding(aligned, trainable=trainable), keras.layers.GlobalAveragePooling1D()])
        net.compile("sgd", loss="mse")
        net.fit(np.array([[2, 3, 0], [4, 5, 5]]), np.ones((2, 4)), verbose=0)
        del net
        counts.append(graphs())
    assert counts[2] == counts[1] == counts[0]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_gradient_is_that_of_the_function(dtype):
    """Eagerly and in a graph, for each dtype."""

    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            same = call_in_own_graph(trebled, values)
        return tape.gradient(same, values)

    for call in (gradient, tf.function(gradient)):
        np.testing.assert_array_equal(call(tf.ones((2, 3), dtype)), np.full((2, 3), 3, dtype))


def summed(values):
    """The sum of the rows, whose gradient is made from shapes that are unknown where it is traced."""

    @tf.custom_gradient
    def total(same):
        return tf.reduce_sum(same, axis=0), lambda gradient: tf.broadcast_to(gradient, tf.shape(values))

    return total(values)


def test_the_gradient_has_the_shape_of_the_tensor():
    """In a graph too, as far as it is known there: optimizers of Keras read it."""
    shapes = []

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = call_in_own_graph(summed, values)
        found = tape.gradient(total, values)
        shapes.append(found.shape)
        return found

    gradient(tf.ones((2, 3)))
    assert shapes[0].rank == 2 and shapes[0].as_list() == [None, 3]
