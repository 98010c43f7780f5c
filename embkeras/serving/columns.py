"""The inputs of a request as arrays, one row for each text, from what a caller has by the name of each input."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embkeras._checks import sequence, shown, whole_number
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.batches import padded
from embkeras.serving.names import FEATURE, TOKEN_IDS
from embkeras.serving.text_encoder import checked_texts, encoded_rows, encoded_tokens, id_rows
from embkeras.text.encoding import Encoding


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


def encoded_inputs(
    inputs: Any, card: Mapping[str, Any], encodings: Mapping[str, Encoding | None], long_texts: str
) -> dict[str, Any]:
    """Inputs by name, with ids in place of texts, and numbers in place of those that a file has as text.

    What is neither stays as it is. The only input of a card needs no name.

    Args:
        inputs: values by input: ids or strings, one string for each row; numbers, also written as JSON.
        card: lists the inputs.
        encodings: of the inputs of ids.
        long_texts: "cut" or "error".

    Raises:
        ArgumentError: a text for an input that takes none, one that can't be read as numbers, or texts with gaps.
        SavedModelError: a text for an input whose encoding is not there.
    """
    known = {each["name"]: each for each in card["inputs"]}
    if not isinstance(inputs, Mapping):
        if len(known) != 1:
            raise ArgumentError(f"Pass a dictionary of inputs: {', '.join(known)}. Received: {type(inputs).__name__}.")
        inputs = {next(iter(known)): inputs}
    found = dict(inputs)
    for name, values in inputs.items():
        if name not in known:
            continue
        each = known[name]
        if not _are_strings(values):
            _check_gaps(name, values, each)
            continue
        texts = [str(text) for text in values]
        try:
            if each["kind"] == FEATURE:
                found[name] = _numbers(texts, each)
            elif (encoding := encodings.get(name)) is None:
                raise SavedModelError(
                    f"The export doesn't contain the encoding of input {name!r}, {each['encoding']}. Pass vocabulary=."
                )
            elif len(each["shape"]) == 1:
                found[name] = encoded_tokens(encoding, texts, each["oov_id"])
            elif len(each["shape"]) == 2:
                found[name] = encoded_rows(encoding, texts, each["max_length"], long_texts)
            else:
                raise ArgumentError("Documents of sentences are taken as ids, not as texts.")
        except ArgumentError as error:
            raise ArgumentError(f"Input {name!r}: {error}") from error
    return found


def named_inputs(texts: Any, card: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `predict` was asked, as the first columns of its table, and by input: the texts of a single input are `text`.

    Raises:
        ArgumentError: neither texts nor, for several inputs, a dictionary of all of them with one value for each row.
    """
    known = [each["name"] for each in card["inputs"]]
    if not isinstance(texts, Mapping):
        if len(known) > 1:
            raise ArgumentError(
                f"The model takes the inputs {', '.join(known)}: pass a dictionary of them. Received: {shown(texts)}."
            )
        listed = checked_texts(texts)
        return {"text": listed}, {known[0]: listed}
    if set(texts) != set(known):
        wrong = next((f"no {name!r}" for name in known if name not in texts), None)
        wrong = wrong or next(shown(name) for name in texts if name not in known)
        raise ArgumentError(f"The model takes the inputs {', '.join(known)}. Received: {wrong}.")
    named = {name: list(sequence(values, f"texts[{name!r}]")) for name, values in texts.items()}
    counts = {name: len(values) for name, values in named.items()}
    if len(set(counts.values())) > 1:
        listed_counts = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ArgumentError(f"Each input must have the same number of rows. Received: {listed_counts}.")
    return named, named


