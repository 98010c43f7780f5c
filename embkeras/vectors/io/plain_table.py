"""The rows of a CSV or TSV in large blocks, if they are as most tables have them: the words first, then the numbers.

Blocks of lines are read as those of text are, since finding fields and reading digits with NumPy is several times faster than
the csv module. A record with quotation marks is read by the csv module, and its numbers take their place in the block. Whatever
else is unusual (a fault, a blank line, a carriage return within a line, an encoding in which a comma may be part of another
character) is left to `delimited`, which reads the file anew, line by line, and knows what to say.
"""

import codecs
import csv
import io
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.io.lines import LONGEST_LINE, Block, Fields
from embkeras.vectors.io.reading import warn_if_cut
from embkeras.vectors.io.rows import Request, RowSelector, Table
from embkeras.vectors.io.separators import Separator
from embkeras.vectors.io.source import Source, Stream
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import Words

_READ = 5 << 17  # bytes
_ENCODINGS = re.compile(r"utf-8|ascii|iso8859-\d+|cp125\d|koi8-[ru]")  # a comma is never part of another character
_BLANKS = list(b" \t")
_NUMERALS = b"0123456789+-.eE"


@dataclass(frozen=True)
class Shape:
    """What the lines of a table have: `width` numbers after the word, and a number that counts the rows before it."""

    separator: str
    width: int
    counted: bool


class _Unusual(Exception):
    """This file has to be read line by line."""


def read_plain(source: Source, request: Request, shape: Shape, format: str) -> KeyedVectors | None:
    """The wanted rows; None if the file has to be read line by line."""
    if not _ENCODINGS.fullmatch(codecs.lookup(request.encoding).name):
        return None
    try:
        with source.open(request.progress) as stream:
            return _Reader(source, request, shape, stream).read(format)
    except (_Unusual, csv.Error, UnicodeError):
        return None


def _marks(text: bytes) -> list[int]:
    """The places of quotation marks."""
    marks, place = [], text.find(b'"')
    while place >= 0:
        marks.append(place)
        place = text.find(b'"', place + 1)
    return marks


