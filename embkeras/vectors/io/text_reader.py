"""Reading text vectors: the rows, and what is wrong with them."""

import codecs
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.io.blocks import Block, Fields
from embkeras.vectors.io.lines import Lines
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source, Stream
from embkeras.vectors.io.table import Table, without_rows
from embkeras.vectors.io.text_shape import NUMBER, VALUE_AT_END, other_count, shape_of, unexpected
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import Words, hash_filter

_NUMERALS = b"0123456789+-.eE"  # float() reads more than these: underscores, white space around a number
BLOCK = 5 << 17  # bytes: one thread would be quicker with less, but two wait for each other at each step of a block
SEARCHED = 1 << 20  # bytes, where words are looked for: one thread does that, for a second one gains little
PICKED = 1 << 18  # bytes of the lines of wanted words, read together
WORTH_A_THREAD = 1 << 22  # bytes of file
_PACKED = 8  # how much larger than the file its contents are believed to be, where a header says so
_ROOM = 1.25  # times the rows expected; what is not needed is not touched, and takes no memory
_SAMPLES, _SAMPLE = 16, 1 << 16  # places of a file, and bytes at each, by which its rows are estimated


class TextReader:
    """One reading of one file: keeps the place for messages, and the counts.

    Values are read many at once, block by block. Where anything in a block is to be refused, the block is read again row
    by row, which finds the first fault in it and what it is.
    """

    def __init__(self, source: Source, request: Request, header: bool | None):
        self.source, self.request, self.header = source, request, header
        self.duplicates = 0
        self.undecodable: set[int] = set()  # rows; a row that is looked at again counts once
        self.utf8 = codecs.lookup(request.encoding).name == "utf-8"

    def read(self) -> KeyedVectors:
        """The rows asked for."""
        with self.source.open() as stream:
            count, self.width, start = shape_of(self.source, stream.buffered(), self.header)
        self.first_line = 1 + (count is not None)
        table = Table(self.width, self.request.dtype, self._rows_to_come(count, start))
        with self.source.open(self.request.progress) as stream:
            stream.read(start)
            words, index, matrix, rows = (self._all if self.request.wanted is None else self._some)(stream, table)
        whole = self.request.limit is None or rows < self.request.limit
        if count is not None and whole and count != rows:
            raise other_count(self.source, count, rows)
        return keyed_vectors(
            words,
            matrix,
            self.source,
            "glove" if count is None else "word2vec",
            self.request,
            key_to_index=index,
            rows=rows,
            duplicates=self.duplicates,
            undecodable=len(self.undecodable),
        )

    def _rows_to_come(self, count: int | None, start: int) -> int | None:
        """For how many rows a table may be allocated; None where that is not known, or not to be believed."""
        limit, plain = self.request.limit, self.source.compression is None
        if self.request.wanted is not None:
            return None
        size = self.source.path.stat().st_size * (1 if plain else _PACKED)
        # The shortest row is an empty word, `width` times a space and a digit, and a newline.
        most = 1 + (size - start) // (2 * self.width + 1)
        if count is None and plain:
            count = min(most, 1 + int(_ROOM * _newlines(self.source.path, size)))
        elif count is None or count > most:
            return None
        return count if limit is None else min(count, limit)

    def _all(self, stream: Stream, table: Table) -> tuple[Sequence[str], Mapping[str, int], np.ndarray, int]:
        """The words, the row of each, the rows, and how many were read. Of a word that stands twice the first is kept."""
        lines = self._lines(stream, table.reserve)
        parts: list[Words] = []
        lines.each(self._parsed, parts.append, block_size=BLOCK, threads=_threads(self.source))
        words, matrix = Words.joined(parts), table.matrix()[: lines.rows]
        del parts
        if self.request.errors == "skip" and self.undecodable:
            left_out = sorted(self.undecodable)
            words, matrix = words.without(left_out), without_rows(matrix, left_out)
        packed, index, repeated = words.packed(self.source.name)
        self.duplicates = len(repeated)
        return packed, index, without_rows(matrix, repeated), lines.rows

    def _some(self, stream: Stream, table: Table) -> tuple[Sequence[str], Mapping[str, int], np.ndarray, int]:
        """The same for wanted words. Their rows are gathered into blocks of their own, which are read like any other."""
        lines = self._lines(stream, lambda count: None)
        kept: dict[str, int] = {}
        waiting: list[bytearray] = []
        rows: list[int] = []
        picked, at_once = Block(PICKED), 1 + PICKED // (10 * self.width)  # a number takes ten bytes or so

        def read_waiting():
            if not waiting:
                return
            picked.load(waiting, rows)
            picked.out = table.reserve(len(rows))
            self._parsed(picked)
            waiting.clear()
            rows.clear()

        def collect(found: list[tuple[str, int, bytearray]]):
            for word, row, line in found:
                if word in kept:
                    self.duplicates += 1
                else:
                    kept[word] = len(kept)
                    waiting.append(line)
                    rows.append(row)
                    if len(waiting) >= at_once:
                        read_waiting()

        try:
            lines.each(self._finder(), collect, block_size=SEARCHED, threads=1)
        except VectorFileError:
            read_waiting()  # a fault in these rows stands before the one that ended the search
            raise
        read_waiting()
        return list(kept), kept, table.matrix(), lines.rows

    def _finder(self) -> Callable[[Block], list[tuple[str, int, bytearray]]]:
        """A function that gives word, number and line of the rows of a block that are wanted."""
        wanted = self.request.wanted
        may_be_wanted = hash_filter(wanted)
        left_out = self.undecodable if self.request.errors == "skip" else ()

        def find(block: Block) -> list[tuple[str, int, bytearray]]:
            words = self._words_of(block)
            likely = may_be_wanted(words.hashes)
            places = np.flatnonzero(likely)
            rows, lines = block.rows[places].tolist(), block.lines_and_ends(places)
            found = zip(map(bytes.decode, words.only(likely).raws()), rows, lines, strict=True)
            return [each for each in found if each[0] in wanted and each[1] not in left_out]

        return find

    def _lines(self, stream: Stream, reserve: Any) -> Lines:
        return Lines(stream, limit=self.request.limit, reserve=reserve, refuse=self._refusal)

    def _parsed(self, block: Block) -> Words:
        """Write the values of a block's rows to `block.out`; their words."""
        fields = block.fields(self.width)
        if fields is not None:
            words = self._gathered(block, fields.words, fields.spaced)
            if words is not None and self._numbers(block, fields):
                return words
        raws = []
        for place, row in enumerate(block.rows.tolist()):
            word, *numbers = self._cut(block.line(place), row)
            raws.append(self._word(word, row))
            block.out[place] = self._values(numbers, row)
        return Words.of(raws)

    def _words_of(self, block: Block) -> Words:
        """The words of a block whose values are not wanted. That each row has them is seen by counting spaces."""
        found = block.words(self.width)
        words = None if found is None else self._gathered(block, *found)
        if words is not None:
            return words
        raws = []
        for place, row in enumerate(block.rows.tolist()):
            word, *numbers = self._cut(block.line(place), row)
            raws.append(self._word(word, row))
            if raws[-1].decode() in self.request.wanted:  # a fault in them stands before one behind them
                self._values(numbers, row)
        return Words.of(raws)

    def _gathered(self, block: Block, stops: np.ndarray, spaced: np.ndarray) -> Words | None:
        """The words that end at `stops`; None if one of them is to be refused. `spaced` are those that hold spaces."""
        for place in spaced.tolist():
            if VALUE_AT_END.search(block.raw[block.starts[place] : stops[place]]):
                return None
        words = Words.gathered(block.bytes, block.starts, stops)
        if self.utf8 and words.are_utf8():
            return words
        try:
            return Words.of([self._word(raw, row) for raw, row in zip(words.raws(), block.rows.tolist(), strict=True)])
        except VectorFileError:
            return None

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

    def _word(self, raw: bytes, row: int) -> bytes:
        """A word in UTF-8; noted where it was not valid in the encoding of the file."""
        word, valid = self.request.in_utf8(raw, lambda: f"{self.source.name}, line {row + self.first_line}")
        if not valid:
            self.undecodable.add(row)
        return word

    def _values(self, fields: list[bytes], row: int) -> np.ndarray:
        """The values of a row by float() alone."""
        number = row + self.first_line
        try:
            with np.errstate(over="ignore"):
                values = np.array(list(map(float, fields)), self.request.dtype)
        except ValueError:
            wrong = next(field for field in fields if not NUMBER.fullmatch(field))
            raise unexpected(self.source, number, f"{len(fields)} numbers after the word", wrong) from None
        good = np.isfinite(values)
        if not good.all():
            raise unexpected(self.source, number, f"finite {self.request.dtype} numbers", fields[int(good.argmin())])
        if b"".join(fields).translate(None, _NUMERALS):  # float() reads 1_000
            strange = next(field for field in fields if field.translate(None, _NUMERALS))
            raise unexpected(self.source, number, "numbers without underscores or tabs", strange)
        return values

    def _refusal(self, row: int, line: bytes) -> VectorFileError:
        return unexpected(self.source, row + self.first_line, f"a word and {self.width} numbers", line)


def _newlines(path: Path, size: int) -> float:
    """How many newlines a file has, about."""
    with path.open("rb") as file:
        step = max(_SAMPLE, size // _SAMPLES)
        samples = []
        for place in range(0, size, step):
            file.seek(place)
            samples.append(file.read(_SAMPLE))
    return size * sum(sample.count(b"\n") + 1 for sample in samples) / max(1, sum(map(len, samples)))


def _threads(source: Source) -> int:
    """Two where there are two processors and enough to do; a third would wait for the other two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores > 1 and source.path.stat().st_size >= WORTH_A_THREAD else 1
