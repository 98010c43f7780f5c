"""The layers inside a layer.

Private name: `Layer._layers`. Keras lists the layers of a model publicly, but not those that a layer holds.
"""

import keras


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a model or layer holds directly, such as the LSTM inside a Bidirectional."""
    return list(layer.layers if isinstance(layer, keras.Model) else layer._layers)
