"""A model of two transformer blocks of width 4, whose inner layers their configs don't mention."""

import keras
import numpy as np

from embkeras.tables.embedding import PretrainedEmbedding

IDS = np.random.default_rng(1).integers(1, 9, (8, 3))
LABELS = np.arange(8) % 2


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """Attention of two heads and a feed-forward of 3, with one normalisation."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
        self.wide = keras.layers.Dense(3, activation="gelu", name="wide")
        self.narrow = keras.layers.Dense(4, name="narrow")
        self.norm = keras.layers.LayerNormalization(name="norm")

    def build(self, shape):
        """Make all layers inside."""
        self.attention.build(shape, shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 3))
        self.norm.build(shape)

    def call(self, x):
        """Both parts and the normalisation."""
        return self.norm(x + self.narrow(self.wide(self.attention(x, x))))


def model():
    """Ids -> embedding -> block_0 -> block_1 -> mean -> head; the same weights each time."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int64", name="token_ids")
    table = PretrainedEmbedding(9, 4, mask_zero=False, name="embedding")
    table.build()
    table.assign_table(np.random.default_rng(3).normal(size=(9, 4)))
    x = table(ids)
    for number in range(2):
        x = Block(name=f"block_{number}")(x)
    return keras.Model(ids, keras.layers.Dense(2, name="head")(keras.layers.GlobalAveragePooling1D()(x)))


def fit(net, optimizer=None, epochs=1, **arguments):
    """Train on IDS, in one batch; eagerly, as tracing takes longer than these steps."""
    if not net.compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(True)
        net.compile(optimizer or keras.optimizers.Adam(0.05), loss, run_eagerly=True)
    return net.fit(IDS, LABELS, epochs=epochs, verbose=0, shuffle=False, **arguments)


def scores(net):
    """The model's outputs."""
    return np.asarray(net(IDS))


def values(net):
    """The weights by path."""
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in net.weights}


def moved(net, before):
    """The paths of the weights that changed."""
    return {path for path, value in values(net).items() if not np.array_equal(value, before[path])}
