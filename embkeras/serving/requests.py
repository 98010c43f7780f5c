"""What a client sends: its arguments and ids checked, and ids put into batches."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from embkeras.errors import ArgumentError

_INT64 = np.iinfo(np.int64)


def url_of(url: str, schemes: Collection[str]) -> SplitResult:
    """The parts of a server's address.

    Raises:
        ArgumentError: another scheme, no host, a port that is none, or more than scheme, host, port and path.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
    except (ValueError, TypeError, AttributeError):
        right = False
    if right and parts.username is not None:  # not quoted: a message may end in a log
        raise ArgumentError("A URL with a name or password in it is refused: give headers={'Authorization': ...}.")
    if right and "/v1/models" in parts.path:
        raise ArgumentError(f"url must end before /v1/models; the model's name is given by model=. Received: {url!r}.")
    if not right or parts.query or parts.fragment or (parts.path.strip("/") and parts.scheme.startswith("grpc")):
        raise ArgumentError(f"url must be SCHEME://HOST:PORT, scheme {', '.join(schemes)}. Received: {url!r}.")
    return parts


def headers_of(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers that can be sent as they are.

    Raises:
        ArgumentError: no mapping, or a name or a value that is not printable ASCII. The value is not quoted.
    """
    headers = {} if headers is None else headers
    if not isinstance(headers, Mapping):
        raise ArgumentError(f"headers must be a mapping of names and texts. Received: {type(headers).__name__}.")
    for name, value in headers.items():
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in (name, value)):
            raise ArgumentError(f"headers must be printable ASCII. Received: {name!r}, whose value is not shown.")
    return dict(headers)


def check_number(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, whole: bool = False
) -> None:
    """Refuse an argument outside its range.

    Raises:
        ArgumentError: naming it, the range and the value.
    """
    kinds = int | np.integer if whole else int | float | np.integer | np.floating
    right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not right or value <= above or value < least:
        bound = f"above {above}" if above > -math.inf else f"at least {least}"
        raise ArgumentError(f"{name} must be a {'whole ' if whole else ''}number {bound}. Received: {value!r}.")


def rows_of(token_ids: Any) -> list[np.ndarray]:
    """One int64 array of ids a text.

    Args:
        token_ids: integers of shape (batch, time), or a sequence of sequences of integers.

    Raises:
        ArgumentError: anything else: floats, truth values, texts, integers beyond int64.
    """
    rule = "token_ids must be integers (batch, time), or one sequence of integers a text"
    try:
        if isinstance(token_ids, list | tuple):
            arrays = [np.asarray(row) for row in token_ids]
        else:
            arrays = [np.asarray(token_ids)]
            if arrays[0].ndim == 2:
                arrays = list(arrays[0]) if len(arrays[0]) else []
    except ValueError as error:  # rows of rows of several lengths
        raise ArgumentError(f"{rule}. Received: {error}") from error
    for place, row in enumerate(arrays):
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise ArgumentError(f"{rule}. Received: {row.dtype}, shape {row.shape}, at text {place}.")
        if row.dtype.kind == "u" and row.size and int(row.max()) > _INT64.max:
            raise ArgumentError(f"{rule}, each up to {_INT64.max}. Received: {int(row.max())} at text {place}.")
    return [row.astype(np.int64) for row in arrays]


def check_ids(rows: Sequence[np.ndarray], size: int) -> None:
    """Refuse ids outside [0, size).

    Raises:
        ArgumentError: naming the first one and its text.
    """
    for place, row in enumerate(rows):
        outside = row[(row < 0) | (row >= size)]
        if outside.size:
            raise ArgumentError(f"token_ids must lie in [0, {size}). Received: {outside[0]} at text {place}.")


def in_batches(rows: Sequence[np.ndarray], size: int, *, mixed: bool) -> Iterator[np.ndarray]:
    """Places of the rows that are sent together: the shortest first, so that little padding is sent.

    Args:
        rows: the ids of each text.
        size: rows a batch, at most.
        mixed: rows of several lengths may go together; without a padding id they cannot.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    order = np.argsort(lengths, kind="stable")
    cuts = np.array([], np.int64) if mixed else np.flatnonzero(np.diff(lengths[order])) + 1
    for group in np.split(order, cuts):
        for start in range(0, len(group), size):
            yield group[start : start + size]


def filled(rows: Sequence[np.ndarray], padding_id: int | None, *, leading: bool) -> np.ndarray:
    """One array of rows, with padding behind the short ones and, if `leading`, one in front of each.

    There is at least one column, if there is a padding id: JSON has no array of shape (n, 0).
    """
    if padding_id is None:
        return np.stack(rows)
    width = max([1, *(len(row) + leading for row in rows)])
    ids = np.full((len(rows), width), padding_id, np.int64)
    for out, row in zip(ids, rows, strict=True):
        out[leading : leading + len(row)] = row
    return ids
