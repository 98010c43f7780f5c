"""Job: one run of an experiment as data, which can travel to another process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from embkeras.experiments.data import Data
from embkeras.experiments.results import Key, key_of
from embkeras.experiments.strategies import Strategy


@dataclass(frozen=True, eq=False)
class Job:
    """One run: all that `run_job` and `train_once` need, so that it can be pickled for another process.

    Attributes:
        build_model: from a strategy to a compiled model; pickled by cloudpickle if it is no function of a module.
        data: all examples.
        strategy: one strategy.
        seed: the random seed.
        fold, folds: which fold tests, of how many; no folds by default.
        callbacks: from strategy name and seed to callbacks for `fit`.
        fit: arguments of `run_strategy`.
        layers: of an encoder, whose drift is measured; by default that of the tables is.
        share: of the training and validation examples (`Data.some`), without folds.
    """

    build_model: Callable[[Strategy], keras.Model] = field(repr=False)
    data: Data = field(repr=False)
    strategy: Strategy
    seed: int
    fold: int = 0
    folds: int | None = None
    callbacks: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None = field(default=None, repr=False)
    fit: Mapping[str, Any] = field(default_factory=dict, repr=False)
    layers: tuple[str, ...] = field(default=(), repr=False)
    share: float = 1.0

    @property
    def key(self) -> Key:
        """As `Record.key`."""
        return key_of(self.strategy.name, self.seed, self.fold, self.share)

    def __str__(self) -> str:
        fold = "" if self.folds is None else f", fold {self.fold}"
        share = "" if self.share == 1 else f", {self.share:.3g} of the training examples"
        return f"strategy {self.strategy.name!r}, seed {self.seed}{fold}{share}"
