"""Checks of arguments that every room shares: whole numbers, numbers, choices, flags, paths.

Each returns the value in the one form that the caller works with, or raises `error` with the name of the argument, the
rule and the value received.
"""

import contextlib
import math
import numbers
import os
import re
from collections.abc import Collection, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from embkeras.errors import ArgumentError, EmbkerasError

_SHOWN = 200  # characters of a wrong value that a message quotes
# An address, also one that went through pathlib, which makes "https:/" of "https://".
_ADDRESS = re.compile(
    r"(?=[a-z0-9+.-]*://|(?:https?|ftps?|s3|gs|az|hf|file):/)([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL | re.I
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w-][\w.-]*", re.ASCII)  # "organisation/model" of the Hugging Face Hub
_FETCHING = {"s3": "aws s3 cp {} ./", "gs": "gcloud storage cp {} ./"} | dict.fromkeys(
    ("http", "https", "ftp", "ftps"), "curl -LO {}"
)


def shown(value: Any) -> str:
    """`repr(value)`, cut where it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write an int of more than 4,300 digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether `value` is an integer, including NumPy's; a bool is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)


def whole_number(
    value: Any,
    name: str,
    *,
    least: int | None = None,
    most: int | None = None,
    where: str = "",
    error: type[EmbkerasError] = ArgumentError,
) -> int:
    """The value as an `int` in [least, most]; `where`, such as "(layer 'embedding')", is added to the message.

    Examples:
        >>> whole_number(True, "epochs", least=1)
        Traceback (most recent call last):
        embkeras.errors.ArgumentError: epochs must be an integer >= 1. Received: True.
    """
    if not is_whole(value) or (least is not None and value < least) or (most is not None and value > most):
        between = least is not None and most is not None
        rule = f" from {least} to {most}" if between else _rule(least=least, most=most)
        raise error(f"{name} must be an integer{rule}. {_received(value, where)}")
    return int(value)


def number(
    value: Any,
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
    where: str = "",
    error: type[EmbkerasError] = ArgumentError,
) -> float:
    """The value as a finite `float` in [least, most], or (above, below); `where` is added to the message.

    Examples:
        >>> number(0, "decay", above=0)
        Traceback (most recent call last):
        embkeras.errors.ArgumentError: decay must be a number > 0. Received: 0.
    """
    try:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        real = False
    if (
        not real
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    ):
        rule = _rule(least=least, above=above, below=below, most=most)
        raise error(f"{name} must be a number{rule}. {_received(value, where)}")
    return float(value)


def _rule(**bounds: float | None) -> str:
    signs = {"least": ">=", "above": ">", "below": "<", "most": "<="}
    return " and".join(f" {signs[bound]} {limit:.15g}" for bound, limit in bounds.items() if limit is not None)


def _received(value: Any, where: str) -> str:
    return f"Received: {shown(value)}{f' {where}' if where else ''}."


def one_of(value: Any, name: str, choices: Collection[str], *, error: type[EmbkerasError] = ArgumentError) -> Any:
    """The value, if it is among the choices."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be one of {', '.join(choices)}. Received: {shown(value)}.")
    return value


def flag(value: Any, name: str, *, error: type[EmbkerasError] = ArgumentError) -> bool:
    """The value as a `bool`; it must be True or False."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"{name} must be True or False. Received: {shown(value)}.")
    return bool(value)


def sequence(value: Any, name: str, *, error: type[EmbkerasError] = ArgumentError) -> Iterable[Any]:
    """The value, if it can be iterated over; a single string is refused, not read as a sequence of its characters."""
    rule = "a sequence, not a single string" if isinstance(value, str | bytes) else "a sequence"
    with contextlib.suppress(TypeError):  # a 0-dimensional array is Iterable, and refuses
        iter(value)
        if not isinstance(value, str | bytes):
            return value
    raise error(f"{name} must be {rule}. Received: {shown(value)}.")


def strings(value: Any, name: str, *, error: type[EmbkerasError] = ArgumentError) -> list[str]:
    """The items of a sequence of strings, as a list. Checking 400,000 of them takes about 10 ms."""
    items = list(sequence(value, name, error=error))
    if not all(map(isinstance, items, repeat(str))):
        place, item = next((place, item) for place, item in enumerate(items) if not isinstance(item, str))
        advice = {bytes: "decode them, as in word.decode('utf-8')", type(None): "leave it out, or name it"}
        how = advice.get(type(item), "convert them with str()")
        raise error(f"{name} must be strings: {how}. Received: {shown(item)} ({type(item).__name__}) at place {place}.")
    return items


def path(value: Any, name: str, *, error: type[EmbkerasError] = ArgumentError) -> Path:
    """The value as a `Path`: not empty, without a null character, and no longer than file systems allow.

    "~" at the start is the user's home folder, as in a shell. An address such as "https://..." is refused with the command
    that fetches what is there.
    """
    if isinstance(value, bytes) or not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise error(f"{name} must be a path: a string or a pathlib.Path. Received: {shown(value)}.")
    text = os.fspath(value)
    if not text or "\0" in text:
        raise error(f"{name} must be a path. Received: {shown(text)}.")
    if found := address(text):
        raise error(f"{name} must be a path on this machine. Received: the address {_fetched(*found)}.")
    text = os.path.expanduser(text)  # "~nobody" stays as it is, as in a shell
    try:
        too_long = len(os.fsencode(text)) > 4095 or any(len(os.fsencode(part)) > 255 for part in Path(text).parts)
    except UnicodeEncodeError:
        raise error(f"{name} must be a path that the file system can hold. Received: {shown(text)}.") from None
    if too_long:
        raise error(
            f"{name} must be a path of at most 4,095 bytes, with at most 255 in one name. "
            f"Received: {len(text):,} characters, {shown(text)}."
        )
    return Path(text)


def address(value: Any) -> tuple[str, str] | None:
    """Scheme and rest of an address such as "s3://bucket/name"; None for anything else.

    Examples:
        >>> address("s3://bucket/name")
        ('s3', 'bucket/name')
    """
    found = _ADDRESS.match(os.fspath(value)) if isinstance(value, str | os.PathLike) else None
    return None if found is None else (found[1], found[2])


def _fetched(scheme: str, rest: str) -> str:
    """An address, and how to get the file there."""
    if scheme.lower() == "file":
        return f"{shown(f'file:///{rest}')}: pass its path, {shown(f'/{rest}')}"
    address = f"{scheme}://{rest}"
    if scheme.lower() == "hf":
        name = "/".join(rest.split("/")[:2])
        return shown(address) + (f". Fetch its folder first: {hub_command(name)}" if HUB_NAME.fullmatch(name) else "")
    command = _FETCHING.get(scheme.lower())
    return shown(address) + (f". Fetch it first: {command.format(_quoted(address))}" if command else "")


def _quoted(text: str) -> str:
    """A text as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def hub_command(name: str) -> str:
    """The command that fetches a model of the Hugging Face Hub, and prints its folder."""
    return f"python -c \"from huggingface_hub import snapshot_download as fetch; print(fetch('{name}'))\""
