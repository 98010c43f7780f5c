"""AlignedMatrix: one row per token id of a vocabulary, and which rows came from the vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from embkeras._arrays import check_finite, check_mask, check_matrix
from embkeras._checks import shown
from embkeras._mapped import FilePart, file_part
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.origins import EXACT, Origins
from embkeras.vectors.postprocess import standard_deviation, transform


@dataclass(frozen=True)
class Coverage:
    """The share of a vocabulary that has vectors; padding and OOV ids don't count.

    Attributes:
        types: share of the distinct tokens, 0 to 1; where counts are known, of those that occurred.
        tokens: share of the running text, 0 to 1 (None without counts); tokens counted as "[UNK]" are not covered.
    """

    types: float
    tokens: float | None

    def __str__(self) -> str:
        text = f"{self.types:.1%} of the vocabulary"
        return text if self.tokens is None else f"{text}, {self.tokens:.1%} of the running text"


@dataclass(frozen=True, eq=False)
class AlignedMatrix:
    """A matrix whose row i belongs to token id i of a vocabulary. Two are equal only if they are the same object.

    `align` returns one; you can also make one from your own matrix, if its rows are in the vocabulary's order. One over a
    file, as `align(..., out=)` returns it, is pickled as path, shape and dtype, and maps the file where it arrives.

    Args:
        values: finite floats of shape (V, D); stored as read-only float32, with zeros in the padding row.
        vocabulary: V tokens.
        found: bool array of shape (V,): rows that came from the vectors; by default all but the special ones.
        how: for each id (spelling found, how): "exact", the fallbacks, "subwords", "oov" or "special".

    Raises:
        AlignmentError: not a Vocabulary, a different number of rows than tokens, NaN or infinity in the matrix, or a
            `found` or `how` of another shape or type.
    """

    values: np.ndarray
    vocabulary: Vocabulary
    found: Any = None
    how: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.vocabulary, Vocabulary):
            raise AlignmentError(
                f"An aligned matrix needs a Vocabulary; from a plain list of words, make it with "
                f"Vocabulary(words, padding_id=None, oov_ids=()). Received: {shown(self.vocabulary)}."
            )
        found = np.ones(len(self.vocabulary), bool)
        found[sorted(self.vocabulary.special_ids)] = False
        if self.found is not None:
            found = check_mask(self.found, "found", len(found), error=AlignmentError).copy()
        found.flags.writeable = False
        object.__setattr__(self, "values", self._checked_values())
        object.__setattr__(self, "found", found)
        object.__setattr__(self, "how", self._checked_how())

    def _checked_values(self) -> np.ndarray:
        try:
            values = check_matrix(self.values, "An aligned matrix", rows=len(self.vocabulary))
        except ArgumentError as error:
            raise AlignmentError(f"Matrix and vocabulary don't match: {error}") from None
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinity, and is refused
            # A caller's own array is copied, so that it cannot change the baseline of drift afterwards.
            values = values.astype(np.float32, copy=bool(values.flags.writeable)).view()
        check_finite(values, "An aligned matrix", tokens=self.vocabulary.tokens, error=AlignmentError)
        padding = self.vocabulary.padding_id
        if padding is not None and values[padding].any():  # zeros in every layer, so zeros in the baseline
            values = values.copy()
            values[padding] = 0
        values.flags.writeable = False
        return values

    def _checked_how(self) -> Sequence[tuple[str, str]]:
        tokens = self.vocabulary.tokens
        if self.how is None:
            origins = Origins(self.vocabulary)
            origins.mark(self.found, EXACT)
            return origins
        if isinstance(self.how, Origins) and len(self.how) == len(tokens):
            return self.how
        if not isinstance(self.how, list | tuple) or len(self.how) != len(tokens):
            raise AlignmentError(f"how must be {len(tokens)} pairs (spelling, how). Received: {shown(self.how)}.")
        for id_, pair in enumerate(self.how):
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise AlignmentError(f"how must contain pairs (spelling, how). Received: {shown(pair)} for id {id_}.")
        return tuple(self.how)

    def __getstate__(self) -> dict[str, Any]:
        """All of it, with the part of a file in place of a matrix that is mapped from one."""
        return {**self.__dict__, "values": file_part(self.values) or self.values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values = state["values"]
        arrays = {"values": values.open() if isinstance(values, FilePart) else values, "found": state["found"]}
        for array in arrays.values():
            array.flags.writeable = False
        self.__dict__.update(state | arrays)

    @property
    def output_dim(self) -> int:
        """Width of a row."""
        return self.values.shape[1]

    @cached_property
    def coverage(self) -> Coverage:
        """Share of the vocabulary, and of the running text, that has vectors."""
        words = np.ones(len(self.found), bool)
        words[sorted(self.vocabulary.special_ids)] = False
        counts = self.vocabulary.counts
        running = None
        if counts is not None and counts.sum():
            words &= counts > 0
            running = float(counts[self.found].sum() / counts.sum())
        return Coverage(float(self.found[words].mean()) if words.any() else 0.0, running)

    @cached_property
    def std(self) -> float:
        """Standard deviation of the entries of the rows found: what `postprocess.rescale` sets. NaN if none was found."""
        return standard_deviation(self.values, rows=self.found)

    def report(self) -> pd.DataFrame:
        """One row per token id: `token`, `count` (where known), `how`, and the `spelling` found.

        `how` is "exact", the fallbacks that found it, "subwords" (composed from n-grams), "oov" or "special".
        `report().attrs["std"]` is the standard deviation of the entries of the rows found.
        """
        spelling, how = zip(*self.how, strict=True)
        words = (pd.Series(each, dtype=object) for each in (self.vocabulary.tokens, spelling))
        token, found = words  # Arrow's strings can't hold half a surrogate pair
        table = pd.DataFrame({"token": token, "how": how, "spelling": found})
        if self.vocabulary.counts is not None:
            table.insert(1, "count", self.vocabulary.counts)
        table = table.rename_axis("id")
        table.attrs["std"] = self.std
        return table

    def transformed(self, *functions: Callable[[np.ndarray], np.ndarray]) -> "AlignedMatrix":
        """The same vocabulary with a matrix to which functions were applied, one after the other.

        Each function receives all V rows, the padding row as zeros; afterwards it is zeros again. A function with an
        argument `rows`, like those of `embkeras.vectors.postprocess`, receives `found` for it unless you set it: means
        and components are then those of the vectors found, and rows drawn for other tokens do not shift them. `found`
        and `how` stay as they are. The table is copied once more at the end.

        Args:
            *functions: from a float32 array (V, D) to one of shape (V, any width); set arguments with
                `functools.partial`.

        Returns:
            A new object with float32 values of shape (V, width); this one stays as it is.

        Raises:
            ArgumentError: something that is not a function, needs more arguments than the matrix, or returns something
                other than floats of V rows; or what the function raises.
            AlignmentError: a result with NaN or infinity.

        Examples:
            >>> from embkeras.vectors.postprocess import centre
            >>> aligned = AlignedMatrix(np.array([[0.0], [1.0], [2.0]]), Vocabulary(["", "cat", "dog"], oov_ids=()))
            >>> aligned.transformed(centre).values.tolist()
            [[0.0], [-0.5], [0.5]]
        """
        values = transform(self.values, functions, rows=self.found)
        if self.vocabulary.padding_id is not None:  # already here: otherwise the class would have to copy the table
            values[self.vocabulary.padding_id] = 0
        values.flags.writeable = False
        return AlignedMatrix(values, self.vocabulary, self.found, self.how)
