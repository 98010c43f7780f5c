"""Files that pair each word with its numbers, row by row: decode the words, keep the wanted rows, check the numbers."""

import codecs
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.io.lines import LONGEST_LINE
from embkeras.vectors.io.rows import Request, RowSelector, Table
from embkeras.vectors.io.source import Source, Stream
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded

_NUMERALS = b"0123456789+-.eE"  # float() accepts more: underscores, white space around a number, other digits
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?")
_UNDECODED = "surrogateescape"  # how bytes that are invalid in the encoding come through, until their word is looked at


def text_of(stream: Stream, request: Request) -> io.TextIOWrapper:
    """The contents as text, without a byte order mark. Bytes that are invalid in the encoding become lone surrogates."""
    encoding = "utf-8-sig" if codecs.lookup(request.encoding).name == "utf-8" else request.encoding
    return io.TextIOWrapper(stream.buffered(), encoding, _UNDECODED, newline="")


def lines_of(text: io.TextIOWrapper, source: Source, cut: Callable[[str], None] = lambda line: None) -> Iterator[str]:
    """The lines with their ends.

    Args:
        text: the contents.
        source: the file.
        cut: called with the last line, if nothing ends it.

    Raises:
        VectorFileError: a line too long to be one, or contents that the encoding can't decode.
    """
    number, line = 1, ""
    try:
        while added := text.readline(LONGEST_LINE):
            line = added
            if len(line) == LONGEST_LINE:
                raise VectorFileError(
                    f"{source.name}, line {number}: expected less than {LONGEST_LINE:,} characters in a line."
                )
            yield line
            number += 1
        if line and not line.endswith(("\n", "\r")):
            cut(line)
    except UnicodeError as error:
        raise VectorFileError(f"{source.name}, line {number}: not valid {text.encoding}: {error}.") from error


def floats_of(fields: Sequence[str], place: Callable[[], str]) -> list[float]:
    """The numbers in some fields, by float() alone.

    Args:
        fields: the fields.
        place: returns their place, for the error.

    Raises:
        VectorFileError: a field that is not a plain number.
    """
    fields = [field.strip(" ") for field in fields]
    try:
        if not "".join(fields).encode("utf-8", "surrogatepass").translate(None, _NUMERALS):
            return list(map(float, fields))
    except ValueError:
        pass
    wrong = next(field for field in fields if not is_number(field))
    advice = " Replace the decimal commas by points." if _DECIMAL_COMMA.fullmatch(wrong) else ""
    raise VectorFileError(f"{place()}: expected a number, found {wrong[:60]!r}.{advice}")


def is_number(field: str) -> bool:
    """Whether a field is a plain number, finite or too large to be."""
    try:
        float(field)
    except ValueError:
        return False
    return not field.encode("utf-8", "surrogatepass").translate(None, _NUMERALS)


def read_pairs(
    pairs: Iterable[tuple[str | None, Any]],
    numbers: Callable[[Any, int], Sequence[float]],
    width: int,
    source: Source,
    format: str,
    request: Request,
) -> KeyedVectors:
    """The wanted rows of a file.

    Args:
        pairs: each word (None for a row to leave out), and what stands for its numbers, in the order of the file.
        numbers: returns the `width` numbers of a wanted row, from what stands for them and the row.
        width: numbers per row.
        source: the file.
        format: its format.
        request: which rows, and how.

    Raises:
        VectorFileError: a word that the encoding does not have and errors="strict", or a number that is not finite.
    """
    selector, table = RowSelector(request), Table(width, request.dtype)
    rows = 0
    for row, (found, raw) in enumerate(islice(pairs, request.limit)):
        rows += 1
        word = None if found is None else _decoded(found, row, selector, source, request)
        if word is None or not selector.keep_strings([(row, word)]):
            continue
        try:
            added = table.add(np.array(numbers(raw, row), np.float64)[None])
        except OverflowError:  # an integer beyond the largest float
            added = np.array([[np.inf]])
        if not np.isfinite(added).all():
            raise VectorFileError(
                f"{source.name} contains NaN, infinity or a number too large for {request.dtype} in row {row} (word {word!r})."
            )
    return selector.keyed(table.matrix(), source, format, rows)


def _decoded(word: str, row: int, selector: RowSelector, source: Source, request: Request) -> str | None:
    """A word as `errors` wants it; None for a row to leave out."""
    if encoded(word) is not None:
        return word
    try:
        raw = word.encode(request.encoding, _UNDECODED)
    except UnicodeError:  # a lone surrogate, which JSON can write as an escape
        raw = word.encode("utf-8", "surrogatepass")
    utf8, valid = request.in_utf8(raw, lambda: f"{source.name}, row {row}")
    selector.undecodable += not valid
    return None if not valid and request.errors == "skip" else utf8.decode()
