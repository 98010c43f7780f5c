"""The nearest of a table of vectors: every one is compared, block by block, so that memory doesn't grow with the table.

Products are summed in float64 and rounded to float32, so that neither the block nor the batch changes a score, and equal rows
have equal scores. Of those, the lower row comes first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import row_slices
from embkeras._checks import one_of
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.columns import check_range, encoded_inputs, request_arrays
from embkeras.serving.inputs import Input
from embkeras.serving.packing import refused_where
from embkeras.serving.reasons import reason
from embkeras.serving.towers import Tower

SIMILARITIES = ("dot", "cosine")
_BLOCK = 1 << 20  # numbers of a table that are compared at once
_ASKED = 256  # rows of candidates whose vectors are computed at once


@dataclass(frozen=True, eq=False)
class Candidates:
    """Vectors to search, and how.

    Attributes:
        asked: the tower of the requests.
        searched: the tower of the vectors.
        count: rows.
        excluded: rows that are never an answer.
        similarity: "dot", or "cosine", where a vector of zeros is similar to nothing.
        ids_of: the input of whose ids the rows are, or None: the rows of the candidates that were given.
        rows: row numbers -> vectors (rows, width), in a graph.
        stored: the variable with the vectors, or None if they are read from a table of the model.
    """

    asked: Tower
    searched: Tower
    count: int
    excluded: Sequence[int]
    similarity: str
    ids_of: str | None
    rows: Callable[[tf.Tensor], tf.Tensor]
    stored: tf.Variable | None

    def card(self) -> dict[str, Any]:
        """The search as plain data."""
        return {
            "tower": self.asked.name,
            "of": self.searched.name,
            "count": self.count,
            "excluded": list(self.excluded),
            "similarity": self.similarity,
            "ids_of": self.ids_of,
            "stored": self.stored is not None,
        }

    def nearest(self, vectors: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """The rows most similar to each vector, best first, and their scores; where a row's own k ends, -1 and zeros.

        Args:
            vectors: (batch, width).
            k: int32 (batch,), how many for each.
        """
        most, block = self.count - len(self.excluded), max(1, _BLOCK // self.asked.width)
        k = tf.ensure_shape(k, (None,))
        k = refused_where((k < 1) | (k > most), k, k, f"k must lie in [1, {most}].")
        width = tf.clip_by_value(tf.reduce_max(k), 0, most)  # of an empty batch, the largest is below zero
        queries, batch = self._compared(vectors), tf.shape(vectors)[0]
        excluded = tf.constant(list(self.excluded), tf.int64)

        def compare(start: tf.Tensor, scores: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, ...]:
            ids = tf.range(start, tf.minimum(start + block, self.count))
            table = self._compared(self.rows(ids))
            here = tf.cast(tf.matmul(queries, table, transpose_b=True), tf.float32)
            out = tf.reduce_any(ids[:, None] == excluded, axis=1)
            here = tf.where(out, tf.constant(-np.inf, tf.float32), here)
            scores = tf.concat([scores, here], axis=1)  # top_k takes the first of equal scores
            found = tf.concat([found, tf.tile(ids[None], [batch, 1])], axis=1)
            scores, places = tf.math.top_k(scores, width)
            return start + block, scores, tf.gather(found, places, axis=1, batch_dims=1)

        nothing = tf.fill([batch, width], np.float32(-np.inf)), tf.fill([batch, width], np.int64(-1))
        shapes = tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, None])
        start = tf.constant(0, tf.int64)
        _, scores, found = tf.while_loop(
            lambda start, *_: start < self.count, compare, (start, *nothing), shapes, parallel_iterations=1
        )
        inside = (tf.range(width)[None] < k[:, None]) & (found >= 0)
        answers = tf.where(inside, found, tf.constant(-1, tf.int64)), tf.where(inside, scores, 0.0)
        return dict(zip((names.NEIGHBOURS, names.SCORES), answers, strict=True))

    def _compared(self, vectors: tf.Tensor) -> tf.Tensor:
        """Vectors as they are multiplied."""
        vectors = tf.cast(vectors, tf.float64)
        if self.similarity == "dot":
            return vectors
        return tf.math.divide_no_nan(vectors, tf.norm(vectors, axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Search:
    """What is to be searched, checked before anything is exported.

    Attributes:
        asked: the first tower, that of the requests.
        searched: the last tower.
        similarity: "dot" or "cosine".
        arrays: inputs of the last tower, one row for each vector.
        excluded: rows that are never an answer.
        ids_of: the input of whose ids the rows are, or None for candidates that were given.
    """

    asked: Tower
    searched: Tower
    similarity: str
    arrays: Mapping[str, np.ndarray]
    excluded: Sequence[int]
    ids_of: str | None


def search_of(
    towers: Sequence[Tower], given: Any, similarity: str, inputs: Sequence[Mapping[str, Any]]
) -> tuple[Search | None, str | None]:
    """What is to be searched, and None; or None, and the reason why nothing is.

    Args:
        towers: of the model.
        given: the inputs of the last tower, one row for each vector; None for every id of a tower that takes single ids.
        similarity: "dot" or "cosine".
        inputs: those of the model as the card describes them.

    Raises:
        ArgumentError: candidates without towers, or that are no inputs of the last tower; another similarity than the model's.
        SavedModelError: towers whose vectors can't be compared.
    """
    one_of(similarity, "similarity", SIMILARITIES)
    if not towers:
        if given is not None:
            raise ArgumentError("candidates are inputs of a tower: pass towers= too.")
        return None, "the export has no towers"
    asked, searched = towers[0], towers[-1]
    reads = searched.contract.asked
    single = reads[0] if len(reads) == 1 and reads[0].encoding is not None and reads[0].rank == 1 else None
    if given is None and single is None:
        return None, f"no candidates were given, and the tower {searched.name} takes more than single ids"
    if asked.width != searched.width:
        what = f"{asked.name} has vectors of {asked.width} numbers, and {searched.name} of {searched.width}"
        if given is None:
            return None, what
        raise SavedModelError(f"The towers can't be compared: {what}.")
    if names.K in {each.name for each in asked.contract.asked}:
        raise SavedModelError(
            f"An input of tower {asked.name!r} is named {names.K!r}, as that of 'nearest' is: rename it."
        )
    _check_similarity(asked.model, similarity)
    if given is None and single is not None:
        arrays, excluded, ids_of = {single.name: np.arange(single.size)}, _special_ids(single), single.name
    else:
        arrays, excluded, ids_of = _given_arrays(given, searched, inputs), [], None
    count = len(next(iter(arrays.values())))
    if count <= len(excluded):
        raise SavedModelError(
            f"Tower {searched.name!r} has nothing to search. Received: {count} rows, {len(excluded)} excluded."
        )
    return Search(asked, searched, similarity, arrays, excluded, ids_of), None


def candidates_of(search: Search, ask: Any) -> Candidates:
    """The vectors of a search, by the signature of its tower. Within `folded.reading()`.

    Raises:
        SavedModelError: the tower refuses a candidate, or returns no numbers for it.
    """
    tower, ids_of = search.searched, search.ids_of
    table = _vectors(ask, search.arrays, tower)
    own = tower.layer if ids_of is not None and isinstance(tower.layer, keras.layers.Embedding) else None
    settings = (search.asked, tower, len(table), search.excluded, search.similarity, ids_of)
    if own is not None and all(np.array_equal(table[part], _looked_up(own, part)) for part in row_slices(table.shape)):
        return Candidates(*settings, _rows_of(own), None)
    stored = tf.Variable(table, trainable=False, name=names.CANDIDATES)
    return Candidates(*settings, lambda ids: tf.gather(stored, ids), stored)


def _check_similarity(model: keras.Model, similarity: str) -> None:
    """Refuse products where the model itself compares directions."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dot) and layer.normalize and similarity == "dot":
            raise ArgumentError(
                f"Layer {layer.name!r} normalizes what it compares, so the nearest by the dot product would not be those with "
                f"the best scores: pass similarity='cosine'."
            )


