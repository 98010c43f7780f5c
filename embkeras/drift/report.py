"""drift_report: how far each row of a table moved, in which company it stood before and stands after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from embkeras._arrays import BLOCK, check_matrix, first_nonfinite_row, nearest_rows, unit_rows
from embkeras.errors import ArgumentError, UnknownWordError

_PAIR_COLUMNS = ("seen", "unseen", "similarity_before", "similarity_after")
_SYNONYMS = 5  # how many nearest tokens count as near-synonyms


@dataclass(frozen=True)
class DriftReport:
    """What `drift_report` found.

    Attributes:
        table: one row a token id, with `token`, `count` (where known), `cosine_distance` (1 - cosine, 0 to 2, between
            the row before and after; 0 where it did not move, 1 where one of the two is zero), `l2` (Euclidean length
            of the step) and `relative_l2` (`l2` over the L2 norm before; NaN where that is zero).
        before: the table before, shape (V, D).
        after: the table after, shape (V, D).
    """

    table: pd.DataFrame
    before: np.ndarray
    after: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        """Bool array of shape (V,): rows that differ in any bit that matters (`l2` > 0)."""
        return self.table["l2"].to_numpy() > 0

    @property
    def seen(self) -> np.ndarray:
        """Bool array of shape (V,): tokens that occurred in training; without counts, the rows that moved."""
        return self.table["count"].to_numpy() > 0 if "count" in self.table else self.moved

    def summary(self) -> pd.Series:
        """Rows, rows moved, and mean, median and largest drift of the rows that moved."""
        moved = self.table[self.moved]
        return pd.Series(
            {
                "rows": len(self.table),
                "moved": len(moved),
                "mean_cosine_distance": moved["cosine_distance"].mean() if len(moved) else 0.0,
                "median_cosine_distance": moved["cosine_distance"].median() if len(moved) else 0.0,
                "max_cosine_distance": moved["cosine_distance"].max() if len(moved) else 0.0,
                "mean_relative_l2": moved["relative_l2"].mean() if len(moved) else 0.0,
            },
            dtype=object,
        )

    def most_moved(self, topn: int = 10, *, min_count: int = 1) -> pd.DataFrame:
        """The rows of `table` with the largest cosine distance, tokens seen at least `min_count` times."""
        table = self.table[self.moved]
        if "count" in table:
            table = table[table["count"] >= min_count]
        return table.nlargest(topn, "cosine_distance")

    def neighbours(self, token: str, topn: int = 5) -> tuple[list[str], list[str]]:
        """The nearest tokens of `token` by cosine, before and after.

        Raises:
            UnknownWordError: `token` is not in the table.
        """
        ids = np.flatnonzero((self.table["token"] == token).to_numpy())
        if not len(ids):
            raise UnknownWordError(f"No row for the token {token!r} among {len(self.table):,}.")
        tokens = self.table["token"].tolist()
        found = []
        for matrix in (self.before, self.after):
            rows, _ = nearest_rows(matrix, matrix[ids[:1]], topn + 2)
            found.append([tokens[row] for row in rows[0] if row != ids[0] and tokens[row]][:topn])
        return found[0], found[1]

    def diverged_synonyms(self, topn: int = 10, *, min_similarity: float = 0.7) -> pd.DataFrame:
        """Near-synonyms of which training saw one and not the other, and which parted; tokens of letters only.

        Fine-tuning moves the words of the training text and leaves their synonyms behind, so that a test text with
        the unseen one is misread: Yoav Goldberg's example is "TV" and "television" (A Primer on Neural Network
        Models for Natural Language Processing, 2016, section 5.3). A pair is a seen word that moved and, of its five
        nearest tokens before, the nearest that was not seen.

        Args:
            topn: pairs wanted, those that parted furthest first.
            min_similarity: cosine similarity before, below which two words are no near-synonyms.

        Returns:
            columns `seen`, `unseen`, `similarity_before`, `similarity_after` (cosine).
        """
        words = np.array([token.isalpha() for token in self.table["token"]], bool)
        unseen = words & ~self.seen & ~self.moved
        seen = np.flatnonzero(words & self.seen & self.moved)
        step = max(1, BLOCK // len(self.before))
        pairs = [self._nearest_unseen(seen[start : start + step], unseen) for start in range(0, len(seen), step)]
        table = pd.concat(pairs) if pairs else self._nearest_unseen(seen, unseen)
        table = table[
            (table["similarity_before"] >= min_similarity) & (table["similarity_after"] < table["similarity_before"])
        ]
        order = (table["similarity_before"] - table["similarity_after"]).argsort()[::-1]
        return table.iloc[order].head(topn).reset_index(drop=True)

    def _nearest_unseen(self, seen: np.ndarray, unseen: np.ndarray) -> pd.DataFrame:
        """For each seen row its nearest unseen one, if it is among the nearest `_SYNONYMS` of all."""
        near, similarity = nearest_rows(self.before, self.before[seen], _SYNONYMS + 1)
        candidate = unseen[near]
        first = candidate.argmax(axis=1)
        has = candidate.any(axis=1)
        one, other = seen[has], near[np.arange(len(seen)), first][has]
        before = similarity[np.arange(len(seen)), first][has]
        after = np.einsum("ij,ij->i", unit_rows(self.after[one]), unit_rows(self.after[other]))
        tokens = self.table["token"].to_numpy()
        return pd.DataFrame(dict(zip(_PAIR_COLUMNS, (tokens[one], tokens[other], before, after), strict=True)))


def drift_report(before: Any, after: Any, tokens: Sequence[str], *, counts: Any = None) -> DriftReport:
    """Compare a table before and after training, row by row.

    Args:
        before: floats of shape (V, D), such as `aligned.values`.
        after: floats of shape (V, D), such as `embedding.matrix()`.
        tokens: V tokens, row by row.
        counts: occurrences of each token in training, int of shape (V,).

    Raises:
        ArgumentError: shapes that do not agree, or NaN or infinity in a table.

    Example:
        >>> import numpy as np
        >>> before = np.eye(3, dtype="float32")
        >>> after = before.copy(); after[2] = [1, 0, 1]
        >>> drift_report(before, after, ["a", "b", "c"]).most_moved()["token"].tolist()
        ['c']
    """
    before = check_matrix(before, "before")
    after = check_matrix(after, "after", rows=len(before))
    if before.shape != after.shape:
        raise ArgumentError(f"before and after must have one shape. Received: {before.shape} and {after.shape}.")
    if isinstance(tokens, str) or not isinstance(tokens, Sequence | np.ndarray):
        raise ArgumentError(
            f"tokens must be a sequence of tokens, such as vocabulary.tokens. Received: {type(tokens).__name__}."
        )
    if len(tokens) != len(before):
        raise ArgumentError(f"tokens must name {len(before)} rows. Received: {len(tokens)}.")
    for name, table in (("before", before), ("after", after)):
        bad = first_nonfinite_row(table)
        if bad is not None:
            raise ArgumentError(
                f"{name} must be finite. Received NaN or infinity in row {bad} (token {tokens[bad]!r})."
            )
    columns: dict[str, Any] = {"token": list(tokens)}
    if counts is not None:
        counts = np.asarray(counts)
        if counts.shape != (len(before),):
            raise ArgumentError(f"counts must have the shape ({len(before)},). Received: {counts.shape}.")
        columns["count"] = counts
    table = pd.concat([pd.DataFrame(columns), row_drift(before, after)], axis=1)
    return DriftReport(table.rename_axis("id"), before, after)


def row_drift(before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """How far each row moved; works block by block in float64, so both tables may be memory-mapped.

    Args:
        before: floats of shape (V, D).
        after: floats of shape (V, D).

    Returns:
        V rows with the columns `cosine_distance`, `l2` and `relative_l2`, as in `DriftReport.table`.
    """
    distance, length, relative = (np.empty(len(before)) for _ in range(3))
    step = max(1, BLOCK // before.shape[1])
    for start in range(0, len(before), step):
        rows = slice(start, start + step)
        a, b = np.asarray(before[rows], np.float64), np.asarray(after[rows], np.float64)
        norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        length[rows] = np.linalg.norm(b - a, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.einsum("ij,ij->i", a, b) / (norm_a * norm_b)
            relative[rows] = length[rows] / norm_a
        nothing = (norm_a == 0) | (norm_b == 0)  # a zero row has no direction
        distance[rows] = np.where(length[rows] == 0, 0.0, np.where(nothing, 1.0, 1 - cosine))
    relative = np.where(np.isfinite(relative), relative, np.nan)
    return pd.DataFrame({"cosine_distance": np.clip(distance, 0, 2), "l2": length, "relative_l2": relative})
