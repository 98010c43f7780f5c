"""compare_strategies: whether frozen, fine-tuned or phased is best on your data, answered with seeds and intervals."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras._checks import is_whole, sequence, shown, whole_number
from embkeras._threads import threads_in_use
from embkeras.errors import ArgumentError
from embkeras.experiments.data import Data
from embkeras.experiments.frozen_part import runs_once
from embkeras.experiments.jobs import Job
from embkeras.experiments.statistics import ALPHA, Difference, check_statistics, holm, macro_f1
from embkeras.experiments.strategies import Strategy, default_strategies
from embkeras.experiments.workers import Workers, one_by_one
from embkeras.keras_compat.generators import private_seeds
from embkeras.training.frozen_trunk.fit import fit_on_frozen
from embkeras.training.schedule.callback import TrainabilitySchedule

_LARGEST_SEED = 2**32 - 1  # of NumPy
_MOST_SEEDS = 10_000  # a larger number is a seed, not how many there are


@dataclass(frozen=True, eq=False)
class Run:
    """One training, and its answers on the test part.

    Attributes:
        strategy: name of the strategy.
        seed: the random seed.
        labels: the true classes, int array of shape (texts,).
        predicted: the classes with the highest scores, int array of shape (texts,); -1, which is never right, where a
            score is not a finite number because the training diverged.
        seconds: duration of the training.
        history: Keras' `History.history`.
        model: the trained model, or None where it was not kept.
        phases: `TrainabilitySchedule.history`, one row per phase; None without a schedule.
        scores: float array of shape (texts, classes).
        threads: how many TensorFlow could use for an operation: with another number, sums may be rounded otherwise.
    """

    strategy: str
    seed: int
    labels: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    seconds: float
    history: dict[str, list[float]] = field(repr=False)
    model: Any = field(default=None, repr=False)
    phases: pd.DataFrame | None = field(default=None, repr=False)
    scores: np.ndarray | None = field(default=None, repr=False)
    threads: int | None = None

    @property
    def correct(self) -> np.ndarray:
        """Bool array, one value per test text."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of the test texts that were classified correctly, 0 to 1."""
        return float(self.correct.mean())

    @cached_property
    def f1(self) -> float:
        """Mean of the classes' F1, 0 to 1; needs scikit-learn."""
        return macro_f1(self.labels, self.predicted)


def run_strategy(
    build_model: Callable[[Strategy], keras.Model],
    data: Data,
    strategy: Strategy,
    *,
    seed: int = 0,
    epochs: int = 8,
    batch_size: int = 32,
    class_weight: Mapping[int, float] | None = None,
    fit: Callable[..., keras.callbacks.History] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    keep: str | os.PathLike[str] | None = None,
) -> Run:
    """Train one model under one strategy from one seed, and test it.

    Args:
        build_model: called as `build_model(strategy)`, returns a compiled model.
        data: the encoded texts.
        strategy: how to treat the table.
        seed: the random seed.
        epochs: as in Keras; a strategy may have its own.
        batch_size: as in Keras; datasets have their own.
        class_weight: as in Keras.
        fit: trains the model in place of `model.fit`, with the same arguments: `fit_on_frozen`, or a function of your own.
            A strategy may have its own.
        callbacks: further callbacks for `fit`.
        verbose: as in Keras.
        keep: a folder in which the outputs of frozen layers are kept (`fit_on_frozen`), so that they run once for all epochs
            and runs. It is used where that changes nothing and costs less: without a schedule, without dropout below
            what trains, and with more than a table frozen. By default all layers run in every step.

    Raises:
        ArgumentError: not a Strategy, a model that is not compiled, can't take the test inputs or has no score for each
            class, an optimizer that can't be set as the strategy requires, or a model to which the strategy was not
            applied; before training.
    """
    if not isinstance(strategy, Strategy):
        raise ArgumentError(f"run_strategy takes a Strategy. Received: {shown(strategy)}.")
    if not callable(build_model):
        raise ArgumentError(
            f"build_model must be a function from a Strategy to a model. Received: {shown(build_model)}."
        )
    if fit is not None and not callable(fit):
        raise ArgumentError(f"fit must be a function such as fit_on_frozen. Received: {shown(fit)}.")
    if class_weight is not None and not isinstance(class_weight, Mapping):
        raise ArgumentError(f"class_weight must map class numbers to weights. Received: {shown(class_weight)}.")
    seed = whole_number(seed, "seed", least=0, most=_LARGEST_SEED)
    keras.utils.set_random_seed(seed)
    weights = None if class_weight is None else dict(class_weight)
    settings = {"epochs": strategy.epochs or epochs, "class_weight": weights, "verbose": verbose}
    with private_seeds(seed):
        return _run(build_model, data, strategy, seed, batch_size, fit, callbacks, keep, settings)


