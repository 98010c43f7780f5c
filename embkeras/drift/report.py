"""drift_report: how far each row of a table moved, and its neighbours before and after."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from embkeras._arrays import check_counts, check_finite, check_matrix, nearest_rows, row_slices, unit_rows
from embkeras._checks import flag, number, shown, strings, whole_number
from embkeras._progress import progress
from embkeras.drift.geometry import linear_cka, step_components
from embkeras.drift.neighbours import EXACT, NeighbourDrift, neighbour_drift
from embkeras.drift.word_pairs import WordSimilarity, read_word_pairs, word_similarity
from embkeras.errors import ArgumentError, UnknownWordError
from embkeras.vectors.io.projector import export_states

_PAIR_COLUMNS = ("seen", "unseen", "similarity_before", "similarity_after")
_SYNONYMS = 5  # how many nearest tokens count as near-synonyms
_TOGETHER = 4096  # tokens whose neighbours are searched together


@dataclass(frozen=True, eq=False)
class DriftReport:
    """What `drift_report` measured. Two reports are equal only if they are the same object.

    Attributes:
        table: one row per token id, with `token`, `count` (where known), `cosine_distance` (1 - cosine, 0 to 2, between
            the row before and after; 0 where it did not move, 1 where one of the two is zero), `l2` (Euclidean length
            of the step), `relative_l2` and `norm_ratio` (`l2`, and the L2 norm after, over the L2 norm before; NaN where
            that is zero).
        before: the table before, shape (V, D).
        after: the table after, shape (V, D).
    """

    table: pd.DataFrame
    before: np.ndarray
    after: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        """Bool array of shape (V,): rows with any difference (`l2` > 0)."""
        return self.table["l2"].to_numpy() > 0

    @property
    def seen(self) -> np.ndarray:
        """Bool array of shape (V,): tokens that occurred in training; without counts, the rows that moved."""
        return self.table["count"].to_numpy() > 0 if "count" in self.table else self.moved

    @cached_property
    def linear_cka(self) -> float:
        """Linear centered kernel alignment of the two tables, from 0 to 1: 1 if they differ by a rotation and a factor.

        NaN if all rows of a table are equal. 400,000 rows of 300 take seconds.
        """
        return linear_cka(self.before, self.after) if self.moved.any() else 1.0

    @cached_property
    def components(self) -> np.ndarray:
        """The share of the variance of the steps in each of their principal components, the largest first; shape (D,).

        A first share near 1 says that the rows that moved differ in how far they moved along one direction, the axis of
        the task. Zeros if fewer than two rows moved, or all by the same step.
        """
        return step_components(self.before, self.after, self.moved)

    def summary(self) -> pd.Series:
        """Rows, rows moved; mean, median and largest drift of the rows that moved (0 where none moved, a norm ratio of 1).

        And of the tables as a whole `linear_cka`, and `first_component`: the first of `components`.
        """
        moved = self.table[self.moved]
        distance = moved["cosine_distance"]
        numbers = {
            "mean_cosine_distance": distance.mean(),
            "median_cosine_distance": distance.median(),
            "max_cosine_distance": distance.max(),
            "mean_relative_l2": moved["relative_l2"].mean(),
            "mean_norm_ratio": moved["norm_ratio"].mean(),
        }
        numbers = numbers if len(moved) else dict.fromkeys(numbers, 0.0) | {"mean_norm_ratio": 1.0}
        numbers |= {"linear_cka": self.linear_cka, "first_component": float(self.components[0])}
        return pd.Series({"rows": len(self.table), "moved": len(moved)} | numbers, dtype=object)

    def most_moved(self, topn: int = 10, *, min_count: int = 1) -> pd.DataFrame:
        """The rows of `table` with the largest cosine distance.

        Args:
            topn: the largest number of rows to return.
            min_count: occurrences in training that a token needs, where counts are known.

        Returns:
            Rows of `table` that moved, `topn` at most, the one that moved furthest first.

        Raises:
            ArgumentError: `topn` is not an integer >= 1, or `min_count` not one >= 0.
        """
        topn, min_count = whole_number(topn, "topn", least=1), whole_number(min_count, "min_count", least=0)
        table = self.table[self.moved]
        if "count" in table:
            table = table[table["count"] >= min_count]
        return table.nlargest(topn, "cosine_distance")

    def neighbours(self, token: str, topn: int = 5) -> tuple[list[str], list[str]]:
        """The nearest tokens of `token` by cosine, before and after.

        Args:
            token: the token, as the table has it.
            topn: the largest number of neighbours to return.

        Returns:
            Two lists of up to `topn` tokens, the nearest first: before, and after. Neither has `token` itself.

        Raises:
            UnknownWordError: `token` is not in the table.
            ArgumentError: `topn` is not an integer >= 1.
        """
        topn = whole_number(topn, "topn", least=1)
        tokens = self.table["token"].tolist()
        if not isinstance(token, str) or token not in tokens:
            raise UnknownWordError(f"No row for the token {shown(token)} among {len(tokens):,}.")
        own = tokens.index(token)
        found = []
        for matrix in (self.before, self.after):
            rows, _ = nearest_rows(matrix, matrix[own : own + 1], topn + 2)
            found.append([tokens[row] for row in rows[0] if row != own and tokens[row]][:topn])
        return found[0], found[1]

    def neighbour_drift(
        self, topn: int = 10, *, exact: bool | None = None, sample: int = 2000, progress: bool | None = None
    ) -> NeighbourDrift:
        """How many of each row's nearest neighbours before are still its nearest after, and how far in rank they fell.

        Neighbours are always searched among all rows. By default each row of a table of up to 100,000 is looked at. Of a
        larger one it is a sample, half of it rows that moved, and the result's `sampled` says so. All of 400,000 rows of
        300 take an hour or so, and 200 MB beside the two tables.

        Args:
            topn: neighbours of each row.
            exact: True looks at all rows, False at a sample, whatever the size of the table.
            sample: rows of the sample.
            progress: whether to show a bar; by default only where the program asks for it.

        Returns:
            Its `table` has a row for each row looked at: `kept`, a share from 0 to 1, and `rank_shift`, in places.

        Raises:
            ArgumentError: `topn` or `sample` is not an integer >= 1, or a flag that is not one.

        Examples:
            >>> before = np.array([[1.0, 0], [0.9, 0.1], [0, 1]])
            >>> after = np.array([[1.0, 0], [0.1, 0.9], [0, 1]])
            >>> drift_report(before, after, ["a", "b", "c"]).neighbour_drift(1).table["kept"].tolist()
            [1.0, 0.0, 1.0]
        """
        topn, sample = whole_number(topn, "topn", least=1), whole_number(sample, "sample", least=1)
        exact = len(self.before) <= EXACT if exact is None else flag(exact, "exact")
        bar = None if progress is None else flag(progress, "progress")
        tokens = self.table["token"].to_numpy()
        return neighbour_drift(
            self.before, self.after, self.moved, tokens, topn=topn, exact=exact, sample=sample, shown=bar
        )

    def word_similarity(self, path: str | os.PathLike[str], *, encoding: str = "utf-8") -> WordSimilarity:
        """How well cosines agree with people's scores of pairs of words, before and after.

        General similarity usually falls when vectors are tuned to a task.

        Args:
            path: a file of two words and a score a line, such as WordSim-353 or SimLex-999, between tabs, semicolons,
                commas or spaces; lines that start with "#", and column names, are skipped.
            encoding: its text encoding.

        Returns:
            Spearman's correlations before and after, and how many of the pairs have rows: small tasks know few of them.

        Raises:
            DataError: the file can't be read, or has a line that is no pair.
            ArgumentError: fewer than two pairs have rows, or an argument of the wrong type.
        """
        row_of = {token: row for row, token in reversed(list(enumerate(self.table["token"])))}
        return word_similarity(self.before, self.after, row_of, read_word_pairs(path, encoding=encoding))

    def export_projector(self, folder: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
        """Write both tables for TensorBoard's projector, which shows one or the other with the folder as its logdir.

        Points can be coloured by how far they moved. The folder gets before.tsv, after.tsv, metadata.tsv (token, count
        where known, cosine distance) and projector_config.pbtxt; https://projector.tensorflow.org shows a table with
        the metadata too.

        Args:
            folder: the folder; other files in it stay as they are.
            overwrite: whether to replace the files if they exist.

        Returns:
            The folder.

        Raises:
            ArgumentError: `folder` is not a path, or `overwrite` not True or False.
            VectorFileError: a token with a tab or an end of line, which metadata.tsv can't hold.
            OutputError: the folder can't be written, or a file exists and `overwrite` is false.
        """
        columns = {
            name: self.table[name].tolist() for name in ("token", "count", "cosine_distance") if name in self.table
        }
        states = {"before": self.before, "after": self.after}
        return export_states(folder, states, columns, overwrite=overwrite)

    def diverged_synonyms(self, topn: int = 10, *, min_similarity: float = 0.7) -> pd.DataFrame:
        """Near-synonyms that diverged because training saw only one of the two; tokens of letters only.

        Fine-tuning moves the words of the training text and leaves their synonyms behind, so that a test text with
        the unseen one is misread: Yoav Goldberg's example is "TV" and "television" (A Primer on Neural Network
        Models for Natural Language Processing, 2016, section 5.3). A pair is a seen word that moved and, of its five
        nearest tokens before, the nearest that was not seen.

        Args:
            topn: the largest number of pairs to return, the most diverged first.
            min_similarity: cosine similarity before training from which on two words count as near-synonyms.

        Returns:
            columns `seen`, `unseen`, `similarity_before`, `similarity_after` (cosine).

        Raises:
            ArgumentError: `topn` is not an integer >= 1, or `min_similarity` not in [-1, 1].
        """
        topn = whole_number(topn, "topn", least=1)
        min_similarity = number(min_similarity, "min_similarity", least=-1, most=1)
        words = np.array([token.isalpha() for token in self.table["token"]], bool)
        unseen = words & ~self.seen & ~self.moved
        seen = np.flatnonzero(words & self.seen & self.moved & unseen.any())
        # The nearest unseen token of each seen one, if it is among the nearest few of all.
        parts = [seen[start : start + _TOGETHER] for start in range(0, max(len(seen), 1), _TOGETHER)]
        found = []
        with progress("near-synonyms") as report:
            for place, part in enumerate(parts, start=1):
                found.append(nearest_rows(self.before, self.before[part], _SYNONYMS + 1))
                report(place, len(parts))
        near, similarity = (np.concatenate(each) for each in zip(*found, strict=True))
        candidate = unseen[near]
        has, first = candidate.any(axis=1), candidate.argmax(axis=1)
        one, other = seen[has], near[np.arange(len(seen)), first][has]
        before = similarity[np.arange(len(seen)), first][has]
        after = np.einsum("ij,ij->i", unit_rows(self.after[one]), unit_rows(self.after[other]))
        tokens = self.table["token"].to_numpy()
        table = pd.DataFrame(dict(zip(_PAIR_COLUMNS, (tokens[one], tokens[other], before, after), strict=True)))
        loss = table["similarity_before"] - table["similarity_after"]
        table = table.assign(loss=loss)[(table["similarity_before"] >= min_similarity) & (loss > 0)]
        table = table.sort_values("loss", ascending=False, kind="stable").drop(columns="loss")
        return table.head(topn).reset_index(drop=True)


def drift_report(before: Any, after: Any, tokens: Iterable[str], *, counts: Any = None) -> DriftReport:
    """Compare a table before and after training, row by row.

    Args:
        before: floats of shape (V, D), such as `aligned.values`.
        after: floats of shape (V, D), such as `embedding.matrix()`.
        tokens: the V tokens, in the order of the rows, such as `vocabulary.tokens`.
        counts: occurrences of each token in training, V numbers >= 0.

    Returns:
        Its `table` has a row for each token; methods and properties sum it up.

    Raises:
        ArgumentError: shapes that don't match, NaN or infinity in a table, tokens that are not strings, or invalid
            counts.

    Examples:
        >>> import numpy as np
        >>> before = np.eye(3, dtype="float32")
        >>> after = before.copy(); after[2] = [1, 0, 1]
        >>> drift_report(before, after, ["a", "b", "c"]).most_moved()["token"].tolist()
        ['c']
    """
    before = check_matrix(before, "before")
    after = check_matrix(after, "after", rows=len(before))
    if before.shape != after.shape:
        raise ArgumentError(f"before and after must have the same shape. Received: {before.shape} and {after.shape}.")
    tokens = strings(tokens, "tokens")
    if len(tokens) != len(before):
        raise ArgumentError(f"tokens must name {len(before)} rows. Received: {len(tokens)}.")
    check_finite(before, "before", tokens=tokens)
    check_finite(after, "after", tokens=tokens)
    columns: dict[str, Any] = {
        "token": pd.Series(tokens, dtype=object)
    }  # Arrow's strings can't hold half a surrogate pair
    if counts is not None:
        columns["count"] = check_counts(counts, len(before))
    table = pd.concat([pd.DataFrame(columns), row_drift(before, after)], axis=1)
    return DriftReport(table.rename_axis("id"), before, after)


def row_drift(before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """How far each row moved. Works block by block in float64, so both tables may be memory-mapped.

    Args:
        before: floats of shape (V, D).
        after: floats of shape (V, D).

    Returns:
        V rows with the columns `cosine_distance`, `l2`, `relative_l2` and `norm_ratio`, as in `DriftReport.table`.
    """
    distance, length, relative, ratio = (np.empty(len(before)) for _ in range(4))
    for rows in row_slices(before.shape):
        a, b = np.asarray(before[rows], np.float64), np.asarray(after[rows], np.float64)
        norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        length[rows] = np.linalg.norm(b - a, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.einsum("ij,ij->i", a, b) / (norm_a * norm_b)
            relative[rows], ratio[rows] = length[rows] / norm_a, norm_b / norm_a
        undirected = (norm_a == 0) | (norm_b == 0)
        distance[rows] = np.where(length[rows] == 0, 0.0, np.where(undirected, 1.0, 1 - cosine))
    relative, ratio = (np.where(np.isfinite(each), each, np.nan) for each in (relative, ratio))
    columns = {"cosine_distance": np.clip(distance, 0, 2), "l2": length, "relative_l2": relative, "norm_ratio": ratio}
    return pd.DataFrame(columns)
