"""Reading text vectors: the width, the rows, and what is wrong with them."""

import os
import re
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.formats.lines import LONGEST_LINE, Block, Fields, Lines, count_newlines
from embkeras.vectors.formats.request import Request, keyed_vectors
from embkeras.vectors.formats.source import Source, Stream
from embkeras.vectors.formats.table import Table, without_rows
from embkeras.vectors.store import KeyedVectors

HEADER = re.compile(rb"([0-9]{1,18}) ([0-9]{1,18}) ?\r?\n?")
NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
VALUE_AT_END = re.compile(rb" [+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?$")
BOM = b"\xef\xbb\xbf"
_NUMERALS = b"0123456789+-.eE"  # float() reads more than these: underscores, white space around a number
BLOCK = 1 << 18  # bytes: small enough for a processor's cache
WORTH_A_THREAD = 1 << 22  # bytes of file
_PACKED = 8  # how much larger than the file its contents are believed to be, where a header says so


class TextReader:
    """One reading of one file: keeps the place for messages, and the counts.

    Values are read many at once, block by block. Where anything in a block is to be refused, the block is read again row
    by row, which finds the first fault in it and what it is.
    """

    def __init__(self, source: Source, request: Request, header: bool | None):
        self.source, self.request, self.header = source, request, header
        self.duplicates = 0
        self.undecodable: set[int] = set()  # rows; a row that is looked at again counts once

    def read(self) -> KeyedVectors:
        """The rows asked for."""
        with self.source.open() as stream:
            count, self.width, start = self._shape(stream.buffered())
        self.first_line = 1 + (count is not None)
        table = Table(self.width, self.request.dtype, self._rows_to_come(count, start))
        with self.source.open(self.request.progress) as stream:
            stream.read(start)
            index, matrix, rows = (self._all if self.request.wanted is None else self._some)(stream, table)
        whole = self.request.limit is None or rows < self.request.limit
        if count is not None and whole and count != rows:
            raise self._other_count(count, rows)
        return keyed_vectors(
            list(index),
            matrix,
            self.source,
            "glove" if count is None else "word2vec",
            self.request,
            key_to_index=index,
            rows=rows,
            duplicates=self.duplicates,
            undecodable=len(self.undecodable),
        )

    def _shape(self, file) -> tuple[int | None, int, int]:
        """Rows if the header says so, width, and the byte at which the rows start."""
        first = file.readline(LONGEST_LINE)
        mark = len(BOM) if first.startswith(BOM) else 0  # written by some editors, and no part of the first word
        first = first[mark:]
        if not first.strip():
            raise VectorFileError(f"{self.source.name} holds no vectors: its first line is empty.")
        header = HEADER.fullmatch(first)
        second = file.readline(LONGEST_LINE)
        if header and self.header is not False:
            count, width = int(header[1]), int(header[2])
            if width < 1:
                raise self._error(1, "a width of at least 1", first)
            self._check_first_row(count, width, second)
            return count, width, mark + len(first)
        if self.header:
            raise self._error(1, 'a header "rows width"', first)
        return None, self._width(first, second), mark

    def _check_first_row(self, count: int, width: int, row: bytes) -> None:
        """Hold what a header says against the row behind it, before anything of that width is allocated."""
        if not row.strip() and not count:
            raise VectorFileError(f"{self.source.name} holds no vectors.")
        if not row:
            raise self._other_count(count, 0)
        if row.count(b" ") < width:
            raise self._error(2, f"a word and {width} numbers", _without_end(row))

    def _width(self, first: bytes, second: bytes) -> int:
        """Trailing numbers of the first line, one fewer if every field is a number; the second line must agree."""
        fields = _without_end(first).split(b" ")
        width = min(_numbers(first), len(fields) - 1)
        if width < 1:
            raise self._error(1, "a word and its numbers", first)
        if second.strip() and _numbers(second) < width:
            raise self._error(2, f"a word and {width} numbers, as in line 1", second)
        return width

    def _rows_to_come(self, count: int | None, start: int) -> int | None:
        """For how many rows a table may be allocated; None where that is not known, or not to be believed."""
        limit, plain = self.request.limit, self.source.compression is None
        if self.request.wanted is not None:
            return None
        if count is None and plain and limit is None:
            with self.source.open() as stream:
                return count_newlines(stream) + 1
        # The shortest row is an empty word, `width` times a space and a digit, and a newline.
        size = self.source.path.stat().st_size * (1 if plain else _PACKED)
        if count is None or count > 1 + (size - start) // (2 * self.width + 1):
            return None
        return count if limit is None else min(count, limit)

    def _all(self, stream: Stream, table: Table) -> tuple[dict[str, int], np.ndarray, int]:
        """The row of each word, the rows, and how many were read. Of a word that stands twice the first is kept."""
        lines = self._lines(stream, table.reserve)
        words: list[str | None] = []
        for part in lines.each(self._parsed, block_size=BLOCK, threads=_threads(self.source)):
            words += part
        matrix = table.matrix()[: lines.rows]
        index = {word: row for row, word in enumerate(words)}
        if len(index) == len(words) and None not in index:
            return index, matrix, lines.rows
        kept: dict[str, int] = {}
        left_out = []
        for row, word in enumerate(words):
            self.duplicates += word in kept
            if word is None or word in kept:
                left_out.append(row)
            else:
                kept[word] = len(kept)
        return kept, without_rows(matrix, left_out), lines.rows

    def _some(self, stream: Stream, table: Table) -> tuple[dict[str, int], np.ndarray, int]:
        """The rows of wanted words. They are gathered into blocks of their own, which are read like any other."""
        lines = self._lines(stream, lambda count: None)
        wanted, kept = self.request.wanted, dict[str, int]()
        block, picked = Block(2 * BLOCK), Block(BLOCK)  # less is done with a block here, so it may be larger
        waiting: list[bytes] = []
        rows: list[int] = []

        def read_waiting():
            picked.load(waiting, rows)
            picked.out = table.reserve(len(rows))
            self._parsed(picked)
            waiting.clear()
            rows.clear()

        while lines.take(block):
            found = [(place, word) for place, word in enumerate(self._words_of(block)) if word in wanted]
            for place, word in found:
                if word in kept:
                    self.duplicates += 1
                else:
                    kept[word] = len(kept)
                    waiting.append(block.line_and_end(place))
                    rows.append(block.rows[place])
            if sum(map(len, waiting)) > BLOCK:
                read_waiting()
        if waiting:
            read_waiting()
        return kept, table.matrix(), lines.rows

    def _lines(self, stream: Stream, reserve: Any) -> Lines:
        return Lines(stream, limit=self.request.limit, reserve=reserve, refuse=self._refusal)

    def _parsed(self, block: Block) -> list[str | None]:
        """Write the values of a block's rows to `block.out`; their words, None for those to be left out."""
        fields = block.fields(self.width)
        if fields is not None:
            words = self._words(block, fields.words.tolist(), fields.spaced)
            if words is not None and self._numbers(block, fields):
                return words
        words = []
        for place, row in enumerate(block.rows.tolist()):
            word, *numbers = self._cut(block.line(place), row)
            words.append(self._word(word, row))
            block.out[place] = self._values(numbers, row)
        return words

    def _words_of(self, block: Block) -> list[str | None]:
        """The words of a block whose values are not wanted. That each row has them is seen by counting spaces."""
        spaces = block.spaces_per_line() - self.width
        if (spaces >= 0).all():
            words = self._words(block, *_word_stops(block, spaces))
            if words is not None:
                return words
        rows = enumerate(block.rows.tolist())
        return [self._word(self._cut(block.line(place), row)[0], row) for place, row in rows]

    def _words(self, block: Block, stops: list[int], spaced: np.ndarray) -> list[str | None] | None:
        """The words that end at `stops`; None if one of them is to be refused. `spaced` are those that hold spaces."""
        raw, encoding = block.raw, self.request.encoding
        pieces = list(zip(block.starts.tolist(), stops, strict=True))
        if any(VALUE_AT_END.search(raw[slice(*pieces[place])]) for place in spaced.tolist()):
            return None
        try:
            return [raw[start:stop].decode(encoding) for start, stop in pieces]
        except UnicodeError:
            if self.request.errors == "strict":
                return None
        return [
            self._word(raw[start:stop], row) for (start, stop), row in zip(pieces, block.rows.tolist(), strict=True)
        ]

    def _numbers(self, block: Block, fields: Fields) -> bool:
        """Write all values of a block; False if one of them is to be refused, or most are better read row by row."""
        values, odd = block.digits.values(fields.starts, fields.stops)
        if 4 * len(odd) > len(values):
            return False
        pieces = zip(fields.starts[odd].tolist(), fields.stops[odd].tolist(), strict=True)
        texts = [block.raw[start:stop] for start, stop in pieces]
        if b"".join(texts).translate(None, _NUMERALS):
            return False
        try:
            values[odd] = list(map(float, texts))
        except ValueError:
            return False
        with np.errstate(over="ignore"):  # a value too large becomes infinity, which is refused
            block.out.reshape(-1)[:] = values
        return bool(np.isfinite(block.out.reshape(-1)[odd]).all())

    def _cut(self, line: bytes, row: int) -> list[bytes]:
        """[word, number, ...] of a row."""
        fields = line.rsplit(b" ", self.width)
        # A word such as "dog 0.25" means a row that is too wide; "route 66" is a word.
        if len(fields) != self.width + 1 or VALUE_AT_END.search(fields[0]):
            raise self._refusal(row, line)
        return fields

    def _word(self, raw: bytes, row: int) -> str | None:
        try:
            return raw.decode(self.request.encoding)
        except UnicodeError as error:
            if self.request.errors == "strict":
                raise VectorFileError(
                    f"{self.source.name}, line {row + self.first_line}: the word {bytes(raw[:40])!r} is not "
                    f"{self.request.encoding} (byte {getattr(error, 'start', 0)}). "
                    f'Another encoding=, or errors="replace" or "skip"?'
                ) from None
            self.undecodable.add(row)
            return raw.decode(self.request.encoding, "replace") if self.request.errors == "replace" else None

    def _values(self, fields: list[bytes], row: int) -> np.ndarray:
        """The values of a row by float() alone."""
        number = row + self.first_line
        try:
            with np.errstate(over="ignore"):
                values = np.array(list(map(float, fields)), self.request.dtype)
        except ValueError:
            wrong = next(field for field in fields if not NUMBER.fullmatch(field))
            raise self._error(number, f"{len(fields)} numbers after the word", wrong) from None
        good = np.isfinite(values)
        if not good.all():
            raise self._error(number, f"finite {self.request.dtype} numbers", fields[int(good.argmin())])
        if b"".join(fields).translate(None, _NUMERALS):  # float() reads 1_000
            strange = next(field for field in fields if field.translate(None, _NUMERALS))
            raise self._error(number, "numbers without underscores or tabs", strange)
        return values

    def _refusal(self, row: int, line: bytes) -> VectorFileError:
        return self._error(row + self.first_line, f"a word and {self.width} numbers", line)

    def _other_count(self, count: int, rows: int) -> VectorFileError:
        return VectorFileError(f"{self.source.name} says in line 1 that it has {count:,} rows, but has {rows:,}.")

    def _error(self, number: int, expected: str, found: bytes) -> VectorFileError:
        return VectorFileError(f"{self.source.name}, line {number}: expected {expected}, found {found[:60]!r}.")


def _word_stops(block: Block, spaces: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Where the words end, and which hold spaces; `spaces` tells how many."""
    find = block.raw.find
    stops = [find(b" ", start) for start in block.starts.tolist()]
    spaced = np.flatnonzero(spaces)
    for place in spaced.tolist():
        for _ in range(spaces[place]):
            stops[place] = find(b" ", stops[place] + 1)
    return stops, spaced


def _threads(source: Source) -> int:
    """Two where there are two processors and enough to do; a third would wait for the other two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores > 1 and source.path.stat().st_size >= WORTH_A_THREAD else 1


def _without_end(line: bytes) -> bytes:
    """The line without its newline and without one space before it, which fastText writes."""
    return line.removesuffix(b"\n").removesuffix(b"\r").removesuffix(b" ")


def _numbers(line: bytes) -> int:
    """How many fields at the end of a line are numbers."""
    fields = _without_end(line).split(b" ")
    return next((i for i, field in enumerate(reversed(fields)) if not NUMBER.fullmatch(field)), len(fields))
