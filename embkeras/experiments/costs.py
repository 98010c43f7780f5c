"""What a model costs: parameters, and the bytes that its export stores."""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from embkeras.encoders.low_rank import LowRankKernel
from embkeras.serving.folding import embeddings_of
from embkeras.tables.addresses import walk


def parameters(weights: Iterable[keras.Variable]) -> int:
    """How many numbers some weights have."""
    return sum(int(np.prod(weight.shape, dtype=np.int64)) for weight in weights)


def stored_bytes(model: keras.Model) -> int:
    """Bytes of what `export_saved_model(model, ...)` stores: an embedding layer as one table where that is less.

    So LoRA, a shared map or rows that train beside others cost nothing when the model is served.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> stored_bytes(model)
        32
    """
    weights = {id(weight): weight for weight in model.weights}
    tables = 0
    for layer in {id(each): each for each in embeddings_of(model).values()}.values():
        own = [weights.pop(id(weight)) for weight in layer.weights if id(weight) in weights]
        tables += min(_bytes(own), 4 * layer.input_dim * layer.output_dim)
    for _, layer in walk(model):
        if isinstance(layer, LowRankKernel):
            for low_rank in (layer.low_rank.a, layer.low_rank.b):
                weights.pop(id(low_rank), None)
    return tables + _bytes(weights.values())


def _bytes(weights: Iterable[keras.Variable]) -> int:
    return sum(parameters([weight]) * tf.as_dtype(weight.dtype).size for weight in weights)
