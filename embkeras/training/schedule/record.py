"""Which phase runs and since when: with patience, it is no longer a function of the epoch alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from embkeras.training.schedule.patience import Watch
from embkeras.training.schedule.phases import Phase, phase_at

COLUMNS = ["phase", "first_epoch", "last_epoch", "trainable_parameters", "learning_rate", "best", "ended"]
_ARRAYS = "best_weights/"


@dataclass
class Record:
    """The phases of one run.

    Attributes:
        index: of the phase that runs, or None before the first one.
        next_epoch: the one after the last epoch that ended: a fit that begins there goes on with this record.
        handed_over: patience ended the phase, so that the next one begins with the next epoch.
        watch: what patience knows of the phase.
        rows: of the table, one a phase that ran.
    """

    index: int | None = None
    next_epoch: int | None = None
    handed_over: bool = False
    watch: Watch = field(default_factory=Watch)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def phase_at(self, epoch: int, phases: Sequence[Phase]) -> int | None:
        """Index of the phase that `epoch` belongs to: at the latest when its start has come."""
        due = phase_at(phases, epoch)
        if self.index is None or due is None:
            return due
        return max(due, min(self.index + self.handed_over, len(phases) - 1))

    def begin(self, index: int, epoch: int, parameters: int, rate: float | None) -> None:
        """Phase `index` begins with `epoch`, or goes on in another fit."""
        if self.index == index and self.rows:
            self.rows[-1]["ended"] = ""
            return
        self.end("next phase")
        self.index, self.handed_over, self.watch = index, False, Watch()
        row = [index + 1, epoch, epoch, parameters, rate, None, ""]
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))

    def epoch_ended(self, epoch: int, parameters: int) -> None:
        """One more epoch belongs to the phase. A model that fit builds has its parameters only now."""
        self.next_epoch = epoch + 1
        if self.rows:
            self.rows[-1] |= {"last_epoch": epoch, "trainable_parameters": parameters}

    def end(self, why: str) -> None:
        """Note why the phase ended, if that is not known already."""
        if self.rows and not self.rows[-1]["ended"]:
            self.rows[-1]["ended"] = why

    def table(self) -> pd.DataFrame:
        """One row a phase that ran; numbers that are not known are NaN."""
        table = pd.DataFrame(self.rows, columns=COLUMNS)
        return table.astype({"learning_rate": float, "best": float})

    def state(self) -> dict[str, Any]:
        """JSON values, and the best weights as arrays."""
        arrays = {f"{_ARRAYS}{index}": value for index, value in enumerate(self.watch.weights)}
        return {
            "phase": self.index,
            "next_epoch": self.next_epoch,
            "handed_over": self.handed_over,
            "watch": self.watch.state(),
            "rows": [dict(row) for row in self.rows],
            **arrays,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Record":
        """Made again from what `state` gave."""
        weights = [np.asarray(state[f"{_ARRAYS}{index}"]) for index in range(_count_arrays(state))]
        watch = Watch(**state["watch"], weights=weights)
        rows = [dict(row) for row in state["rows"]]
        return cls(state["phase"], state["next_epoch"], state["handed_over"], watch, rows)


def _count_arrays(state: dict[str, Any]) -> int:
    return sum(key.startswith(_ARRAYS) for key in state)
