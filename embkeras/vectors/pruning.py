"""share_rows: a smaller table in which words without a row of their own take the row of their nearest neighbour."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embkeras._arrays import BLOCK
from embkeras.errors import ArgumentError
from embkeras.vectors.align import AlignedMatrix
from embkeras.vectors.postprocess import unit_norm

_QUERIES = 1024  # rows compared at once
_ROUNDING = 1e-6  # equal rows may come out of float32 with a cosine so much below 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class SharedRows:
    """Which rows of a table are kept, and which of them each token id takes; the ids stay as they are.

    The table with shared rows is `aligned.values[kept][row_of]`.

    Attributes:
        kept: int64 array of shape (B,): the ids that keep their row, ascending.
        row_of: int32 array of shape (V,): for each id the place of its row in `kept`.
        similarity: float32 array of shape (V,): cosine between an id's own row and the row it takes; 1 for kept ones.
    """

    kept: np.ndarray
    row_of: np.ndarray
    similarity: np.ndarray

    def __post_init__(self):
        for array in (self.kept, self.row_of, self.similarity):
            array.flags.writeable = False

    def __str__(self) -> str:
        size, kept = len(self.row_of), len(self.kept)
        if kept == size:
            return f"all {size:,} rows kept"
        shared = np.delete(self.similarity, self.kept)
        return (
            f"{kept:,} of {size:,} rows kept; the others take a row with a cosine to their own "
            f"of {shared.mean(dtype=np.float64):.3f} on average and {shared.min():.3f} at least"
        )


def share_rows(
    aligned: AlignedMatrix,
    keep: int | None = None,
    *,
    similarity: float | None = None,
    by: str = "counts",
    progress: Progress | None = None,
) -> SharedRows:
    """Keep the rows of the most frequent words, and give each other word the kept row nearest to its own.

    With `keep`, so many rows are left, as spaCy's `prune_vectors` does (https://spacy.io/api/vocab#prune_vectors).
    With `similarity`, only near-duplicates are shared: from the most frequent word down, a word takes the nearest row kept
    before it if their cosine is at least that, and keeps its own otherwise. Special ids keep their rows, and no word
    takes one of them. A row of zeros is nearest to another row of zeros, with a cosine of 1.

    Every word is compared with every row kept (before it). At width 300 on two cores, 20k words against 20k rows take 6 s,
    and so 1M words about 5 minutes; with `similarity`, 40k words that share nothing take 15 s, growing with the square.
    Memory: one copy of the kept rows beside the aligned matrix.

    Args:
        aligned: V rows of width D.
        keep: rows to keep, the special ones counted.
        similarity: smallest cosine, in (0, 1], at which a row is shared.
        by: "counts" takes the order from the vocabulary's counts and, where those are unknown, from the ids; "order"
            always from the ids, the most frequent first.
        progress: called as `progress(done, words)` after each block of words.

    Raises:
        ArgumentError: no AlignedMatrix, not one of `keep` and `similarity`, one outside its range, or another `by`.

    Example:
        >>> from embkeras.text.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["", "cat", "car", "cats"], oov_ids=())
        >>> aligned = AlignedMatrix(np.array([[0, 0], [1, 0], [0, 1], [0.8, 0.6]]), vocabulary)
        >>> shared = share_rows(aligned, keep=3)
        >>> print(shared, shared.row_of.tolist())
        3 of 4 rows kept; the others take ... of 0.800 on average and 0.800 at least [0, 1, 2, 1]
    """
    special = _check(aligned, keep, similarity, by)
    order = _by_frequency(aligned, special, by)
    if similarity is None:
        kept, places, cosines = _most_frequent(aligned.values, order, keep - len(special), progress)  # type: ignore[operator]
    else:
        kept, places, cosines = _greedy(aligned.values, order, similarity - _ROUNDING, progress)
    cosine = np.ones(len(aligned.values), np.float32)
    cosine[order] = np.clip(cosines, -1, 1)
    all_kept = np.sort(np.concatenate([special, order[kept]]))
    row_of = np.zeros(len(aligned.values), np.int32)
    row_of[all_kept] = np.arange(len(all_kept))
    row_of[order] = row_of[order[kept]][places]
    return SharedRows(all_kept, row_of, cosine)


def _check(aligned: AlignedMatrix, keep: int | None, similarity: float | None, by: str) -> np.ndarray:
    """The special ids, if the arguments are what `share_rows` takes."""
    if not isinstance(aligned, AlignedMatrix):
        raise ArgumentError(f"share_rows takes what align() returns. Received: {type(aligned).__name__}.")
    special = np.array(sorted(aligned.vocabulary.special_ids), np.int64)
    if (keep is None) == (similarity is None):
        raise ArgumentError(f"Give keep or similarity, and not both. Received: keep={keep}, similarity={similarity}.")
    if by not in ("counts", "order"):
        raise ArgumentError(f'by must be "counts" or "order". Received: {by!r}.')
    whole = isinstance(keep, int | np.integer) and not isinstance(keep, bool)
    size = len(aligned.values)
    if keep is not None and not (whole and len(special) < keep <= size):
        raise ArgumentError(
            f"keep must be a whole number in ({len(special)}, {size}]: above the special ids, up to all rows. "
            f"Received: {keep!r}."
        )
    number = isinstance(similarity, int | float | np.number) and not isinstance(similarity, bool)
    if similarity is not None and not (number and 0 < similarity <= 1):
        raise ArgumentError(f"similarity must be a cosine in (0, 1]. Received: {similarity!r}.")
    return special


def _by_frequency(aligned: AlignedMatrix, special: np.ndarray, by: str) -> np.ndarray:
    """The ids of the words, the most frequent first; equal counts in the order of the ids."""
    ids = np.delete(np.arange(len(aligned.values)), special)
    counts = aligned.vocabulary.counts
    return ids if by == "order" or counts is None else ids[np.argsort(-counts[ids], kind="stable")]


def _most_frequent(
    values: np.ndarray, order: np.ndarray, keep: int, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places in `order` that are kept; for each place which of those it takes, and their cosine."""
    kept = np.arange(keep)
    places, cosines = np.arange(len(order)), np.ones(len(order), np.float32)
    places[keep:] = 0
    pool = np.empty((keep, values.shape[1] + 1), np.float32)
    for start in range(0, keep, _QUERIES):
        pool[start : start + _QUERIES] = _directions(values, order[:keep][start : start + _QUERIES])
    for start in range(keep, len(order), _QUERIES):
        block = slice(start, start + _QUERIES)
        places[block], cosines[block] = _nearest(pool, _directions(values, order[block]))
        if progress:
            progress(min(start + _QUERIES, len(order)), len(order))
    return kept, places, cosines


