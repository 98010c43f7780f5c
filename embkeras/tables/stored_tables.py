"""StoredTable: the rows of an embedding layer's table, from the variables that a file holds of that layer.

A plain layer has one variable. Those of `embkeras.tables.partial_rows` have a base with a scale a row, rows that ids share, and
rows that train beside the base; a layer with LoRA has two factors of a sum.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras._arrays import BLOCK
from embkeras.errors import VectorFileError


@dataclass(frozen=True)
class StoredTable:
    """The parts of a table. The large ones may lie on disk: they are read in slices of rows.

    Args:
        name: what messages call it.
        base: floats or int8, shape (rows stored, width).
        scales: one factor a row of the base, or None.
        divided: rows are divided by `scales`, as Keras does, and not multiplied.
        shared: the row of the base that each id has, or None where row i belongs to id i.
        moving: rows that train beside the base, shape (R + 1, width), or None.
        places: the row of `moving` that each id has; R where it has none.
        low_rank: LoRA's A (ids, rank) and B (rank, width), the scale already in B, or None.

    Raises:
        VectorFileError: parts that do not fit each other.
    """

    name: str
    base: Any
    scales: np.ndarray | None = None
    divided: bool = False
    shared: np.ndarray | None = None
    moving: Any = None
    places: np.ndarray | None = None
    low_rank: tuple[Any, np.ndarray] | None = None

    def __post_init__(self):
        if len(self.base.shape) != 2 or not self.base.shape[1] or self.base.dtype.name not in _KINDS:
            raise self._unfit(f"a base of {self.base.dtype} {tuple(self.base.shape)}")
        stored, width = self.base.shape
        if (self.base.dtype.name == "int8") != (self.scales is not None):
            raise self._unfit(f"a base of {self.base.dtype} {'with' if self.scales is not None else 'without'} scales")
        if self.scales is not None and self.scales.shape != (stored,):
            raise self._unfit(f"{stored} rows with scales of {self.scales.shape}")
        if (self.moving is None) != (self.places is None):
            raise self._unfit("rows that train without their map, or a map without them")
        if self.moving is not None and (len(self.moving.shape) != 2 or self.moving.shape[1] != width):
            raise self._unfit(f"rows of width {width} beside such of {tuple(self.moving.shape)}")
        if self.moving is not None and self.moving.dtype.kind != "f":
            raise self._unfit(f"rows that train of {self.moving.dtype}")
        self._check_map(self.shared, None, stored)
        self._check_map(self.places, self.rows, 0 if self.moving is None else self.moving.shape[0])
        if self.low_rank is not None:
            a, b = self.low_rank
            fits = len(a.shape) == 2 and a.shape[0] == self.rows and b.shape == (a.shape[1], width)
            if not fits or a.dtype.kind != "f" or b.dtype.kind != "f":
                raise self._unfit(f"factors of {tuple(a.shape)} and {b.shape} for {self.rows} rows of width {width}")

    def _check_map(self, places: np.ndarray | None, size: int | None, rows: int) -> None:
        if places is None:
            return
        if places.ndim != 1 or places.dtype.kind not in "iu" or (size is not None and len(places) != size):
            raise self._unfit(f"a map of {places.dtype} {places.shape}")
        if len(places) and not 0 <= places.min() <= places.max() < rows:
            raise self._unfit(f"a map to the rows {places.min()} to {places.max()} of {rows}")

    def _unfit(self, found: str) -> VectorFileError:
        return VectorFileError(f"{self.name} is damaged: expected parts of one table, found {found}.")

    @property
    def rows(self) -> int:
        """The number of ids."""
        return len(self.shared) if self.shared is not None else self.base.shape[0]

    @property
    def width(self) -> int:
        """Width of a row."""
        return self.base.shape[1]

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The rows of `ids` (in any order), float32 of shape (ids, width)."""
        places = ids if self.shared is None else self.shared[ids]
        rows = _gather(self.base, places)
        if self.scales is not None:
            scales = self.scales[places, None].astype(np.float32)
            rows = np.divide(rows, scales, out=rows) if self.divided else np.multiply(rows, scales, out=rows)
        if self.low_rank is not None:
            a, b = self.low_rank
            for start in range(0, len(ids), max(1, BLOCK // self.width)):
                part = slice(start, start + max(1, BLOCK // self.width))
                rows[part] += _gather(a, ids[part]) @ b.astype(np.float32)
        if self.moving is not None:
            moves = self.places[ids] < self.moving.shape[0] - 1
            rows[moves] = _gather(self.moving, self.places[ids][moves])
        return rows


_KINDS = ("float16", "float32", "float64", "int8")


def _gather(table: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows as float32, read slice by slice: HDF5 picks single rows 200 times slower."""
    found = np.empty((len(rows), table.shape[1]), np.float32)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    step = max(1, BLOCK // table.shape[1])
    for start in range(0, table.shape[0], step):
        first, last = np.searchsorted(ordered, [start, start + step])
        if first < last:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which the reader refuses
                block = np.asarray(table[start : min(start + step, table.shape[0])], np.float32)
            found[order[first:last]] = block[ordered[first:last] - start]
    return found
