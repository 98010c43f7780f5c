"""How the nearest neighbours of rows changed, in two passes over the tables: exact among all rows, and in blocks.

The first pass finds each row's neighbours before. The second one counts how many rows are nearer than these after: that is
the rank of each, which says both whether it is still among the nearest and how far it fell. No copy of a table is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from embkeras._arrays import row_slices, unit_rows
from embkeras._progress import progress

EXACT = 100_000  # up to so many rows, all of them are looked at
_QUERIES = 1024  # rows looked at together
_SAME = 1e-6  # cosines nearer than this are the same: they are sums of float32


@dataclass(frozen=True, eq=False)
class NeighbourDrift:
    """How the nearest neighbours changed. Two results are equal only if they are the same object.

    Attributes:
        table: one row for each row of the table that was looked at, by id: `token`, `moved`, `kept` (share of its `topn`
            nearest neighbours before, by cosine, that are among the `topn` nearest after, 0 to 1) and `rank_shift` (mean
            over these neighbours of the difference between their ranks before and after, in places).
        topn: neighbours looked at, at most.
        moved: rows that moved, of those that could be looked at.
        unmoved: the others. Rows of zeros, such as that of the padding, have no direction, and are neighbours of none.
    """

    table: pd.DataFrame
    topn: int
    moved: int
    unmoved: int

    @property
    def sampled(self) -> bool:
        """Whether not all rows were looked at: the figures then are estimates."""
        return len(self.table) < self.moved + self.unmoved

    def summary(self) -> pd.Series:
        """Rows looked at, all rows, and the mean of `kept` and `rank_shift` over all, moved and unmoved rows.

        In a sample, moved and unmoved rows count by how many there are in the table. NaN where there are no such rows.
        """
        numbers: dict[str, float] = {
            "looked_at": len(self.table),
            "rows": self.moved + self.unmoved,
            "sampled": self.sampled,
        }
        means = self.table.groupby("moved")[["kept", "rank_shift"]].mean()
        sizes = pd.Series({True: self.moved, False: self.unmoved})
        for name in ("kept", "rank_shift"):
            known = means[name].reindex([True, False])
            weights = sizes[known.notna()]
            numbers[name] = float((known.dropna() * weights).sum() / weights.sum()) if weights.sum() else float("nan")
            numbers |= {f"{name}_moved": float(known[True]), f"{name}_unmoved": float(known[False])}
        return pd.Series(numbers, dtype=object)


def neighbour_drift(
    before: np.ndarray,
    after: np.ndarray,
    moved: np.ndarray,
    tokens: np.ndarray,
    *,
    topn: int,
    exact: bool,
    sample: int,
    shown: bool | None = None,
) -> NeighbourDrift:
    """Compare the nearest neighbours of rows before and after.

    Args:
        before: floats of shape (V, D).
        after: floats of shape (V, D).
        moved: bool array of shape (V,).
        tokens: V strings.
        topn: neighbours of each row.
        exact: whether to look at all rows, and not at a sample.
        sample: rows of the sample: half of them moved and half did not, as far as there are so many.
        shown: whether to show a bar; None leaves it to the program.
    """
    usable = _has_direction(before) & _has_direction(after)
    groups = [np.flatnonzero(usable & moved), np.flatnonzero(usable & ~moved)]
    rows = np.sort(np.concatenate(groups if exact else _sample(groups, sample)))
    topn = min(topn, int(usable.sum()) - 1)
    kept, shift = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    blocks = [slice(start, start + _QUERIES) for start in range(0, len(rows), _QUERIES)] if topn > 0 else []
    with progress("neighbours before and after", shown) as report:
        for number, part in enumerate(blocks):
            near, first = _nearest(before, rows[part], usable, topn)
            report(2 * number + 1, 2 * len(blocks))
            then = _ranks(after, rows[part], near, usable)
            report(2 * number + 2, 2 * len(blocks))
            kept[part], shift[part] = (then <= topn).mean(axis=1), np.abs(then - first).mean(axis=1)
    index = pd.Index(rows, name="id")
    words = pd.Series(tokens[rows], index, dtype=object)  # Arrow's strings can't hold half a surrogate pair
    table = pd.DataFrame({"token": words, "moved": moved[rows], "kept": kept, "rank_shift": shift}, index)
    return NeighbourDrift(table, topn, *map(len, groups))


def _has_direction(table: np.ndarray) -> np.ndarray:
    """Bool array of shape (V,): rows that are not zeros."""
    return np.concatenate([np.zeros(0, bool), *((table[part] != 0).any(axis=1) for part in row_slices(table.shape))])


def _sample(groups: list[np.ndarray], size: int) -> list[np.ndarray]:
    """Some of both groups, always the same; one that is small leaves its places to the other."""
    rng, least = np.random.default_rng(0), min(map(len, groups))
    share = [max(size // 2, size - least) if len(group) > least else size // 2 for group in groups]
    return [
        rng.choice(group, min(count, len(group)), replace=False) for group, count in zip(groups, share, strict=True)
    ]


def _similarities(table: np.ndarray, rows: np.ndarray, usable: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The cosines of some rows with blocks of all rows; -2 with itself, and with rows without a direction."""
    wanted = unit_rows(table[rows])
    for part in row_slices((len(table), max(table.shape[1], len(rows)))):
        similarity = wanted @ unit_rows(table[part]).T
        similarity[:, ~usable[part]] = -2
        own = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        similarity[own, rows[own] - part.start] = -2
        yield part, similarity


def _nearest(table: np.ndarray, rows: np.ndarray, usable: np.ndarray, topn: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest neighbours of some rows, and their ranks from 1, both of shape (rows, topn); equally near ones share one."""
    best, near = np.full((len(rows), topn), -2, np.float32), np.zeros((len(rows), topn), np.int64)
    for part, similarity in _similarities(table, rows, usable):
        least = best[:, -1:]
        if part.start == 0 and similarity.shape[1] > topn:  # later, few are nearer than those that are known
            least = np.nextafter(np.partition(similarity, -topn, axis=1)[:, [-topn]], np.float32(-3))
        query, column = np.nonzero(similarity > least)
        if not len(query):
            continue
        place = np.arange(len(query)) - np.searchsorted(query, query)
        more = np.full((len(rows), place.max() + 1), -2, np.float32)
        more_rows = np.zeros(more.shape, np.int64)
        more[query, place], more_rows[query, place] = similarity[query, column], part.start + column
        both, both_rows = np.hstack([best, more]), np.hstack([near, more_rows])
        order = np.argsort(-both, axis=1, kind="stable")[:, :topn]
        best, near = np.take_along_axis(both, order, 1), np.take_along_axis(both_rows, order, 1)
    return near, 1 + (best[:, None, :] > best[:, :, None] + _SAME).sum(axis=2)


def _ranks(table: np.ndarray, rows: np.ndarray, near: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """For each row, the ranks of the rows `near` among its neighbours, from 1, of shape (rows, topn)."""
    own = unit_rows(table[rows])
    limits = np.stack([np.einsum("ij,ij->i", own, unit_rows(table[column])) for column in near.T], axis=1) + _SAME
    ranks = np.ones(near.shape, np.int64)
    for _, similarity in _similarities(table, rows, usable):
        for place in range(near.shape[1]):
            ranks[:, place] += (similarity > limits[:, [place]]).sum(axis=1)
    return ranks