def _greedy(
    values: np.ndarray, order: np.ndarray, least: float, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_most_frequent`, but a row is kept where no row kept before it has a cosine of `least` to it."""
    kept: list[int] = []
    places, cosines = np.zeros(len(order), np.int64), np.ones(len(order), np.float32)
    pool = np.empty((len(order), values.shape[1] + 1), np.float32)  # memory is taken as it is filled
    for start in range(0, len(order), _QUERIES):
        block = slice(start, start + _QUERIES)
        rows = _directions(values, order[block])
        before = len(kept)
        place, cosine = _nearest(pool[:before], rows)
        new = _greedy_inside(rows, place, cosine, least, before)
        pool[before : before + len(new)] = rows[new]
        kept += [start + row for row in new]
        places[block], cosines[block] = place, cosine
        if progress:
            progress(start + len(rows), len(order))
    return np.array(kept, np.int64), places, cosines


def _greedy_inside(rows: np.ndarray, place: np.ndarray, cosine: np.ndarray, least: float, before: int) -> list[int]:
    """The rows of one block that are kept; `place` and `cosine` are brought up to date with them."""
    among = rows @ rows.T
    new: list[int] = []
    for row in range(len(rows)):
        if new:
            nearest = int(among[row, new].argmax())
            if among[row, new[nearest]] > cosine[row]:
                place[row], cosine[row] = before + nearest, among[row, new[nearest]]
        if cosine[row] < least:
            place[row], cosine[row] = before + len(new), 1
            new.append(row)
    return new


def _directions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The rows scaled to norm 1, and a last column that is 1 for rows of zeros, so that those have a direction too."""
    rows = np.asarray(values[ids])
    return np.hstack([unit_norm(rows), ~rows.any(axis=1, keepdims=True)]).astype(np.float32, copy=False)


def _nearest(pool: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query the first of the nearest rows of `pool`, and the cosine (-inf where the pool is empty)."""
    places, best = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    step = max(1, BLOCK // _QUERIES)
    for start in range(0, len(pool), step):
        cosine = queries @ pool[start : start + step].T
        nearest = cosine.argmax(axis=1)
        value = cosine[np.arange(len(queries)), nearest]
        better = value > best
        places[better], best[better] = start + nearest[better], value[better]
    return places, best