def _run(
    build_model: Callable[[Strategy], keras.Model],
    data: Data,
    strategy: Strategy,
    seed: int,
    batch_size: int,
    fit: Callable[..., keras.callbacks.History] | None,
    callbacks: Sequence[keras.callbacks.Callback],
    keep: str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
) -> Run:
    """`run_strategy` with checked arguments."""
    model = build_model(strategy)
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ArgumentError(f"build_model must return a compiled Keras model. Received: {shown(model)}.")
    strategy.check(model)
    if strategy.optimizer:
        model.optimizer = _changed_optimizer(model.optimizer, strategy)
    if strategy.learning_rate is not None:
        try:
            model.optimizer.learning_rate = strategy.learning_rate
        except (AttributeError, TypeError, ValueError):
            raise ArgumentError(
                f"Strategy {strategy.name!r} sets learning_rate={strategy.learning_rate:g}, which the optimizer does "
                f"not allow: compile the model with a number as its learning rate. Received: {model.optimizer!r}."
            ) from None
    _check_scores(model, data)
    own = strategy.callbacks()
    once = keep is not None and not own and runs_once(model, data)
    begin = time.perf_counter()
    fit = strategy.fit or fit
    if fit is None:
        fit = partial(fit_on_frozen, keep=keep, progress=False) if once else type(model).fit
    history = fit(
        model,
        **data.fit_arguments(batch_size),
        **settings,
        callbacks=[*own, *callbacks],
    )
    seconds = time.perf_counter() - begin
    scores = scores_of(model, data)
    schedules = [callback for callback in own if isinstance(callback, TrainabilitySchedule)]
    phases = schedules[0].history if schedules else None
    found = Run(strategy.name, seed, data.labels, classes_of(scores), seconds, history.history, model, phases, scores)
    return replace(found, threads=threads_in_use())


def run_job(job: Job, *callbacks: keras.callbacks.Callback) -> Run:
    """`run_strategy` of a job, without its share and folds."""
    own = job.callbacks(job.strategy.name, job.seed) if job.callbacks else ()
    return run_strategy(job.build_model, job.data, job.strategy, seed=job.seed, callbacks=[*own, *callbacks], **job.fit)


def run_alone(job: Job) -> Run:
    """The same without the model: a table per run would stay in memory, or travel."""
    return replace(run_job(job), model=None)


def scores_of(model: keras.Model, data: Data) -> np.ndarray:
    """The model's scores of the test part, shape (texts, classes)."""
    return np.concatenate([_scores(model, inputs) for inputs in data.test_batches()])


def classes_of(scores: np.ndarray) -> np.ndarray:
    """The classes with the highest scores; -1 where a score is not a finite number."""
    return np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1)


def _changed_optimizer(optimizer: keras.optimizers.Optimizer, strategy: Strategy) -> keras.optimizers.Optimizer:
    """A new optimizer with the strategy's settings in place of its own."""
    try:
        return type(optimizer).from_config(optimizer.get_config() | strategy.optimizer)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"Strategy {strategy.name!r} sets {shown(strategy.optimizer)}, which the optimizer does not take: compile the "
            f"model with one that does, such as RowWiseAdam. Received: a {type(optimizer).__name__}, which answers: {error}"
        ) from error


