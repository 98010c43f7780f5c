"""Trainings on several workers: `TF_CONFIG=... python -m tests.workers FOLDER NAME...` prints one JSON object a worker.

All workers run the same names, in one start of TensorFlow. What they train is also trained by one process over the joined
batches, with stock Keras: by each worker in turn, while the others wait for it. A NAME is one of MEASURES.
"""

import functools
import json
import os
import signal
import sys
import time
import types
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, optimizers

from embkeras.encoders.lora import enable_lora
from embkeras.keras_compat.workers import WorkerHooks
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.rows import unfreeze_rows
from embkeras.training.workers.model import MultiWorkerModel
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny

ROWS = 41  # in batches of 8, the last one has a single row, so that one worker has none
IDS = np.random.default_rng(1).integers(1, 9, (ROWS, 5))
LABELS = np.random.default_rng(2).integers(0, 3, ROWS)
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))], counts=np.arange(10)[::-1].copy())
FOUND = np.isin(np.arange(10), [2, 3, 5, 8])
ALIGNED = AlignedMatrix(tiny.TABLE, VOCABULARY, found=FOUND)


def embedding(trainable: Any = True, **arguments: Any) -> keras.layers.Layer:
    """A table in the form that `trainable` names."""
    return build_embedding(ALIGNED, trainable=trainable, name="embedding", **arguments)


def with_lora():
    """A and B of rank 2."""
    layer = embedding()
    layer.enable_lora(2, b_initializer=keras.initializers.RandomNormal(seed=1))
    return layer


def mean(vectors):
    """The mean vector of a text."""
    return layers.GlobalAveragePooling1D()(vectors)


def normalized(vectors):
    """Batch statistics of all workers together."""
    return layers.BatchNormalization(synchronized=True)(mean(vectors))


def tokens(vectors):
    """A vector for each token, with the mask of the padding."""
    return layers.LSTM(4, return_sequences=True)(vectors)


class Run(NamedTuple):
    """How one training is made; all of it is made anew for the workers and for one process."""

    layer: Callable[[], keras.layers.Layer] = embedding
    read: Callable[[Any], Any] = mean
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: RowWiseAdam(0.05)
    callback: Callable[[], keras.callbacks.Callback] = keras.callbacks.Callback
    data: Callable[[], tuple] = lambda: (IDS, LABELS)
    arguments: Mapping[str, Any] = types.MappingProxyType({"batch_size": 8, "epochs": 2})
    between: Callable[[keras.Model], None] | None = None  # what is done before a second fit


def pipeline():
    """Shuffled by a seed, in batches, with sample weights."""
    weights = np.linspace(0.1, 2, ROWS, dtype=np.float32)
    return (tf.data.Dataset.from_tensor_slices((IDS, LABELS, weights)).shuffle(ROWS, seed=3).batch(8),)


def generated():
    """Batches of a generator, which can be drawn once."""
    return (((IDS[start : start + 8], LABELS[start : start + 8]) for start in range(0, ROWS, 8)),)


class Batches(keras.utils.PyDataset):
    """Batches by number."""

    def __len__(self):
        return 6

    def __getitem__(self, place):
        rows = slice(8 * place, 8 * place + 8)
        return IDS[rows], LABELS[rows]


def labelled_tokens():
    """Texts of different lengths, and a label for each token."""
    ids = np.where(np.arange(5) < np.random.default_rng(4).integers(1, 6, ROWS)[:, None], IDS, 0)
    return ids, ids % 3


def patient():
    """Frozen for an epoch, then trained until the loss of the validation data has stopped falling."""
    phases = [Phase(0, freeze="embedding"), Phase(1, learning_rate=0.1, patience=1)]
    return TrainabilitySchedule(phases, min_delta=0.1)


