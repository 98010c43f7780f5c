"""What the first lines of text vectors tell: how many rows, how many numbers in each, and where they start."""

import re
from typing import Any

from embkeras.errors import VectorFileError
from embkeras.vectors.io.lines import LONGEST_LINE
from embkeras.vectors.io.source import Source

HEADER = re.compile(rb"([0-9]{1,18}) ([0-9]{1,18}) ?\r?\n?")
NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
VALUE_AT_END = re.compile(rb" [+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?$")
BOM = b"\xef\xbb\xbf"


def shape_of(source: Source, file: Any, header: bool | None) -> tuple[int | None, int, int]:
    """Rows if the header says so, width, and the byte at which the rows start.

    Args:
        source: named in messages.
        file: its contents, with `readline`.
        header: whether the first line must be one; None: look.

    Raises:
        VectorFileError: no vectors, no header where there must be one, or two lines that do not agree.
    """
    first = file.readline(LONGEST_LINE)
    mark = len(BOM) if first.startswith(BOM) else 0  # written by some editors, and no part of the first word
    first = first[mark:]
    if not first.strip():
        raise VectorFileError(f"{source.name} holds no vectors: its first line is empty.")
    found = HEADER.fullmatch(first)
    second = file.readline(LONGEST_LINE)
    if found and header is not False:
        count, width = int(found[1]), int(found[2])
        if width < 1:
            raise unexpected(source, 1, "a width of at least 1", first)
        _check_first_row(source, count, width, second)
        return count, width, mark + len(first)
    if header:
        raise unexpected(source, 1, 'a header "rows width"', first)
    return None, _width(source, first, second), mark


def unexpected(source: Source, number: int, expected: str, found: bytes) -> VectorFileError:
    """The error of a line, numbered from 1."""
    return VectorFileError(f"{source.name}, line {number}: expected {expected}, found {found[:60]!r}.")


def other_count(source: Source, count: int, rows: int) -> VectorFileError:
    """The error of a header that lies."""
    return VectorFileError(f"{source.name} says in line 1 that it has {count:,} rows, but has {rows:,}.")


def _check_first_row(source: Source, count: int, width: int, row: bytes) -> None:
    """Hold what a header says against the row behind it, before anything of that width is allocated."""
    if not row.strip() and not count:
        raise VectorFileError(f"{source.name} holds no vectors.")
    if not row:
        raise other_count(source, count, 0)
    if row.count(b" ") < width:
        raise unexpected(source, 2, f"a word and {width} numbers", _without_end(row))


def _width(source: Source, first: bytes, second: bytes) -> int:
    """Trailing numbers of the first line, one fewer if every field is a number; the second line must agree."""
    fields = _without_end(first).split(b" ")
    width = min(_numbers(first), len(fields) - 1)
    if width < 1:
        raise unexpected(source, 1, "a word and its numbers", first)
    if second.strip() and _numbers(second) < width:
        raise unexpected(source, 2, f"a word and {width} numbers, as in line 1", second)
    return width


def _without_end(line: bytes) -> bytes:
    """The line without its newline and without one space before it, which fastText writes."""
    return line.removesuffix(b"\n").removesuffix(b"\r").removesuffix(b" ")


def _numbers(line: bytes) -> int:
    """How many fields at the end of a line are numbers."""
    fields = _without_end(line).split(b" ")
    return next((i for i, field in enumerate(reversed(fields)) if not NUMBER.fullmatch(field)), len(fields))
