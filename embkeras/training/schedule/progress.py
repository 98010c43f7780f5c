"""How far a schedule has come: which phase runs, since when, and what patience knows of it.

With patience, the phase is not a function of the epoch alone, so this is saved with the training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras._checks import number, one_of
from embkeras.errors import ScheduleError
from embkeras.keras_compat.fit import metric_direction
from embkeras.training.schedule.flags import weights_that_may_move
from embkeras.training.schedule.phases import Phase, phase_at

COLUMNS = ["phase", "first_epoch", "last_epoch", "trainable_parameters", "learning_rate", "best", "ended"]
_ARRAYS = "best_weights/"


@dataclass(frozen=True)
class Monitor:
    """Which value in the logs tells whether a phase improves.

    Args:
        name: as in the logs: "val_loss", "val_accuracy".
        mode: "min", "max", or "auto": as the compiled metric of that name says; a loss should fall.
        min_delta: a smaller change is no improvement.

    Raises:
        ScheduleError: an empty name, an unknown mode, or a `min_delta` below 0.
    """

    name: str = "val_loss"
    mode: str = "auto"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ScheduleError(f"monitor must be the name of a value in the logs. Received: {self.name!r}.")
        one_of(self.mode, "mode", ("auto", "min", "max"), error=ScheduleError)
        number(self.min_delta, "min_delta", least=0, error=ScheduleError)

    def value(self, logs: dict[str, Any], epoch: int, model: keras.Model) -> float:
        """The monitored value of an epoch.

        Raises:
            ScheduleError: the logs don't contain it, or nothing says whether it should rise or fall.
        """
        if logs.get(self.name) is None:
            raise ScheduleError(
                f"Patience monitors {self.name!r}, which is missing from the logs of epoch {epoch}: give fit validation "
                f"data in every epoch, or monitor another value. Received: {', '.join(logs) or 'no logs'}."
            )
        self._should_rise(model)
        return float(logs[self.name])

    def improves(self, value: float, best: float | None, model: keras.Model) -> bool:
        """Whether `value` is better than the best so far; NaN never is."""
        rises = self._should_rise(model)
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best + self.min_delta if rises else value < best - self.min_delta

    def _should_rise(self, model: keras.Model) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        name = self.name.removeprefix("val_")
        direction = metric_direction(model, name)
        if direction is None and not (name == "loss" or name.endswith("_loss")):
            raise ScheduleError(
                f"Can't infer whether {self.name!r} should rise or fall: no compiled metric of that name says so. Give "
                f"the schedule mode='max' or mode='min'. Received: mode='auto'."
            )
        return direction == "up"


@dataclass(eq=False)
class Progress:
    """The phases of one run.

    Attributes:
        phase: index of the phase that runs, or None before the first one.
        next_epoch: the one after the last epoch that ended: a fit that begins there continues this run.
        handed_over: patience ended the phase, so the next one begins with the next epoch.
        stopped: patience ended the last phase, and with it the training.
        best: the best monitored value of the phase, or None before the first number.
        best_epoch: the epoch it comes from.
        wait: epochs since then.
        rows: of the table, one for each phase that ran.
        weights: of the best epoch, by their place in `model.weights`: those that it could change. Later epochs may change
            others: a DriftMonitor freezes a table within a phase.
    """

    phase: int | None = None
    next_epoch: int | None = None
    handed_over: bool = False
    stopped: bool = False
    best: float | None = None
    best_epoch: int | None = None
    wait: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def phase_at(self, epoch: int, phases: Sequence[Phase]) -> int | None:
        """Index of the phase that `epoch` belongs to: the current one, or a later one whose start has come."""
        due = phase_at(phases, epoch)
        if self.phase is None or due is None:
            return due
        return max(due, min(self.phase + self.handed_over, len(phases) - 1))

    def begin(self, phase: int, epoch: int, parameters: int, rate: float | None) -> None:
        """Phase number `phase` begins with `epoch`, or continues in another fit."""
        if self.phase == phase and self.rows:
            self.rows[-1]["ended"] = ""
            return
        self.end("next phase")
        self.phase, self.handed_over = phase, False
        self.reset_patience()
        row = [phase + 1, epoch, epoch, parameters, rate, None, ""]
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))

    def end_epoch(self, epoch: int, parameters: int) -> None:
        """One more epoch belongs to the phase. A model that fit builds has its parameters only now."""
        self.next_epoch = epoch + 1
        if self.rows:
            self.rows[-1] |= {"last_epoch": epoch, "trainable_parameters": parameters}

    def end(self, reason: str) -> None:
        """Note why the phase ended, unless that is known already."""
        if self.rows and not self.rows[-1]["ended"]:
            self.rows[-1]["ended"] = reason

    def reset_patience(self) -> None:
        """Forget the best value and its weights."""
        self.best, self.best_epoch, self.wait, self.weights, self.stopped = None, None, 0, {}, False

    def see(self, value: float, epoch: int, monitor: Monitor, model: keras.Model) -> None:
        """Count an epoch, and copy its weights if it is the best so far."""
        if monitor.improves(value, self.best, model):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            moving = weights_that_may_move(model).items()
            self.weights = {place: np.array(keras.ops.convert_to_numpy(each)) for place, each in moving}
        else:
            self.wait += 1
        if self.rows:
            self.rows[-1]["best"] = self.best

    def run_out_of_patience(self, model: keras.Model, *, last: bool) -> None:
        """Restore the best weights, and end the phase, or the training with the last one."""
        self.restore_best(model)
        self.end("patience")
        self.handed_over, self.stopped = not last, last

    def restore_best(self, model: keras.Model) -> None:
        """Write the weights of the best epoch back; if no epoch had a number, the current ones stay."""
        every = model.weights
        for place, value in self.weights.items():
            every[place].assign(value)

    def check_weights(self, model: keras.Model) -> None:
        """Refuse, when training continues, weights that couldn't be restored when patience runs out.

        Raises:
            ScheduleError: the model's weights have other shapes now.
        """
        shapes = dict(enumerate(tuple(weight.shape) for weight in model.weights))
        now = [shapes.get(place) for place in self.weights]
        kept = [weight.shape for weight in self.weights.values()]
        if kept != now:
            raise ScheduleError(
                f"The schedule holds the weights of epoch {self.best_epoch} to restore when patience runs out, but the "
                f"weights of model {model.name!r} have other shapes now (after change_vocabulary or unfreeze_rows): "
                f"continue with a new schedule. Received: {now}, not {kept}."
            )

    def why_patience_ran_out(self, monitor: Monitor) -> str:
        """In words."""
        if self.best is None:
            return f"{monitor.name} was not a number in {self.wait} epochs"
        return (
            f"{monitor.name} has not improved on {self.best:.4g} of epoch {self.best_epoch}, whose weights are restored"
        )

    def table(self) -> pd.DataFrame:
        """One row for each phase that ran; unknown numbers are NaN."""
        return pd.DataFrame(self.rows, columns=COLUMNS).astype({"learning_rate": float, "best": float})

    def state(self) -> dict[str, Any]:
        """JSON values, and the best weights as arrays."""
        state = vars(self) | {"rows": [dict(row) for row in self.rows]}
        return state | {f"{_ARRAYS}{place}": value for place, value in state.pop("weights").items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """The progress whose `state` it is."""
        names = [each.name for each in fields(cls) if each.name not in ("rows", "weights")]
        places = [int(key.removeprefix(_ARRAYS)) for key in state if key.startswith(_ARRAYS)]
        return cls(
            **{name: state[name] for name in names},
            rows=[dict(row) for row in state["rows"]],
            weights={place: np.asarray(state[f"{_ARRAYS}{place}"]) for place in places},
        )
