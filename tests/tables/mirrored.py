"""Forms of tables under MirroredStrategy on two logical CPUs: run in a process of its own, prints one JSON object.

Logical devices have to be made before TensorFlow starts, so this can't run inside the test process.
"""

import json

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers

from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.schedule.callback import unfreeze_at
from embkeras.training.schedule.rows import unfreeze_rows
from embkeras.vectors.aligned import AlignedMatrix
from tests import mirroring, tiny

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
COUNTS = np.array([0, 9, 1, 5, 8, 2, 5, 4, 0, 7])
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))], counts=COUNTS)
MORE = Vocabulary([*VOCABULARY.tokens, "n10", "n11"])
FIRST = np.isin(np.arange(10), [1, 7])


def rows(name="embedding", **arguments):
    """Two rows that train."""
    return build_embedding(AlignedMatrix(tiny.TABLE, VOCABULARY), trainable=FIRST, name=name, **arguments)


def lora(name="embedding"):
    """A and B of rank 2."""
    layer = tiny.embedding(trainable=True, name=name)
    layer.enable_lora(2, b_initializer=keras.initializers.RandomNormal(seed=1))
    return layer


def combined():
    """Two tables combined by attention."""
    return combine_embeddings([rows("rows"), lora("low")], combine="attention")


def more_tokens(net):
    """A vocabulary that grew."""
    values = np.concatenate([tiny.TABLE, np.ones((2, 4), np.float32)])
    found = np.arange(12) < 10
    change_vocabulary(net, "embedding", before=VOCABULARY, after=AlignedMatrix(values, MORE, found=found))


def frequent():
    """Rows that train from epoch 2 on."""
    return unfreeze_rows(2, "embedding", vocabulary=VOCABULARY)


def averaged():
    """A slot that starts at the value of a row."""
    return optimizers.Adam(0.05, use_ema=True)


RUNS = {  # name -> the layer, the optimizer, the callbacks, and what is done between two fits
    "int8, thawed": (
        lambda: rows(stored="int8"),
        lambda: RowWiseAdam(0.05),
        lambda: [unfreeze_at(2, "embedding")],
        None,
    ),
    "quantized": (rows, lambda: RowWiseAdam(0.05), list, lambda net: net.layers[1].quantize("int8")),
    "LoRA": (lora, lambda: RowWiseAdam(0.05), list, lambda net: net.layers[1].merge_lora()),
    "combined": (combined, lambda: optimizers.Adam(0.05), list, None),
    "unfreeze_rows": (rows, averaged, lambda: [frequent()], None),
    "change_vocabulary": (rows, lambda: RowWiseAdam(0.05), list, more_tokens),
    "change_vocabulary of LoRA": (lora, lambda: optimizers.Adam(0.05), list, more_tokens),
}


def fit(scope, name):
    """The tiny model with such a layer, trained twice inside a strategy's scope."""
    make, optimizer, callbacks, between = RUNS[name]
    keras.utils.set_random_seed(0)
    with scope:
        ids = keras.Input((5,), dtype="int64")
        mean = keras.layers.GlobalAveragePooling1D()(make()(ids))
        net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(mean), name="tiny")
        net.compile(optimizer(), loss="sparse_categorical_crossentropy", jit_compile=False)
    tiny.fit(net, epochs=3, callbacks=callbacks())
    if between is not None:
        between(net)
        tiny.fit(net, epochs=1)
    return net


def apart(name):
    """Two replicas against one, replica against replica, and how far the table moved."""
    one = fit(tf.distribute.get_strategy().scope(), name)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
    two = fit(strategy.scope(), name)
    table = two.layers[1].matrix()
    pairs = [strategy.experimental_local_results(variable.value) for variable in two.variables]
    return {
        "apart": tiny.apart(one, two),
        "replicas": max(float(np.abs(each[0].numpy() - each[-1].numpy()).max()) for each in pairs),
        "matrix": float(np.abs(table - one.layers[1].matrix()).max()),
        "moved": float(np.abs(table[:10] - tiny.TABLE).max()),
    }


if __name__ == "__main__":
    print(json.dumps(mirroring.each(RUNS, apart)))