def _special_ids(each: Input) -> list[int]:
    """The ids that stand for no token: padding, and unknown tokens."""
    encoding = each.encoding
    special = {getattr(encoding, "padding_id", None), getattr(encoding, "oov_id", None)}
    return sorted({id_ for id_ in special if id_ is not None} | set(getattr(encoding, "special_ids", ())))


def _given_arrays(given: Any, tower: Tower, inputs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Candidates as arrays by input."""
    reads = [each.name for each in tower.contract.asked]
    described = {"inputs": [each for each in inputs if each["name"] in reads]}
    encodings = {each.name: each.encoding for each in tower.contract.ids}
    policy = next((each.long_texts for each in tower.contract.ids), "cut")
    try:
        arrays = request_arrays(encoded_inputs(given, described, encodings, policy), described)
        check_range(arrays, described)
    except ArgumentError as error:
        raise ArgumentError(f"candidates of tower {tower.name!r}: {error}") from error
    return arrays


def _vectors(ask: Any, arrays: Mapping[str, np.ndarray], tower: Tower) -> np.ndarray:
    """What a tower's signature returns for all candidates."""
    count, found = len(next(iter(arrays.values()))), [np.zeros((0, tower.width), np.float32)]
    for start in range(0, count, _ASKED):
        part = {name: tf.constant(array[start : start + _ASKED]) for name, array in arrays.items()}
        try:
            found.append(ask(**part)[names.VECTORS].numpy())
        except tf.errors.OpError as error:
            raise SavedModelError(
                f"Tower {tower.name!r} refuses candidates from {start}: {reason(error.message)}"
            ) from error
        bad = ~np.isfinite(found[-1]).all(axis=1)
        if bad.any():
            raise SavedModelError(
                f"Tower {tower.name!r} returns NaN or infinity for candidate {start + int(bad.argmax())}."
            )
    return np.concatenate(found)


def _rows_of(layer: keras.layers.Layer) -> Callable[[tf.Tensor], tf.Tensor]:
    """The vectors of ids as the signature of a tower that is an embedding returns them."""
    return lambda ids: tf.cast(layer(ids), tf.float32)


def _looked_up(layer: keras.layers.Layer, part: slice) -> np.ndarray:
    """Some rows of an embedding, as the export reads them."""
    return np.asarray(_rows_of(layer)(tf.range(part.start, part.stop, dtype=tf.int64)))


def all_scores(vectors: np.ndarray, table: np.ndarray, similarity: str, excluded: Sequence[int]) -> np.ndarray:
    """The score of every row of a table for each vector, (vectors, rows), by NumPy; minus infinity for excluded rows."""

    def compared(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        if similarity == "dot":
            return rows
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)

    queries, parts = compared(vectors), row_slices(table.shape, _BLOCK)
    scores = np.concatenate([(queries @ compared(table[part]).T).astype(np.float32) for part in parts], axis=1)
    scores[:, list(excluded)] = -np.inf
    return scores
