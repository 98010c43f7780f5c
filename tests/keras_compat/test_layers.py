"""Layers inside layers, layers with other variables, and calls that are traced."""

import keras
import pytest
import tensorflow as tf

from embkeras.keras_compat import layers
from embkeras.keras_compat.layers import called_with_values, functions_being_traced, restored_name_scopes
from tests import tiny


def test_private_names_of_keras_are_there():
    """When Keras renames one, keras_compat/layers.py must change."""
    names = ("_layers", "_tracker", "_track_variable", "_untrack_variable", "_trainable_variables")
    assert [name for name in names if not hasattr(tiny.embedding(), name)] == []


def test_children_of_models_and_of_layers():
    """A model's layers, a wrapper's layer, and nothing in a plain layer."""
    wrapper = keras.layers.Bidirectional(keras.layers.LSTM(2, name="lstm"))
    assert layers.children(keras.Sequential([keras.Input((None, 3)), wrapper])) == [wrapper]
    assert [layer.name for layer in layers.children(wrapper)] == ["forward_lstm", "backward_lstm"]
    assert layers.children(keras.layers.Dense(1)) == []


def test_replaced_variables():
    """The new variable trains while its layer does, and the old one is gone."""
    layer, other = tiny.embedding(trainable=True), tiny.embedding(trainable=True)
    assert layers.may_train(other, other.variables[0]) and not layers.may_train(layer, other.variables[0])
    layers.replace_variables(layer, list(layer.variables), [(other.variables[0], True)])
    assert layer.trainable_variables[0] is other.variables[0] and len(layer.variables) == 1


def test_a_layer_is_locked_again():
    """A built layer refuses new weights, also after an error inside the context."""
    layer = tiny.embedding()
    with pytest.raises(ZeroDivisionError), layers.unlocked(layer):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="cannot add new"):
        layer.extra = keras.layers.Dense(1)


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


def test_name_scopes_are_restored():
    """Keras itself leaves the scope of a refused name open; fails when its list of scopes is elsewhere."""
    with (
        pytest.raises(ValueError, match="__refused"),
        tf.Graph().as_default(),
        restored_name_scopes(),
        keras.name_scope("__refused"),
    ):
        pass
    layer = keras.layers.Dense(1, name="next")
    layer.build((None, 1))
    assert layer.kernel.path == "next/kernel"


def test_calls_without_values(tmp_path):
    """While Keras works out shapes or makes a model from a file; fails when it notes that elsewhere."""
    noted = []

    @keras.saving.register_keras_serializable("tests")
    class Noting(keras.layers.Layer):
        """Notes how it is called and made."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            noted.append(("made", called_with_values()))

        def call(self, inputs):
            """The inputs."""
            noted.append(("called", called_with_values()))
            return inputs

    net = keras.Sequential([keras.Input((1,)), Noting()])
    net(tf.zeros((1, 1)))
    tf.function(net)(tf.zeros((1, 1)))
    net.save(tmp_path / "net.keras")
    keras.saving.load_model(tmp_path / "net.keras")
    assert noted[:2] == [("made", True), ("called", False)] and ("made", False) in noted
    assert noted.count(("called", True)) == 2
