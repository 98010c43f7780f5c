"""Is the advice of `race_strategies` right, and what does it cost: five sets of texts, three sizes, and two other libraries.

    python -m pip install -e ".[demo,compare]" optuna keras-tuner
    python benchmarks/advice.py --hours 2        # trains what is missing; continues where it was killed
    python benchmarks/advice.py --write          # needs optuna and keras-tuner; trains nothing

A cell is a set of texts and a size. Its texts are divided once: 30% are held out from everything; of the others 200, 1,000 or
all train, and a quarter of that number, at least 100, chooses the epoch and the strategy. Seven strategies train a mean of
GloVe vectors with one hidden layer: RowWiseAdam at 0.003, batches of 32, at most 15 epochs; training ends 3 epochs after the
smallest validation loss, whose weights are kept. A run is a strategy and a seed. Each is trained once, in the function that a
race calls (`train_once`), with one thread; results/advice.jsonl has its processor seconds, from building the model to the
last score, and which texts it got right.

All else replays these runs: an Executor answers a race from the file, and the objective of a tuner does. So nothing is trained
twice, and the time of a race, of the grid and of a tuner is the sum of the measured seconds of the runs that it asked for. What
they compute besides is not counted. The race has its default rules: two rounds on seeds 0 and 1, and a final round on seeds 2
to 6. The full grid is the same function with no rounds: all strategies from seeds 2 to 6.

The truth is accuracy on the texts held out, the mean of all seeds. "Within the interval" says that the 95% interval of the
difference to the best strategy, paired by seed and text, reaches 0.

Optuna (TPESampler) and KerasTuner (RandomSearch, which tries each strategy once) get the same choice as one categorical
hyperparameter, and the seconds that the race took in that cell: no trial begins after them. A trial of Optuna is one run; one
of KerasTuner is one run, or three that it averages (`executions_per_trial`). They answer with their best trial. A strategy that
is tried again is trained from another seed; after the seventh the runs repeat. They don't see epochs, so nothing is pruned. The
samplers are random, so each of their figures is a mean of 20 searches.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from machine import machine_line
from rated_texts import SETS
from records import SIZES, Clock, Store

RESULTS = Path(__file__).with_name("results")
KEY = ("data", "size", "strategy", "seed")
NAMES = ("frozen", "map", "phased", "shared map", "small rate", "fine-tuned", "random")
ROUNDS, FINAL = range(2), range(2, 7)
DIVISION = 17  # seed of the division of the texts
EPOCHS, PATIENCE, BATCH, RATE, UNFREEZE_AT = 15, 3, 32, 3e-3, 3


def cells() -> list[tuple[int, str]]:
    """Size and set, the smallest size of all sets first."""
    return [(size, data) for size in SIZES for data in SETS]


def train(hours: float) -> None:
    """Train what is missing, cell by cell."""
    import keras
    import trials

    import embkeras as ek
    from embkeras.app.callbacks import BestEpoch
    from embkeras.experiments.data import Data
    from embkeras.experiments.race import Job, train_once
    from embkeras.experiments.strategies import default_strategies

    trials.one_thread()
    machine = machine_line("tensorflow", "keras", "numpy")
    print(machine, flush=True)
    store, clock = Store(RESULTS / "advice.jsonl", KEY), Clock(hours)
    strategies = default_strategies(UNFREEZE_AT, which="all")
    words: dict[str, trials.Words] = {}

    def build(strategy: ek.Strategy) -> keras.Model:
        model = ek.build_classifier(strategy.build_embedding(own.aligned), own.classes, architecture="mean")
        model.compile(ek.RowWiseAdam(RATE), "sparse_categorical_crossentropy")
        return model

    def watch(name: str, seed: int) -> list[keras.callbacks.Callback]:
        return [BestEpoch(PATIENCE, UNFREEZE_AT if name == "phased" else 0)]

    for size, data in cells():
        missing = [
            (seed, name) for seed in (*ROUNDS, *FINAL) for name in NAMES if (data, size, name, seed) not in store
        ]
        if not missing:
            continue
        own = words[data] if data in words else words.setdefault(data, trials.words_of(data))
        parts = trials.parts_of(own, size, DIVISION)
        divided = Data(parts.train, parts.validation, parts.test)
        fit = {"epochs": EPOCHS, "batch_size": BATCH}
        for seed, name in missing:
            if clock.is_over:
                print("The time is up; the same command continues.")
                return
            keras.utils.clear_session()
            clock.lap()
            record = train_once(Job(build, divided, strategies[name], seed, callbacks=watch, fit=fit))
            found = record.to_json() | {"seconds": clock.lap()}
            found = {key: round(value, 6) if isinstance(value, float) else value for key, value in found.items()}
            store.add({"data": data, "size": size, "texts": len(parts.train[1])} | found | {"machine": machine})
            print(
                f"{data}, {size or 'all'} texts, {name}, seed {seed}: validation {record.measures['validation_accuracy']:.3f}, "
                f"held out {record.measures['accuracy']:.3f}, {record.measures['epochs']:.0f} epochs, {found['seconds']:.1f} s",
                flush=True,
            )


def main() -> None:
    """Train, or summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2, help="begin no run after this time (2)")
    parser.add_argument("--write", action="store_true", help="train nothing: summarise into results/advice.md")
    options = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if not options.write:
        train(options.hours)


if __name__ == "__main__":
    main()
