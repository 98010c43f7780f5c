"""Reading the rows of text vectors, and saying what is wrong with them."""

import codecs
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.io.lines import Block, Fields, Lines
from embkeras.vectors.io.reading import TABLE, Reading, reading_of, unexpected, warn, warn_if_cut, wrong_count
from embkeras.vectors.io.recoded import Recoded, is_recoded
from embkeras.vectors.io.rows import Request, RowSelector, Table, without_rows
from embkeras.vectors.io.separators import NUMBER
from embkeras.vectors.io.source import Progress, Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import Words

_NUMERALS = b"0123456789+-.eE"  # float() accepts more: underscores, white space around a number
BLOCK = (
    5 << 17
)  # bytes: one thread would be faster with less, but two threads wait for each other at each step of a block
SEARCHED = 1 << 20  # bytes, when searching for words: one thread does that, since a second one gains little
PICKED = 1 << 18  # bytes of the lines of wanted words that are parsed together
WORTH_A_THREAD = 1 << 22  # bytes of file
_PACKED = 8  # how many times larger than a compressed file its contents may be, for a header to be believed
_ROOM = 1.25  # times the expected rows; rows that are not used take no memory
_SAMPLES, _SAMPLE = 16, 1 << 16  # places in a file, and bytes at each, from which its rows are estimated


def read(source: Source, request: Request, *, header: bool) -> KeyedVectors:
    """Parse the wanted rows; the other lines are only split at the word.

    Args:
        source: the file.
        request: which rows, and how.
        header: whether the first line says the number of rows and the width, unless the request says it.

    Raises:
        VectorFileError: a fault in the file, with its line, or a file that can be read in two ways.
    """
    return TextReader(source, request, header).read()


