"""The ways and settings of recipe.py and drift.py, the file of their records, and intervals; nothing here needs TensorFlow."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

EPOCHS, PATIENCE, BATCH, RATE, UNFREEZE_AT = 40, 5, 32, 1e-3, 3
SIZES = (200, 1000, 0)  # texts that train; 0: all
# How the table is treated: a way, and the same with the drift carried to the words that training did not read.
STDS = {"rescaled 0.1": 0.1, "rescaled 0.2": 0.2, "map": 0.1, "map+rows": 0.1}
WAYS = ("stock", "static", "random", "phased", *STDS)
CARRY = " + carry"
CARRIED = ("stock", "rescaled 0.1", "rescaled 0.2", "map+rows")  # ways whose rows train by themselves from the start


class Store:
    """Records in a JSON Lines file, each written at once, so that a run that was killed continues."""

    def __init__(self, path: Path, key: tuple[str, ...]):
        self._path, self._key = path, key
        self.records: list[dict[str, Any]] = []
        if path.is_file():
            lines = path.read_text("utf-8").split("\n")
            if lines[-1]:  # a record that was being written
                path.write_text("".join(f"{line}\n" for line in lines[:-1]), "utf-8")
            self.records = [json.loads(line) for line in lines[:-1]]
        self._done = {self.key_of(record) for record in self.records}

    def key_of(self, record: dict[str, Any]) -> tuple[Any, ...]:
        """What tells records apart."""
        return tuple(record[name] for name in self._key)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._done

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; other processes may do so too."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        self._done.add(self.key_of(record))


class Clock:
    """Seconds of the processor since the last look, and whether the time is up."""

    def __init__(self, hours: float):
        self._end, self._used = time.monotonic() + 3600 * hours, time.process_time()

    @property
    def is_over(self) -> bool:
        """Whether no further cell may begin."""
        return time.monotonic() > self._end

    def lap(self) -> float:
        """Seconds of the processor since the last lap."""
        used, self._used = self._used, time.process_time()
        return round(self._used - used, 2)


def machines_of(records: Sequence[dict[str, Any]]) -> str:
    """The machines and dates of the records, each once."""
    return "\n".join(dict.fromkeys(each["machine"] for each in records))


def half_width(values: Sequence[float]) -> float:
    """Half of the 95% interval of a mean, by Student's t; infinite for one value."""
    if len(values) < 2:
        return float("inf")
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def with_interval(values: Sequence[float], by_set: dict[str, float] | None = None) -> str:
    """Mean and half width in points; with the means of the sets also the half width over them."""
    text = f"{100 * np.mean(values):+.1f} ± {100 * half_width(values):.1f}"
    return text if by_set is None else f"{text} / {100 * half_width(list(by_set.values())):.1f}"
