"""A training that is really killed: `python -m tests.training.resume.killed FOLDER NUMBER` runs one of its processes.

SIGKILL ends process NUMBER at the place that PLACES names. The last process runs to the end, writes what it trained to
FOLDER/killed.npz, then trains without a backup to resume from, and writes that to FOLDER/never.npz.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.resume import state_file
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule.callback import unfreeze_at
from tests import tiny

UNFREEZE, EPOCHS = 2, 4
# Each process dies in a half-written save, counted from 0.
PLACES = [
    0,  # no state to resume from
    UNFREEZE,  # over the previous state, after an epoch with the table: the next process begins at the toggle
]


def kill_in_save(number):
    """`kill -9` of this process when some variables of its save `number` are written, and others are not."""
    write, entries = state_file._write_variable, []

    def dying(entry, variable):
        entries.append(variable)
        first = [place for place, each in enumerate(entries) if each is entries[0]]
        if len(first) > number and len(entries) > first[number] + 5:
            os.kill(os.getpid(), signal.SIGKILL)
        write(entry, variable)

    state_file._write_variable = dying


def train(folder, place=None):
    """The script: Dropout, a table that is unfrozen at a smaller rate, RowWiseAdam, data shuffled in each epoch."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    ids = keras.Input((5,), dtype="int64")
    features = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(tiny.embedding()(ids)))
    net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(features), name="tiny")
    net.compile(RowWiseAdam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    backup = ResumableBackup(folder)
    if place is not None:
        kill_in_save(place)
    schedule = unfreeze_at(UNFREEZE, "embedding", learning_rate=0.003)
    return net, net.fit(
        backup.batches((tiny.IDS, tiny.LABELS), 4),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        validation_data=(tiny.IDS, tiny.LABELS),
        callbacks=[backup, schedule],
    )


def write(net, history, path):
    """Every variable and the History."""
    variables = [*net.variables, *net.optimizer.variables]
    arrays = {f"{place} {each.path}": keras.ops.convert_to_numpy(each) for place, each in enumerate(variables)}
    np.savez(path, history=json.dumps([history.epoch, history.history]), **arrays)


if __name__ == "__main__":
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    write(*train(folder / "state", *PLACES[number : number + 1]), folder / "killed.npz")
    keras.backend.clear_session()
    write(*train(folder / "other state"), folder / "never.npz")
