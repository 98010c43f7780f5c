"""A table that is filled from the top, with or without knowing how many rows will come."""

import mmap

import numpy as np

_CHUNK = 1 << 20  # bytes


class Table:
    """Rows of one width, reserved in order.

    Without `rows`, chunks are reserved as rows come and `matrix` puts them together. A chunk is a map of its own, which
    goes back to the system at once when it is copied, so that the peak is the table and one chunk. (Memory from malloc
    may stay with the process.) Where more rows come than were expected, those expected are such a chunk.

    Args:
        width: numbers a row.
        dtype: of the numbers.
        rows: how many there will be, if that is known. Only what is written takes memory.
    """

    def __init__(self, width: int, dtype: str, rows: int | None = None):
        self._width, self._dtype = width, np.dtype(dtype)
        self._chunks: list[np.ndarray] = []
        self._used: list[int] = []
        if rows is not None:
            self._add(np.empty((rows, width), self._dtype))

    def reserve(self, count: int) -> np.ndarray:
        """The next `count` rows, to be written to."""
        if not self._chunks or self._used[-1] + count > len(self._chunks[-1]):
            row = self._width * self._dtype.itemsize
            rows = max(count, _CHUNK // row)
            self._add(np.frombuffer(mmap.mmap(-1, rows * row), self._dtype).reshape(rows, self._width))
        start = self._used[-1]
        self._used[-1] += count
        return self._chunks[-1][start : start + count]

    def matrix(self) -> np.ndarray:
        """All rows reserved, as one array; the table itself is empty afterwards."""
        chunks, used = self._chunks, self._used
        self._chunks, self._used = [], []
        if len(chunks) == 1 and chunks[0].flags.owndata:
            return chunks[0][: used[0]]
        matrix = np.empty((sum(used), self._width), self._dtype)
        row = 0
        for count in used:
            matrix[row : row + count] = chunks.pop(0)[:count]
            row += count
        return matrix

    def _add(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        self._used.append(0)


def without_rows(matrix: np.ndarray, rows: list[int]) -> np.ndarray:
    """The matrix less some rows, given in ascending order. The others are moved up in place: no second table."""
    if not rows:
        return matrix
    width = matrix.shape[1]
    numbers = matrix.reshape(-1)  # in one dimension NumPy moves overlapping numbers without a copy of them
    kept = rows[0]
    for row, after in zip(rows, [*rows[1:], len(matrix)], strict=True):
        count = after - row - 1
        numbers[kept * width : (kept + count) * width] = numbers[(row + 1) * width : after * width]
        kept += count
    return matrix[:kept]
