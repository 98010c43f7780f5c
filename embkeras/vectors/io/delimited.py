"""Tables of words by dimensions in CSV or TSV, such as pandas writes: a line of names, then a row for each word.

Which column has the words, and which the numbers, is decided by the names and by the first rows. The columns of numbers must
be numbered (0, 1, 2 or dim_1, dim_2, dim_3), since a column of counts would otherwise be taken for a dimension. A first
column without a name that counts the rows is pandas' index, and left out.
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from embkeras.errors import VectorFileError
from embkeras.vectors.io.compressed import written
from embkeras.vectors.io.pairs import floats_of, is_number, lines_of, read_pairs, text_of
from embkeras.vectors.io.plain_table import Shape, read_plain
from embkeras.vectors.io.reading import INDEX_NAMES, WORD_NAMES, name_columns, warn_if_cut
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.source import HEAD, Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded

WORD = "word"  # the name that is written
_NUMBERED = re.compile(r"(.*?)([0-9]{1,9})", re.DOTALL)
_NUMBER = r"[+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_NUMBERS = re.compile(rf"\s*{_NUMBER}(?:[\s;]+{_NUMBER})+\s*")
_SAMPLE = 100  # rows by which a column is judged


class Columns(NamedTuple):
    """Which column has the words, which the numbers in order, and which counts the rows (None without one)."""

    words: int
    numbers: list[int]
    counter: int | None


def word_column(names: Sequence[str], texts: Iterable[int], where: str) -> int:
    """The column of words: the one whose name says so, or else the one column that is not numbers.

    Args:
        names: the names of the columns.
        texts: the columns that are not numbers.
        where: the table, named in the error.

    Raises:
        VectorFileError: there is none, or several.
    """
    words = [place for place, name in enumerate(names) if name.lower() in WORD_NAMES]
    if len(words) != 1:
        words = list(texts) or [place for place, name in enumerate(names[:1]) if name.lower() in INDEX_NAMES]
    if len(words) != 1:
        raise VectorFileError(
            f"{where} must have one column of words, such as {WORD!r}. Received: {len(words)} of its columns {_shown(names)}."
        )
    return words[0]


def columns_of(names: Sequence[str], texts: Iterable[int], where: str) -> Columns:
    """The parts of a table, by the names of its columns.

    Args:
        names: the names.
        texts: the columns that are not numbers.
        where: the table, named in the error.

    Raises:
        VectorFileError: no column of words, several, or numbers that are not numbered.
    """
    words = word_column(names, texts, where)
    counter = 0 if names[0].lower() in INDEX_NAMES and words != 0 else None
    numbers = [place for place in range(len(names)) if place not in (words, counter)]
    found = [_NUMBERED.fullmatch(names[place]) for place in numbers]
    prefixes, counts = {each and each[1] for each in found}, [int(each[2]) if each else -1 for each in found]
    expected = [list(range(first, first + len(counts))) for first in (0, 1)]
    if not numbers or len(prefixes) > 1 or counts not in expected:
        raise VectorFileError(
            f"{where} must have columns of numbers that are numbered from 0 or 1, such as 0, 1, 2 or dim_0, dim_1, dim_2, beside "
            f"its words in {names[words]!r}. Received: the columns {_shown(names)}."
        )
    return Columns(words, numbers, counter)


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return f"{shown}. Choose the columns in pandas, and pass the frame to KeyedVectors.from_dataframe"


def recognises(source: Source, separators: str) -> bool:
    """Whether the first lines are names and rows of as many fields, of which some are numbers."""
    return _separator(source, separators) is not None


def _separator(source: Source, separators: str) -> str | None:
    """The one of these separators that divides the head of a file into names and numbers; None if none does."""
    return next((each for each in separators if _is_table(_first_rows(source.head, each, "utf-8"))), None)


def _is_table(first: list[list[str]]) -> bool:
    names, *rows = first or [[]]
    if len(names) < 2:
        return False
    if name_columns(names, rows):
        return True  # whatever is wrong with the rows
    if all(map(_is_number, names[1:])):
        # A row of numbers, unless the names say otherwise; then the error is about their order.
        return names[0].lower() in WORD_NAMES and all(map(str.isdecimal, names[1:]))
    if not rows or any(len(row) != len(names) for row in rows):
        return False
    if any(
        map(_NUMBERS.fullmatch, names)
    ):  # a row, whose numbers are divided by other separators or have decimal commas
        return False
    if "" in names[1:] and all(map(_is_number, names[:-1])):  # a row of numbers with a separator after the last
        return False
    return any(all(_is_number(row[place]) for row in rows) for place in range(len(names)))


def read(source: Source, request: Request, separators: str) -> KeyedVectors:
    """Read the wanted rows: in large blocks if the file is as most are, and else one line after the other.

    Raises:
        VectorFileError: a fault in the file, with its line.
    """
    separator = _separator(source, separators) or separators[0]
    first = _first_rows(source.head, separator, request.encoding)
    if not first or len(first[0]) < 2:
        raise VectorFileError(f"{source.name}, line 1: expected the names of columns, separated by {separator!r}.")
    names, *rows = first
    texts = [
        place for place in range(len(names)) if not all(_is_number(row[place]) for row in rows if len(row) > place)
    ]
    columns = columns_of(names, texts, source.name)
    format = "tsv" if separator == "\t" else "csv"
    before = (columns.words,) if columns.counter is None else (columns.counter, columns.words)
    if [*before, *columns.numbers] == list(range(len(names))):
        shape = Shape(separator, len(columns.numbers), columns.counter is not None)
        found = read_plain(source, request, shape, format)
        if found is not None:
            return found
    cut: list[str] = []
    with source.open(request.progress) as stream:
        ended = lines_of(text_of(stream, request), source, cut=lambda line: cut.append(line))
        lines = csv.reader(ended, delimiter=separator, strict=True)

        def pairs() -> Iterator[tuple[str, Any]]:
            for row, fields in enumerate(_rows(lines, len(names), source)):
                if columns.counter is not None and fields[columns.counter] != str(row):
                    raise VectorFileError(
                        f"{source.name}, line {lines.line_num}: expected {row}, as the column {names[0]!r} counts the rows, "
                        f"found {fields[columns.counter][:60]!r}."
                    )
                yield fields[columns.words], fields

        def numbers(fields: list[str], row: int) -> list[float]:
            return floats_of(
                [fields[place] for place in columns.numbers], lambda: f"{source.name}, line {lines.line_num}"
            )

        found = read_pairs(pairs(), numbers, len(columns.numbers), source, format, request)
    if cut and columns.numbers[-1] == len(names) - 1:
        values = cut[0].split(separator)[-len(columns.numbers) :]
        warn_if_cut(source, [value.encode(errors="replace") for value in values], lines.line_num - 1)
    return found


def _rows(lines: Any, fields: int, source: Source) -> Iterator[list[str]]:
    """The rows below the names. Blank lines are allowed only at the end."""
    blank = None
    try:
        if not next(lines, None):
            raise VectorFileError(f"{source.name}, line 1: expected the names of columns, found a blank line.")
        for found in lines:
            if not found:
                blank = blank or lines.line_num
                continue
            if blank or len(found) != fields:
                number, count = (blank, 0) if blank else (lines.line_num, len(found))
                raise VectorFileError(f"{source.name}, line {number}: expected {fields} fields, found {count}.")
            yield found
    except csv.Error as error:
        raise VectorFileError(f"{source.name}, up to line {lines.line_num}: {error}.") from error


def _first_rows(head: bytes, separator: str, encoding: str) -> list[list[str]]:
    """The first rows that the head of a file holds completely."""
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    lines = list(islice(io.StringIO(text, newline=""), _SAMPLE + 1))
    if len(head) == HEAD or len(lines) > _SAMPLE:
        lines = lines[:-1]
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(row for row in csv.reader(lines, delimiter=separator, strict=True) if row)
    if rows:
        rows[0] = [name.strip(" ") for name in rows[0]]
    return rows


def _is_number(field: str) -> bool:
    field = field.strip(" ")
    return is_number(field) or field.lstrip("+-").lower() in ("nan", "inf", "infinity")


def can_hold(word: str, row: int) -> bool:
    """Whether UTF-8 can hold a word; a byte order mark at the start of a file would not be the word's."""
    return encoded(word) is not None


def write(vectors: KeyedVectors, beside: Path, path: Path, separator: str) -> None:
    """Write a line of names, and every row with 9 digits, which restore a float32 bit for bit."""
    quoted = re.compile(f'[{separator}"\r\n]')
    with written(beside, path) as file:
        file.write(separator.join([WORD, *map(str, range(vectors.vector_size))]) + "\n")
        for word, row in zip(vectors.words, vectors.matrix, strict=True):
            field = '"{}"'.format(word.replace('"', '""')) if quoted.search(word) else word
            file.write(separator.join([field, *[f"{x:.9g}" for x in row.tolist()]]) + "\n")
