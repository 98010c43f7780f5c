"""Spellings to try after the exact token; loading and alignment share them, so both look for the same words."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from embkeras._checks import one_of, sequence

_REPEAT = re.compile(r"(.)\1{2,}", re.DOTALL)
_MARKS = re.compile(r"[.,!?\"'()\[\]]{2,}")


def _unaccented(token: str) -> str:
    decomposed = unicodedata.normalize("NFKD", token)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


# name -> its spellings of a token, in the order in which they are tried
FALLBACKS: dict[str, Callable[[str], list[str]]] = {
    "lower": lambda token: [token.lower()],
    "upper": lambda token: [token.upper()],
    "title": lambda token: [token.capitalize()],
    "unaccent": lambda token: [_unaccented(token)],  # café -> cafe
    "hashtag": lambda token: [token[1:]] if token[:1] == "#" else [],  # #win -> win
    "placeholder": lambda token: [token[1:-1]] if token[:1] + token[-1:] == "<>" else [],  # <url> -> url
    "repeats": lambda token: [_REPEAT.sub(r"\1\1", token), _REPEAT.sub(r"\1", token)],  # soooo -> soo, so
    "hyphen": lambda token: [token.replace("-", "")] if len(token) > 2 else [],  # e-mail -> email
    "marks": lambda token: [token[0]] if _MARKS.fullmatch(token) else [],  # ?! -> ?
}
# For text written by people, in the order in which they are tried; `embkeras train` and `coverage` use these.
FOR_TEXTS = ("lower", "placeholder", "hashtag", "hyphen", "repeats", "marks")


def check_fallbacks(fallbacks: Any) -> tuple[str, ...]:
    """The fallbacks as a tuple of known names.

    Raises:
        ArgumentError: a name that is not in `FALLBACKS`, or not a sequence of names.
    """
    return tuple(one_of(name, "Each of fallbacks", FALLBACKS) for name in sequence(fallbacks, "fallbacks"))


def spellings(token: str, fallbacks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs (spelling, how it was made), the exact token first.

    A later fallback also works on the spellings of earlier ones, so ("lower", "hashtag") turns "#Win" into "win".

    Examples:
        >>> [spelling for spelling, _ in spellings("#Win", ("lower", "hashtag"))]
        ['#Win', '#win', 'Win', 'win']
    """
    tried = {token: "exact"}
    yield token, "exact"
    for name in fallbacks:
        for earlier, how in list(tried.items()):
            for spelling in FALLBACKS[name](earlier):
                if spelling and spelling not in tried:
                    tried[spelling] = name if how == "exact" else f"{how}+{name}"
                    yield spelling, tried[spelling]
