"""Trainings under MirroredStrategy on two logical CPUs: `python -m tests.mirrored FOLDER NAME...` prints one JSON object.

Logical devices have to be made before TensorFlow starts, so this can't run inside the test process. Files are written to
FOLDER; a NAME is one of MEASURES.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers

from embkeras.encoders.lora import enable_lora
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW, RowWiseSGD
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.rows import unfreeze_rows
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny

COUNTS = np.array([0, 9, 1, 5, 8, 2, 5, 4, 0, 7])
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))], counts=COUNTS)
MORE = Vocabulary([*VOCABULARY.tokens, "n10", "n11"])
FIRST = np.isin(np.arange(10), [1, 7])
DECAY = optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)


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


class TowardOnes(keras.regularizers.Regularizer):
    """A regularizer with a gradient for every row, that of the padding too."""

    def __call__(self, table):
        """The sum of squares."""
        return keras.ops.sum(keras.ops.square(table - 1.0))


def regularized():
    """A whole table whose gradient is dense."""
    layer = PretrainedEmbedding(10, 4, embeddings_regularizer=TowardOnes(), name="embedding")
    layer.build()
    layer.assign_table(tiny.TABLE)
    return layer


def raised(net):
    """Every weight assigned."""
    net.set_weights([weight + 1 for weight in net.get_weights()])


def low_rank(net):
    """LoRA on all layers, from outside the scope."""
    enable_lora(net, 2, "**")
    with net.distribute_strategy.scope():
        net.compile(optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
        net.optimizer.build(net.trainable_variables)


def more_tokens(net):
    """A vocabulary that grew."""
    values = np.concatenate([tiny.TABLE, np.ones((2, 4), np.float32)])
    found = np.arange(12) < 10
    change_vocabulary(net, "embedding", before=VOCABULARY, after=AlignedMatrix(values, MORE, found=found))


def row_wise():
    """With every setting."""
    bounds = {"anchor_decay": 0.2, "max_drift": 0.005}
    return RowWiseAdamW(0.01, weight_decay=0.1, **bounds, learning_rate_multipliers={"embedding": 0.5})


class Run(NamedTuple):
    """How one training is made; all of it is made anew for one replica and for two."""

    optimizer: Callable[[], keras.optimizers.Optimizer]
    callback: Callable[[], keras.callbacks.Callback] = keras.callbacks.Callback
    layer: Callable[[], keras.layers.Layer] = tiny.embedding
    between: Callable[[keras.Model], None] | None = None  # what is done before a second fit
    steps_at_once: int = 1  # of two replicas; one replica takes one at a time


def thaw():
    """The layer trains from epoch 2 on."""
    return unfreeze_at(2, "embedding")


RUNS = {
    "rates": Run(
        lambda: optimizers.Adam(0.05),
        lambda: TrainabilitySchedule(
            [Phase(0, freeze="embedding", learning_rate=DECAY), Phase(2, learning_rate=0.02), Phase(3, rate_factor=0.1)]
        ),
    ),
    "EMA, train=": Run(
        lambda: optimizers.SGD(0.1, momentum=0.9, use_ema=True),
        lambda: TrainabilitySchedule([Phase(0, train="head"), Phase(2, train="embedding")]),
    ),
    "loss scale": Run(lambda: optimizers.LossScaleOptimizer(optimizers.Nadam(0.05), initial_scale=8), thaw),
    "patience": Run(
        lambda: optimizers.Adam(0.05),
        lambda: TrainabilitySchedule(
            [Phase(0, freeze="embedding", patience=1), Phase(3)], monitor="loss", mode="max", min_delta=0.001
        ),
    ),
    "RowWiseAdamW": Run(row_wise, thaw),
    "RowWiseSGD": Run(lambda: RowWiseSGD(0.1, momentum=0.9), thaw),
    "several steps at once": Run(lambda: optimizers.Adam(0.05), thaw, steps_at_once=2),
    "int8, thawed": Run(lambda: RowWiseAdam(0.05), thaw, lambda: rows(stored="int8")),
    "quantized": Run(lambda: RowWiseAdam(0.05), layer=rows, between=lambda net: net.layers[1].quantize("int8")),
    "LoRA": Run(lambda: RowWiseAdam(0.05), layer=lora, between=lambda net: net.layers[1].merge_lora()),
    "enable_lora": Run(lambda: optimizers.SGD(0.1), between=low_rank),
    "combined": Run(lambda: optimizers.Adam(0.05), layer=combined),
    "unfreeze_rows": Run(  # a slot that starts at the value of a row
        lambda: optimizers.Adam(0.05, use_ema=True),
        lambda: unfreeze_rows(2, "embedding", vocabulary=VOCABULARY),
        rows,
    ),
    "dense gradients": Run(lambda: optimizers.Adam(0.05), layer=regularized, between=raised),
    "change_vocabulary": Run(lambda: RowWiseAdam(0.05), layer=rows, between=more_tokens),
    "change_vocabulary of LoRA": Run(lambda: optimizers.Adam(0.05), layer=lora, between=more_tokens),
}


def strategy():
    """Two replicas on one processor."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())


