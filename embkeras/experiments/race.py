"""race_strategies: the strategy to take, found with fewer runs than all strategies from all seeds."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import keras
import numpy as np

from embkeras._checks import flag, number, shown, whole_number
from embkeras.errors import ArgumentError
from embkeras.experiments.advice import FEW, Advice, overlap
from embkeras.experiments.costs import parameters, stored_bytes
from embkeras.experiments.data import Data, is_dataset
from embkeras.experiments.fingerprint import data_fingerprint, described, plain
from embkeras.experiments.jobs import Job
from embkeras.experiments.moved import Moved, layers_named
from embkeras.experiments.results import Record, ResultsFile
from embkeras.experiments.rounds import LEAST, best_of, is_settled, leave
from embkeras.experiments.runs import (
    checked_data,
    checked_seeds,
    checked_strategies,
    classes_of,
    run_job,
    scores_of,
)
from embkeras.experiments.statistics import calibration_error, check_statistics
from embkeras.experiments.strategies import Strategy
from embkeras.experiments.workers import Workers, one_by_one

_FIT = ("epochs", "batch_size", "class_weight", "fit")  # what `run_strategy` takes, and records depend on


def train_once(job: Job) -> Record:
    """Train and measure one run: a function of its argument alone, for this process or another.

    Raises:
        ArgumentError: as `run_strategy`.
    """
    data = job.data if job.folds is None else job.data.fold(job.fold, job.folds, job.seed)
    data = data if job.share == 1 else data.some(job.share, job.seed)
    moved = Moved(job.layers)
    run = run_job(replace(job, data=data), moved)
    chosen_on = validation_as_test(data)
    scores, tested, unseen = scores_of(run.model, chosen_on), np.asarray(run.scores), data.unseen_texts
    validation = classes_of(scores) == chosen_on.labels
    measures = {
        "accuracy": run.accuracy,
        "validation_accuracy": float(validation.mean()),
        "f1": run.f1,
        "unseen_accuracy": float(run.correct[unseen].mean()) if unseen is not None and unseen.any() else np.nan,
        "calibration_error": calibration_error(run.labels, tested),
        "drift": moved.drift(),
        "parameters": float(parameters(run.model.weights)),
        "trainable_parameters": float(parameters(run.model.trainable_weights)),
        "stored_bytes": float(stored_bytes(run.model)),
        "seconds": run.seconds,
        "epochs": float(len(next(iter(run.history.values()), []))),
        "threads": float(run.threads or np.nan),
    }
    diverged = not (np.isfinite(tested).all() and np.isfinite(scores).all())
    return Record(job.strategy.name, job.seed, job.fold, run.correct, validation, measures, diverged, job.share)


def validation_as_test(data: Data) -> Data:
    """The same data with the validation part in the test part's place, so that it is scored like it.

    Raises:
        ArgumentError: validation labels that are not one class number per text.
    """
    part = data.validation if is_dataset(data.validation) else tuple(data.validation[:2])
    try:
        return replace(data, test=part, unseen=None)
    except ArgumentError as error:
        raise ArgumentError(
            f"A race chooses by the validation part, which must be as the test part has to be: one class number per text. {error}"
        ) from error


def race_strategies(
    build_model: Callable[[Strategy], keras.Model],
    data: Data | Sequence[Any],
    *,
    strategies: Iterable[Strategy | str] | None = None,
    seeds: int | Iterable[int] = 5,
    folds: int | None = None,
    rounds: int = 2,
    most_finalists: int = 2,
    stop_early: bool = True,
    max_minutes: float | None = None,
    results: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    callbacks: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None = None,
    on_record: Callable[[Record], None] | None = None,
    layer: str = "embedding",
    verbose: bool = True,
    **fit_arguments: Any,
) -> Advice:
    """Find the strategy to take, with fewer runs than `compare_strategies`, and say what the data can't tell.

    First the strategies race: each round trains those that are still in it from one more seed. Those that are behind the
    leader by more than the noise leave, and at most half go on: the leader, the cheapest, the next best. Then a final
    round trains the few that are left from seeds of its own, and ends when the seeds still to come would hardly change what
    is recommended; all intervals are those of the final round. Strategies are
    compared by the validation texts, with Holm's correction for their number. A tie is called a tie, and the cheapest
    of the tied is recommended: to store, then to train. Where fewer than 50 examples train, strategies for few labels run
    first, a tie goes to one of them, and all seeds are trained. The accuracy that you see is that of the test texts, which had
    no say in it.

    The seeds of the rounds are the smallest numbers that `seeds` doesn't have.

    Args:
        build_model: as for `compare_strategies`.
        data: as for `compare_strategies`; the validation part needs one class number per text too.
        strategies: strategies, or names from `default_strategies(which="all")`; by default the default set.
        seeds: of the final round: how many at most, or which.
        folds: all examples are dealt anew for each seed (`Data.fold`): one of so many parts tests, the next validates. The
            final round trains on each fold, a round before on one. At least 3; by default the parts stay as they are.
        rounds: how many rounds race at most; with 0 all strategies are trained from all seeds.
        most_finalists: how many strategies the final round has at most, at least 2. `benchmarks/results/advice.md` shows
            what more of them cost and gain.
        stop_early: whether the final round may end before its last seed: after three or more, once a 95% prediction says
            that the rest leave the recommendation as it is. With an executor it trains one seed after the other then, three at
            first.
        max_minutes: when no further run begins. Half of it is left to the final round, to which fewer strategies go on, at
            least two, if there is no time for more.
        results: a JSON Lines file to which each run is written at once. A run that is in it already isn't repeated, so a race
            that was killed continues. The code of `build_model`, and of functions in strategies, isn't compared: after a
            change, give another file.
        executor: as for `compare_strategies`.
        threads: as for `compare_strategies`.
        callbacks: called in the run with its strategy's name and seed; returns further callbacks for `fit`.
        on_record: called with each record, of the file too.
        layer: name or path of the embedding layer, for strategies passed by name.
        verbose: whether to print a line for each run, and who leaves.
        **fit_arguments: `epochs`, `batch_size`, `class_weight`, `fit` and `keep`, as for
            `run_strategy`. With folds each run has other data, and keeps outputs of its own.

    Returns:
        The records of all rounds, and what they recommend.

    Raises:
        ArgumentError: as `compare_strategies`; a number out of range.
        RunFailedError: a run failed; it has the strategy, the seed and the records so far. Runs that had begun beside it are
            finished and recorded.
        OutputError: `results` can't be written, or another process writes it.
        ResumeError: `results` has records of other data, settings or strategies.
        MissingDependencyError: scipy or scikit-learn is not installed.

    Examples:
        `print(race_strategies(build_model, (train, validation, test), results="results.jsonl", max_minutes=60))`
    """
    check_statistics()
    chosen, data = checked_strategies(strategies, layer), checked_data(data)
    last = checked_seeds(seeds)
    if not chosen or not last:
        raise ArgumentError(f"A race needs strategies and seeds. Received: {[each.name for each in chosen]}, {last}.")
    labelled = (data if folds is None else data.fold(0, folds, 0)).training_examples  # bad folds are refused now
    folds = None if folds is None else int(folds)
    few: tuple[str, ...] = ()
    if labelled is not None and labelled < FEW:
        chosen.sort(key=lambda strategy: not strategy.few_labels)  # they shall have run when the time is up
        few = tuple(strategy.name for strategy in chosen if strategy.few_labels)
    rounds = whole_number(rounds, "rounds", least=0)
    most_finalists = whole_number(most_finalists, "most_finalists", least=2)
    stop_early = flag(stop_early, "stop_early") and rounds > 0
    functions = {"callbacks": callbacks, "on_record": on_record}
    minutes = checked_fit(build_model, data, functions, executor, max_minutes, fit_arguments)
    settings = settings_of(folds, fit_arguments, callbacks)
    forms = {strategy.name: described(strategy) for strategy in chosen}
    job = partial(
        Job, build_model, data, folds=folds, callbacks=callbacks, fit=fit_arguments, layers=layers_named(chosen)
    )
    with ExitStack() as stack:
        fingerprint: dict[str, Any] = {}
        file = None
        if results is not None:
            fingerprint = {"data": data_fingerprint(data), **settings}
            file = stack.enter_context(ResultsFile(results, fingerprint, forms))
        workers = None if executor is None else Workers(executor, threads)
        runner = Runner(file, workers, minutes, on_record, flag(verbose, "verbose"), folds)
        left, racing = _race(job, chosen, last, rounds if len(chosen) > 2 else 0, folds, most_finalists, runner)
        names = [strategy for strategy in chosen if strategy.name not in left]
        final, note = _final(job, names, last, stop_early and not few, folds, racing, runner)
    asked = {
        "seeds": last,
        "rounds": rounds,
        "most_finalists": most_finalists,
        "stop_early": stop_early,
        "max_minutes": minutes,
    }
    return Advice(
        tuple(final),
        tuple(racing),
        left,
        folds,
        note,
        {**settings, **asked, "strategies": forms, "fingerprint": fingerprint},
        labelled,
        few,
    )


def checked_fit(
    build_model: Any,
    data: Data,
    functions: Mapping[str, Any],
    executor: Any,
    max_minutes: Any,
    fit_arguments: Mapping[str, Any],
) -> float | None:
    """Refuse, before training, what no run can work with; returns the minutes."""
    if not callable(build_model):
        raise ArgumentError(
            f"build_model must be a function from a Strategy to a model. Received: {shown(build_model)}."
        )
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ArgumentError(f"{name} must be a function. Received: {shown(function)}.")
    validation_as_test(data)
    if executor is not None and not isinstance(executor, Executor):
        raise ArgumentError(f"executor must be a concurrent.futures.Executor. Received: {shown(executor)}.")
    unknown = set(fit_arguments) - {*_FIT, "keep"}
    if unknown:
        raise ArgumentError(f"A run takes {', '.join(_FIT)} and keep. Received: {', '.join(sorted(unknown))}.")
    return None if max_minutes is None else number(max_minutes, "max_minutes", above=0)


def settings_of(folds: int | None, fit_arguments: Mapping[str, Any], callbacks: Any) -> dict[str, Any]:
    """What a record depends on beside data and strategy, as JSON values."""
    how = {name: plain(fit_arguments.get(name)) for name in _FIT}
    return {"folds": folds, **how, "callbacks": plain(callbacks)}


def _race(
    job: Callable[..., Job],
    strategies: Sequence[Strategy],
    last: Sequence[int],
    rounds: int,
    folds: int | None,
    most: int,
    runner: "Runner",
) -> tuple[dict[str, str], list[Record]]:
    """Why strategies left, by name, and all records of the rounds."""
    alive, everything = list(strategies), list[Record]()
    left: dict[str, str] = {}
    records: dict[str, list[Record]] = {strategy.name: [] for strategy in strategies}
    fresh = (seed for seed in count() if seed not in set(last))
    runner.allow(0.5)
    for place in range(rounds):
        seed, fold = next(fresh), 0 if folds is None else place % folds
        runner.say(f"Round {place + 1}: {', '.join(strategy.name for strategy in alive)}")
        found = runner.run([job(strategy, seed, fold) for strategy in alive])
        everything += found
        if len(found) < len(alive):  # the time is up
            break
        for record in found:
            records[record.strategy].append(record)
        racing = {strategy.name: records[strategy.name] for strategy in alive}
        gone = leave(racing, overlap(folds) if folds else 0.0, folds=folds is not None)
        still = {name: found for name, found in racing.items() if name not in gone}
        going_on = best_of(still, most if place == rounds - 1 else max(most, -(-len(alive) // 2)))
        gone |= {
            name: f"round {place + 1}: not among the {len(going_on)} that go on" for name in still.keys() - going_on
        }
        for name in [strategy.name for strategy in alive if strategy.name in gone]:
            left[name] = gone[name]
            runner.say(f"{name} leaves the race: {gone[name]}")
        alive = [strategy for strategy in alive if strategy.name in going_on]
        if len(alive) <= most:
            break
    runner.allow(1.0)
    racing = {strategy.name: records[strategy.name] for strategy in alive if records[strategy.name]}
    while len(racing) == len(alive) > 2 and not runner.has_time_for(racing, len(last) * (folds or 1)):
        going_on = best_of(racing, len(alive) - 1)
        (name,) = racing.keys() - going_on
        left[name] = f"round {len(racing.pop(name))}: no time for it in the final round"
        runner.say(f"{name} leaves the race: {left[name]}")
        alive = [strategy for strategy in alive if strategy.name != name]
    return left, everything


def _final(
    job: Callable[..., Job],
    strategies: Sequence[Strategy],
    seeds: Sequence[int],
    stop_early: bool,
    folds: int | None,
    racing: Sequence[Record],
    runner: "Runner",
) -> tuple[list[Record], str]:
    """The records of the final round, and why there are fewer than there could be."""
    batches = [seeds[:LEAST], *([seed] for seed in seeds[LEAST:])] if stop_early else [seeds]
    wanted, final = len(seeds) * (folds or 1) * len(strategies), list[Record]()
    most = "at most " * (len(batches) > 1)
    runner.say(f"Final round: {', '.join(each.name for each in strategies)}; {most}{wanted} runs")
    rounds = _by_strategy(racing)
    for batch in batches:
        jobs = [job(strategy, seed, fold) for seed in batch for fold in range(folds or 1) for strategy in strategies]
        found = runner.run(jobs)
        final += found
        if len(found) < len(jobs):  # the time is up
            break
        if stop_early and len(final) < wanted and _is_over(final, wanted // len(strategies), rounds, folds):
            note = f"The final round ended after {len(final) * len(seeds) // wanted} of {len(seeds)} seeds: the others would "
            runner.say(note := f"{note}hardly change the recommendation.")
            return final, note
    final = _whole(final, strategies)
    return final, runner.time_note(len(final), wanted)


def _is_over(final: Sequence[Record], runs: int, rounds: Mapping[str, Sequence[Record]], folds: int | None) -> bool:
    """Whether the first records of the final round recommend what all would."""
    so_far = Advice(tuple(final), folds=folds)
    if so_far.recommended is None:
        return False
    leader, shares = so_far.table.index[0], overlap(folds) if folds else 0.0
    return is_settled(_by_strategy(final), leader, so_far.recommended, runs, rounds, shares, folds=folds is not None)


def _by_strategy(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.strategy, []).append(record)
    return found


def _whole(records: Sequence[Record], strategies: Sequence[Strategy]) -> list[Record]:
    """The records of those seeds and folds that all strategies have."""
    places: dict[tuple[int, int], set[str]] = {}
    for record in records:
        places.setdefault((record.seed, record.fold), set()).add(record.strategy)
    return [record for record in records if len(places[record.seed, record.fold]) == len(strategies)]


class Runner:
    """Runs jobs, here or through an executor, until the time is up, and records each at once."""

    def __init__(
        self,
        file: ResultsFile | None,
        workers: Workers | None,
        minutes: float | None,
        on_record: Callable[[Record], None] | None,
        verbose: bool,
        folds: int | None,
    ):
        self._folds = folds
        self._file, self._workers, self._minutes, self._on_record, self._verbose = (
            file,
            workers,
            minutes,
            on_record,
            verbose,
        )
        self._records: list[Record] = []
        self._begin, self._share, self._stopped = time.monotonic(), 1.0, False

    def allow(self, share: float) -> None:
        """How much of the time may be used before the next runs stop."""
        self._share = share

    def say(self, line: str) -> None:
        """Print a line, unless nothing is to be printed."""
        if self._verbose:
            print(line, flush=True)

    def has_time_for(self, racing: Mapping[str, Sequence[Record]], runs: int) -> bool:
        """Whether so many runs of each strategy take no longer than the time left, one after the other.

        What workers of an executor do beside each other isn't known, so they are taken to have it.
        """
        seconds = [np.mean([record.measures["seconds"] for record in records]) for records in racing.values()]
        left = self._seconds_left
        return left is None or self._workers is not None or float(sum(seconds)) * runs <= left

    def time_note(self, done: int, wanted: int, of: str = " of the final round") -> str:
        """What is to be said if a round was cut short."""
        if not self._stopped or done == wanted:
            return ""
        return f"The time was up after {self._minutes:g} minutes: {done} of {wanted} runs{of} count."

    def run(self, jobs: Sequence[Job]) -> list[Record]:
        """The records of the jobs, in their order; fewer if the time is up.

        Raises:
            RunFailedError: a run failed; it has all records so far.
        """
        known = self._file.records if self._file else {}
        found = {job.key: known[job.key] for job in jobs if job.key in known}
        for record in found.values():
            self._report(record, "from the file")
        missing = [job for job in jobs if job.key not in found]
        run = one_by_one if self._workers is None else self._workers.run
        for record in run(train_once, missing, self._records, lambda: self._seconds_left):
            if self._file:
                self._file.add(record)
            found[record.key] = record
            self._report(record, f"{record.measures['seconds']:.1f} s")
        self._stopped = self._stopped or len(found) < len(jobs)
        return [found[job.key] for job in jobs if job.key in found]

    def _report(self, record: Record, took: str) -> None:
        self._records.append(record)
        if self._on_record:
            self._on_record(record)
        fold = "" if self._folds is None else f", fold {record.fold}"
        fold += "" if record.share == 1 else f", {record.share:.3g} of the texts"
        figures = "diverged" if record.diverged else f"validation {record.measures['validation_accuracy']:.1%}"
        self.say(f"  {record.strategy}, seed {record.seed}{fold}: {figures} ({took})")

    @property
    def _seconds_left(self) -> float | None:
        if self._minutes is None:
            return None
        return max(0.0, self._begin + 60 * self._minutes * self._share - time.monotonic())