class TextReader:
    """One reading of one file.

    Values are parsed in bulk, block by block. If anything in a block has to be refused, the block is parsed again row by
    row, which finds the first fault in it and its reason.
    """

    reading: Reading

    def __init__(self, source: Source, request: Request, header: bool):
        self.recoded = is_recoded(request.encoding)
        self.source, self.asked, self.header = source, request, None if self.recoded and not header else header
        self.request = replace(request, encoding="utf-8") if self.recoded else request
        self.selector = RowSelector(self.request)
        self.undecodable: set[int] = set()  # rows; a row that is parsed twice counts once
        self.utf8 = codecs.lookup(self.request.encoding).name == "utf-8"

    def read(self) -> KeyedVectors:
        """The wanted rows."""
        with self._opened() as stream:
            self.reading = reading_of(self.source, stream, self.request, self.header)
        count = self.reading.header.rows if self.reading.header is not None else None
        table = Table(self.reading.width, self.request.dtype, self._expected_rows(count))
        with self._opened(self.request.progress) as stream:
            stream.read(self.reading.start)
            lines = self._lines(stream)
            rows = (self._all if self.request.wanted is None else self._some)(lines, table)
        if self.request.limit is None or rows < self.request.limit:
            self._check_end(count, rows, lines.cut)
        self.selector.undecodable = len(self.undecodable)
        skipped = sorted(self.undecodable) if self.request.wanted is None and self.request.errors == "skip" else []
        matrix = without_rows(table.matrix(), skipped)
        format = "glove" if self.reading.header is None and self.reading.ignored is None else "word2vec"
        return self.selector.keyed(matrix, self.source, format, rows)

    def _opened(self, progress: Progress | None = None) -> Any:
        """The contents from the first byte on, in an encoding in which the bytes of spaces, digits and newlines are ASCII."""
        stream = self.source.open(progress)
        return Recoded(stream, self.asked, self.source) if self.recoded else stream

    def _check_end(self, count: int | None, rows: int, cut: bytes | None) -> None:
        """What only the end of a file shows: another number of rows than the header says, a last value that is cut."""
        ignored = self.reading.ignored
        if count is not None and count != rows:
            raise wrong_count(self.source, count, rows)
        if ignored is not None and (ignored.rows, ignored.width) != (rows, self.reading.width):
            warn(
                f"{self.source.name}: the header says {ignored.rows:,} rows of {ignored.width:,} numbers, but the file has "
                f"{rows:,} of {self.reading.width:,}, which were taken."
            )
        if cut is not None:
            warn_if_cut(self.source, (self.reading.divided(cut) or [])[1:], rows)

    def _expected_rows(self, count: int | None) -> int | None:
        """The number of rows to allocate a table for; None if it is unknown or can't be believed."""
        limit, plain = self.request.limit, self.source.compression is None and not self.recoded
        if self.request.wanted is not None:
            return None
        size = self.source.path.stat().st_size * (1 if plain else _PACKED)
        # The shortest row is an empty word, `width` times a space and a digit, and a newline.
        most = 1 + (size - self.reading.start) // (2 * self.reading.width + 1)
        if count is None and plain and self.reading.line_end == b"\n":
            count = min(most, 1 + int(_ROOM * _estimated_newlines(self.source.path, size)))
        elif count is None or count > most:
            return None
        return count if limit is None else min(count, limit)

    def _all(self, lines: Lines, table: Table) -> int:
        """Parse every row into the table; returns their number."""
        lines.reserve = table.reserve

        def parse(block: Block) -> tuple[Words, np.ndarray | None]:
            return self._parsed(block), self._allowed(block)

        lines.each(
            parse, lambda found: self.selector.keep_decoded(*found), block_size=BLOCK, threads=_threads(self.source)
        )
        return lines.rows

    def _some(self, lines: Lines, table: Table) -> int:
        """Parse the rows of wanted words into the table; their lines are collected into blocks of their own first."""
        waiting: list[bytearray] = []
        rows: list[int] = []
        picked = Block(PICKED, self.reading.separator)
        at_once = 1 + PICKED // (10 * self.reading.width)  # a number takes about ten bytes

        def parse_waiting(least: int) -> None:
            while len(waiting) >= least:
                picked.load(waiting[:at_once], rows[:at_once])
                picked.out = table.reserve(len(picked.rows))
                self._parsed(picked)
                del waiting[:at_once], rows[:at_once]

        def find(block: Block) -> tuple[list[int], list[bytearray]]:
            places = np.array(self.selector.keep_decoded(self._words_of(block), self._allowed(block)), np.int64)
            return block.rows[places].tolist(), block.lines_and_ends(places)

        def collect(found: tuple[list[int], list[bytearray]]) -> None:
            rows.extend(found[0])
            waiting.extend(found[1])
            parse_waiting(at_once)

        try:
            lines.each(find, collect, block_size=SEARCHED, threads=1)
        except VectorFileError:
            parse_waiting(1)  # a fault in these rows comes before the one that ended the search
            raise
        parse_waiting(1)
        return lines.rows

    def _allowed(self, block: Block) -> np.ndarray | None:
        """Which rows of a block can be kept: not those with an undecodable word under errors="skip"; None for all."""
        if self.request.errors != "skip" or not self.undecodable:
            return None
        return np.array([row not in self.undecodable for row in block.rows.tolist()], bool)

    def _lines(self, stream: Any) -> Lines:
        reading = self.reading
        return Lines(
            stream, reading.separator, limit=self.request.limit, refuse=self._refusal, line_end=reading.line_end
        )

    def _parsed(self, block: Block) -> Words:
        """Write the values of a block's rows to `block.out`; returns their words."""
        fields = block.fields(self.reading.width)
        if fields is not None:
            words = self._gathered(block, fields.words, fields.spaced)
            if words is not None and self._write_values(block, fields):
                return words
        return self._parsed_one_by_one(block)

    def _words_of(self, block: Block) -> Words:
        """The words of a block whose values are not needed. Counting spaces shows that each row has its values."""
        found = block.words(self.reading.width)
        words = None if found is None else self._gathered(block, *found)
        return self._parsed_one_by_one(block) if words is None else words

    def _parsed_one_by_one(self, block: Block) -> Words:
        """The words of a block, row by row; the values too, if the block has room for them or the word is wanted."""
        raws = []
        for place, row in enumerate(block.rows.tolist()):
            word, *numbers = self._fields(block.line(place), row)
            raws.append(self._word(word, row))
            if block.out is not None:
                block.out[place] = self._values(numbers, row)
            elif self.request.wanted is not None and raws[-1].decode() in self.request.wanted:
                self._values(numbers, row)  # a fault in them comes before a later fault
        return Words.of(raws)

    def _gathered(self, block: Block, stops: np.ndarray, spaced: np.ndarray) -> Words | None:
        """The words that end at `stops`; None if one of them has to be refused. `spaced` are those with spaces."""
        words = Words.gathered(block.bytes, block.starts, stops)
        if self.reading.checked and self._hold_values(block, words, stops, spaced):
            return None
        if self.utf8 and words.are_utf8():
            return words
        try:
            return Words.of([self._word(raw, row) for raw, row in zip(words.raws(), block.rows.tolist(), strict=True)])
        except VectorFileError:
            return None

    def _hold_values(self, block: Block, words: Words, stops: np.ndarray, spaced: np.ndarray) -> bool:
        """Whether a word holds a number that looks like a value. Only separators come before such a number."""
        if any((words.text == byte).any() for byte in self.reading.separator.others):
            raws: list[Any] = words.raws()
        else:
            raws = [block.raw[block.starts[place] : stops[place]] for place in spaced.tolist()]
        return any(map(self.reading.separator.value_in_word.search, raws))

    def _write_values(self, block: Block, fields: Fields) -> bool:
        """Write all values of a block; False if one has to be refused, or most are better parsed row by row."""
        values, odd = block.digits.values(fields.starts, fields.stops, self.request.dtype)
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

    def _fields(self, line: bytes, row: int) -> list[bytes]:
        """[word, number, ...] of a row."""
        fields = self.reading.divided(line)
        if fields is None:
            raise self._refusal(row, line)
        return fields

    def _word(self, raw: bytes, row: int) -> bytes:
        """A word in UTF-8; its row is noted if it is invalid in the encoding of the file."""
        word, valid = self.request.in_utf8(raw, lambda: f"{self.source.name}, line {row + self.reading.first_line}")
        if not valid:
            self.undecodable.add(row)
        return word

    def _values(self, fields: list[bytes], row: int) -> np.ndarray:
        """The values of a row, by float() alone."""
        number = row + self.reading.first_line
        try:
            with np.errstate(over="ignore"):
                values = np.array(list(map(float, fields)), self.request.dtype)
        except ValueError:
            wrong = next(field for field in fields if not NUMBER.fullmatch(field))
            advice = f" If the line names columns, {TABLE}." if number == 1 else ""
            raise unexpected(self.source, number, f"{len(fields)} numbers after the word", wrong, advice) from None
        good = np.isfinite(values)
        if not good.all():
            raise unexpected(self.source, number, f"finite {self.request.dtype} numbers", fields[int(good.argmin())])
        if b"".join(fields).translate(None, _NUMERALS):  # float() accepts 1_000
            strange = next(field for field in fields if field.translate(None, _NUMERALS))
            raise unexpected(self.source, number, "numbers without underscores or tabs", strange)
        return values

    def _refusal(self, row: int, line: bytes) -> VectorFileError:
        return unexpected(
            self.source, row + self.reading.first_line, self.reading.expected, line, self.reading.advice if line else ""
        )


def _estimated_newlines(path: Path, size: int) -> float:
    """About how many newlines a file has."""
    with path.open("rb") as file:
        step = max(_SAMPLE, size // _SAMPLES)
        samples = []
        for place in range(0, size, step):
            file.seek(place)
            samples.append(file.read(_SAMPLE))
    return size * sum(sample.count(b"\n") + 1 for sample in samples) / max(1, sum(map(len, samples)))


def _threads(source: Source) -> int:
    """Two if there are two processors and enough to do; a third thread would wait for the other two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores > 1 and source.path.stat().st_size >= WORTH_A_THREAD else 1
