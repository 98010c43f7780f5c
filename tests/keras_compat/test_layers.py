"""The layers inside a layer."""

import keras

from embkeras.keras_compat.layers import children


def test_children_of_models_and_of_layers():
    """A model's layers, a wrapper's layer, and nothing in a plain layer. Fails when `Layer._layers` goes."""
    wrapper = keras.layers.Bidirectional(keras.layers.LSTM(2, name="lstm"))
    model = keras.Sequential([keras.Input((None, 3)), wrapper])
    assert children(model) == [wrapper]
    assert [layer.name for layer in children(wrapper)] == ["forward_lstm", "backward_lstm"]
    assert children(keras.layers.Dense(1)) == []