def low_rank(net):
    """LoRA on all layers."""
    enable_lora(net, 2, "**")
    with net.distribute_strategy.scope():
        net.compile(optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")


HELD_OUT = {"validation_data": (IDS[:7], LABELS[:7]), "epochs": 6}
RUNS = {
    "unfreeze_at, patience, validation": Run(callback=patient, arguments={"batch_size": 8, **HELD_OUT}),
    "pipeline": Run(callback=lambda: unfreeze_at(1, "embedding"), data=pipeline, arguments={"epochs": 2}),
    "adam": Run(optimizer=lambda: optimizers.Adam(0.05)),
    "decay and bounds": Run(optimizer=lambda: RowWiseAdamW(0.05, weight_decay=0.1, max_drift=0.1, clipnorm=0.1)),
    "loss scale": Run(optimizer=lambda: optimizers.LossScaleOptimizer(optimizers.Nadam(0.05), initial_scale=8)),
    "batches that workers can't halve": Run(arguments={"batch_size": 5, "epochs": 2}),
    "generator": Run(data=generated, arguments={}),
    "PyDataset": Run(data=lambda: (Batches(),), arguments={"epochs": 2}),
    "LSTM": Run(read=lambda vectors: layers.LSTM(4)(vectors)),
    "CNN": Run(read=lambda vectors: layers.GlobalMaxPooling1D()(layers.Conv1D(4, 2)(vectors))),
    "oov": Run(lambda: embedding("oov")),
    "map+rows": Run(lambda: embedding("map+rows")),
    "LoRA": Run(with_lora, between=lambda net: net.layers[1].merge_lora()),
    "enable_lora": Run(between=low_rank),
    "combined": Run(
        lambda: combine_embeddings([embedding(), build_embedding(ALIGNED, trainable=False, name="second")])
    ),
    "unfreeze_rows": Run(
        lambda: embedding("oov"), callback=lambda: unfreeze_rows(1, "embedding", vocabulary=VOCABULARY)
    ),
    "synchronized statistics": Run(read=normalized),
    "masked tokens": Run(lambda: embedding(mask_zero=True), tokens, data=labelled_tokens),
}


WHOLE = Run()


def built(kind: type, strategy: Any, run: Run) -> keras.Model:
    """The model of a run, compiled."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        ids = keras.Input((5,), dtype="int64")
        head = layers.Dense(3, name="head", activation="softmax")(run.read(run.layer()(ids)))
        net = kind(ids, head, name="tiny")
        net.compile(run.optimizer(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return net


def trained(kind: type, strategy: Any, run: Run) -> keras.Model:
    """The same, trained."""
    net = built(kind, strategy, run)
    net.fit(*run.data(), callbacks=[run.callback()], verbose=0, **run.arguments)
    if run.between is not None:
        run.between(net)
        net.fit(*run.data(), verbose=0, **run.arguments)
    return net


def workers() -> tf.distribute.MultiWorkerMirroredStrategy:
    """The one strategy of this process."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def compared(name: str, folder: Path, strategy: Any) -> dict[str, Any]:
    """What this worker trained, and how far it is from what one process trains."""
    run = RUNS[name]
    net = trained(MultiWorkerModel, strategy, run)
    logs = {key: values for key, values in net.history.history.items() if key != "phase"}
    values = net.get_weights() + [np.asarray(each) for each in logs.values()]
    x = IDS if run.read is not tokens else labelled_tokens()[0]
    predicted = net.predict(x, batch_size=8, verbose=0)
    result = {
        "bits": zlib.crc32(b"".join(np.ascontiguousarray(each).tobytes() for each in [*values, predicted])),
        "epochs": len(net.history.epoch),
        "moved": float(np.abs(net.layers[1].matrix()[:, :4] - tiny.TABLE).max()),
    }
    if list(RUNS).index(name) % strategy.num_replicas_in_sync == strategy.cluster_resolver.task_id:
        one = trained(keras.Model, tf.distribute.get_strategy(), run)
        result["apart"] = tiny.apart(one, net)
        result["logs"] = max(float(np.abs(np.subtract(logs[key], one.history.history[key])).max()) for key in logs)
        result["predicted"] = float(np.abs(predicted - one.predict(x, batch_size=8, verbose=0)).max())
    return result


class _OnlyBuilds(WorkerHooks, keras.Model):
    """The first cause mended, not the second."""

    _make_function = keras.Model._make_function


class _OnlyVectors(WorkerHooks, keras.Model):
    """The second cause mended, not the first."""

    _maybe_symbolic_build = keras.Model._maybe_symbolic_build


def error_of(call: Callable[[], Any]) -> list[str] | None:
    """The class and the message of an error."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def stock(folder: Path, strategy: Any) -> list[Any]:
    """Keras with one of the two causes mended: the other one, in stock Keras' own code."""
    kinds = (_OnlyVectors, _OnlyBuilds)
    return [error_of(functools.partial(trained, kind, strategy, WHOLE)) for kind in kinds]


def refused(folder: Path, strategy: Any) -> dict[str, Any]:
    """What is refused before anything is trained, by what was done."""
    one = tf.distribute.get_strategy()
    index = strategy.cluster_resolver.task_id

    def fit(run: Run = WHOLE, made: Any = strategy, change: Callable[[Any], None] = lambda net: None, **arguments: Any):
        net = built(MultiWorkerModel, made, run)
        change(net)
        net.fit(*run.data(), verbose=0, **{"batch_size": 8, **arguments})

    outside = build_embedding(ALIGNED, trainable=True, name="outside")
    cases = {
        "model": lambda: fit(made=one),
        "optimizer": lambda: fit(change=lambda net: net.compile(RowWiseAdam(0.1), loss="mse")),
        "layer": lambda: fit(Run(lambda: outside)),
        "weights": lambda: fit(change=lambda net: net.layers[1].assign_table(tiny.TABLE + np.float32(index))),
        "data": lambda: fit(Run(data=lambda: (IDS[index:], LABELS[index:]))),
        "epochs": lambda: fit(epochs=index + 1),
        "seed": lambda: fit(change=lambda net: tf.random.set_seed(index)),
        "no seed": lambda: fit(change=lambda net: tf.random.set_seed(None)),
    }
    return {name: error_of(case) for name, case in cases.items()}


class _Killed(keras.callbacks.Callback):
    """Kills this worker when an epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Once."""
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def resumed(folder: Path, strategy: Any, *, victim: int | None = None, shared: bool = True) -> dict[str, Any]:
    """A training with a backup, of which one worker may be killed."""
    index = strategy.cluster_resolver.task_id
    net = built(MultiWorkerModel, strategy, Run(read=lambda vectors: layers.Dropout(0.2)(mean(vectors))))
    place = folder / ("backup" if shared else f"backup-{index}")
    callbacks = [unfreeze_at(1, "embedding"), ResumableBackup(place)] + [_Killed()] * (victim == index)
    problem = error_of(lambda: net.fit(IDS, LABELS, batch_size=8, epochs=4, verbose=0, callbacks=callbacks))
    weights = zlib.crc32(b"".join(each.tobytes() for each in net.get_weights()))
    return {"problem": problem, "weights": weights, "epochs": net.history.epoch}


MEASURES: dict[str, Callable[[Path, Any], Any]] = {
    **{name: functools.partial(compared, name) for name in RUNS},
    "stock": stock,
    "refused": refused,
    "resumed": resumed,
    "first killed": functools.partial(resumed, victim=0),
    "second killed": functools.partial(resumed, victim=1),
}


def tried(name: str, folder: Path, strategy: Any) -> Any:
    """What is measured, or the error."""
    began = time.process_time()
    try:
        return MEASURES[name](folder, strategy)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        print(f"{name}: {time.process_time() - began:.1f} s of CPU time", file=sys.stderr)


if __name__ == "__main__":
    joined = workers()
    print(f"start: {time.process_time():.1f} s of CPU time", file=sys.stderr)
    print(json.dumps({name: tried(name, Path(sys.argv[1]), joined) for name in sys.argv[2:]}))
