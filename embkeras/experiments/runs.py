"""compare_strategies: frozen, fine-tuned or phased is a question for the data, answered with seeds and intervals."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras.errors import ArgumentError
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at

# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom, and of the normal distribution.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z95 = 1.96


@dataclass(frozen=True)
class Strategy:
    """One way to treat an embedding table.

    Args:
        pretrained: start from the vectors; False starts from random ones, as a control.
        trainable: whether the table moves from the first epoch on.
        unfreeze_at: epoch, counted from 0, from which on a frozen table moves.
        learning_rate: of all variables from `unfreeze_at` on.
    """

    pretrained: bool = True
    trainable: bool = False
    unfreeze_at: int | None = None
    learning_rate: float | None = None

    def callbacks(self, layer: str) -> list[TrainabilitySchedule]:
        """What `fit` needs to follow the strategy."""
        if self.unfreeze_at is None:
            return []
        return [unfreeze_at(self.unfreeze_at, layer, learning_rate=self.learning_rate)]


def default_strategies(unfreeze_epoch: int = 3, learning_rate: float | None = None) -> dict[str, Strategy]:
    """Phased, frozen, fine-tuned from the start, and random vectors as the control."""
    return {
        "phased": Strategy(unfreeze_at=unfreeze_epoch, learning_rate=learning_rate),
        "frozen": Strategy(),
        "fine-tuned": Strategy(trainable=True),
        "random": Strategy(pretrained=False, trainable=True),
    }


@dataclass(frozen=True)
class Data:
    """Encoded texts: each part is (ids of shape (texts, time), labels of shape (texts,))."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Run:
    """One training: what was trained, and how it did on the test part.

    Attributes:
        strategy, seed: what was trained.
        correct: bool array, one a test text.
        accuracy: share of test texts classified right, 0 to 1.
        f1: mean of the classes' F1, 0 to 1.
        seconds: of training.
        history: Keras' `History.history`.
        model: the trained model, or None where it was not kept.
        phases: what the schedule did, one row a phase as in `TrainabilitySchedule.history`; None without a schedule.
    """

    strategy: str
    seed: int
    correct: np.ndarray = field(repr=False)
    accuracy: float
    f1: float
    seconds: float
    history: dict[str, list[float]] = field(repr=False)
    model: keras.Model | None = field(repr=False)
    phases: pd.DataFrame | None = field(default=None, repr=False)