def row_lengths(inputs: Mapping[str, Any], card: Mapping[str, Any]) -> list[np.ndarray]:
    """For each row, something as long as the longest of its texts.

    Raises:
        ArgumentError: a row without ids.
    """
    texts = [each["name"] for each in card["inputs"] if each["kind"] != FEATURE and len(each["shape"]) > 1]
    rows = len(next(iter(inputs.values())))
    lengths = []
    for row in range(rows):
        ids = {name: np.asarray(inputs[name][row]) for name in texts}
        flat = next((name for name, each in ids.items() if each.ndim == 0), None)
        if flat is not None:
            raise ArgumentError(
                f"Input {flat!r} must be a text, or a row of ids, in each row. Received: {shown(inputs[flat][row])} in row {row}."
            )
        lengths.append(max(ids.values(), key=len, default=np.zeros(1)))
    return lengths


def rows_at(inputs: Mapping[str, Any], places: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Only these rows."""
    return {
        name: values[np.asarray(places)] if isinstance(values, np.ndarray) else [values[place] for place in places]
        for name, values in inputs.items()
    }


def part_of_card(card: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Only these inputs of a card, for a signature that takes no others."""
    return {"inputs": [each for each in card["inputs"] if each["name"] in names]}


def tower_of(card: Mapping[str, Any] | None, name: Any, source: str) -> dict[str, Any]:
    """A tower as the card describes it.

    Raises:
        ArgumentError: the export has no tower of that name.
    """
    towers = {each["name"]: each for each in ([] if card is None else card["towers"])}
    if not isinstance(name, str) or name not in towers:
        raise ArgumentError(f"{source} has the towers {', '.join(towers) or '(none)'}. Received: {shown(name)}.")
    return dict(towers[name])


def asked_tower(card: Mapping[str, Any] | None, k: Any, source: str) -> tuple[dict[str, Any], int]:
    """The tower that `nearest` asks, and k.

    Raises:
        SavedModelError: the export has nothing to search.
        ArgumentError: k is outside its range.
    """
    near = None if card is None else card["nearest"]
    if card is None or near is None:
        why = "it has no card" if card is None else card["no_nearest_reason"]
        raise SavedModelError(f"{source} has nothing to search: {why}. Export it with towers= and candidates=.")
    k = whole_number(k, "k", least=1, most=near["count"] - len(near["excluded"]))
    return tower_of(card, near["tower"], source), k


def _are_strings(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "UT" or (values.dtype.kind == "O" and _are_strings(values.tolist()))
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__") or not hasattr(values, "__len__"):
        return False
    return len(values) > 0 and all(isinstance(value, str) for value in values)


def _check_gaps(name: str, values: Any, each: Mapping[str, Any]) -> None:
    """Refuse an input of texts, some of which are none, such as the missing values of a column."""
    numbers = isinstance(values, np.ndarray) and values.dtype.kind != "O"
    single = (
        isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) == 0 or not hasattr(values, "__len__")
    )
    if each["kind"] == FEATURE or numbers or single:
        return
    gap = next(((place, value) for place, value in enumerate(values) if not isinstance(value, str)), None)
    if gap is not None and any(isinstance(value, str) for value in values):
        raise ArgumentError(
            f"Input {name!r} must be a text in each row, '' for one that is missing. Received: {shown(gap[1])} in row {gap[0]}."
        )


def _numbers(texts: Sequence[str], each: Mapping[str, Any]) -> np.ndarray:
    """Numbers that are written as JSON: 2.5, or [0.1, 0.2] for a feature with more axes."""
    rows, shape = [], each["shape"][1:]
    for place, text in enumerate(texts):
        try:
            row = np.asarray(json.loads(text), each["dtype"])
        except (ValueError, TypeError, OverflowError) as error:
            raise ArgumentError(f"It takes numbers. Received: {shown(text)} in row {place}.") from error
        if row.ndim != len(shape) or any(size not in (None, got) for size, got in zip(shape, row.shape, strict=True)):
            raise ArgumentError(f"It takes numbers of shape {tuple(shape)}. Received: {shown(text)} in row {place}.")
        rows.append(row)
    try:
        return np.stack(rows)
    except ValueError as error:
        raise ArgumentError(f"All rows must have the same shape. Received: {error}.") from error


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
