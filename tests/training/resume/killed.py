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

STEPS, UNFREEZE, EPOCHS = 3, 2, 5
# A place is (event, number), counted from 0: a step of the whole training that has ended, or a half-written save of this
# process.
PLACES = [
    ("save", 0),  # no state to resume from
    ("step", 4),  # in the last epoch before the table thaws
    ("step", UNFREEZE * STEPS),  # right after the toggle
    ("save", 1),  # over the previous state
]


class Killer(keras.callbacks.Callback):
    """Ends the process as `kill -9` does, at a step."""

    def __init__(self, what, number):
        super().__init__()
        self.what, self.number = what, number

    def on_train_batch_end(self, batch, logs=None):
        """Compare the steps of the optimizer."""
        if self.what == "step" and int(self.model.optimizer.iterations) == self.number + 1:
            kill()

    def state(self):
        """Nothing."""
        return {}

    def restore(self, model, state):
        """Nothing."""


def kill():
    """`kill -9` of this very process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(number):
    """Let the process die when some variables of its save `number` are written, and others are not."""
    write, entries = state_file._write_variable, []

    def dying(entry, variable):
        entries.append(variable)
        first = [place for place, each in enumerate(entries) if each is entries[0]]
        if len(first) > number and len(entries) > first[number] + 5:
            kill()
        write(entry, variable)

    state_file._write_variable = dying


def train(folder, place=(None, None)):
    """The script: Dropout, a table that is unfrozen at a smaller rate, RowWiseAdam, data shuffled in each epoch."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    ids = keras.Input((5,), dtype="int64")
    features = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(tiny.embedding()(ids)))
    net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(features), name="tiny")
    net.compile(RowWiseAdam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    backup = ResumableBackup(folder)
    if place[0] == "save":
        kill_in_save(place[1])
    schedule = unfreeze_at(UNFREEZE, "embedding", learning_rate=0.003)
    return net, net.fit(
        backup.batches((tiny.IDS, tiny.LABELS), 4),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        validation_data=(tiny.IDS, tiny.LABELS),
        callbacks=[backup, schedule, Killer(*place)],
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