def _ends(text: bytes, start: int, stop: int) -> int:
    """How many lines end between two places."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8, stop - start, start) == ord("\n"))) if start < stop else 0


class _Reader:
    """One reading of one file."""

    def __init__(self, source: Source, request: Request, shape: Shape, stream: Stream):
        self.source, self.request, self.shape, self.stream = source, request, shape, stream
        between = shape.separator.encode()
        self.between, self.block = between, Block(_READ, Separator(between, between))
        self.selector, self.table = RowSelector(request), Table(shape.width, request.dtype)
        self.rows, self.cut = 0, b""  # and the last line, if nothing ends it

    def read(self, format: str) -> KeyedVectors:
        for lines in self._lines():
            self._take(*self._without_marks(lines))
            if self.rows == self.request.limit:
                break
        else:
            warn_if_cut(self.source, self.cut.split(self.between)[-self.shape.width :], self.rows)
        return self.selector.keyed(self.table.matrix(), self.source, format, self.rows)

    def _lines(self) -> Iterator[bytes]:
        """Complete records, many at a time, without the line of names. Only ends of lines outside quotation marks count."""
        rest, named = b"", False
        while True:
            more = self.stream.read(_READ) or b""
            found = rest + more
            if not more and found and not found.endswith(b"\n"):
                self.cut = found[found.rfind(b"\n") + 1 :]
                found += b"\n"
            cut = found.rfind(b"\n") + 1
            marks = _marks(found)
            while cut and bisect_left(marks, cut) % 2:  # the last line is within quotation marks
                cut = found.rfind(b"\n", 0, cut - 1) + 1
            lines, rest = found[:cut], found[cut:]
            if len(rest) > LONGEST_LINE or (rest and not more):
                raise _Unusual
            if lines and not named:
                names, named = lines.index(b"\n") + 1, True
                if lines.count(b'"', 0, names) % 2 or b"\r" in lines[: names - 2] or not lines[:names].strip():
                    raise _Unusual
                lines = lines[names:]
            if lines:
                yield lines
            if not more:
                return

    def _without_marks(self, lines: bytes) -> tuple[bytes, dict[int, bytes]]:
        """The lines with an empty word in each record that has quotation marks, and what its word is, by its place."""
        if b'"' not in lines:
            return lines, {}
        parts: list[bytes] = []
        words = {}
        marks = _marks(lines)
        at = place = done = 0  # the byte, the line and the mark after the last record with marks
        while done < len(marks):
            start = lines.rfind(b"\n", at, marks[done]) + 1 or at
            count, end = done, start
            while (count - done) % 2 or count == done:
                end = lines.index(b"\n", end) + 1
                count = bisect_left(marks, end, done)
            place += _ends(lines, at, start)
            words[place], line = self._record(lines, start, end, marks[done:count])
            parts += [lines[at:start], line]
            place, at, done = place + 1, end, count
        return b"".join([*parts, lines[at:]]), words

    def _record(self, lines: bytes, start: int, end: int, marks: list[int]) -> tuple[bytes, bytes]:
        """The word of a record with quotation marks, and the record as a line without its word."""
        before = lines[start : marks[0]]
        simple = before.find(self.between) == len(before) - 1 >= 0 if self.shape.counted else not before
        if simple and len(marks) == 2 and lines[marks[1] + 1 : marks[1] + 2] == self.between:
            return lines[marks[0] + 1 : marks[1]], before + lines[marks[1] + 1 : end]
        text = lines[start:end].decode(self.request.encoding, "surrogateescape")
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.shape.separator, strict=True))
        if len(records) != 1 or len(records[0]) < 2:
            raise _Unusual
        *counter, word = records[0][: 1 + self.shape.counted]
        fields = [*counter, "", *records[0][1 + self.shape.counted :]]
        line = self.shape.separator.join(fields)
        if line.count(self.shape.separator) != len(fields) - 1 or any(each in line for each in '\n\r"'):
            raise _Unusual
        return word.encode(self.request.encoding, "surrogateescape"), line.encode() + b"\n"

    def _take(self, lines: bytes, words: dict[int, bytes]) -> None:
        """Keep the wanted rows of a block."""
        if b"\r" in lines and lines.count(b"\r") != lines.count(b"\r\n"):
            raise _Unusual
        self.block.load([lines], [])
        if self.shape.separator == "\t" and np.isin(self.block.bytes[self.block.stops], _BLANKS).any():
            raise _Unusual  # an empty field at the end of a line
        if self.request.limit is not None:
            self.block.keep(self.request.limit - self.rows)
        if (self.block.starts == self.block.stops).any():  # a blank line
            raise _Unusual
        fields = self.block.fields(self.shape.width)
        if fields is None or len(fields.spaced) != len(self.block) * self.shape.counted:
            raise _Unusual
        found = Words.gathered(self.block.bytes, self.block.starts, fields.words)
        if words or self.shape.counted:
            found = Words.of(self._words(found.raws(), words))
        try:
            kept = self.selector.keep(found, lambda place: "")
        except VectorFileError:  # an invalid word, which another fault may precede
            raise _Unusual from None
        self.rows += len(self.block)
        if kept:
            self._add(fields, np.array(kept))

    def _words(self, raws: list[bytes], marked: dict[int, bytes]) -> list[bytes]:
        """The words of the lines, of which some are known from quotation marks, after the numbers that count the rows."""
        if self.shape.counted:
            pairs = [raw.split(self.between) for raw in raws]
            if any(len(pair) != 2 or pair[0] != b"%d" % row for row, pair in enumerate(pairs, self.rows)):
                raise _Unusual
            raws = [pair[1] for pair in pairs]
        for place, word in marked.items():
            if place < len(raws):
                raws[place] = word
        return raws

    def _add(self, fields: Fields, kept: np.ndarray) -> None:
        """Copy the numbers of these lines into the table."""
        starts, stops = fields.starts, fields.stops
        if len(kept) < len(self.block):
            starts, stops = (each.reshape(-1, self.shape.width)[kept].ravel() for each in (starts, stops))
        values, odd = self.block.digits.values(starts, stops, self.request.dtype)
        pieces = zip(starts[odd].tolist(), stops[odd].tolist(), strict=True)
        texts = [self.block.raw[start:stop].strip(b" ") for start, stop in pieces]
        if b"".join(texts).translate(None, _NUMERALS):
            raise _Unusual
        try:
            values[odd] = list(map(float, texts))
        except ValueError:
            raise _Unusual from None
        added = self.table.add(values.reshape(-1, self.shape.width))
        if not np.isfinite(added.ravel()[odd]).all():
            raise _Unusual
