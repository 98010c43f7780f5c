"""The inputs of a request as arrays, one row for each text, from what a caller has by the name of each input."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from embkeras._checks import shown
from embkeras.errors import ArgumentError
from embkeras.serving.batches import padded
from embkeras.serving.names import FEATURE, TOKEN_IDS
from embkeras.serving.text_encoder import id_rows


def request_arrays(inputs: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every input that the card lists as an array with the batch first; lists of ids are padded to the longest.

    Raises:
        ArgumentError: an input that is missing or unknown, of another type or shape, or with another number of rows.
    """
    known = {each["name"]: each for each in card["inputs"]}
    unknown = [name for name in inputs if name not in known]
    missing = [name for name in known if name not in inputs]
    if unknown or missing:
        what = f"no {missing[0]!r}" if missing else shown(unknown[0])
        raise ArgumentError(f"The model takes the inputs {', '.join(known)}. Received: {what}.")
    arrays = {name: _array(inputs[name], each) for name, each in known.items()}
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in rows.items())
        raise ArgumentError(f"Each input must have the same number of rows. Received: {counts}.")
    return arrays


def check_range(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Refuse ids outside the table of their input."""
    for each in card["inputs"]:
        if each["kind"] == FEATURE:
            continue
        ids, size = arrays[each["name"]], each["vocabulary_size"]
        outside = np.argwhere((ids < 0) | (ids >= size))
        if len(outside):
            raise ArgumentError(
                f"{each['name']} must lie in [0, {size}). Received: {ids[tuple(outside[0])]} at text {outside[0][0]}."
            )


def with_leading_padding(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays with one entry of padding in front of each text: a server that batches requests pads with the first one."""
    ids = {each["name"]: each for each in card["inputs"] if each["kind"] != FEATURE and each["padding_id"] is not None}
    lengthened = dict(arrays)
    for each in card["inputs"]:
        name = each["name"]
        if name in ids or each["beside"] in ids:
            axes = arrays[name].ndim - 1 if name in ids else 1
            widths = [(0, 0), *[(1, 0)] * axes, *[(0, 0)] * (arrays[name].ndim - 1 - axes)]
            lengthened[name] = np.pad(arrays[name], widths, constant_values=each.get("padding_id") or 0)
    return lengthened


def _array(value: Any, each: Mapping[str, Any]) -> np.ndarray:
    """One input as an array."""
    name, rank = each["name"], len(each["shape"])
    try:
        if each["kind"] != FEATURE and rank == 2:
            rows = id_rows(value)
            if each["padding_id"] is None and len({len(row) for row in rows}) > 1:
                raise ArgumentError("Without a padding id, all texts of a request must have the same length.")
            return padded(rows, each["padding_id"], leading=False) if rows else np.zeros((0, 1), np.int64)
        array = np.asarray(value)
    except ArgumentError as error:
        raise ArgumentError(f"Input {name!r}: {error}") from error
    except ValueError as error:  # rows of different lengths
        raise ArgumentError(f"Input {name!r} must be an array of {rank} axes. Received: {error}.") from error
    kinds = (
        "iu" if each["kind"] != FEATURE else {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[np.dtype(each["dtype"]).kind]
    )
    fits = array.ndim == rank and all(size in (None, got) for got, size in zip(array.shape, each["shape"], strict=True))
    if each["kind"] != FEATURE:
        fits = array.ndim == rank
    if array.dtype.kind not in kinds or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in each["shape"])
        raise ArgumentError(
            f"Input {name!r} must be {each['dtype']} of shape ({wanted}). Received: {array.dtype} of shape {array.shape}."
        )
    return array.astype(each["dtype"])


def only_token_ids(card: Mapping[str, Any] | None) -> bool:
    """Whether the model takes rows of token ids and nothing else."""
    inputs = [] if card is None else card["inputs"]
    return not inputs or (len(inputs) == 1 and inputs[0]["name"] == TOKEN_IDS and len(inputs[0]["shape"]) == 2)
