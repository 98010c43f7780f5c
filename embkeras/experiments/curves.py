"""learning_curve: how accuracy grows with the number of labelled texts, where training the table pays, what more texts buy."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras._checks import flag, number, sequence
from embkeras.errors import ArgumentError
from embkeras.experiments.data import Data
from embkeras.experiments.fingerprint import data_fingerprint, described
from embkeras.experiments.jobs import Job
from embkeras.experiments.moved import layers_named
from embkeras.experiments.power_law import MoreTexts, more_texts
from embkeras.experiments.race import Runner, checked_fit, settings_of
from embkeras.experiments.results import Record, ResultsFile, key_of
from embkeras.experiments.runs import Run, checked_data, checked_done, checked_seeds, checked_strategies
from embkeras.experiments.statistics import ALPHA, Difference, check_statistics, mean_interval, percent_interval
from embkeras.experiments.strategies import Strategy
from embkeras.experiments.workers import Workers

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Runs of several strategies on growing parts of the training examples.

    `print(curve)` shows `table`, one column for each strategy, and `text`.

    Attributes:
        texts: how many examples trained, one number for each run.
        runs: what remains of the runs: `Record`, or the `Run` that `done=` has.
        note: what else there is to say, such as that the time was up.
    """

    texts: tuple[int, ...]
    runs: tuple[Run | Record, ...]
    note: str = ""

    def __str__(self) -> str:
        return f"{self.table_text}\n{self.text}".rstrip()

    @property
    def table_text(self) -> str:
        """The table for people, in percent."""
        if self.table.empty:
            return "No runs."
        text = [percent_interval(*each) for each in zip(self.table["accuracy"], self.table["half_width"], strict=True)]
        wide = self.table.assign(text=text).pivot(index="texts", columns="strategy", values="text")
        return wide[self.strategies].rename_axis(index=None, columns=None).fillna("").to_string()

    @property
    def strategies(self) -> list[str]:
        """Their names, in the order of the runs."""
        return list(dict.fromkeys(run.strategy for run in self.runs))

    @cached_property
    def gains(self) -> pd.DataFrame:
        """How far each strategy is ahead of the first one, on the same texts from the same seeds.

        One row for each further strategy and number of training examples, the most first. Columns: `strategy`, `texts`,
        `difference`, `half_width` of its 95% interval (as `Comparison.difference`), `p_value` after Bonferroni's correction
        for the number of strategies, `significant`: whether the strategy is ahead beyond the noise at this number and at
        every larger one. Numbers are tested from the largest down until one fails, which needs no further correction
        (a fixed sequence of tests: Maurer, Hothorn & Lehmacher 1995).
        """
        found: dict[tuple[str, int], dict[int, np.ndarray]] = {}
        for texts, run in zip(self.texts, self.runs, strict=True):
            found.setdefault((run.strategy, texts), {})[run.seed] = run.correct
        rows: list[tuple[Any, ...]] = []
        first, *others = self.strategies or [""]
        for name in others:
            ahead = True
            for texts in sorted(set(self.texts), reverse=True):
                own, base = found.get((name, texts), {}), found.get((first, texts), {})
                pairs = [own[seed].astype(float) - base[seed] for seed in own if seed in base]
                if not pairs:
                    continue
                difference = Difference.of_texts(np.stack(pairs))
                p_value = min(1.0, len(others) * difference.p_value)
                ahead = ahead and difference.mean > 0 and p_value < ALPHA
                rows.append((name, texts, difference.mean, difference.half_width(), p_value, ahead))
        return pd.DataFrame(rows, columns=["strategy", "texts", "difference", "half_width", "p_value", "significant"])

    def pays_from(self, strategy: str) -> int | None:
        """The number of training examples from which on a strategy is ahead of the first one beyond the noise, or None."""
        own = self.gains[(self.gains["strategy"] == strategy) & self.gains["significant"]]
        return int(own["texts"].min()) if len(own) else None

    def more_texts(self, strategy: str, points: float = 0.01) -> MoreTexts:
        """How many more labelled texts would raise a strategy's accuracy by so much; see `MoreTexts`.

        Raises:
            ArgumentError: a strategy without runs, or points that are not above 0 and below 1.

        Examples:
            `curve.more_texts("frozen").texts`
        """
        points = number(points, "points", above=0, below=1)
        runs = [pair for pair in zip(self.texts, self.runs, strict=True) if pair[1].strategy == strategy]
        if not runs:
            raise ArgumentError(f"The curve has no runs of {strategy!r}. It has {', '.join(self.strategies)}.")
        return more_texts([count for count, _ in runs], [run.accuracy for _, run in runs], points)

    @cached_property
    def text(self) -> str:
        """Where the other strategies begin to pay, and what more labels would buy, in sentences."""
        said = [self.note] if self.note else []
        first, *others = self.strategies or [""]
        gains = self.gains.groupby("strategy")["half_width"]
        noisy = [name for name in others if not np.isfinite(gains.get_group(name)).any()]
        if noisy:
            said.append(f"With one seed the noise is unknown, so {' or '.join(noisy)} isn't called ahead of {first}.")
        said += [self._said_of(name, first) for name in others if name not in noisy]
        unknown: dict[str, list[str]] = {}
        for name in self.strategies:
            found = self.more_texts(name)
            if found.texts is None:
                unknown.setdefault(_why(found), []).append(name)
            else:
                said.append(
                    f"Another point with {name} would take about {_rounded(found.texts)} more labelled texts (95%: "
                    f"{_rounded(found.low)} to {_rounded(found.high)}), if the curve continues this way."
                )
        said += [
            f"The data can't tell how many more labelled texts would buy a point with {' or '.join(names)}{why}."
            for why, names in unknown.items()
        ]
        return " ".join(said)

    def _said_of(self, name: str, first: str) -> str:
        own = self.gains[self.gains["strategy"] == name]
        counts, begin = sorted(own["texts"]), self.pays_from(name)
        if begin is None:
            last = own.iloc[0]
            shown = f"{100 * last['difference']:+.1f} ± {100 * last['half_width']:.1f} points"
            behind = -last["difference"] > last["half_width"]
            what = (
                f"{name} does not pay: it is behind {first}" if behind else f"{name} can't be told apart from {first}"
            )
            return f"{what} at {last['texts']:,} texts ({shown})."
        gain = own[own["texts"] == counts[-1]].iloc[0]
        shown = f"{100 * gain['difference']:.1f} ± {100 * gain['half_width']:.1f} points at {counts[-1]:,}"
        place = counts.index(begin)
        where = f"with {begin:,} texts or fewer" if place == 0 else f"between {counts[place - 1]:,} and {begin:,} texts"
        return f"{name} begins to pay {where}: from there on it is ahead of {first} beyond the noise, by {shown}."

    def to_dict(self) -> dict[str, Any]:
        """Table, gains and sentences as JSON values; what is NaN or infinite is None."""
        more = {name: self.more_texts(name) for name in self.strategies}
        gained = self.strategies[1:]
        return {
            "text": self.text,
            "table": _rows(self.table),
            "gains": _rows(self.gains),
            "pays_from": {name: self.pays_from(name) for name in gained},
            "more_texts": {
                name: {key: _known(value) for key, value in vars(each).items()} for name, each in more.items()
            },
        }

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each strategy and number of training examples.

        Columns: `strategy`, `texts`, `accuracy` (mean over seeds, 0 to 1), `half_width` of its 95% interval by Student's t
        over the seeds (infinite for one), `seeds`.
        """
        found: dict[tuple[str, int], list[float]] = {}
        for texts, run in zip(self.texts, self.runs, strict=True):
            found.setdefault((run.strategy, texts), []).append(run.accuracy)
        rows = [(*key, *mean_interval(values), len(values)) for key, values in found.items()]
        table = pd.DataFrame(rows, columns=["strategy", "texts", "accuracy", "half_width", "seeds"])
        order = {name: place for place, name in enumerate(dict.fromkeys(table["strategy"]))}
        keys = [table["strategy"].map(order), table["texts"]]
        return table.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)


def _why(found: MoreTexts) -> str:
    """Why it isn't known how many more texts it takes, and how many at least."""
    least = f"; {_rounded(found.low)} or more" if np.isfinite(found.low) else ""
    return f"{least}: {found.why}"