def run_strategy(
    build_model: Callable[[Strategy], keras.Model],
    data: Data,
    name: str,
    strategy: Strategy,
    *,
    seed: int = 0,
    epochs: int = 8,
    batch_size: int = 32,
    layer: str = "embedding",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> Run:
    """Train one model under one strategy from one seed, and test it."""
    keras.utils.set_random_seed(seed)
    model = build_model(strategy)
    schedule = strategy.callbacks(layer)
    begin = time.perf_counter()
    history = model.fit(
        *data.train,
        validation_data=data.validation,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=[*schedule, *callbacks],
        verbose=verbose,
    )
    seconds = time.perf_counter() - begin
    ids, labels = data.test
    scores = np.concatenate([model(ids[i : i + 256], training=False).numpy() for i in range(0, len(ids), 256)])
    if scores.shape[-1] < 2:
        raise ArgumentError(
            f"A comparison needs one score a class (a softmax over at least 2). Received: scores of shape {scores.shape}."
        )
    predicted = scores.argmax(axis=1)
    correct = predicted == labels
    accuracy, f1 = float(correct.mean()), macro_f1(labels, predicted)
    phases = schedule[0].history if schedule else None
    return Run(name, seed, correct, accuracy, f1, seconds, history.history, model, phases)


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes of F1, the harmonic mean of precision and recall; 0 to 1.

    Example:
        >>> macro_f1(np.array([0, 0, 1]), np.array([0, 0, 0]))
        0.4
    """
    scores = []
    for label in np.union1d(labels, predicted):
        right = np.sum((labels == label) & (predicted == label))
        scores.append(2 * right / (np.sum(labels == label) + np.sum(predicted == label)))
    return float(np.mean(scores))


@dataclass(frozen=True)
class Comparison:
    """Runs of several strategies on the same data from the same seeds; printed, it shows `table` and `recommendation`."""

    runs: tuple[Run, ...]

    def __str__(self) -> str:
        return f"{self.table.round(3).to_string()}\n{self.recommendation}"

    @property
    def table(self) -> pd.DataFrame:
        """One row a strategy, the best mean accuracy first.

        Columns: `accuracy`, `accuracy_sd`, `f1`, `f1_sd` (0 to 1; standard deviation over seeds, NaN for one),
        `seconds` (mean of a training), `seeds`.
        """
        runs = pd.DataFrame([(run.strategy, run.accuracy, run.f1, run.seconds) for run in self.runs])
        grouped = runs.set_axis(["strategy", "accuracy", "f1", "seconds"], axis=1).groupby("strategy", sort=False)
        table = grouped.mean()
        table.insert(1, "accuracy_sd", grouped["accuracy"].std())
        table.insert(3, "f1_sd", grouped["f1"].std())
        table["seeds"] = grouped.size()
        return table.sort_values("accuracy", ascending=False, kind="stable")

    def difference(self, first: str, second: str) -> tuple[float, float]:
        """Accuracy of `first` minus that of `second`, and half the width of its 95% interval.

        The interval adds up, as squares, the noise of training (Student's t over the paired seeds) and that of the
        test set (the standard error of the paired differences, text by text). With one seed or one text one of the
        two is unknown and the half width infinite.
        """
        pairs = [
            a.correct.astype(float) - b.correct.astype(float)
            for a in self.runs
            for b in self.runs
            if (a.strategy, b.strategy) == (first, second) and a.seed == b.seed
        ]
        if not pairs:
            raise ArgumentError(f"No seed was run with both {first!r} and {second!r}.")
        differences = np.stack(pairs)
        by_seed, by_text = differences.mean(axis=1), differences.mean(axis=0)
        freedom = len(by_seed) - 1
        if not freedom or len(by_text) < 2:
            return float(by_seed.mean()), math.inf
        training = _t95(freedom) * by_seed.std(ddof=1) / math.sqrt(len(by_seed))
        testing = _Z95 * by_text.std(ddof=1) / math.sqrt(len(by_text))
        return float(by_seed.mean()), math.hypot(training, testing)

    @property
    def recommendation(self) -> str:
        """The best strategy where the data tell it from all others, else which ones it cannot be told from."""
        table = self.table
        best, others = table.index[0], list(table.index[1:])
        if not others:
            return f"Only {best} was run: there is nothing to compare it with."
        if table["seeds"].min() < 2:
            return "One seed shows no spread, so no strategy is called the best. Run more seeds."
        alike = []
        for other in others:
            difference, half = self.difference(best, other)
            if difference <= half:
                alike.append(other)
        if not alike:
            return f"{best} is the best: its lead over each of the others is larger than the noise."
        return f"{best} is ahead, but not beyond the noise: it cannot be told from {', '.join(alike)}."


def _t95(freedom: int) -> float:
    """The quantile of Student's t; beyond the table by its expansion in 1/freedom (Abramowitz & Stegun 26.7.5)."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def compare_strategies(
    build_model: Callable[[Strategy], keras.Model],
    data: Data | Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    strategies: Mapping[str, Strategy] | None = None,
    seeds: int | Iterable[int] = 5,
    done: Sequence[Run] = (),
    on_start: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None = None,
    **fit_arguments: Any,
) -> Comparison:
    """Train every strategy from every seed on the same data, and say what can be told apart.

    Args:
        build_model: called as `build_model(strategy)`, makes a compiled model: `strategy.pretrained` says whether the
            table starts from the vectors or from random numbers, `strategy.trainable` whether it moves from the start.
        data: the encoded texts, as `Data` or as three pairs (ids, labels): training, validation, test.
        strategies: by name; `default_strategies()` if not given.
        seeds: how many (0, 1, ...), or which.
        done: runs that need not be repeated.
        on_start: called before each run with its strategy and seed; returns further callbacks for `fit`.
        **fit_arguments: `epochs`, `batch_size`, `layer`, `verbose`, as for `run_strategy`.

    Raises:
        ArgumentError: no seeds, a seed twice, no strategies, other data, or a model with one score only.
    """
    strategies = dict(strategies) if strategies is not None else default_strategies()
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not isinstance(data, Data):
        parts = list(data)
        if len(parts) != 3 or not all(isinstance(part, tuple | list) and len(part) == 2 for part in parts):
            raise ArgumentError(
                f"data must be three pairs (ids, labels): training, validation and test. Received: {len(parts)} parts."
            )
        data = Data(*parts)
    if len(set(seeds)) != len(seeds):
        raise ArgumentError(f"Each seed may be run once. Received: {seeds}.")
    if not seeds or not strategies:
        raise ArgumentError(f"A comparison needs strategies and seeds. Received: {list(strategies)}, {seeds}.")
    ready = {(run.strategy, run.seed): run for run in done}
    runs = []
    for seed in seeds:
        for name, strategy in strategies.items():
            run = ready.get((name, seed))
            if run is None:
                callbacks = on_start(name, seed) if on_start else ()
                run = run_strategy(build_model, data, name, strategy, seed=seed, callbacks=callbacks, **fit_arguments)
            runs.append(replace(run, model=None))  # a table a run would be kept otherwise
    return Comparison(tuple(runs))
