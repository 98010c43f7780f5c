"""align: one row a token id, taken from the vectors or filled in, with a report of which is which."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from embkeras._arrays import BLOCK, check_matrix, first_nonfinite_row
from embkeras._files import written_beside
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.fallbacks import check_fallbacks, spellings
from embkeras.vectors.oov import Oov, check_oov, fill_oov
from embkeras.vectors.postprocess import transform
from embkeras.vectors.store import KeyedVectors

_TOKENS_AT_ONCE = 20_000  # whose spellings are held at a time


@dataclass(frozen=True)
class Coverage:
    """Which share of a vocabulary has a vector of its own; padding and OOV ids are left out.

    Attributes:
        types: share of the distinct tokens, 0 to 1; where counts are known, of those that occurred.
        tokens: share of the running text, 0 to 1 (None without counts); tokens that only "[UNK]" stands for count
            as not covered.
    """

    types: float
    tokens: float | None

    def __str__(self) -> str:
        text = f"{self.types:.1%} of the vocabulary"
        return text if self.tokens is None else f"{text}, {self.tokens:.1%} of the running text"


@dataclass(frozen=True)
class AlignedMatrix:
    """A matrix whose row i belongs to token id i of a vocabulary.

    `align` makes it; a matrix of your own that is in the vocabulary's order can be given directly.

    Args:
        values: floats of shape (V, D), finite; read-only afterwards, and float32. The padding row becomes zeros.
        vocabulary: V tokens.
        found: bool array of shape (V,): rows that came from the vectors (all but the special ones by default).
        how: for each id (spelling found, how): "exact", the fallbacks, "subwords", "oov" or "special".

    Raises:
        AlignmentError: no Vocabulary, another number of rows than tokens, NaN or infinity in the matrix, or a `found`
            that is no bool array of shape (V,).
    """

    values: np.ndarray
    vocabulary: Vocabulary
    found: np.ndarray = None  # type: ignore[assignment]
    how: tuple[tuple[str, str], ...] = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self):
        if not isinstance(self.vocabulary, Vocabulary):
            raise AlignmentError(
                f"An aligned matrix needs a Vocabulary; of a plain list of words, that is "
                f"Vocabulary(words, padding_id=None, oov_ids=()). Received: {type(self.vocabulary).__name__}."
            )
        try:
            values = check_matrix(self.values, "An aligned matrix", rows=len(self.vocabulary))
        except ArgumentError as error:
            raise AlignmentError(f"Matrix and vocabulary do not fit: {error}") from None
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
            # A caller's own array is copied, so that it cannot change the baseline of drift afterwards.
            values = values.astype(np.float32, copy=bool(values.flags.writeable)).view()
        bad = first_nonfinite_row(values)
        if bad is not None:
            raise AlignmentError(
                f"An aligned matrix must be finite. Received NaN or infinity in row {bad} "
                f"(token {self.vocabulary.tokens[bad]!r})."
            )
        padding = self.vocabulary.padding_id
        if padding is not None and values[padding].any():  # in every layer padding is zeros: so it is in the baseline
            values = values.copy()
            values[padding] = 0
        values.flags.writeable = False
        found = np.ones(len(values), bool) if self.found is None else np.array(self.found)
        if self.found is None:
            found[sorted(self.vocabulary.special_ids)] = False
        if found.shape != (len(values),) or found.dtype != bool:
            raise AlignmentError(
                f"found must be a bool array of shape ({len(values)},). "
                f"Received: shape {found.shape}, dtype {found.dtype}."
            )
        found.flags.writeable = False
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "found", found)
        if self.how is None:
            object.__setattr__(self, "how", tuple(self._default_how()))

    def _default_how(self) -> list[tuple[str, str]]:
        special = self.vocabulary.special_ids
        return [
            ("", "special") if id_ in special else (token, "exact") if found else ("", "oov")
            for id_, (token, found) in enumerate(zip(self.vocabulary.tokens, self.found.tolist(), strict=True))
        ]

    @property
    def output_dim(self) -> int:
        """Width of a row."""
        return self.values.shape[1]

    @cached_property
    def coverage(self) -> Coverage:
        """Share of the vocabulary, and of the running text, that has a vector of its own."""
        words = np.ones(len(self.found), bool)
        words[sorted(self.vocabulary.special_ids)] = False
        counts = self.vocabulary.counts
        running = None
        if counts is not None and counts.sum():
            words &= counts > 0
            running = float(counts[self.found].sum() / counts.sum())
        return Coverage(float(self.found[words].mean()) if words.any() else 0.0, running)

    def report(self) -> pd.DataFrame:
        """One row a token id: `token`, `count`, `how`, `spelling` found.

        `how` is "exact", the fallbacks that found it, "subwords" (composed from n-grams), "oov" or "special".
        """
        spelling, how = zip(*self.how, strict=True)
        table = pd.DataFrame({"token": self.vocabulary.tokens, "how": how, "spelling": spelling})
        if self.vocabulary.counts is not None:
            table.insert(1, "count", self.vocabulary.counts)
        return table.rename_axis("id")

    def transformed(self, *functions: Callable[[np.ndarray], np.ndarray]) -> "AlignedMatrix":
        """This vocabulary with the matrix that the functions make of this one, each working on what the one before made.

        The functions see all V rows, the padding row as zeros; it is zeros afterwards too. A function with an argument
        `rows`, as those of `embkeras.vectors.postprocess`, is given `found` for it, unless it is bound already: means and
        components are then those of the vectors found, and rows that were drawn for other tokens do not shift them.
        `found` and `how` stay as they are. The table is copied once more at the end.

        Args:
            functions: from a float32 array (V, D) to one of shape (V, any width); `functools.partial` sets arguments.

        Raises:
            ArgumentError: what is no function, cannot be called with a matrix alone, or returns something else than floats
                of V rows; or what it raises.
            AlignmentError: a result with NaN or infinity.

        Example:
            >>> from embkeras.vectors.postprocess import centre
            >>> aligned = AlignedMatrix(np.array([[0.0], [1.0], [2.0]]), Vocabulary(["", "cat", "dog"], oov_ids=()))
            >>> aligned.transformed(centre).values.tolist()
            [[0.0], [-0.5], [0.5]]
        """
        values = transform(self.values, functions, rows=self.found)
        if self.vocabulary.padding_id is not None:  # here already: the class would have to copy the table for it
            values[self.vocabulary.padding_id] = 0
        values.flags.writeable = False
        return AlignedMatrix(values, self.vocabulary, self.found, self.how)


def align(
    vectors: KeyedVectors,
    vocabulary: Vocabulary,
    *,
    fallbacks: Sequence[str] = ("lower",),
    oov: Oov = "normal",
    seed: int = 0,
    out: str | os.PathLike | None = None,
) -> AlignedMatrix:
    """Give every token id its vector: row i of the result belongs to `vocabulary.tokens[i]`.

    The padding row is exact zeros. Tokens without a vector, "[UNK]" among them, are filled in as `oov` says; of several
    OOV ids each gets a row of its own under "normal". Whatever fills them, these rows are not `found`: they stay out of
    the coverage, and `build_embedding(trainable="oov")` trains them.

    Args:
        vectors: words and matrix; loaded whole, or with `words=` and `fallbacks=` that cover these.
        vocabulary: V tokens.
        fallbacks: spellings to try after the exact token, in this order (see `embkeras.vectors.fallbacks`).
        oov: "normal" draws from a normal distribution with the mean and standard deviation of each column of the
            vectors found, "mean" takes their mean, "zeros" zeros. "subwords" composes a row from the character n-grams
            of the token as it is spelt, where the vectors carry `subwords` (fastText). A function of the token returns
            the row, of shape (vector_size,). What has no n-gram, such as "[UNK]", and what the function answers with
            None is drawn as by "normal".
        seed: for rows that are drawn; the same seed gives the same rows.
        out: write the matrix to this `.npy` file and memory-map it, for tables that do not fit into memory twice.

    Returns:
        values of shape (V, vector_size), float32, read-only.

    Raises:
        AlignmentError: no token was found, a vector found holds NaN or infinity, or the vectors were loaded with
            fewer words or other fallbacks than asked for here.
        ArgumentError: an unknown fallback or `oov`, "subwords" for vectors without them, or a function that returns
            something else than a finite row or None (the message names the token).
        OutputError: `out` cannot be written.

    Example:
        >>> import numpy as np
        >>> vectors = KeyedVectors(["cat", "sat"], np.array([[1.0, 0.0], [0.0, 1.0]], "float32"))
        >>> aligned = align(vectors, Vocabulary(["", "[UNK]", "Cat"]), oov="zeros")
        >>> aligned.values[2].tolist(), str(aligned.coverage)
        ([1.0, 0.0], '100.0% of the vocabulary')
    """
    if not isinstance(vectors, KeyedVectors) or not isinstance(vocabulary, Vocabulary):
        raise ArgumentError(
            f"align takes KeyedVectors and a Vocabulary. "
            f"Received: {type(vectors).__name__} and {type(vocabulary).__name__}."
        )
    check_oov(oov, vectors)
    rows, how = _find_rows(vectors, vocabulary, check_fallbacks(fallbacks))
    if not (rows >= 0).any():
        raise AlignmentError(
            f"None of {len(vocabulary):,} tokens is among {len(vectors):,} words "
            f"(tokens such as {list(vocabulary.token_to_id)[:3]}, words such as {vectors.words[:3]})."
        )
    shape = (len(vocabulary), vectors.vector_size)
    if out is None:
        values = np.empty(shape, np.float32)
        composed = _fill(values, vectors, vocabulary, rows, oov, seed)
        values.flags.writeable = False
    else:
        with written_beside(out) as beside:
            values = np.lib.format.open_memmap(beside, "w+", np.float32, shape)
            composed = _fill(values, vectors, vocabulary, rows, oov, seed)
            values.flush()
        values = np.load(Path(out), mmap_mode="r")
    for id_ in composed:
        how[id_] = ("", "subwords")
    return AlignedMatrix(values, vocabulary, rows >= 0, tuple(how))


def _find_rows(
    vectors: KeyedVectors, vocabulary: Vocabulary, fallbacks: tuple[str, ...]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """For each id the row of its vector (-1: none), and (spelling, how it was found)."""
    wanted = vectors.provenance.wanted if vectors.provenance else None
    rows, how = np.full(len(vocabulary), -1, np.int64), [("", "oov")] * len(vocabulary)
    for id_ in vocabulary.special_ids:
        how[id_] = ("", "special")
    for start in range(0, len(vocabulary), _TOKENS_AT_ONCE):
        some = range(len(vocabulary))[start : start + _TOKENS_AT_ONCE]
        left = {id_: iter(spellings(vocabulary.tokens[id_], fallbacks)) for id_ in some if how[id_][1] == "oov"}
        while left:  # one spelling of each token at a time, for many words are found faster together than one by one
            tried = {id_: spelling for id_, more in left.items() if (spelling := next(more, None)) is not None}
            _check_asked_for(tried, wanted, vocabulary, fallbacks)
            found = vectors.rows_of([spelling for spelling, _ in tried.values()])
            for (id_, spelling), row in zip(tried.items(), found.tolist(), strict=True):
                if row >= 0:
                    rows[id_], how[id_] = row, spelling
            left = {id_: left[id_] for id_ in tried if rows[id_] < 0}
    return rows, how


def _check_asked_for(
    tried: dict[int, tuple[str, str]], wanted: frozenset[str] | None, vocabulary: Vocabulary, fallbacks: tuple[str, ...]
) -> None:
    """Refuse to call a word missing that loading was not asked for."""
    for id_, (spelling, _) in tried.items():
        if wanted is not None and spelling not in wanted:
            raise AlignmentError(
                f"The vectors were loaded with words= and fallbacks= that did not ask for {spelling!r} "
                f"(for the token {vocabulary.tokens[id_]!r}). Load them with this vocabulary and fallbacks={fallbacks!r}."
            )


def _fill(
    values: np.ndarray, vectors: KeyedVectors, vocabulary: Vocabulary, rows: np.ndarray, oov: Oov, seed: int
) -> list[int]:
    """Write every row of `values`, vectors in blocks and in the order of the source; the ids composed of subwords."""
    found = np.flatnonzero(rows >= 0)
    found = found[np.argsort(rows[found], kind="stable")]
    step = max(1, BLOCK // values.shape[1])
    total, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for start in range(0, len(found), step):
        ids = found[start : start + step]
        with np.errstate(over="ignore"):
            block = np.asarray(vectors.matrix[rows[ids]], np.float32)
        bad = first_nonfinite_row(block)
        if bad is not None:
            raise AlignmentError(
                f"A vector must be finite. Received NaN or infinity for {vectors.words[rows[ids[bad]]]!r} "
                f"(row {rows[ids[bad]]} of the vectors)."
            )
        values[ids] = block
        block = block.astype(np.float64)
        total, squares = total + block.sum(axis=0), squares + np.square(block).sum(axis=0)
    mean = total / len(found)
    deviation = np.sqrt(np.maximum(squares / len(found) - mean**2, 0))
    composed = fill_oov(
        values, np.flatnonzero(rows < 0), oov, vectors, vocabulary, mean=mean, deviation=deviation, seed=seed
    )
    if vocabulary.padding_id is not None:
        values[vocabulary.padding_id] = 0
    return composed