def fit(scope, run, *, steps=1):
    """The tiny model, trained in a strategy's scope: the model, and its first table on each replica before that."""
    keras.utils.set_random_seed(0)
    with scope.scope():
        ids = keras.Input((5,), dtype="int64")
        layer = run.layer()
        mean = keras.layers.GlobalAveragePooling1D()(layer(ids))
        net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(mean), name="tiny")
        net.compile(run.optimizer(), loss="sparse_categorical_crossentropy", steps_per_execution=steps)
        if run.between is not None:  # where the optimizer's first step isn't the point, it is traced once, not twice
            net.optimizer.build(net.trainable_variables)
    tables = local(scope, layer.variables[0])
    tiny.fit(net, callbacks=[run.callback()])
    if run.between is not None:
        run.between(net)
        tiny.fit(net, epochs=1)
    return net, tables


def local(scope, variable):
    """The values of a variable on each replica."""
    return [each.numpy() for each in scope.experimental_local_results(variable.value)]


def apart(values):
    """The largest difference of arrays from the first."""
    return max(float(np.abs(each - values[0]).max()) for each in values)


def compared(name, folder):
    """Two replicas against one, replica against replica, how far the table moved, and a file."""
    run, two_replicas = RUNS[name], strategy()
    one, filled = fit(tf.distribute.get_strategy(), run)
    two, tables = fit(two_replicas, run, steps=run.steps_at_once)
    table = two.layers[1].matrix()
    result = {
        "apart": tiny.apart(one, two),
        "replicas": max(apart(local(two_replicas, variable)) for variable in two.variables),
        "filled": apart([*filled, *tables]) if len(tables) == 2 else None,
        "matrix": apart([table, one.layers[1].matrix()]),
        "moved": float(np.abs(table[:10] - tiny.TABLE).max()),
        "padding": max(float(np.abs(each[0]).max()) for each in local(two_replicas, two.layers[1].variables[0])),
        "unseen": float(np.abs(table[tiny.UNSEEN] - tiny.TABLE[tiny.UNSEEN]).max()),
        "slots": len(two.optimizer.variables) - len(one.optimizer.variables),
    }
    if name == "combined":
        two.save(folder / "combined.keras")
        with two_replicas.scope():
            loaded = keras.saving.load_model(folder / "combined.keras")
        result["loaded"] = tiny.apart(loaded, two)
    return result


def files(folder):
    """The largest difference of a table that is filled outside the scope, saved, and loaded; on each replica."""
    two_replicas = strategy()
    with two_replicas.scope():
        layer = PretrainedEmbedding(10, 4)
        net = keras.Sequential([keras.Input((2,), dtype="int64"), layer])
    layer.assign_table(tiny.TABLE)
    net.save(folder / "model.keras")
    with two_replicas.scope():
        loaded = keras.saving.load_model(folder / "model.keras").layers[0]
    tables = [local(two_replicas, each.variables[0]) for each in (layer, loaded)]
    assert [len(each) for each in tables] == [2, 2]
    return apart([tiny.TABLE, layer.matrix(), loaded.matrix(), *tables[0], *tables[1]])


def problem(callback):
    """The error of accumulated gradients: its class and its first line."""
    try:
        fit(strategy(), Run(lambda: optimizers.Adam(0.05, gradient_accumulation_steps=2), callback))
    except Exception as error:
        return [type(error).__name__, str(error).strip().splitlines()[0]]
    return None


MEASURES = {name: functools.partial(compared, name) for name in RUNS} | {
    "files": files,
    "refused": lambda folder: problem(thaw),
    "stock": lambda folder: problem(keras.callbacks.Callback),
}


def tried(name, folder):
    """What is measured, or the error."""
    try:
        return MEASURES[name](folder)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    print(json.dumps({name: tried(name, Path(sys.argv[1])) for name in sys.argv[2:]}))
