"""Records of runs, and the JSON Lines file that they stream to: a killed comparison continues from it."""

import base64
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from embkeras import _checks
from embkeras.errors import OutputError, ResumeError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MEASURES = (
    *("accuracy", "validation_accuracy", "f1", "unseen_accuracy", "calibration_error", "drift"),
    *("parameters", "trainable_parameters", "stored_bytes", "seconds", "epochs", "threads"),
)
Key = tuple[str | int | float, ...]
_LATER = ("drift", "threads")  # measures that older files lack


@dataclass(frozen=True, eq=False)
class Record:
    """What remains of a run: which texts were right, and what was measured.

    Attributes:
        strategy: name of the strategy.
        seed: the random seed.
        fold: which fold tested; 0 without folds.
        test: which test texts were right, bool array of shape (texts,).
        validation: the same for the validation texts.
        measures: numbers by name: `accuracy` and `validation_accuracy`, `f1`, `unseen_accuracy` (on texts with words that no
            training text has), `calibration_error`, `drift` (of tables the mean cosine distance of the rows that moved; of an
            encoder the length of the step of its weights over their length before), `parameters`, `trainable_parameters`,
            `stored_bytes` of an export, `seconds` and `epochs` of the training, `threads` as of a `Run`. NaN if unknown.
        diverged: whether a score was not a finite number; such texts count as wrong.
        share: of the training examples that trained, above 0, up to 1.
    """

    strategy: str
    seed: int
    fold: int
    test: np.ndarray = field(repr=False)
    validation: np.ndarray = field(repr=False)
    measures: Mapping[str, float] = field(repr=False)
    diverged: bool = False
    share: float = 1.0

    @property
    def key(self) -> Key:
        """What tells records apart."""
        return key_of(self.strategy, self.seed, self.fold, self.share)

    @property
    def correct(self) -> np.ndarray:
        """As of a `Run`: bool array, one value per test text."""
        return self.test

    @property
    def accuracy(self) -> float:
        """As of a `Run`: share of the test texts that were classified correctly, 0 to 1."""
        return float(self.test.mean())

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        numbers = {name: value if math.isfinite(value) else None for name, value in self.measures.items()}
        flags = {"test": _packed(self.test), "validation": _packed(self.validation)}
        return {
            "strategy": self.strategy,
            "seed": self.seed,
            "fold": self.fold,
            "diverged": self.diverged,
            "share": self.share,
            **numbers,
        } | flags

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Record":
        """The record that `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: anything else.
        """
        numbers = {**dict.fromkeys(_LATER), **found}
        measures = {name: math.nan if numbers[name] is None else float(numbers[name]) for name in MEASURES}
        strategy, seed, fold, diverged = (found[name] for name in ("strategy", "seed", "fold", "diverged"))
        flags = [_unpacked(found[name]) for name in ("test", "validation")]
        return cls(
            str(strategy),
            int(seed),
            int(fold),
            flags[0],
            flags[1],
            measures,
            bool(diverged),
            float(found.get("share", 1)),
        )


def key_of(strategy: str, seed: int, fold: int, share: float) -> Key:
    """Strategy, seed and fold; of a run on fewer than all training examples their share too."""
    return (strategy, seed, fold) if share == 1 else (strategy, seed, fold, share)


def _packed(flags: np.ndarray) -> dict[str, Any]:
    return {"texts": len(flags), "right": base64.b64encode(np.packbits(flags).tobytes()).decode()}


def _unpacked(found: Mapping[str, Any]) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(found["right"], validate=True), np.uint8))
    count = int(found["texts"])
    if count < 1 or len(bits) != 8 * math.ceil(count / 8):
        raise ValueError(f"{len(bits)} bits for {count} texts")
    return bits[:count].astype(bool)


class ResultsFile:
    """Records in a JSON Lines file, each written at once with what it depends on.

    A process that is killed leaves at most one half line, which the next one cuts off. While a process writes, others are
    refused.

    Args:
        path: the file; made if there is none.
        fingerprint: the settings, and a hash of the data, by name; a record with other ones is refused.
        strategies: each strategy of the comparison as JSON values, by name; a record of another form is refused.

    Attributes:
        records: those in the file, by `Record.key`.

    Raises:
        ArgumentError: not a path.
        OutputError: the file can't be read or written, or another process writes it.
        ResumeError: a line that is not such a record, or a record of other data, settings or strategies; with its number.
    """

    def __init__(
        self, path: str | os.PathLike[str], fingerprint: Mapping[str, Any], strategies: Mapping[str, Mapping[str, Any]]
    ):
        self.path, self._fingerprint, self._strategies = _checks.path(path, "results"), dict(fingerprint), strategies
        self.records: dict[Key, Record] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Append a record, and hand it to the system before this returns.

        Raises:
            OutputError: it can't be written.
        """
        form = self._strategies[record.strategy]
        line = json.dumps(record.to_json() | {"form": form, "fingerprint": self._fingerprint}, allow_nan=False)
        try:
            self._file.write(f"{line}\n".encode())
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.records[record.key] = record

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Cannot write {str(self.path)!r}: another process is writing its results there."
            ) from None
        except OSError:  # a file system without locks
            return

    def _read(self) -> None:
        try:
            self._file.seek(0)
            content = self._file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # a record that was being written
                self._file.truncate(whole)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
            record = self._record(line, number)
            self.records[record.key] = record

    def _record(self, line: bytes, number: int) -> Record:
        where = f"{str(self.path)!r}, line {number}"
        try:
            found = json.loads(line)
            record, form, fingerprint = Record.from_json(found), found["form"], dict(found["fingerprint"])
        except (KeyError, TypeError, ValueError) as error:
            raise ResumeError(
                f"{where} is not a record of a run: {type(error).__name__}: {error}. Delete the line, or give another file."
            ) from error
        others = [name for name, value in self._fingerprint.items() if fingerprint.get(name) != value]
        if others:
            raise ResumeError(
                f"{where} belongs to other {' and other '.join(others)}. Give another file, or delete it. "
                f"Received: strategy {record.strategy!r}, seed {record.seed}."
            )
        ours = self._strategies.get(record.strategy, form)
        if form != ours:
            changed = [name for name in ours if form.get(name) != ours[name]]
            raise ResumeError(
                f"{where} is of another strategy {record.strategy!r}: its {', '.join(changed)} differ. Give the strategy "
                f"another name, or give another file."
            )
        return record


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"Cannot write {str(path)!r}: {error.strerror or error}.")