def _rounded(texts: float) -> str:
    """A number of texts to two digits."""
    return f"{float(f'{texts:.2g}'):,.0f}"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _known(value) for name, value in row.items()} for row in table.to_dict("records")]


def learning_curve(
    build_model: Callable[[Strategy], keras.Model],
    data: Data | Sequence[Any],
    *,
    strategies: Iterable[Strategy | str] | None = None,
    shares: Sequence[float] = SHARES,
    seeds: int | Iterable[int] = 3,
    done: Sequence[Run] = (),
    on_start: Callable[[str, int, int], Sequence[keras.callbacks.Callback]] | None = None,
    max_minutes: float | None = None,
    results: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    callbacks: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None = None,
    layer: str = "embedding",
    verbose: bool = False,
    **fit_arguments: Any,
) -> LearningCurve:
    """Train every strategy on growing shares of the training examples, and test each on the same test part.

    Each seed draws its own examples, and a larger share contains the smaller. The share applies to the validation part too
    (at least 50 examples of it validate), so that a small share is what a small set would be.

    Args:
        build_model: as for `compare_strategies`.
        data: as for `compare_strategies`; the training and validation parts must be arrays, with one class number per text.
        strategies: strategies, or names from `default_strategies(which="all")`; by default the default set. The first is what
            the others are compared with: the cheapest, such as "frozen".
        shares: shares of the training examples, above 0, up to 1.
        seeds: how many (0, 1, ...), or which.
        done: runs on all training examples that need not be repeated, such as `comparison.runs`.
        on_start: called before each run with its strategy's name, seed and number of training examples; returns further
            callbacks for `fit`.
        max_minutes: when no further run begins.
        results: as for `race_strategies`, of which it may be the file: runs on all examples count for both.
        executor: as for `compare_strategies`.
        threads: as for `compare_strategies`.
        callbacks: as for `race_strategies`.
        layer: name or path of the embedding layer, for strategies passed by name.
        verbose: whether to print a line for each run.
        **fit_arguments: `epochs`, `batch_size`, `class_weight`, `fit` and `keep`, as for `run_strategy`.

    Returns:
        Its `table` has a row for each strategy and number of training examples; accuracies are from 0 to 1.

    Raises:
        ArgumentError: as `compare_strategies`; no shares, a share twice or out of range, or a part that is a dataset.
        RunFailedError: as `race_strategies`.
        OutputError: as `race_strategies`.
        ResumeError: as `race_strategies`.
        MissingDependencyError: scipy or scikit-learn is not installed.

    Examples:
        `print(learning_curve(build_model, (train, validation, test), strategies=["frozen", "shared map"]))`
    """
    check_statistics()
    chosen, numbers, data = checked_strategies(strategies, layer), checked_seeds(seeds), checked_data(data)
    parts = [number(share, "shares", above=0) for share in sequence(shares, "shares")]
    if not parts or len(set(parts)) != len(parts):
        raise ArgumentError(f"shares must be numbers above 0, each once. Received: {parts}.")
    if not chosen or not numbers:
        raise ArgumentError(
            f"A learning curve needs strategies and seeds. Received: {[each.name for each in chosen]}, {numbers}."
        )
    counts = {share: len(data.some(share, numbers[0]).train[1]) for share in sorted(parts)}  # refused before training
    ready = checked_done(done, data)
    functions = {"callbacks": callbacks, "on_start": on_start}
    minutes = checked_fit(build_model, data, functions, executor, max_minutes, fit_arguments)
    settings = settings_of(None, fit_arguments, callbacks)
    jobs = [
        Job(
            build_model,
            data,
            strategy,
            seed,
            callbacks=partial(_started, callbacks, on_start, count),
            fit=fit_arguments,
            layers=layers_named(chosen),
            share=share,
        )
        for seed in numbers
        for share, count in counts.items()
        for strategy in chosen
        if share != 1 or (strategy.name, seed) not in ready
    ]
    with ExitStack() as stack:
        file = None
        if results is not None:
            fingerprint = {"data": data_fingerprint(data), **settings}
            forms = {strategy.name: described(strategy) for strategy in chosen}
            file = stack.enter_context(ResultsFile(results, fingerprint, forms))
        workers = None if executor is None else Workers(executor, threads)
        runner = Runner(file, workers, minutes, None, flag(verbose, "verbose"), None)
        found = {record.key: record for record in runner.run(jobs)}
    texts, runs = [], list[Run | Record]()
    for seed in numbers:
        for share, count in counts.items():
            for strategy in chosen:
                key = key_of(strategy.name, seed, 0, share)
                run = ready.get((strategy.name, seed)) if share == 1 else None
                if run is not None or key in found:
                    texts.append(count)
                    runs.append(found[key] if run is None else replace(run, model=None))  # a table per run would stay
    return LearningCurve(tuple(texts), tuple(runs), runner.time_note(len(found), len(jobs), ""))


def _started(
    callbacks: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None,
    on_start: Callable[[str, int, int], Sequence[keras.callbacks.Callback]] | None,
    count: int,
    name: str,
    seed: int,
) -> list[keras.callbacks.Callback]:
    """The callbacks of a run."""
    own = callbacks(name, seed) if callbacks else ()
    return [*own, *(on_start(name, seed, count) if on_start else ())]
