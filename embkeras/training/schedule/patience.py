"""Patience of a phase: its best value, the epochs since then, and the weights that it had.

Private name used: `_direction` of Keras' metrics ("up" or "down"), which is where EarlyStopping's mode "auto" looks too.
`tests/training/test_patience.py` fails when it goes.
"""

import math
import numbers
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from embkeras.errors import ScheduleError
from embkeras.training.schedule.flags import weights_that_may_move

_MODES = ("auto", "min", "max")


@dataclass(frozen=True)
class Monitor:
    """Which value of the logs says whether a phase improves.

    Args:
        name: as in the logs: "val_loss", "val_accuracy".
        mode: "min", "max", or "auto": as the compiled metric of that name says; a loss is to fall.
        min_delta: a change of less than this is no improvement.

    Raises:
        ScheduleError: another mode, or a `min_delta` that is not a number >= 0.
    """

    name: str = "val_loss"
    mode: str = "auto"
    min_delta: float = 0.0

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise ScheduleError(f"monitor must be the name of a value in the logs. Received: {self.name!r}.")
        if self.mode not in _MODES:
            raise ScheduleError(f"mode must be one of {', '.join(_MODES)}. Received: {self.mode!r}.")
        delta = self.min_delta
        number = isinstance(delta, numbers.Real) and not isinstance(delta, bool)
        if not (number and 0 <= delta < math.inf):
            raise ScheduleError(f"min_delta must be a number >= 0. Received: {delta!r}.")

    def value(self, logs: dict[str, Any], epoch: int, model: keras.Model) -> float:
        """The monitored value of an epoch.

        Raises:
            ScheduleError: the logs do not hold it, or it cannot be told whether it is to rise or to fall.
        """
        if logs.get(self.name) is None:
            raise ScheduleError(
                f"Patience asks for {self.name!r}, which the logs of epoch {epoch} do not hold (give fit validation data "
                f"in every epoch, or another monitor). Received: {', '.join(logs) or 'no logs'}."
            )
        self._goes_up(model)
        return float(logs[self.name])

    def improves(self, value: float, best: float | None, model: keras.Model) -> bool:
        """Whether `value` is better than the best so far; NaN never is."""
        up = self._goes_up(model)
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best + self.min_delta if up else value < best - self.min_delta

    def _goes_up(self, model: keras.Model) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        name = self.name.removeprefix("val_")
        directions = {metric._direction for metric in _metrics_of(model) if _is_called(metric, name)}
        if len(directions) == 1:
            return directions == {"up"}
        if name == "loss" or name.endswith("_loss"):
            return False
        raise ScheduleError(
            f"Whether {self.name!r} is to rise or to fall cannot be told: no compiled metric of that name says so. Give "
            f"the schedule mode='max' or mode='min'. Received: mode='auto'."
        )


@dataclass
class Watch:
    """What patience knows of the phase that runs.

    Attributes:
        best: the best value, or None before the first number.
        best_epoch: the epoch that gave it.
        wait: epochs since then.
        weights: of that epoch: those that the phase can change.
    """

    best: float | None = None
    best_epoch: int | None = None
    wait: int = 0
    weights: list[np.ndarray] = field(default_factory=list, repr=False)

    def see(self, value: float, epoch: int, monitor: Monitor, model: keras.Model) -> None:
        """Count an epoch, and keep a copy of its weights if it is the best so far."""
        if monitor.improves(value, self.best, model):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            self.weights = [np.array(keras.ops.convert_to_numpy(each)) for each in weights_that_may_move(model)]
        else:
            self.wait += 1

    def restore_best(self, model: keras.Model) -> None:
        """Write the weights of the best epoch back; where no epoch gave a number they stay as they stand."""
        if self.best is not None:
            for weight, value in zip(weights_that_may_move(model), self.weights, strict=True):
                weight.assign(value)

    def check(self, model: keras.Model) -> None:
        """Refuse, when training goes on, weights that could not be restored when patience is used up.

        Raises:
            ScheduleError: the model's weights have other shapes now.
        """
        now = [tuple(weight.shape) for weight in weights_that_may_move(model)] if self.weights else []
        kept = [weight.shape for weight in self.weights]
        if kept != now:
            raise ScheduleError(
                f"The schedule keeps the weights of epoch {self.best_epoch} for when patience is used up, and those of model "
                f"{model.name!r} have other shapes now (change_vocabulary, unfreeze_rows): go on with a new schedule. "
                f"Received: {now}, not {kept}."
            )

    def state(self) -> dict[str, Any]:
        """JSON values, without the weights."""
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait}

    def says(self, monitor: Monitor) -> str:
        """Why the phase ends, in words."""
        if self.best is None:
            return f"{monitor.name} was no number in {self.wait} epochs"
        return (
            f"{monitor.name} did not improve on {self.best:.4g} of epoch {self.best_epoch}, whose weights are restored"
        )


def _metrics_of(model: keras.Model) -> list[Any]:
    """The compiled metrics, taken out of the containers that Keras keeps them in."""
    found = [inner for metric in model.metrics for inner in getattr(metric, "metrics", [metric])]
    return [metric for metric in found if getattr(metric, "_direction", None) in ("up", "down")]


def _is_called(metric: Any, name: str) -> bool:
    # With several outputs the logs say "head_accuracy", and the metric is called "accuracy".
    return name == metric.name or name.endswith(f"_{metric.name}")
