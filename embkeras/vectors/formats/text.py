"""GloVe text (no header) and word2vec text, which fastText calls `.vec` (first line: count and width).

A row is a word and its numbers, separated by spaces and ended by a newline. Words may hold spaces of any kind but the
newline, so a row is cut from the right, at the byte 0x20 only. See https://nlp.stanford.edu/projects/glove/ and
https://fasttext.cc/docs/en/english-vectors.html.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.formats.request import Request, keyed_vectors
from embkeras.vectors.store import KeyedVectors

_HEADER = re.compile(rb"([0-9]+) ([0-9]+) ?\r?\n?")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_VALUE_AT_END = re.compile(rb" [+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?$")
_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE = 1 << 24  # bytes; a longer "line" is not text


@dataclass(frozen=True)
class Text:
    """A reader and writer of text vectors; `header` says whether the first line gives count and width."""

    header: bool | None  # None: look

    @property
    def name(self) -> str:
        """The name of the format."""
        return "word2vec" if self.header else "glove"

    def read(self, path: Path, request: Request) -> KeyedVectors:
        """Parse the rows asked for; the others are only cut at the word."""
        return _Reader(path, request, self.header).read()

    def check_words(self, vectors: KeyedVectors, path: Path) -> None:
        """Refuse words that would be read back as others."""
        for row, word in enumerate(vectors.words):
            if not self._holds(word, row):
                raise VectorFileError(f"Text vectors cannot hold the word {word!r} (row {row}) in {str(path)!r}.")

    def _holds(self, word: str, row: int) -> bool:
        try:
            raw = word.encode("utf-8")
        except UnicodeEncodeError:  # a lone surrogate
            return False
        if b"\n" in raw or raw.endswith(b"\r") or _VALUE_AT_END.search(raw):
            return False
        # Without a header the first row tells the width, and a number at the end of its word would count as one more.
        return bool(self.header) or row > 0 or b" " not in raw or not _NUMBER.fullmatch(raw.rpartition(b" ")[2])

    def write(self, vectors: KeyedVectors, beside: Path, path: Path) -> None:
        """Write every row with 9 digits, which give a float32 back bit for bit."""
        with beside.open("wb") as file:
            if self.header:
                file.write(f"{len(vectors)} {vectors.vector_size}\n".encode())
            for word, row in zip(vectors.words, vectors.matrix, strict=True):
                file.write(word.encode("utf-8") + b" " + " ".join([f"{x:.9g}" for x in row.tolist()]).encode() + b"\n")


GLOVE, WORD2VEC, ANY = Text(header=False), Text(header=True), Text(header=None)


class _Reader:
    """One reading of one file: keeps the place for messages, and the counts."""

    def __init__(self, path: Path, request: Request, header: bool | None):
        self.path, self.request, self.header = path, request, header
        self.duplicates = self.undecodable = self.rows = 0

    def read(self) -> KeyedVectors:
        # A value too large becomes infinity, which is refused with its line.
        with self.path.open("rb") as file, np.errstate(over="ignore"):
            count, width, start = self._shape(file)
            file.seek(start)
            first_line = 1 + (count is not None)
            words, chunks = self._rows(file, width, first_line)
        whole = self.request.limit is None or self.rows < self.request.limit
        if count is not None and whole and count != self.rows:
            raise VectorFileError(
                f"{str(self.path)!r} says in line 1 that it has {count:,} rows, but has {self.rows:,}."
            )
        matrix = np.concatenate(chunks) if chunks else np.empty((0, width), self.request.dtype)
        return keyed_vectors(
            words,
            matrix,
            self.path,
            "glove" if count is None else "word2vec",
            self.request,
            rows=self.rows,
            duplicates=self.duplicates,
            undecodable=self.undecodable,
        )

    def _shape(self, file) -> tuple[int | None, int, int]:
        """Rows if the header says so, width, and the byte at which the rows start."""
        first = file.readline(_LONGEST_LINE)
        mark = len(_BOM) if first.startswith(_BOM) else 0  # written by some editors, and no part of the first word
        first = first[mark:]
        if not first.strip():
            raise VectorFileError(f"{str(self.path)!r} holds no vectors: its first line is empty.")
        header = _HEADER.fullmatch(first)
        second = file.readline(_LONGEST_LINE)
        if header and self.header is not False:
            count, width = int(header[1]), int(header[2])
            if width < 1:
                raise self._error(1, "a width of at least 1", first)
            return count, width, mark + len(first)
        if self.header:
            raise self._error(1, 'a header "rows width"', first)
        return None, self._width(first, second), mark

    def _width(self, first: bytes, second: bytes) -> int:
        """Trailing numbers of the first line, one fewer if every field is a number; the second line must agree."""
        fields = _without_end(first).split(b" ")
        width = min(_numbers(first), len(fields) - 1)
        if width < 1:
            raise self._error(1, "a word and its numbers", first)
        if second.strip() and _numbers(second) < width:
            raise self._error(2, f"a word and {width} numbers, as in line 1", second)
        return width

    def _rows(self, file, width: int, first_line: int) -> tuple[list[str], list[np.ndarray]]:
        words: dict[str, None] = {}
        values: list[np.ndarray] = []
        chunks: list[np.ndarray] = []
        for number, fields in self._fields(file, width, first_line):
            self.rows += 1
            word = self._word(fields[0], number)
            if word is not None and (self.request.wanted is None or word in self.request.wanted):
                if word in words:
                    self.duplicates += 1
                else:
                    words[word] = None
                    values.append(self._values(fields[1:], number))
            if len(values) == 4096:
                chunks.append(np.stack(values))
                values.clear()
            if self.rows == self.request.limit:
                break
        if values:
            chunks.append(np.stack(values))
        return list(words), chunks

    def _fields(self, file, width: int, first_line: int) -> Iterator[tuple[int, list[bytes]]]:
        """Line number and [word, number, ...] of each row; blank lines may only stand at the end."""
        number, blank = first_line - 1, None
        while line := file.readline(_LONGEST_LINE):
            number += 1
            line = _without_end(line)
            if not line:
                blank = blank or number
                continue
            if blank:
                raise self._error(blank, f"a word and {width} numbers", b"")
            fields = line.rsplit(b" ", width)
            # A word such as "dog 0.25" means a row that is too wide; "route 66" is a word.
            if len(fields) != width + 1 or _VALUE_AT_END.search(fields[0]):
                raise self._error(number, f"a word and {width} numbers", line)
            yield number, fields

    def _word(self, raw: bytes, number: int) -> str | None:
        try:
            return raw.decode(self.request.encoding)
        except UnicodeDecodeError as error:
            if self.request.errors == "strict":
                raise VectorFileError(
                    f"{str(self.path)!r}, line {number}: the word {raw[:40]!r} is not {self.request.encoding} "
                    f'(byte {error.start}). Another encoding=, or errors="replace" or "skip"?'
                ) from None
            self.undecodable += 1
            return raw.decode(self.request.encoding, "replace") if self.request.errors == "replace" else None
        except LookupError:
            raise VectorFileError(f"Unknown encoding {self.request.encoding!r} for {str(self.path)!r}.") from None

    def _values(self, fields: list[bytes], number: int) -> np.ndarray:
        try:
            values = np.array([float(field) for field in fields], self.request.dtype)
        except ValueError:
            wrong = next(field for field in fields if not _NUMBER.fullmatch(field))
            raise self._error(number, f"{len(fields)} numbers after the word", wrong) from None
        good = np.isfinite(values)
        if not good.all():
            raise self._error(number, f"finite {self.request.dtype} numbers", fields[int(good.argmin())])
        if b"_" in b"".join(fields):  # float() reads 1_000
            raise self._error(number, "numbers without underscores", next(field for field in fields if b"_" in field))
        return values

    def _error(self, number: int, expected: str, found: bytes) -> VectorFileError:
        return VectorFileError(f"{str(self.path)!r}, line {number}: expected {expected}, found {found[:60]!r}.")


def _without_end(line: bytes) -> bytes:
    """The line without its newline and without one space before it, which fastText writes."""
    return line.removesuffix(b"\n").removesuffix(b"\r").removesuffix(b" ")


def _numbers(line: bytes) -> int:
    """How many fields at the end of a line are numbers."""
    fields = _without_end(line).split(b" ")
    return next((i for i, field in enumerate(reversed(fields)) if not _NUMBER.fullmatch(field)), len(fields))
