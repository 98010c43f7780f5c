"""learning_curve: how accuracy grows with the number of labelled texts, for each way to treat the table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras._checks import number, sequence
from embkeras.errors import ArgumentError
from embkeras.experiments.data import Data
from embkeras.experiments.runs import Run, checked_data, checked_done, checked_seeds, checked_strategies, run_strategy
from embkeras.experiments.statistics import check_statistics, mean_interval
from embkeras.experiments.strategies import Strategy

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Runs of several strategies on growing parts of the training examples.

    `print(curve)` shows `table`, one column for each strategy.

    Attributes:
        texts: how many examples trained, one number for each run.
        runs: the runs, without their models.
    """

    texts: tuple[int, ...]
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        text = [
            f"{100 * mean:.1f}" if np.isinf(half) else f"{100 * mean:.1f} ± {100 * half:.1f}"
            for mean, half in zip(self.table["accuracy"], self.table["half_width"], strict=True)
        ]
        wide = self.table.assign(text=text).pivot(index="texts", columns="strategy", values="text")
        return wide[list(self.table["strategy"].unique())].rename_axis(index=None, columns=None).to_string()

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


def learning_curve(
    build_model: Callable[[Strategy], keras.Model],
    data: Data | Sequence[Any],
    *,
    strategies: Iterable[Strategy | str] | None = None,
    shares: Sequence[float] = SHARES,
    seeds: int | Iterable[int] = 3,
    done: Sequence[Run] = (),
    on_start: Callable[[str, int, int], Sequence[keras.callbacks.Callback]] | None = None,
    layer: str = "embedding",
    **fit_arguments: Any,
) -> LearningCurve:
    """Train every strategy on growing shares of the training examples, and test each on the same test part.

    Each seed draws its own examples, and a larger share contains the smaller. The share applies to the validation part too
    (at least 50 examples of it validate), so that a small share is what a small set would be.

    Args:
        build_model: as for `compare_strategies`.
        data: as for `compare_strategies`; the training and validation parts must be arrays.
        strategies: strategies, or names from `default_strategies()`; by default all of those.
        shares: shares of the training examples, above 0, up to 1.
        seeds: how many (0, 1, ...), or which.
        done: runs on all training examples that need not be repeated, such as `comparison.runs`.
        on_start: called before each run with its strategy's name, seed and number of training examples; returns further
            callbacks for `fit`.
        layer: name or path of the embedding layer, for strategies passed by name.
        **fit_arguments: `epochs`, `batch_size`, `class_weight` and `verbose`, as for `run_strategy`.

    Raises:
        ArgumentError: as `compare_strategies`; no shares, a share twice or out of range, or a part that is a dataset.
        MissingDependencyError: scipy or scikit-learn is not installed.

    Example:
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
    drawn = [
        (seed, share, data.some(share, seed)) for seed in numbers for share in sorted(parts)
    ]  # refused before training
    ready = checked_done(done, data)
    texts, runs = [], []
    for seed, share, some in drawn:
        count = len(some.train[1])
        for strategy in chosen:
            run = ready.get((strategy.name, seed)) if share == 1 else None
            if run is None:
                callbacks = on_start(strategy.name, seed, count) if on_start else ()
                run = run_strategy(build_model, some, strategy, seed=seed, callbacks=callbacks, **fit_arguments)
            texts.append(count)
            runs.append(replace(run, model=None))  # otherwise a table per run would stay in memory
    return LearningCurve(tuple(texts), tuple(runs))
