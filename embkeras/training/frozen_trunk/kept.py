"""Outputs of frozen layers on disk: one record of bytes for each row of the data, read through memory maps.

A folder holds `layout.json`, which says what a record consists of, and `rows-START-STOP.npy` files, each written beside
and renamed when it is complete. A pass that was interrupted goes on after the files that are there.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.errors import OutputError

_FILE = re.compile(r"rows-(\d+)-(\d+)\.npy")


@dataclass(frozen=True)
class Slot:
    """One tensor in a record: the value of a symbolic tensor, or its mask.

    Attributes:
        shape: for one row.
        dtype: in the model.
        stored: dtype in the file.
        mask: whether it is the mask of the value before it.
    """

    shape: tuple[int, ...]
    dtype: str
    stored: str
    mask: bool

    @property
    def size(self) -> int:
        """Bytes in a record."""
        return math.prod(self.shape) * tf.as_dtype(self.stored).size


def slots_of(outputs: Sequence[tuple[Any, Any]], dtype: str) -> list[Slot]:
    """The slots for outputs of one batch: pairs of a value and its mask or None. Floats are stored as `dtype`."""
    slots = []
    for value, mask in outputs:
        own = value.dtype.name
        slots.append(
            Slot(tuple(value.shape[1:]), own, dtype if value.dtype.is_floating and dtype == "float16" else own, False)
        )
        if mask is not None:
            slots.append(Slot(tuple(mask.shape[1:]), mask.dtype.name, mask.dtype.name, True))
    return slots


def pack(outputs: Sequence[tuple[Any, Any]], slots: Sequence[Slot]) -> tuple[np.ndarray, float]:
    """The records of a batch, uint8 of shape (rows, bytes), and the largest difference to what is read from them."""
    arrays = [each.numpy() for pair in outputs for each in pair if each is not None]
    with np.errstate(over="ignore"):  # the difference shows it
        stored = [
            array.astype(tf.as_dtype(slot.stored).as_numpy_dtype) for array, slot in zip(arrays, slots, strict=True)
        ]
    lossy = [(a, s) for a, s, slot in zip(arrays, stored, slots, strict=True) if slot.dtype != slot.stored and a.size]
    difference = max((float(np.max(np.abs(a.astype(np.float64) - s))) for a, s in lossy), default=0.0)
    records = [np.ascontiguousarray(each).reshape(len(each), -1).view(np.uint8) for each in stored]
    return np.concatenate(records, axis=1), difference


def unpack(records: tf.Tensor, slots: Sequence[Slot]) -> list[tuple[tf.Tensor, tf.Tensor | None]]:
    """The values and masks in records, inside a graph."""
    records = tf.ensure_shape(records, (records.shape[0], sum(slot.size for slot in slots)))
    pairs: list[tuple[tf.Tensor, tf.Tensor | None]] = []
    start = 0
    for slot in slots:
        piece, start = records[:, start : start + slot.size], start + slot.size
        tensor = _tensor(piece, slot)
        if slot.mask:
            pairs[-1] = (pairs[-1][0], tensor)
        else:
            pairs.append((tensor, None))
    return pairs


def _tensor(piece: tf.Tensor, slot: Slot) -> tf.Tensor:
    stored = tf.as_dtype(slot.stored)
    width = () if stored.size == 1 else (stored.size,)
    rows = -1 if piece.shape[0] is None else piece.shape[0]
    piece = tf.reshape(piece, (rows, *slot.shape, *width))
    value = tf.cast(piece, stored) if stored == tf.bool else tf.bitcast(piece, stored)
    return tf.cast(value, slot.dtype)


class Kept:
    """The records of `count` rows in a folder.

    Args:
        folder: of these records alone.
        slots: what a record consists of.
        count: of rows in the data.
        dropping: names of layers that would drop something out in `fit`.
        difference: the largest difference between a value and what is read from its record, so far.
    """

    def __init__(
        self, folder: Path, slots: Sequence[Slot], count: int, dropping: Sequence[str] = (), difference: float = 0.0
    ):
        self.folder, self.slots, self.count = folder, list(slots), count
        self.dropping, self.difference = list(dropping), difference
        self._starts: list[int] = []
        self._parts: list[np.ndarray] = []
        for path in _in_order(folder):
            self._open(path)

    @classmethod
    def found(cls, folder: Path) -> "Kept | None":
        """What is kept in a folder; None if that is nothing, or the description is damaged: a pass writes it again.

        Raises:
            OutputError: a file of rows is damaged.
        """
        try:
            content = json.loads((folder / "layout.json").read_text("utf-8"))
            slots = [Slot(**slot | {"shape": tuple(slot["shape"])}) for slot in content["slots"]]
            dropping = [str(name) for name in content["dropping"]]
            count, difference = int(content["count"]), float(content["difference"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, slots, count, dropping, difference)

    @property
    def row_size(self) -> int:
        """Bytes of a record."""
        return sum(slot.size for slot in self.slots)

    @property
    def done(self) -> int:
        """Rows that are kept, from the first on."""
        return self._starts[-1] + len(self._parts[-1]) if self._parts else 0

    def describe(self) -> None:
        """Write what the records consist of; the rows follow."""
        content = {"slots": [asdict(slot) for slot in self.slots], "count": self.count}
        content |= {"dropping": self.dropping, "difference": self.difference}
        with written_beside(self.folder / "layout.json") as beside:
            beside.write_text(json.dumps(content), "utf-8")

    def add(self, batches: Sequence[np.ndarray]) -> None:
        """Write the next rows, completely or not at all."""
        start = self.done
        stop = start + sum(map(len, batches))
        path = self.folder / f"rows-{start:012d}-{stop:012d}.npy"
        self.describe()
        with written_beside(path) as beside, beside.open("wb") as file:
            np.save(file, np.concatenate(batches))
        self._open(path)

    def records(self, rows: np.ndarray) -> np.ndarray:
        """The records of some rows, uint8 of shape (rows, bytes)."""
        found = np.empty((len(rows), self.row_size), np.uint8)
        places = np.searchsorted(self._starts, rows, side="right") - 1
        for place in np.unique(places):
            chosen = places == place
            found[chosen] = self._parts[place][rows[chosen] - self._starts[place]]
        return found

    def _open(self, path: Path) -> None:
        start, stop = _range(path)
        if start != self.done:
            return  # of another process that wrote the same rows
        try:
            part = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise OutputError(
                f"Kept outputs of frozen layers in {str(path)!r} can't be read: {error}. Delete this file; its rows are "
                f"then computed again."
            ) from error
        if part.shape != (stop - start, self.row_size) or part.dtype != np.uint8:
            raise OutputError(
                f"Kept outputs of frozen layers in {str(path)!r} have shape {part.shape} and dtype {part.dtype}, not "
                f"{(stop - start, self.row_size)} and uint8. Delete the folder {str(self.folder)!r}."
            )
        self._starts.append(start)
        self._parts.append(part)


def _in_order(folder: Path) -> Iterator[Path]:
    """The files of rows; of several that begin at the same row, the longest first."""
    return iter(sorted((path for path in folder.glob("rows-*.npy") if _FILE.fullmatch(path.name)), key=_order))


def _order(path: Path) -> tuple[int, int]:
    start, stop = _range(path)
    return start, -stop


def _range(path: Path) -> tuple[int, int]:
    found = _FILE.fullmatch(path.name)
    return (int(found[1]), int(found[2])) if found else (-1, -1)
