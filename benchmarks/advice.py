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
they compute besides is not counted. The race has its default rules: two rounds on seeds 0 and 1, and a final round on at most
seeds 2 to 6. The full grid is the same function with no rounds: all strategies from seeds 2 to 6. Cells of 200 and 1,000 texts
have seeds 7 to 11 too, for a final round of ten.

The truth is accuracy on the texts held out, the mean of all seeds. "Within the interval" says that the 95% interval of the
difference to the best strategy, paired by seed and text, reaches 0.

Since few validation texts can't show small leads, the rules are also tried with more: half of the texts held out stand in for
the validation texts (not for choosing the epoch), and the other half is the truth.

Optuna (TPESampler) and KerasTuner (RandomSearch, which tries each strategy once) get the same choice as one categorical
hyperparameter, and the seconds that the race took in that cell: no trial begins after them. A trial of Optuna is one run; one
of KerasTuner is one run, or three that it averages (`executions_per_trial`). They answer with their best trial. A strategy that
is tried again is trained from another seed; after the seventh the runs repeat. They don't see epochs, so nothing is pruned. The
samplers are random, so each of their figures is a mean of 20 searches.
"""

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from machine import machine_line
from rated_texts import SETS
from records import SIZES, Clock, Store, machines_of, with_interval

if TYPE_CHECKING:
    from embkeras.experiments.advice import Advice
    from embkeras.experiments.race import Job
    from embkeras.experiments.results import Record

RESULTS = Path(__file__).with_name("results")
KEY = ("data", "size", "strategy", "seed")
NAMES = ("frozen", "map", "phased", "shared map", "small rate", "fine-tuned", "random")
ROUNDS, FINAL, MORE = range(2), range(2, 7), range(7, 12)  # seeds
DIVISION = 17  # seed of the division of the texts
SEARCHES = 20  # of each tuner in a cell
RULES = ((2, 2, False), (1, 2, True), (1, 3, True), (2, 2, True), (2, 3, True))  # rounds, finalists, stop early
DEFAULT = (2, 2, True)
EPOCHS, PATIENCE, BATCH, RATE, UNFREEZE_AT = 15, 3, 32, 3e-3, 3


def cells() -> list[tuple[int, str]]:
    """Size and set, the smallest size of all sets first."""
    return [(size, data) for size in SIZES for data in SETS]


def wanted() -> list[tuple[int, str, list[int]]]:
    """What is trained, in order: all cells from the seeds of a race, then some cells from more."""
    first = [(size, data, [*ROUNDS, *FINAL]) for size, data in cells()]
    return first + [(size, data, list(MORE)) for size, data in cells() if size]


def train(hours: float) -> None:
    """Train what is missing, cell by cell."""
    import keras
    import trials

    import embkeras as ek
    from embkeras.app.callbacks import BestEpoch
    from embkeras.experiments.data import Data
    from embkeras.experiments.jobs import Job
    from embkeras.experiments.race import train_once
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

    for size, data, seeds in wanted():
        missing = [(seed, name) for seed in seeds for name in NAMES if (data, size, name, seed) not in store]
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


class Replay(Executor):
    """Answers the runs of one cell from their records, and adds up their seconds."""

    def __init__(self, records: dict[tuple[str, int], "Record"]):
        self.records, self.seconds = records, 0.0

    def submit(self, call: Any, job: "Job") -> Future["Record"]:  # type: ignore[override]
        """A run at once."""
        future: Future[Record] = Future()
        future.set_result(self.run(job.strategy.name, job.seed))
        return future

    def run(self, name: str, seed: int) -> "Record":
        """The record of a run, whose seconds count."""
        record = self.records[name, seed]
        self.seconds += record.measures["seconds"]
        return record


@dataclass(frozen=True)
class Found:
    """An answer, and the seconds of its runs."""

    advice: "Advice"
    seconds: float

    @property
    def name(self) -> str:
        """The strategy recommended."""
        return str(self.advice.recommended)

    @property
    def leader(self) -> str:
        """The strategy that is best on the validation texts of the final round."""
        return str(self.advice.table.index[0])


class Cell:
    """All runs of a set and a size."""

    def __init__(self, data: str, size: int, texts: int, records: dict[tuple[str, int], "Record"]):
        self.data, self.size, self.texts, self.records = data, size, texts, records
        held_out = {name: [found.test for (each, _), found in records.items() if each == name] for name in NAMES}
        self.right = {name: np.stack(found).astype(float) for name, found in held_out.items()}
        self.truth = {name: float(found.mean()) for name, found in self.right.items()}
        self.best = max(self.truth, key=lambda name: self.truth[name])

    def with_more_validation(self) -> "Cell":
        """The same runs, as if half of the texts held out had been validation texts; the truth is the other half."""
        changed = {}
        for key, record in self.records.items():
            chosen, held_out = record.test[::2], record.test[1::2]
            measures = {**record.measures, "validation_accuracy": chosen.mean(), "accuracy": held_out.mean()}
            changed[key] = replace(record, validation=chosen, test=held_out, measures=measures)
        return Cell(self.data, self.size, self.texts, changed)

    def race(self, **rules: Any) -> Found:
        """What a race by these rules finds."""
        import embkeras as ek

        replay, strategies = Replay(self.records), [ek.Strategy(name) for name in NAMES]
        data = [(np.ones((20, 2), int), np.arange(20) % 2)] * 3  # never trained on
        asked = {"seeds": FINAL} | rules
        advice = ek.race_strategies(self._none, data, strategies=strategies, executor=replay, verbose=False, **asked)
        return Found(advice, replay.seconds)

    @staticmethod
    def _none(strategy: Any) -> Any:
        """Never called."""

    @cached_property
    def advised(self) -> Found:
        """By the default rules."""
        return self.race()

    @cached_property
    def grid(self) -> Found:
        """By all strategies from all seeds."""
        return self.race(rounds=0)

    def below(self, name: str) -> float:
        """Accuracy below the best on the texts held out."""
        return self.truth[self.best] - self.truth[name]

    def is_within(self, name: str) -> bool:
        """Whether the interval of the difference to the best reaches 0."""
        from embkeras.experiments.statistics import paired_difference

        mean, half = paired_difference(self.right[self.best] - self.right[name])
        return mean <= half


class Search:
    """What a tuner asks for in one search: validation accuracies of runs, until the seconds are used."""

    def __init__(self, cell: Cell, seed: int):
        self._replay, self._allowed = Replay(cell.records), cell.advised.seconds
        self._seeds = np.random.default_rng(seed).permutation([*ROUNDS, *FINAL]).tolist()
        self._tried: dict[str, int] = defaultdict(int)

    def run(self, name: str) -> float:
        """Validation accuracy of a strategy, each time from another seed."""
        seed = self._seeds[self._tried[name] % len(self._seeds)]
        self._tried[name] += 1
        return self._replay.run(name, seed).measures["validation_accuracy"]

    @property
    def is_over(self) -> bool:
        """Whether the time of the race is used."""
        return self._replay.seconds >= self._allowed

    @property
    def share(self) -> float:
        """Of the race's seconds."""
        return self._replay.seconds / self._allowed