def _scores(model: keras.Model, inputs: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def _check_scores(model: keras.Model, data: Data) -> None:
    """Refuse, before the training, a model whose answers on the test part can't be compared."""
    inputs = next(data.test_batches())
    try:
        scores = _scores(model, inputs)
    except Exception as error:  # anything a layer raises
        raise ArgumentError(
            f"The model that build_model returned can't score the inputs of data.test: {type(error).__name__}: {error}"
        ) from error
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ArgumentError(
            f"A comparison needs one score per class (a softmax over at least 2). "
            f"Received: scores of shape {scores.shape}."
        )
    wrong = data.labels[(data.labels < 0) | (data.labels >= scores.shape[1])]
    if len(wrong):
        raise ArgumentError(
            f"Test labels must be classes from 0 to {scores.shape[1] - 1}, as the model has {scores.shape[1]} scores. "
            f"Received: {wrong[0]}."
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs of several strategies on the same data from the same seeds.

    `print(comparison)` shows `table` and the `recommendation`.
    """

    runs: tuple[Run, ...]

    def __str__(self) -> str:
        return f"{self.table.round(3).to_string()}\n{self.text}"

    @property
    def text(self) -> str:
        """What the figures say, in a sentence: `recommendation`."""
        return recommendation(self)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per strategy, the best mean accuracy first.

        Columns: `accuracy`, `accuracy_sd`, `f1`, `f1_sd` (0 to 1; standard deviation over seeds, NaN for one),
        `seconds` (mean duration of a training), `seeds`.
        """
        columns = ["strategy", "accuracy", "f1", "seconds"]
        runs = pd.DataFrame([[getattr(run, column) for column in columns] for run in self.runs], columns=columns)
        table = runs.groupby("strategy", sort=False).agg(
            accuracy=("accuracy", "mean"),
            accuracy_sd=("accuracy", "std"),
            f1=("f1", "mean"),
            f1_sd=("f1", "std"),
            seconds=("seconds", "mean"),
            seeds=("seconds", "size"),
        )
        return table.sort_values("accuracy", ascending=False, kind="stable")

    def difference(self, first: str, second: str) -> tuple[float, float]:
        """Accuracy of `first` minus that of `second`, and half the width of its 95% interval.

        See `embkeras.experiments.statistics.Difference`; only seeds that both strategies have count.

        Raises:
            ArgumentError: the two have no seed in common.
        """
        difference = self._difference(first, second)
        return difference.mean, difference.half_width()

    def _difference(self, first: str, second: str) -> Difference:
        one, other = ({run.seed: run.correct for run in self.runs if run.strategy == name} for name in (first, second))
        by_seed = [one[seed].astype(float) - other[seed] for seed in one if seed in other]
        if not by_seed:
            raise ArgumentError(f"No seed was run with both {first!r} and {second!r}.")
        return Difference.of_texts(np.stack(by_seed))

    @property
    def leads(self) -> pd.DataFrame:
        """The lead of the best strategy over each of the others.

        One row per other strategy, with `difference` and `half_width` as `difference` returns them, `p_value` after Holm's
        correction for the number of strategies, and `significant`: whether that is below 0.05.
        """
        best, *others = self.table.index
        found = [self._difference(best, other) for other in others]
        adjusted = holm([each.p_value for each in found])
        columns = {
            "difference": [each.mean for each in found],
            "half_width": [each.half_width() for each in found],
            "p_value": adjusted,
            "significant": adjusted < ALPHA,
        }
        return pd.DataFrame(columns, index=pd.Index(others, name="strategy"))


def recommendation(comparison: Comparison) -> str:
    """One sentence: the best strategy if its lead is significant, otherwise what it can't be told apart from."""
    table = comparison.table
    best = table.index[0]
    if len(table) == 1:
        return f"Only {best} was run: there is nothing to compare it with."
    if table["seeds"].min() < 2:
        return "With one seed the noise is unknown, so no strategy is called the best. Run more seeds."
    leads = comparison.leads
    alike = leads.index[~leads["significant"]]
    if not len(alike):
        return f"{best} is the best: its lead over each of the others is larger than the noise."
    return f"{best} is ahead, but not beyond the noise: it can't be told apart from {', '.join(alike)}."


def compare_strategies(
    build_model: Callable[[Strategy], keras.Model],
    data: Data | Sequence[Any],
    *,
    strategies: Iterable[Strategy | str] | None = None,
    seeds: int | Iterable[int] = 5,
    done: Sequence[Run] = (),
    executor: Executor | None = None,
    threads: int = 1,
    on_start: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None = None,
    on_run: Callable[[Run], None] | None = None,
    layer: str = "embedding",
    **fit_arguments: Any,
) -> Comparison:
    """Train every strategy from every seed on the same data, and measure what can be told apart.

    Args:
        build_model: called as `build_model(strategy)`, returns a compiled model around
            `strategy.build_embedding(aligned)`.
        data: the encoded texts for training, validation and test, as `Data` or as three parts as `fit` takes them: pairs
            (inputs, labels), where inputs may be a dictionary; triples with sample_weight; or datasets.
        strategies: strategies, or names from `default_strategies(which="all")`; by default the default set.
        seeds: how many (0, 1, ...), or which.
        done: runs on the same test texts that need not be repeated, such as `comparison.runs`.
        executor: runs the runs: any `concurrent.futures.Executor`, such as a ProcessPoolExecutor that starts processes by
            "spawn", loky's, or that of a Dask client; `build_model`, `on_start` and the data travel to its workers, functions
            of a script or notebook by cloudpickle (the extra `parallel`), tables and data over files as paths. Models stay
            there. The runs are those of one process with as many threads, to the bit, if a worker trains one at a time:
            threads of one process share random generators. The result has the order of a comparison without an executor.
        threads: of TensorFlow in a worker of `executor`, where it has not begun, and the environment variable
            TF_NUM_INTRAOP_THREADS doesn't set it; each run has the number (`Run.threads`).
        on_start: called before each run, where it is trained, with its strategy's name and seed; returns further callbacks
            for `fit`.
        on_run: called with each new run, without its model, as soon as it ends.
        layer: name or path of the embedding layer, for strategies passed by name.
        **fit_arguments: `epochs`, `batch_size`, `class_weight`, `fit`, `verbose` and `keep`, as for `run_strategy`.

    Returns:
        The runs, their `table`, and what they recommend.

    Raises:
        ArgumentError: no seeds, a seed or strategy twice, no strategies, invalid data, or `done` with other test labels.
        RunFailedError: a run failed, or its worker died, and the engine didn't run it again; those that had begun beside it
            are finished. `error.runs` has all finished runs, for `done=`.
        MissingDependencyError: scipy or scikit-learn is not installed, or cloudpickle, where it is needed.
    """
    check_statistics()
    chosen, numbers = checked_strategies(strategies, layer), checked_seeds(seeds)
    for name, function in {"on_start": on_start, "on_run": on_run}.items():
        if function is not None and not callable(function):
            raise ArgumentError(f"{name} must be a function. Received: {shown(function)}.")
    workers = None if executor is None else Workers(executor, threads)
    if not numbers or not chosen:
        names = [strategy.name for strategy in chosen]
        raise ArgumentError(f"A comparison needs strategies and seeds. Received: {names}, {numbers}.")
    data = checked_data(data)
    ready = checked_done(done, data)
    jobs = [
        Job(build_model, data, strategy, seed, callbacks=on_start, fit=fit_arguments)
        for seed in numbers
        for strategy in chosen
    ]
    missing = [job for job in jobs if (job.strategy.name, job.seed) not in ready]
    ended: list[Run] = []
    for run in (one_by_one if workers is None else workers.run)(run_alone, missing, ended):
        ended.append(run)
        if on_run:
            on_run(run)
    ready |= {(run.strategy, run.seed): run for run in ended}
    return Comparison(tuple(replace(ready[job.strategy.name, job.seed], model=None) for job in jobs))


def checked_seeds(seeds: Any) -> list[int]:
    """The seeds, each once."""
    if is_whole(seeds) and seeds > _MOST_SEEDS:
        raise ArgumentError(f"seeds must be at most {_MOST_SEEDS:,}, or a list of seeds. Received: {shown(seeds)}.")
    given = range(seeds) if is_whole(seeds) else sequence(seeds, "seeds")
    numbers = [whole_number(seed, "seed", least=0, most=_LARGEST_SEED) for seed in given]
    if len(set(numbers)) != len(numbers):
        raise ArgumentError(f"Each seed may be run once. Received: {numbers}.")
    return numbers


def checked_done(done: Any, data: Data) -> dict[tuple[str, int], Run]:
    """Runs on this test part, by strategy and seed."""
    ready = {}
    for run in sequence(done, "done"):
        if not isinstance(run, Run) or not np.array_equal(run.labels, data.labels):
            raise ArgumentError(
                f"done must contain runs with these test labels, as of an earlier comparison. Received: {shown(run)}."
            )
        ready[run.strategy, run.seed] = run
    return ready


def checked_data(data: Any) -> Data:
    """The three parts, as Data."""
    if isinstance(data, Data):
        return data
    if not isinstance(data, Sequence) or len(data) != 3:
        raise ArgumentError(
            f"data must be three parts, such as pairs (inputs, labels): training, validation and test. "
            f"Received: {shown(data)}."
        )
    return Data(*data)


def checked_strategies(given: Iterable[Strategy | str] | None, layer: str) -> list[Strategy]:
    """Strategies, each with a name of its own; by default all of `default_strategies`."""
    if given is None:
        return list(default_strategies(layer=layer).values())
    known = default_strategies(layer=layer, which="all")
    if isinstance(given, Mapping):
        raise ArgumentError(f"strategies must be a sequence; each has a name of its own. Received: {shown(given)}.")
    chosen = []
    for each in sequence(given, "strategies"):
        strategy = known.get(each) if isinstance(each, str) else each
        if not isinstance(strategy, Strategy):
            raise ArgumentError(f"A strategy must be a Strategy or one of {', '.join(known)}. Received: {shown(each)}.")
        chosen.append(strategy)
    names = [strategy.name for strategy in chosen]
    if len(set(names)) != len(names):
        raise ArgumentError(f"Each strategy needs a name of its own. Received: {names}.")
    return chosen
