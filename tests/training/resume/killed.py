"""Trainings that are really killed: `python -m tests.training.resume.killed FOLDER` runs each of SCENARIOS to its end.

Every part of a scenario is a process of its own, which SIGKILL ends at the place that the scenario names; the last one
is left to finish, and writes what it trained to FOLDER/<scenario>.npz. The processes are forked from one that has
imported TensorFlow and run nothing, so that TensorFlow starts once.
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
# A place is (what happens, number): a step of the whole training that ended, an epoch that begins, or a save, all from 0.
SCENARIOS = {
    "never": [],
    "before the toggle": [("step", 4)],
    "right after the toggle": [("epoch", UNFREEZE), ("step", UNFREEZE * STEPS)],
    "while the state is written": [("save", 0), ("save", 2)],
    "again and again": [("step", 2), ("epoch", 1), ("step", 5), ("save", 1), ("step", 13)],
}


class Killer(keras.callbacks.Callback):
    """Ends the process as `kill -9` does."""

    def __init__(self, what, number):
        super().__init__()
        self.what, self.number = what, number

    def on_train_batch_end(self, batch, logs=None):
        """At a step."""
        if self.what == "step" and int(self.model.optimizer.iterations) == self.number + 1:
            kill()

    def on_epoch_begin(self, epoch, logs=None):
        """At an epoch."""
        if (self.what, self.number) == ("epoch", epoch):
            kill()

    def state(self):
        """None."""
        return {}

    def restore(self, model, state):
        """Nothing."""


def kill():
    """`kill -9` of this very process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(number):
    """Let the process die when some variables of its save `number` are written, and others not."""
    write, entries = state_file._write_variable, []

    def dying(entry, variable):
        entries.append(variable)
        first = [place for place, each in enumerate(entries) if each is entries[0]]
        if len(first) > number and len(entries) > first[number] + 5:
            kill()
        write(entry, variable)

    state_file._write_variable = dying


def train(folder, what=None, number=None):
    """The script: Dropout, a table that thaws at a smaller rate, RowWiseAdam, data shuffled in each epoch."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    ids = keras.Input((5,), dtype="int64")
    features = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(tiny.embedding()(ids)))
    net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(features), name="tiny")
    net.compile(RowWiseAdam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    backup = ResumableBackup(folder)
    if what == "save":
        kill_in_save(number)
    schedule = unfreeze_at(UNFREEZE, "embedding", learning_rate=0.003)
    return net, net.fit(
        backup.batches((tiny.IDS, tiny.LABELS), 4),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        validation_data=(tiny.IDS, tiny.LABELS),
        callbacks=[backup, schedule, Killer(what, number)],
    )


def write(net, history, path):
    """All that must be equal, and the process's other traces."""
    variables = [*net.variables, *net.optimizer.variables]
    arrays = {f"{place} {each.path}": keras.ops.convert_to_numpy(each) for place, each in enumerate(variables)}
    np.savez(path, history=json.dumps([history.epoch, history.history]), **arrays)


def in_a_child(work):
    """Run a function in a process of its own; return how it ended, as `os.waitstatus_to_exitcode` has it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder):
    """All scenarios; how each of their processes ended goes to FOLDER/ends.json."""
    ends = {}
    for name, places in SCENARIOS.items():
        state = folder / "states" / name
        ends[name] = [in_a_child(lambda place=place, state=state: train(state, *place)) for place in places]
        ends[name].append(in_a_child(lambda state=state, name=name: write(*train(state), folder / f"{name}.npz")))
    (folder / "ends.json").write_text(json.dumps(ends), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
