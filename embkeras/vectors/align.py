"""align: one row per token id, taken from the vectors or filled in where they lack the token."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from embkeras._arrays import first_nonfinite_row, row_slices
from embkeras._checks import path as checked_path
from embkeras._checks import shown, whole_number
from embkeras._files import allocate, written_beside
from embkeras._progress import Report, progress
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.fallbacks import check_fallbacks, spellings
from embkeras.vectors.origins import EXACT, Origins
from embkeras.vectors.store import KeyedVectors

OOV_FILLS = ("normal", "mean", "zeros", "subwords")
Oov = str | Callable[[str], Any]
_TOKENS_AT_ONCE = 20_000  # whose spellings are in memory at a time


def align(
    vectors: KeyedVectors,
    vocabulary: Vocabulary,
    *,
    fallbacks: Sequence[str] = ("lower",),
    oov: Oov = "normal",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> AlignedMatrix:
    """Look up the vector of every token id: row i of the result belongs to `vocabulary.tokens[i]`.

    The padding row is exact zeros. Rows of tokens without a vector, "[UNK]" among them, are filled as `oov` says. However
    they are filled, they are not `found`: they don't count as covered, and `build_embedding(trainable="oov")` trains them.

    Args:
        vectors: words and matrix; loaded whole, or with `words=` and `fallbacks=` that include these.
        vocabulary: V tokens.
        fallbacks: spellings to try after the exact token, in this order (see `embkeras.vectors.fallbacks`).
        oov: "normal" draws each row from a normal distribution with the mean and standard deviation of each column of
            the vectors found, "mean" takes their mean, "zeros" zeros. "subwords" composes a row from the character n-grams
            of the token as it is spelled, if the vectors have `subwords` (fastText). A function of the token returns
            the row, of shape (vector_size,). Where a token has no n-gram, like "[UNK]", or the function returns None,
            the row is drawn as with "normal".
        seed: for rows that are drawn; the same seed draws the same rows.
        out: write the matrix to this `.npy` file and memory-map it. With vectors from a store (`.h5`), which `convert` makes of
            any file, the table is never in memory.

    Returns:
        values of shape (V, vector_size), float32, read-only.

    Raises:
        AlignmentError: no token was found, a vector found has NaN or infinity, or the vectors were loaded with fewer
            words or other fallbacks than needed here.
        ArgumentError: arguments of the wrong type, an unknown fallback or `oov`, "subwords" for vectors without them,
            or a function that returns something other than a finite row or None (the message names the token).
        OutputError: `out` can't be written.

    Examples:
        >>> import numpy as np
        >>> vectors = KeyedVectors(["cat", "sat"], np.array([[1.0, 0.0], [0.0, 1.0]], "float32"))
        >>> aligned = align(vectors, Vocabulary(["", "[UNK]", "Cat"]), oov="zeros")
        >>> aligned.values[2].tolist(), str(aligned.coverage)
        ([1.0, 0.0], '100.0% of the vocabulary')
    """
    if not isinstance(vectors, KeyedVectors) or not isinstance(vocabulary, Vocabulary):
        raise ArgumentError(
            f"align takes KeyedVectors and a Vocabulary. Received: {shown(vectors)} and {shown(vocabulary)}."
        )
    if not callable(oov) and not (isinstance(oov, str) and oov in OOV_FILLS):
        raise ArgumentError(f"oov must be one of {', '.join(OOV_FILLS)}, or a function. Received: {shown(oov)}.")
    if oov == "subwords" and vectors.subwords is None:
        raise ArgumentError(
            f'oov="subwords" needs vectors with n-grams (KeyedVectors(..., subwords=)). Received: {vectors!r}.'
        )
    seed = whole_number(seed, "seed", least=0)
    if not vocabulary.token_to_id:
        raise AlignmentError(
            f"The vocabulary has no token to look up: all its ids are special, like the bins of a Hashing layer. Make their "
            f"table with AlignedMatrix(matrix, vocabulary). Received: {vocabulary!r}."
        )
    with progress("aligning") as report:
        return _aligned(vectors, vocabulary, check_fallbacks(fallbacks), oov, seed, out, report)


def _aligned(
    vectors: KeyedVectors,
    vocabulary: Vocabulary,
    fallbacks: tuple[str, ...],
    oov: Oov,
    seed: int,
    out: str | os.PathLike[str] | None,
    report: Report,
) -> AlignedMatrix:
    """`align` for arguments that have been checked; `report` receives the rows found and filled, of twice their number."""
    rows, origins = _find_rows(vectors, vocabulary, fallbacks, report)
    if not (rows >= 0).any():
        raise AlignmentError(
            f"None of {len(vocabulary):,} tokens is among {len(vectors):,} words "
            f"(tokens such as {list(vocabulary.token_to_id)[:3]}, words such as {vectors.words[:3]})."
        )
    shape = (len(vocabulary), vectors.vector_size)
    if out is None:
        values = np.empty(shape, np.float32)
        own = _fill(values, vectors, vocabulary, rows, oov, seed, report)
        values.flags.writeable = False
    else:
        target = checked_path(out, "path")
        with written_beside(target) as beside:
            mapped = np.lib.format.open_memmap(beside, "w+", np.float32, shape)
            allocate(beside)
            own = _fill(mapped, vectors, vocabulary, rows, oov, seed, report)
            mapped.flush()
        values = np.load(target, mmap_mode="r")
    if oov == "subwords":
        origins.mark(own, "subwords")
    return AlignedMatrix(values, vocabulary, rows >= 0, origins)


def _find_rows(
    vectors: KeyedVectors, vocabulary: Vocabulary, fallbacks: tuple[str, ...], report: Report
) -> tuple[np.ndarray, Origins]:
    """For each id the row of its vector, -1 if it has none, and where that came from."""
    loaded = vectors.provenance.wanted if vectors.provenance else None
    rows, origins, special = np.full(len(vocabulary), -1, np.int64), Origins(vocabulary), vocabulary.special_ids

    def looked_up(spelled: dict[int, str]) -> np.ndarray:
        for id_, spelling in spelled.items():
            if loaded is not None and spelling not in loaded:  # it may be in the file all the same
                raise AlignmentError(
                    f"The vectors were loaded without looking for {spelling!r}, a spelling of the token "
                    f"{vocabulary.tokens[id_]!r}. Load them with this vocabulary and fallbacks={fallbacks!r}."
                )
        rows[list(spelled)] = found = vectors.rows_of(list(spelled.values()))
        return found

    for start in range(0, len(vocabulary), _TOKENS_AT_ONCE):
        report(start, 2 * len(vocabulary))
        some = range(len(vocabulary))[start : start + _TOKENS_AT_ONCE]
        exact = {id_: vocabulary.tokens[id_] for id_ in some if id_ not in special}
        if not exact:
            continue
        found = looked_up(exact) >= 0
        ids = np.fromiter(exact, np.int64, len(exact))
        origins.mark(ids[found], EXACT)
        left = {id_: islice(spellings(exact[id_], fallbacks), 1, None) for id_ in ids[~found].tolist()}
        while left:  # one spelling of each token at a time: many words are looked up faster together than one by one
            tried = {id_: spelled for id_, more in left.items() if (spelled := next(more, None)) is not None}
            looked_up({id_: spelling for id_, (spelling, _) in tried.items()})
            for id_ in tried:
                if rows[id_] >= 0:
                    origins.spelled(id_, *tried[id_])
            left = {id_: left[id_] for id_ in tried if rows[id_] < 0}
    return rows, origins


def _fill(
    values: np.ndarray,
    vectors: KeyedVectors,
    vocabulary: Vocabulary,
    rows: np.ndarray,
    oov: Oov,
    seed: int,
    report: Report,
) -> np.ndarray:
    """Write every row of `values`, reading the vectors block by block in their order.

    Returns:
        bool array of shape (V,): the rows that a function or n-grams gave a token without a vector.
    """
    found = np.flatnonzero(rows >= 0)
    found = found[np.argsort(rows[found], kind="stable")]
    width = values.shape[1]
    total, squares = np.zeros(width), np.zeros(width)
    for part in row_slices((len(found), width)):
        report(len(rows) + part.start, 2 * len(rows))
        ids = found[part]
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinity, and is refused
            block = np.asarray(vectors.matrix[rows[ids]], np.float32)
        bad = first_nonfinite_row(block)
        if bad is not None:
            raise AlignmentError(
                f"A vector must be finite. Received: NaN or infinity for {vectors.words[rows[ids[bad]]]!r} "
                f"(row {rows[ids[bad]]} of the vectors)."
            )
        values[ids] = block
        block = block.astype(np.float64)
        total, squares = total + block.sum(axis=0), squares + np.square(block).sum(axis=0)
    mean = total / len(found)
    deviation = np.sqrt(np.maximum(squares / len(found) - mean**2, 0))
    own, filled = np.zeros(len(values), bool), len(rows) + len(found)
    for ids, block in _rows_of_oov(oov, np.flatnonzero(rows < 0), vectors, vocabulary):
        values[ids] = block
        own[ids] = True
        filled += np.size(ids)
        report(filled, 2 * len(rows))
    rest = np.flatnonzero((rows < 0) & ~own)
    rng: Any = np.random.default_rng(seed)
    for part in row_slices((len(rest), width)):
        ids = rest[part]
        fixed = mean if oov == "mean" else 0
        values[ids] = fixed if oov in ("mean", "zeros") else rng.normal(mean, deviation, (len(ids), width))
    if vocabulary.padding_id is not None:
        values[vocabulary.padding_id] = 0
    return own


def _rows_of_oov(
    oov: Oov, ids: np.ndarray, vectors: KeyedVectors, vocabulary: Vocabulary
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (ids, rows) for the tokens without a vector that get a row from the function, or from their n-grams."""
    if callable(oov):
        for id_ in ids[ids != vocabulary.padding_id]:
            row = _row_from(oov, vocabulary.tokens[id_], vectors.vector_size)
            if row is not None:
                yield id_, row
    elif oov == "subwords":
        subwords: Any = vectors.subwords
        words = ids[~np.isin(ids, sorted(vocabulary.special_ids))]
        for part in row_slices((len(words), vectors.vector_size)):
            block = words[part]
            rows, composed = subwords.compose_all([vocabulary.tokens[id_] for id_ in block])
            bad = first_nonfinite_row(rows)
            if bad is not None:
                token = vocabulary.tokens[block[bad]]
                raise AlignmentError(
                    f"A vector must be finite. Received: NaN or infinity from the n-grams of {token!r}."
                )
            yield block[composed], rows[composed]


def _row_from(oov: Callable[[str], Any], token: str, width: int) -> np.ndarray | None:
    answer = oov(token)
    if answer is None:
        return None
    try:
        row = np.asarray(answer)
    except ValueError:  # lists of different lengths
        row = np.empty(0, object)
    if row.shape != (width,) or row.dtype.kind not in "fiu":
        raise ArgumentError(
            f"oov(token) must return {width} numbers, or None for a row that is drawn. "
            f"Received: shape {row.shape}, dtype {row.dtype} for the token {token!r}."
        )
    with np.errstate(over="ignore"):
        row = row.astype(np.float32)
    if not np.isfinite(row).all():
        raise ArgumentError(f"oov(token) must be finite. Received: NaN or infinity for the token {token!r}.")
    return row
