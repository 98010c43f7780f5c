"""Rows of ids in batches: texts of similar length together, padded to the longest of them."""

from collections.abc import Iterator, Sequence

import numpy as np

_FEW = 4  # tokens


def in_batches(rows: Sequence[np.ndarray], size: int, *, mixed: bool, alike: bool = False) -> Iterator[np.ndarray]:
    """Positions of up to `size` rows that are sent together, shortest first, so that little padding is sent.

    Rows of different lengths go together only if `mixed`: without a padding id they can't. With `alike`, their lengths
    don't differ much, which takes a few batches more: where a request costs little, padding costs more.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    order = np.argsort(lengths, kind="stable")
    cuts = np.array([], np.int64) if mixed else np.flatnonzero(np.diff(lengths[order])) + 1
    if mixed and alike:
        cuts = np.searchsorted(lengths[order], _limits(lengths.max(initial=0)), side="right")
    for group in np.split(order, cuts):
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _limits(longest: int) -> list[int]:
    """The longest length of each group: a quarter above the shortest, and a few tokens."""
    limits = [_FEW]
    while limits[-1] < longest:
        limits.append(limits[-1] + limits[-1] // 4 + _FEW)
    return limits


def padded(rows: Sequence[np.ndarray], padding_id: int | None, *, leading: bool) -> np.ndarray:
    """One array of rows, with padding behind the short ones and, if `leading`, one padding id in front of each.

    With a padding id there is at least one column: JSON has no array of shape (n, 0).
    """
    if padding_id is None:
        return np.stack(rows)
    width = max([1, *(len(row) + leading for row in rows)])
    ids = np.full((len(rows), width), padding_id, np.int64)
    for out, row in zip(ids, rows, strict=True):
        out[leading : leading + len(row)] = row
    return ids
