"""What divides the rows of text vectors into a word and its numbers, and how one row is divided.

A row is always divided from the right, at the `width`-th separator, because words may hold separators themselves: GloVe has
the word `. . .`, Wikipedia2Vec the word `ENTITY/New York`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from embkeras import _checks
from embkeras.errors import ArgumentError

NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_EXPONENT = rb"(?:[eE][+-]?[0-9]+)?"
_RULE = (
    'separator must be one character, such as " ", "\\t" or ","; "whitespace" for runs of spaces and tabs; or a pair: the '
    'character after the word and the one between the numbers, such as ("\\t", " ")'
)


@dataclass(frozen=True)
class Separator:
    """What divides a row.

    Attributes:
        after_word: the byte after the word.
        between: the byte between two numbers.
        runs: whether any run of spaces and tabs divides, however long.
    """

    after_word: bytes
    between: bytes
    runs: bool = False

    @property
    def argument(self) -> str | tuple[str, str]:
        """The value of `separator=` that means this one."""
        if self.runs:
            return "whitespace"
        pair = self.after_word.decode("latin-1"), self.between.decode("latin-1")
        return pair[0] if pair[0] == pair[1] else pair

    @cached_property
    def value_in_word(self) -> re.Pattern[bytes]:
        """Finds a number in a word that is probably a value: the row has more numbers than others, or two rows are joined.

        A decimal number counts anywhere in the word, an integer at its end. After a tab a word may end in ` 66`, since
        nothing else divides it from its numbers. A word in quotation marks between commas is CSV's, with marks that are not
        part of it.
        """
        either = b"[" + re.escape(self._ends) + b"]"
        quoted = rb'|\A"(?:[^"]|"")*"\Z' if self._quotes else b""
        return re.compile(
            either + rb"[+-]?(?:[0-9]*\.[0-9]+|[0-9]+\.)" + _EXPONENT + rb"[,;|]?(?:" + either + rb"|\r|\Z)"
            rb"|" + either + rb"[+-]?[0-9]+" + _EXPONENT + rb"(?:\r|[,;|]?[ \t]*\Z)" + quoted
        )

    @property
    def _ends(self) -> bytes:
        if self.after_word == b"\t":
            return self.after_word
        return bytes({*b" \t", *self.after_word, *(b";" if self.after_word == b"," else b"")})

    @property
    def _quotes(self) -> bool:
        return self.after_word in (b",", b";")

    @property
    def others(self) -> bytes:
        """The bytes that `value_in_word` looks for before a number and that don't divide a row."""
        divide = b" \t" if self.runs else self.after_word + self.between
        return bytes(set(self._ends) - set(divide)) + b'"' * self._quotes

    def fields(self, line: bytes) -> list[bytes]:
        """All fields of a row, at every separator; of a pair, what is before the last `after_word` is one field."""
        if self.runs:
            return _RUN.split(line.strip(b" \t"))
        line = line.rstrip(b" \t")
        if self.after_word == self.between:
            return line.split(self.between)
        word, found, numbers = line.rpartition(self.after_word)
        return [word, *numbers.split(self.between)] if found else [line]

    def divided(self, line: bytes, width: int) -> list[bytes] | None:
        """[word, number, ...]; None if the row has fewer than `width` fields after its word.

        Examples:
            >>> SPACES.divided(b"route 66 0.25 -1", 2)
            [b'route 66', b'0.25', b'-1']
        """
        if self.runs:
            line = line.strip(b" \t")
            runs = list(_RUN.finditer(line))[-width:]
            edges = [0, *(edge for run in runs for edge in run.span()), len(line)]
            fields = [line[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
        elif self.after_word == self.between:
            fields = line.rstrip(b" \t").rsplit(self.between, width)
        else:
            fields = self.fields(line)
        return fields if len(fields) == width + 1 else None


_RUN = re.compile(rb"[ \t]+")
SPACES = Separator(b" ", b" ")
TABS = Separator(b"\t", b"\t")
TAB_THEN_SPACES = Separator(b"\t", b" ")
COMMAS = Separator(b",", b",")
COMMA_THEN_SPACES = Separator(b",", b" ")
WHITESPACE = Separator(b" ", b" ", runs=True)
INFERRED = (
    SPACES,
    TABS,
    TAB_THEN_SPACES,
    COMMAS,
    COMMA_THEN_SPACES,
    WHITESPACE,
)  # of equal readings the first is taken


def trailing_numbers(fields: Sequence[bytes]) -> int:
    """How many fields at the end are numbers."""
    return next((i for i, field in enumerate(reversed(fields)) if not NUMBER.fullmatch(field)), len(fields))


def separator_of(argument: object) -> Separator | None:
    """The separator that `separator=` names; None for None, which leaves it to the file.

    Raises:
        ArgumentError: not a separator.
    """
    if argument is None:
        return None
    if argument == "whitespace":
        return WHITESPACE
    pair: Any = argument if isinstance(argument, tuple | list) and len(argument) == 2 else (argument, argument)
    if not all(isinstance(each, str) and len(each) == 1 and each.isascii() and each not in _NOT for each in pair):
        raise ArgumentError(f"{_RULE}. Received: {_checks.shown(argument)}.")
    return Separator(pair[0].encode(), pair[1].encode())


_NOT = "\r\n0123456789+-.eE"  # would divide rows, or numbers
