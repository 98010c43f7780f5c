"""word2vec binary: a header "rows width" in text; then for each row the word, a space and its numbers as they are in memory.

word2vec.c writes a newline after each row, gensim and the Google News vectors do not, and nothing in the file says which.
Nor does it say that the numbers are float32, as nearly always, or float16 or float64. Both are found by going from row
to row through the first of them: with the wrong length of a row, what ought to be words are pieces of numbers.

See https://code.google.com/archive/p/word2vec.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embkeras._arrays import BLOCK
from embkeras.errors import VectorFileError
from embkeras.vectors.io.request import Request
from embkeras.vectors.io.selection import GrowingTable, Selection
from embkeras.vectors.io.source import HEAD, Source, Stream
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import Words

FORMAT = "word2vec-binary"
_HEADER = re.compile(rb"([0-9]{1,18})[ \t]+([0-9]{1,18})[ \t]*\r?\n")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # in no text; a float32 is seldom without one for long
_UNLIKELY = re.compile(rb"[\x00-\x1f]")  # in no word
_LONGEST_WORD = 1 << 16  # bytes; what is longer is no word
_BUFFER = 1 << 20  # bytes read at once
_SAMPLE = 200  # rows by which their length is known


@dataclass(frozen=True)
class _Layout:
    """How a row goes on after the word and the space."""

    dtype: str
    newline: bool

    def length(self, width: int) -> int:
        return width * np.dtype(self.dtype).itemsize + self.newline


_LAYOUTS = [_Layout(dtype, newline) for dtype in ("<f4", "<f2", "<f8") for newline in (True, False)]


def recognises(source: Source) -> bool:
    """Whether a header is followed by rows that are not text."""
    header = _HEADER.match(source.head)
    if not header:
        return False
    count, width, body = int(header[1]), int(header[2]), source.head[header.end() :]
    if not body or _is_text(body, width):
        return False
    whole = len(source.head) < HEAD
    return bool(_CONTROL.search(body)) or (whole and any(_ends_well(body, count, width, each) for each in _LAYOUTS))


def _is_text(body: bytes, width: int) -> bool:
    """Whether the first row is a word and `width` numbers in text, as far as it can be seen."""
    line, newline, _ = body.partition(b"\n")
    fields = line.removesuffix(b"\r").removesuffix(b" ").split(b" ")
    numbers = fields[-width:] if newline else fields[1:-1]  # the last one may be cut off
    return len(fields) > 1 and len(numbers) > 0 and all(_NUMBER.fullmatch(field) for field in numbers[-width:])


def read(source: Source, request: Request) -> KeyedVectors:
    """Go from row to row, and copy the numbers of those asked for."""
    selection = Selection(request)
    with source.open(request.progress) as stream:
        return _Reader(source, request, selection, stream).read()


class _Reader:
    """One reading of one file: the bytes at hand and the place in them."""

    def __init__(self, source: Source, request: Request, selection: Selection, stream: Stream):
        self.source, self.request, self.selection, self.stream = source, request, selection, stream
        self.buffer, self.at, self.used, self.ended = bytearray(_BUFFER), 0, 0, False
        self.count = self.width = self.row = 0

    def read(self) -> KeyedVectors:
        self._fill()
        header = _HEADER.match(self.buffer, 0, self.used)
        if not header or int(header[1]) < 1 or int(header[2]) < 1:
            raise VectorFileError(
                f'{self.source.name}, byte 0: expected a header "rows width", each at least 1, '
                f"found {bytes(self.buffer[: self.used][:60])!r}."
            )
        self.count, self.width, self.at = int(header[1]), int(header[2]), header.end()
        rows = min(self.count, self.request.limit or self.count)
        layout = _layout(bytes(self.buffer[self.at : self.used]), self.count, self.width, self.ended)
        bounded = self._check_size(rows, layout)
        table = GrowingTable(self.width, self.request.dtype, rows if bounded and self.request.wanted is None else 0)
        while self.row < rows:
            self._rows(rows, layout, table)
        if rows == self.count:
            self._check_end()
        return self.selection.keyed(table, self.source, FORMAT, rows)

    @property
    def position(self) -> int:
        """Bytes of the contents before the place."""
        return self.stream.position - self.used + self.at

    def _check_size(self, rows: int, layout: _Layout) -> bool:
        """Refuse a header that the file is too short for; false where compression hides how long it is."""
        if self.source.compression is not None:
            return False
        size = self.source.path.stat().st_size
        least = self.position + rows * (1 + layout.length(self.width)) - layout.newline
        if size < least:
            raise VectorFileError(
                f"{self.source.name} says in its first line that it has {self.count:,} rows of {self.width:,} numbers: "
                f"expected {least:,} bytes or more up to row {rows:,}, found {size:,}."
            )
        return True

    def _fill(self) -> None:
        """Read on, behind the bytes that are still needed; twice as many if they fill the buffer."""
        kept = self.used - self.at
        buffer = self.buffer if kept < len(self.buffer) // 2 else bytearray(2 * len(self.buffer))
        buffer[:kept] = self.buffer[self.at : self.used]
        count = self.stream.readinto(memoryview(buffer)[kept:])
        self.buffer, self.at, self.used = buffer, 0, kept + count
        self.ended = self.used < len(buffer)

    def _rows(self, rows: int, layout: _Layout, table: GrowingTable) -> None:
        """Take in the rows that are at hand whole, and read on."""
        first, start, at = self.row, self.position - self.at, self.at
        spaces = self._spaces(rows, layout)
        begins = spaces + 1
        starts = np.append(at, begins + layout.length(self.width))[: len(spaces)]
        if layout.newline:
            self._check_newlines(begins, first, layout)
        words = Words.gathered(np.frombuffer(self.buffer, np.uint8), starts, spaces)
        kept = self.selection.keep(words, lambda i: f"{self.source.name}, byte {start + int(starts[i]):,}")
        step = max(1, BLOCK // self.width)
        for some in (kept[i : i + step] for i in range(0, len(kept), step)):
            added = table.add(self._numbers(begins[some], layout))
            good = np.isfinite(added).all(axis=1)
            if not good.all():
                bad = some[int(good.argmin())]
                raise VectorFileError(
                    f"{self.source.name}, byte {start + int(begins[bad]):,}: expected finite {self.request.dtype} numbers, found "
                    f"NaN, infinity or more than it can hold in row {first + bad:,} (word {words.raws()[bad][:40]!r})."
                )
        if self.row < rows:
            if self.ended:
                raise self._cut_off(rows)
            self._fill()

    def _spaces(self, rows: int, layout: _Layout) -> np.ndarray:
        """Where in the buffer the words of the rows end that are at hand whole; the place is behind these rows then."""
        spaces: list[int] = []
        at, used, find = self.at, self.used, self.buffer.find
        behind_space = 1 + layout.length(self.width)
        for _ in range(rows - self.row):
            space = find(b" ", at, used)
            behind = space + behind_space
            if space < 0 or behind > used:
                # The newline of the very last row may be missing.
                if not (layout.newline and self.ended and space >= 0 and behind == used + 1):
                    break
                behind = used
            spaces.append(space)
            at = behind
        found = np.array(spaces, np.int64)
        lengths = np.diff(found, prepend=self.at - behind_space) - behind_space
        longest = max(lengths.max(initial=0), used - at if space < 0 else 0)
        if longest > _LONGEST_WORD:
            raise VectorFileError(
                f"{self.source.name}, after byte {self.position:,}: expected words of at most {_LONGEST_WORD:,} bytes and a "
                f"space behind them, found {longest:,} bytes without one."
            )
        self.at, self.row = at, self.row + len(spaces)
        return found

    def _numbers(self, begins: np.ndarray, layout: _Layout) -> np.ndarray:
        """The numbers of the rows that begin at these places of the buffer."""
        size = self.width * np.dtype(layout.dtype).itemsize
        # One row from each byte on, and each as one item, which NumPy copies in one go.
        rows = np.ndarray(len(self.buffer) - size + 1, f"V{size}", self.buffer, strides=(1,))
        return rows[begins].view(layout.dtype).reshape(-1, self.width)

    def _check_newlines(self, begins: np.ndarray, first: int, layout: _Layout) -> None:
        ends = begins + layout.length(self.width) - 1
        ends = ends[ends < self.used]
        wrong = np.flatnonzero(np.frombuffer(self.buffer, np.uint8)[ends] != ord("\n"))
        if len(wrong):
            end = int(ends[wrong[0]])
            raise VectorFileError(
                f"{self.source.name}, byte {self.position - self.at + end:,}: expected the newline that ends row "
                f"{first + int(wrong[0]):,}, as after those before, found {bytes(self.buffer[end : end + 20])!r}."
            )

    def _cut_off(self, rows: int) -> VectorFileError:
        return VectorFileError(
            f"{self.source.name}, byte {self.position:,}: expected row {self.row:,} of {self.count:,}, a word and "
            f"{self.width:,} numbers, found {self.used - self.at:,} bytes and the end of the file."
        )

    def _check_end(self) -> None:
        if self.at == self.used and not self.ended:
            self._fill()
        found = bytes(self.buffer[self.at : min(self.used, self.at + 20)])
        if found not in (b"", b"\n"):
            raise VectorFileError(
                f"{self.source.name}, byte {self.position:,}: expected the end of the file after {self.count:,} rows, as its "
                f"first line says, found {found!r}."
            )


def _layout(body: bytes, count: int, width: int, whole: bool) -> _Layout:
    """The layout by which words follow each other at the distance of a row.

    A short file has to end well, too. If no layout fits, the file is damaged, and is read as float32 up to the damage.
    """
    fits = _ends_well if whole else _looks_like
    fitting = next((layout for layout in _LAYOUTS if fits(body, count, width, layout)), None)
    if fitting:
        return fitting
    space = body.find(b" ")
    return _LAYOUTS[0] if body[space + 1 + 4 * width :][:1] == b"\n" else _LAYOUTS[1]


def _ends_well(body: bytes, count: int, width: int, layout: _Layout) -> bool:
    """Whether `count` rows, with words that may be some, fill the body."""
    padded = body + b"\n" * layout.newline  # that of the very last row may be missing
    rows, likely, at = _followed(padded, count, width, layout, count)
    return rows == count and padded[at:] in (b"", b"\n", b"\n\n") and _likely(rows, likely, layout)


def _looks_like(body: bytes, count: int, width: int, layout: _Layout) -> bool:
    """Whether the first rows have words that may be some."""
    rows, likely, _ = _followed(body, count, width, layout, _SAMPLE)
    return rows >= min(count, 1) and _likely(rows, likely, layout)


def _likely(rows: int, likely: int, layout: _Layout) -> bool:
    if layout.dtype == "<f4":
        return layout.newline or likely >= 0.9 * rows
    return rows >= 2 and likely == rows  # half of a float32 is a float16, so a file cut off must not pass for one


def _followed(body: bytes, count: int, width: int, layout: _Layout, most: int) -> tuple[int, int, int]:
    """Rows followed, how many of their words may be words, and the place behind the last one."""
    at = likely = rows = 0
    length = layout.length(width)
    while rows < min(count, most):
        space = body.find(b" ", at, at + _LONGEST_WORD)
        behind = space + 1 + length
        if space < 0 or behind > len(body) or (layout.newline and body[behind - 1] != ord("\n")):
            break
        likely += not _UNLIKELY.search(body, at, space)
        at, rows = behind, rows + 1
    return rows, likely, at


def check_words(vectors: KeyedVectors, path: Path) -> None:
    """Refuse words that would be read back as others: a space ends a word, and other readers skip newlines."""
    for row, word in enumerate(vectors.words):
        try:
            raw = word.encode("utf-8")
        except UnicodeEncodeError:  # a lone surrogate
            raw = b" "
        if b" " in raw or b"\n" in raw or len(raw) > _LONGEST_WORD:
            raise VectorFileError(f"word2vec binary cannot hold the word {word[:60]!r} (row {row}) in {str(path)!r}.")


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write every row as float32 with a newline behind it, as word2vec.c does."""
    step = max(1, BLOCK // vectors.vector_size)
    with beside.open("wb") as file:
        file.write(f"{len(vectors)} {vectors.vector_size}\n".encode())
        for start in range(0, len(vectors), step):
            with np.errstate(over="ignore"):
                block = np.asarray(vectors.matrix[start : start + step]).astype("<f4")
            good = np.isfinite(block).all(axis=1)
            if not good.all():
                row = start + int(good.argmin())
                raise VectorFileError(
                    f"word2vec binary holds finite float32 numbers. Received NaN, infinity or more than it can hold in row {row} "
                    f"(word {vectors.words[row]!r}) for {str(path)!r}."
                )
            for word, row in zip(vectors.words[start : start + step], block, strict=True):
                file.write(b"%b %b\n" % (word.encode("utf-8"), row.tobytes()))