def optuna_pick(search: Search, seed: int) -> str:
    """The strategy of Optuna's best trial."""
    import optuna

    def objective(trial: Any) -> float:
        accuracy = search.run(trial.suggest_categorical("strategy", NAMES))
        if search.is_over:
            trial.study.stop()
        return accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective)
    return str(study.best_params["strategy"])


def keras_tuner_pick(search: Search, seed: int, executions: int) -> str:
    """The strategy of KerasTuner's best trial."""
    import keras_tuner

    class Tuner(keras_tuner.RandomSearch):
        def run_trial(self, trial: Any, *arguments: Any, **more: Any) -> list[float]:
            found = [search.run(trial.hyperparameters.get("strategy")) for _ in range(executions)]
            if search.is_over:
                self.oracle.max_trials = 1  # no further trial begins
            return found

    choice = keras_tuner.HyperParameters()
    choice.Choice("strategy", list(NAMES))
    with tempfile.TemporaryDirectory() as folder:
        tuner = Tuner(
            objective=keras_tuner.Objective("val_accuracy", "max"),
            hyperparameters=choice,
            max_trials=1000,
            seed=seed,
            directory=folder,
        )
        tuner.search(verbose=0)
        return str(tuner.get_best_hyperparameters(1)[0].get("strategy"))


