"""What a client sends, checked and in batches, and what a server says that it serves. NumPy alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.errors import ArgumentError, ServingError

_INT64 = np.iinfo(np.int64)
_TYPES = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16"}  # TensorFlow's names that differ from NumPy's
Tensor = tuple[str, tuple[int | None, ...]]  # type and shape


def id_rows(token_ids: Any) -> list[np.ndarray]:
    """One int64 array of ids per text.

    Args:
        token_ids: integers of shape (batch, time), or a sequence of sequences of integers.

    Raises:
        ArgumentError: anything else: floats, bools, texts, integers beyond int64.
    """
    rule = "token_ids must be integers (batch, time), or one sequence of integers per text"
    try:
        if isinstance(token_ids, list | tuple):
            rows = [np.asarray(row) for row in token_ids]
            bools = [isinstance(row, list | tuple) and any(isinstance(id_, bool) for id_ in row) for row in token_ids]
        else:
            array = np.asarray(token_ids)
            rows = list(array) if array.ndim == 2 and len(array) else [array] if array.ndim != 2 else []
            bools = [False] * len(rows)
    except ValueError as error:  # rows of rows of different lengths
        raise ArgumentError(f"{rule}. Received: {error}") from error
    for place, row in enumerate(rows):
        if bools[place]:  # NumPy makes integers of bools among integers
            raise ArgumentError(f"{rule}. Received: a bool at text {place}.")
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise ArgumentError(f"{rule}. Received: {row.dtype}, shape {row.shape}, at text {place}.")
        if row.dtype.kind == "u" and row.size and int(row.max()) > _INT64.max:
            raise ArgumentError(f"{rule}, each up to {_INT64.max}. Received: {int(row.max())} at text {place}.")
    return [row.astype(np.int64) for row in rows]


def check_range(rows: Sequence[np.ndarray], size: int) -> None:
    """Refuse ids outside [0, size).

    Raises:
        ArgumentError: for the first of them.
    """
    for place, row in enumerate(rows):
        outside = row[(row < 0) | (row >= size)]
        if outside.size:
            raise ArgumentError(f"token_ids must lie in [0, {size}). Received: {outside[0]} at text {place}.")


def in_batches(rows: Sequence[np.ndarray], size: int, *, mixed: bool) -> Iterator[np.ndarray]:
    """Positions of the rows that are sent together, shortest first, so that little padding is sent.

    Args:
        rows: the ids of each text.
        size: most rows per batch.
        mixed: rows of different lengths may be sent together; without a padding id they can't.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    order = np.argsort(lengths, kind="stable")
    cuts = np.array([], np.int64) if mixed else np.flatnonzero(np.diff(lengths[order])) + 1
    for group in np.split(order, cuts):
        for start in range(0, len(group), size):
            yield group[start : start + size]


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


@dataclass(frozen=True)
class Served:
    """A version of a model, as a server describes it.

    Attributes:
        version: its number.
        signatures: name -> {"inputs": {...}, "outputs": {...}}, each tensor as (type, shape).
        card: the export's card, or None for an export without one.
    """

    version: int
    signatures: Mapping[str, Any]
    card: Mapping[str, Any] | None

    @property
    def padding_id(self) -> int | None:
        """The padding id, if known."""
        return None if self.card is None else self.card["padding_id"]

    def output(
        self, signature: str, input_name: str, output: str, source: str
    ) -> tuple[np.dtype, tuple[int | None, ...]]:
        """Type and shape of an output of a signature with one input.

        Raises:
            ServingError: there is no such signature, it takes another input, or has no such output.
        """
        described = self.signatures.get(signature, {"inputs": {}, "outputs": {}})
        if set(described["inputs"]) != {input_name}:
            raise ServingError(
                f"{source} has no signature {signature!r} that takes only {input_name!r}. "
                f"Its signatures: {', '.join(sorted(self.signatures)) or 'none'}."
            )
        if output not in described["outputs"]:
            raise ServingError(f"{source} has no output {output!r}, only {', '.join(sorted(described['outputs']))}.")
        dtype, shape = described["outputs"][output]
        try:
            return np.dtype(dtype), shape
        except TypeError as error:
            raise ServingError(f"{source} has an output {output!r} of type {dtype}, which isn't numeric.") from error


def parsed_metadata(metadata: Any, source: str) -> tuple[int, dict[str, dict[str, dict[str, Tensor]]]]:
    """Version and signatures, from the JSON of TensorFlow Serving's metadata.

    Raises:
        ServingError: it can't be parsed.
    """
    try:
        described = metadata["metadata"]["signature_def"]["signature_def"]
        # Names with two underscores are TensorFlow's own: an operation that initialises tables.
        signatures = {name: _signature(each) for name, each in described.items() if not name.startswith("__")}
        return int(metadata["model_spec"]["version"]), signatures
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(f"{source} returned metadata that can't be read: {error!r}.") from error


def check_answer(answer: np.ndarray, shape: tuple[int | None, ...], places: np.ndarray, source: str) -> None:
    """Refuse an answer of another shape than the metadata promise, or with anything but numbers, or with NaN.

    Args:
        answer: what a server returned.
        shape: the promised shape; only (batch,) where no more is known.
        places: positions of the texts that were sent, for messages.
        source: who returned it.

    Raises:
        ServingError: any of these.
    """
    rank_fits = answer.ndim == len(shape) or (len(shape) == 1 and answer.ndim > 1)
    fits = rank_fits and all(size in (None, got) for got, size in zip(answer.shape, shape, strict=False))
    if answer.dtype.kind not in "fiu" or not fits:
        promised = ", ".join("any" if size is None else str(size) for size in shape)
        raise ServingError(
            f"{source} returned an answer of type {answer.dtype} and shape {answer.shape}, instead of numbers of shape "
            f"({promised})."
        )
    bad = np.isnan(answer.reshape(len(places), -1)).any(axis=1)
    if bad.any():
        raise ServingError(
            f"{source} returned NaN for text {places[bad.argmax()]}. (Under XLA, this is how an export with "
            f"out_of_range='error' marks an id outside its table.)"
        )


def _signature(described: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Inputs and outputs."""
    sides = ("inputs", "outputs")
    return {side: {name: _tensor(info) for name, info in described.get(side, {}).items()} for side in sides}


def _tensor(info: Mapping[str, Any]) -> Tensor:
    """Type and shape; with an unknown rank, only the batch is known."""
    name = info["dtype"].removeprefix("DT_")
    sizes = [int(dim.get("size", 0)) for dim in info.get("tensor_shape", {}).get("dim", [])]
    return _TYPES.get(name, name.lower()), tuple(None if size < 0 else size for size in sizes) or (None,)
