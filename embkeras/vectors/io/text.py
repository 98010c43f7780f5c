"""Text vectors: what their first lines say, and writing them. `text_reader` reads the rows.

Two formats differ in the first line. GloVe text has none; word2vec text, which fastText calls `.vec`, begins with the number
of rows and the width. A row is a word and its numbers, separated by spaces and ended by a newline. Words may contain any
white space except newlines, so a row is split from the right, at the byte 0x20 only.
See https://nlp.stanford.edu/projects/glove/ and https://fasttext.cc/docs/en/english-vectors.html.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from embkeras._progress import progress
from embkeras.errors import VectorFileError
from embkeras.vectors.io.compressed import opened
from embkeras.vectors.io.lines import LONGEST_LINE
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded

NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
VALUE_AT_END = re.compile(rb" [+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?$")
_HEADER = re.compile(rb"([0-9]{1,18})[ \t]+([0-9]{1,18})[ \t]*\r?(?:\n|\Z)")
_BOM = b"\xef\xbb\xbf"


class Header(NamedTuple):
    """The first line of word2vec text and word2vec binary: how many rows, their width, and the bytes of the line."""

    rows: int
    width: int
    length: int


def header_of(head: bytes | bytearray) -> Header | None:
    """The header "rows width" at the start of a file; None if it has none.

    Example:
        >>> header_of(b"2 50\\ncat 0.1")
        Header(rows=2, width=50, length=5)
    """
    mark = len(_BOM) if head.startswith(_BOM) else 0
    found = _HEADER.match(head, mark)
    return Header(int(found[1]), int(found[2]), found.end()) if found else None


def fields_of(line: bytes) -> list[bytes]:
    """The fields of a line: without its newline and one space before it, which fastText writes."""
    return line.removesuffix(b"\n").removesuffix(b"\r").removesuffix(b" ").split(b" ")


def shape_of(source: Source, file: Any, header: bool) -> tuple[int | None, int, int]:
    """The number of rows (None without a header), the width and the byte at which the rows start, by the first two lines.

    Args:
        source: named in error messages.
        file: its contents, with `readline`.
        header: whether the first line must be a header; if not, it is a row.

    Raises:
        VectorFileError: no vectors, no header although there must be one, or two lines that disagree.
    """
    first, second = file.readline(LONGEST_LINE), file.readline(LONGEST_LINE)
    mark = len(_BOM) if first.startswith(_BOM) else 0  # some editors write it; it is not part of the first word
    row = first[mark:]
    if not row.strip():
        raise VectorFileError(f"{source.name} contains no vectors: its first line is empty.")
    if not header:
        return None, _width(source, row, second), mark
    found = header_of(first)
    if found is None:
        raise unexpected(source, 1, 'a header "rows width"', row)
    if found.width < 1:
        raise unexpected(source, 1, "a width of at least 1", row)
    # Compared with the row after it before anything of that width is allocated.
    if not second.strip() and not found.rows:
        raise VectorFileError(f"{source.name} contains no vectors.")
    if not second:
        raise wrong_count(source, found.rows, 0)
    if second.count(b" ") < found.width:
        raise unexpected(source, 2, f"a word and {found.width} numbers", b" ".join(fields_of(second)))
    return found.rows, found.width, len(first)


def unexpected(source: Source, number: int, expected: str, found: bytes) -> VectorFileError:
    """The error for a line, counted from 1."""
    return VectorFileError(f"{source.name}, line {number}: expected {expected}, found {found[:60]!r}.")


def wrong_count(source: Source, count: int, rows: int) -> VectorFileError:
    """The error for a header that counts the rows wrong."""
    return VectorFileError(f"{source.name}, line 1: the header says {count:,} rows, but the file has {rows:,}.")


def _width(source: Source, first: bytes, second: bytes) -> int:
    """The count of trailing numbers in the first line, minus one if every field is a number; the second line must agree."""
    width = min(_trailing_numbers(first), len(fields_of(first)) - 1)
    if width < 1:
        raise unexpected(source, 1, "a word and its numbers", first)
    if second.strip() and _trailing_numbers(second) < width:
        raise unexpected(source, 2, f"a word and {width} numbers, as in line 1", second)
    return width


def _trailing_numbers(line: bytes) -> int:
    fields = fields_of(line)
    return next((i for i, field in enumerate(reversed(fields)) if not NUMBER.fullmatch(field)), len(fields))


def can_hold(word: str, row: int, *, header: bool) -> bool:
    """Whether a word in this row is read back as the same word."""
    raw = encoded(word)
    if raw is None or b"\n" in raw or raw.endswith(b"\r") or VALUE_AT_END.search(raw):
        return False
    # Without a header, the first row says the width, and a number at the end of its word would count as one more.
    return header or row > 0 or b" " not in raw or not NUMBER.fullmatch(raw.rpartition(b" ")[2])


def write(vectors: KeyedVectors, beside: Path, path: Path, *, header: bool) -> None:
    """Write every row with 9 digits, which restore a float32 bit for bit; compressed if the name ends so."""
    with progress(f"writing {path.name}") as report, opened(beside, path) as file:
        if header:
            file.write(f"{len(vectors)} {vectors.vector_size}\n".encode())
        for place, (word, row) in enumerate(zip(vectors.words, vectors.matrix, strict=True)):
            report(place, len(vectors))
            file.write(word.encode("utf-8") + b" " + " ".join([f"{x:.9g}" for x in row.tolist()]).encode() + b"\n")