TUNERS = {
    "Optuna": optuna_pick,
    "KerasTuner, 1 run a trial": lambda search, seed: keras_tuner_pick(search, seed, 1),
    "KerasTuner, 3 runs a trial": lambda search, seed: keras_tuner_pick(search, seed, 3),
}


def read() -> list[Cell]:
    """The cells that are complete."""
    from embkeras.experiments.results import Record

    found: dict[tuple[int, str], dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for each in Store(RESULTS / "advice.jsonl", KEY).records:
        found[each["size"], each["data"]][each["strategy"], each["seed"]] = each
    complete = []
    for size, data in cells():
        runs, own = found[size, data], dict[tuple[str, int], Record]()
        for seeds in ([*ROUNDS, *FINAL], MORE):
            keys = [(name, seed) for seed in seeds for name in NAMES]
            if all(key in runs for key in keys):
                own |= {key: Record.from_json(runs[key]) for key in keys}
        if (NAMES[0], FINAL[0]) in own:
            complete.append(Cell(data, size, next(iter(runs.values()))["texts"], own))
    return complete


def by_set(found: list[Cell], values: list[float]) -> dict[str, float]:
    """The mean of each set."""
    names = dict.fromkeys(cell.data for cell in found)
    return {
        name: float(np.mean([value for cell, value in zip(found, values, strict=True) if cell.data == name]))
        for name in names
    }


def each_cell(found: list[Cell]) -> list[str]:
    """A row for each cell."""
    lines = [
        "| set | texts | validation, held-out texts | the grid could show | best on held-out texts | race recommends | points "
        "below | within | grid recommends | points below | within | same | in the grid's tie | race s | of the grid's |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in found:
        one = next(iter(cell.records.values()))
        row = [cell.data, f"{cell.texts:,}", f"{len(one.validation):,}, {len(one.test):,}"]
        row += [
            f"{100 * cell.grid.advice.leads['could_show'].median():.1f}",
            f"{cell.best} {100 * cell.truth[cell.best]:.1f}%",
        ]
        for answer in (cell.advised, cell.grid):
            row += [answer.name, f"{100 * cell.below(answer.name):.1f}", _yes(cell.is_within(answer.name))]
        row += [_yes(cell.advised.name == cell.grid.name), _yes(cell.advised.name in cell.grid.advice.tied)]
        row += [f"{cell.advised.seconds:.0f}", f"{cell.advised.seconds / cell.grid.seconds:.0%}"]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def rules(found: list[Cell], seeds: Sequence[int] = FINAL) -> list[str]:
    """What the full grid and some rules of a race find in these cells, with these seeds in the final round."""
    lines = [
        "| rules | the grid's recommendation | in the grid's tie | time of the grid's | within the interval of the best | "
        "points below the best | its leader below |",
        "|---|---|---|---|---|---|---|",
    ]
    asked: dict[str, dict[str, Any]] = {"full grid": {"rounds": 0}}
    for rounds, most, stop in RULES:
        name = f"{rounds} round{'s' * (rounds > 1)}, at most {most} finalists" + ", all seeds" * (not stop)
        name += " (default)" * ((rounds, most, stop) == DEFAULT)
        asked[name] = {"rounds": rounds, "most_finalists": most, "stop_early": stop}
    grids = [cell.race(rounds=0, seeds=seeds) for cell in found]
    for name, rule in asked.items():
        answers = [(cell, cell.race(seeds=seeds, **rule), grid) for cell, grid in zip(found, grids, strict=True)]
        same = np.mean([answer.name == grid.name for _, answer, grid in answers])
        tied = np.mean([answer.name in grid.advice.tied for _, answer, grid in answers])
        time = np.mean([answer.seconds / grid.seconds for _, answer, grid in answers])
        within = np.mean([cell.is_within(answer.name) for cell, answer, _ in answers])
        below = 100 * np.mean([cell.below(answer.name) for cell, answer, _ in answers])
        leader = 100 * np.mean([cell.below(answer.leader) for cell, answer, _ in answers])
        lines.append(f"| {name} | {same:.0%} | {tied:.0%} | {time:.0%} | {within:.0%} | {below:.2f} | {leader:.2f} |")
    return lines


def more_seeds(found: list[Cell]) -> list[str]:
    """The rules with ten seeds in the final round, and how often the grid agrees with itself."""
    own = [cell for cell in found if (NAMES[0], MORE[0]) in cell.records]
    if not own:
        return ["No cell has them."]
    again = [cell.race(rounds=0, seeds=MORE) for cell in own]
    same = sum(cell.grid.name == other.name for cell, other in zip(own, again, strict=True))
    tied = sum(other.name in cell.grid.advice.tied for cell, other in zip(own, again, strict=True))
    said = f"{len(own)} cells. With five seeds, the full grid from seeds {MORE[0]} to {MORE[-1]} recommends the same as from "
    said += f"{FINAL[0]} to {FINAL[-1]} in {same} of them, and one of its tie in {tied}."
    return [said, "", *rules(own, [*FINAL, *MORE])]


def tuners(found: list[Cell]) -> list[str]:
    """The tuners next to the race, in pairs by cell; in all cells, and by size."""
    lines = [
        "| tuner | texts | cells | time of the race's | points below the best | the race's recommendation less its pick | the "
        "race's leader less its pick | recommendation better / worse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, pick in TUNERS.items():
        searched = [(cell, *searches(cell, pick)) for cell in found]
        for size, title in ((None, "200 to all"), *((size, f"{size:,}" if size else "all") for size in SIZES)):
            own = [each for each in searched if size in (None, each[0].size)]
            if not own:
                continue
            cells_of, below, shares = ([each[place] for each in own] for place in range(3))
            advised = [theirs - cell.below(cell.advised.name) for cell, theirs, _ in own]
            led = [theirs - cell.below(cell.advised.leader) for cell, theirs, _ in own]
            row = [name, title, str(len(own)), f"{np.mean(shares):.0%}", f"{100 * np.mean(below):.2f}"]
            row += [with_interval(gains, by_set(cells_of, gains)) for gains in (advised, led)]
            row.append(f"{sum(gain > 0 for gain in advised)} / {sum(gain < 0 for gain in advised)}")
            lines.append(f"| {' | '.join(row)} |")
    return lines


def searches(cell: Cell, pick: Callable[[Search, int], str]) -> tuple[float, float]:
    """Of all searches of a tuner in a cell: how far the pick is below the best, and the share of the race's time."""
    below, shares = [], []
    for seed in range(SEARCHES):
        search = Search(cell, seed)
        below.append(cell.below(pick(search, seed)))
        shares.append(search.share)
    return float(np.mean(below)), float(np.mean(shares))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def summary(found: list[Cell], records: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    runs, most = sum(len(cell.records) for cell in found), len((*ROUNDS, *FINAL, *MORE))
    head = (
        f"{len(found)} of {len(cells())} cells, {runs:,} runs that took {sum(each['seconds'] for each in records) / 60:.0f} "
        f"minutes of a processor: {len(NAMES)} strategies ({', '.join(NAMES)}), {len((*ROUNDS, *FINAL))} to {most} seeds. "
        f"`benchmarks/advice.py` says how they are trained, replayed and judged."
    )
    lines = [
        "# Is the advice of a race right, and what does it cost",
        "",
        machines_of(records),
        machine_line("optuna", "keras-tuner"),
        "",
    ]
    parts = {
        "Each cell": each_cell(found),
        "All cells, and other rules on the same runs": rules(found),
        "Ten seeds in the final round": more_seeds(found),
        "Compared by half of the texts held out, judged on the other half": rules(
            [cell.with_more_validation() for cell in found]
        ),
        f"Optuna and KerasTuner in the race's time, {SEARCHES} searches a cell": tuners(found),
    }
    lines += [head, ""]
    for title, part in parts.items():
        lines += [f"## {title}", "", *part, ""]
    lines.append(
        'Points of accuracy on the texts held out. "The grid could show": the smallest lead of its best strategy over another '
        "that its runs could have shown on the validation texts, in the median over the others. Differences: mean ± half of the "
        "95% interval over the cells / over the means of the sets; above 0 the race is better. Its leader is the strategy best "
        "on the validation texts of the final round; it recommends the cheapest of those that can't be told apart from that."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, or summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2, help="begin no run after this time (2)")
    parser.add_argument("--write", action="store_true", help="train nothing: summarise into results/advice.md")
    options = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if not options.write:
        train(options.hours)
        return
    text = summary(read(), Store(RESULTS / "advice.jsonl", KEY).records)
    (RESULTS / "advice.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
