"""An experiment of two strategies, small enough for a test and sensitive to every source of random numbers."""

import os
import pickle
import signal

import keras
import numpy as np

from embkeras.experiments.curves import learning_curve
from embkeras.experiments.data import Data
from embkeras.experiments.race import race_strategies
from embkeras.experiments.runs import compare_strategies
from embkeras.experiments.strategies import Strategy
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny

PART = (tiny.IDS, tiny.LABELS)
DATA = Data(PART, PART, PART)
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))])
STRATEGIES = [Strategy("frozen"), Strategy("fine-tuned", embedding={"trainable": True})]


def model_maker(folder, deadly=False):
    """A closure over a table in a file: a model with dropout, which kills its process once if it is to be deadly."""
    path = folder / "table.npy"
    np.save(path, tiny.TABLE)
    aligned, dead = AlignedMatrix(np.load(path, mmap_mode="r"), VOCABULARY), folder / "dead"
    assert b"table.npy" in pickle.dumps(aligned)

    def build_model(strategy):
        if deadly and strategy.name == "fine-tuned" and not dead.exists():
            dead.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        ids = keras.Input((5,), dtype="int64")
        mean = keras.layers.GlobalAveragePooling1D()(strategy.build_embedding(aligned)(ids))
        hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(3, activation="tanh")(mean))
        model = keras.Model(ids, keras.layers.Dense(3, activation="softmax")(hidden))
        model.compile(keras.optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
        return model

    return build_model


def compared(build_model, **arguments):
    """Two runs."""
    return compare_strategies(
        build_model, DATA, strategies=STRATEGIES, seeds=[3], epochs=2, batch_size=5, **arguments
    ).runs


def raced_and_curved(build_model, **arguments):
    """The records of a race and of a learning curve, without the time that they took, and the threads that the race says."""
    arguments = {"strategies": STRATEGIES, "epochs": 1, "seeds": 1, "verbose": False, **arguments}
    race, curve = (
        race_strategies(build_model, DATA, **arguments),
        learning_curve(build_model, DATA, shares=[0.5], **arguments),
    )
    tables = [table.drop(columns=["seconds", "threads"], errors="ignore") for table in (race.table, curve.table)]
    return tables, set(race.table["threads"])


def check_same(runs, wanted):
    """To the bit, and in the same order."""
    for one, other in zip(runs, wanted, strict=True):
        assert (one.strategy, one.seed, one.model) == (other.strategy, other.seed, None)
        assert one.scores.tobytes() == other.scores.tobytes() and one.history == other.history
        assert one.predicted.tolist() == other.predicted.tolist()
    assert not np.array_equal(runs[0].scores, runs[1].scores)
