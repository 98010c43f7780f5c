"""word2vec binary: a header "rows width" in text; then for each row the word, a space and its numbers as they are in memory.

word2vec.c writes a newline after each row; gensim and the Google News vectors don't, and nothing in the file says which.
Nor does the file say whether the numbers are float32, as they nearly always are, or float16 or float64. Both are found by
following the first rows: with a wrong row length, pieces of numbers appear where words should be.

See https://code.google.com/archive/p/word2vec.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embkeras._arrays import first_nonfinite_row, row_slices
from embkeras.errors import VectorFileError
from embkeras.vectors.io.reading import header_of
from embkeras.vectors.io.rows import Request, RowSelector, Table
from embkeras.vectors.io.separators import NUMBER, WHITESPACE
from embkeras.vectors.io.source import HEAD, Source, Stream
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import Words, encoded

FORMAT = "word2vec-binary"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # never in text; a float32 is seldom without one for long
_UNLIKELY = re.compile(rb"[\x00-\x1f]")  # never in a word
_LONGEST_WORD = 1 << 16  # bytes; anything longer is not a word
_LONGEST_HEADER = 1 << 10  # bytes
_BUFFER = 1 << 20  # bytes read at once
_SAMPLE = 200  # rows from which their length is found
_NOT_ASCII = re.compile(rb"[^\t\n\r -~]")
_SIZES = 1e-8, 1e6  # between these is nearly every number of every vector, except zero
_MOST = 0.5  # share of the numbers


@dataclass(frozen=True)
class _Layout:
    """What follows the word and the space in a row."""

    dtype: str
    newline: bool

    def length(self, width: int) -> int:
        return width * np.dtype(self.dtype).itemsize + self.newline


_LAYOUTS = [_Layout(dtype, newline) for dtype in ("<f4", "<f2", "<f8") for newline in (True, False)]


def recognises(source: Source) -> bool:
    """Whether the file has a header that is followed by words and plausible numbers in binary.

    Raises:
        VectorFileError: it is binary, but its numbers are not plausible.
    """
    header = header_of(source.head)
    if header is None or header.rows < 1 or header.width < 1:
        return False
    body, whole = source.head[header.length :], len(source.head) < HEAD
    if not body or _is_text(body, header.width):
        return False
    certain = _CONTROL.search(body)
    if not certain and not (whole and any(_ends_well(body, header.rows, header.width, each) for each in _LAYOUTS)):
        return False
    layout = _layout(body, header.rows, header.width, whole)
    _refuse_big_endian(source, body, header.rows, header.width, layout)
    values = _values(body, header.rows, header.width, layout)
    if not len(values) or _plausible(values) >= _MOST:
        return True
    if not certain:
        return False
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    raise VectorFileError(
        f"{source.name}: expected word2vec binary after the header, but as {np.dtype(layout.dtype).name} its numbers would be "
        f"between {sizes.min(initial=np.inf):.3g} and {sizes.max(initial=0):.3g} in size, or not finite. If they are, pass "
        f'format="{FORMAT}".'
    )


def _is_text(body: bytes, width: int) -> bool:
    """Whether the body is text: it is ASCII, or its first row is a word and `width` numbers, as far as it is visible.

    Numbers in binary are ASCII for a few bytes at most.
    """
    if not _NOT_ASCII.search(body):
        return True
    line, newline, _ = body.partition(b"\n")
    fields = WHITESPACE.fields(line.removesuffix(b"\r"))
    numbers = fields[-width:] if newline else fields[1:-1]  # the last one may be cut off
    return len(fields) > 1 and len(numbers) > 0 and all(NUMBER.fullmatch(field) for field in numbers[-width:])


def _values(body: bytes, count: int, width: int, layout: _Layout) -> np.ndarray:
    """The numbers of the first rows that are complete, as float64."""
    rows: list[np.ndarray] = []
    at = 0
    size = width * np.dtype(layout.dtype).itemsize
    while len(rows) < min(count, _SAMPLE):
        start = body.find(b" ", at, at + _LONGEST_WORD) + 1
        if not start or start + size > len(body):
            break
        with np.errstate(invalid="ignore"):  # a NaN that signals
            rows.append(np.frombuffer(body, layout.dtype, width, start).astype(np.float64))
        at = start + size + layout.newline
    return np.concatenate(rows) if rows else np.empty(0)


def _plausible(values: np.ndarray) -> float:
    """The share of numbers whose size is that of a vector's; zeros and numbers that are not finite don't count."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(((sizes > _SIZES[0]) & (sizes < _SIZES[1])).mean()) if len(sizes) else 1.0


def _refuse_big_endian(source: Source, body: bytes, count: int, width: int, layout: _Layout) -> None:
    """Refuse numbers whose sizes are plausible only if their bytes are swapped."""
    swapped = _Layout(layout.dtype.replace("<", ">"), layout.newline)
    found, other = (_values(body, count, width, each) for each in (layout, swapped))
    if len(found) and np.count_nonzero(other) and _plausible(found) < _MOST and _plausible(other) > 1 - _MOST / 4:
        raise VectorFileError(
            f"{source.name}: its numbers are big-endian, by their sizes: the first is {other[0]:.4g}, and {found[0]:.4g} in "
            f"little-endian, which word2vec binary has. Swap the bytes of each number with numpy's byteswap()."
        )


def read(source: Source, request: Request) -> KeyedVectors:
    """Follow the rows, and copy the numbers of the wanted ones.

    Raises:
        VectorFileError: a fault in the file, with its byte.
    """
    with source.open(request.progress) as stream:
        return _Reader(source, request, stream).read()


class _Reader:
    """One reading of one file: the bytes in the buffer and the position in them."""

    def __init__(self, source: Source, request: Request, stream: Stream):
        self.source, self.request, self.stream = source, request, stream
        self.selector = RowSelector(request)
        self.buffer, self.at, self.used, self.ended = bytearray(_BUFFER), 0, 0, False
        self.count = self.width = self.row = 0

    def read(self) -> KeyedVectors:
        self._fill()
        start = bytes(self.buffer[: min(self.used, _LONGEST_HEADER)])
        header = header_of(start)
        if header is None or header.rows < 1 or header.width < 1:
            raise VectorFileError(
                f'{self.source.name}, byte 0: expected a header "rows width", each at least 1, found {start[:60]!r}.'
            )
        self.count, self.width, self.at = header
        rows = min(self.count, self.request.limit or self.count)
        body = bytes(self.buffer[self.at : self.used])
        layout = _layout(body, self.count, self.width, self.ended)
        _refuse_big_endian(self.source, body, self.count, self.width, layout)
        bounded = self._check_size(rows, layout)
        table = Table(self.width, self.request.dtype, rows if bounded and self.request.wanted is None else None)
        while self.row < rows:
            self._take_rows(rows, layout, table)
        if rows == self.count:
            self._check_end()
        return self.selector.keyed(table.matrix(), self.source, FORMAT, rows)

    @property
    def position(self) -> int:
        """Bytes of the contents before the current position."""
        return self.stream.position - self.used + self.at

    def _check_size(self, rows: int, layout: _Layout) -> bool:
        """Refuse a header that claims more than the file has; returns False if compression hides the file's length."""
        if self.source.compression is not None:
            return False
        size = self.source.path.stat().st_size
        least = self.position + rows * (1 + layout.length(self.width)) - layout.newline
        if size < least:
            raise VectorFileError(
                f"{self.source.name}: the header says {self.count:,} rows of {self.width:,} numbers, which takes at least "
                f"{least:,} bytes up to row {rows:,}, but the file has {size:,}. limit= takes fewer rows."
            )
        return True

    def _fill(self) -> None:
        """Read more after the bytes that are still needed; the buffer doubles if they fill most of it."""
        kept = self.used - self.at
        buffer = self.buffer if kept < len(self.buffer) // 2 else bytearray(2 * len(self.buffer))
        buffer[:kept] = self.buffer[self.at : self.used]
        count = self.stream.readinto(memoryview(buffer)[kept:])
        self.buffer, self.at, self.used = buffer, 0, kept + count
        self.ended = self.used < len(buffer)

    def _take_rows(self, rows: int, layout: _Layout, table: Table) -> None:
        """Take the rows that are complete in the buffer, and read more."""
        first, start, at = self.row, self.position - self.at, self.at
        spaces = self._spaces(rows, layout)
        begins = spaces + 1
        starts = np.append(at, begins + layout.length(self.width))[: len(spaces)]
        if layout.newline:
            self._check_newlines(begins, first, layout)
        words = Words.gathered(np.frombuffer(self.buffer, np.uint8), starts, spaces)
        kept = self.selector.keep(words, lambda i: f"{self.source.name}, byte {start + int(starts[i]):,}")
        for part in row_slices((len(kept), self.width)):
            bad = first_nonfinite_row(table.add(self._numbers(begins[kept[part]], layout)))
            if bad is not None:
                row = kept[part][bad]
                raise VectorFileError(
                    f"{self.source.name}, byte {start + int(begins[row]):,}: expected finite {self.request.dtype} numbers, "
                    f"found NaN, infinity or a number too large in row {first + row:,} (word {words.raws()[row][:40]!r})."
                )
        if self.row < rows:
            if self.ended:
                raise VectorFileError(
                    f"{self.source.name}, byte {self.position:,}: expected row {self.row:,} of {self.count:,}, a word and "
                    f"{self.width:,} numbers, found {self.used - self.at:,} bytes and the end of the file."
                )
            self._fill()

    def _spaces(self, rows: int, layout: _Layout) -> np.ndarray:
        """Where the words of the complete rows in the buffer end; moves the position past these rows."""
        spaces: list[int] = []
        at, used, find = self.at, self.used, self.buffer.find
        after_space = 1 + layout.length(self.width)
        for _ in range(rows - self.row):
            space = find(b" ", at, used)
            after = space + after_space
            if space < 0 or after > used:
                # The newline of the very last row may be missing.
                if not (layout.newline and self.ended and space >= 0 and after == used + 1):
                    break
                after = used
            spaces.append(space)
            at = after
        found = np.array(spaces, np.int64)
        lengths = np.diff(found, prepend=self.at - after_space) - after_space
        longest = max(lengths.max(initial=0), used - at if space < 0 else 0)
        if longest > _LONGEST_WORD:
            raise VectorFileError(
                f"{self.source.name}, after byte {self.position:,}: expected words of at most {_LONGEST_WORD:,} bytes, each "
                f"followed by a space, found {longest:,} bytes without a space."
            )
        self.at, self.row = at, self.row + len(spaces)
        return found

    def _numbers(self, begins: np.ndarray, layout: _Layout) -> np.ndarray:
        """The numbers of the rows that begin at these places of the buffer."""
        size = self.width * np.dtype(layout.dtype).itemsize
        # One row starting at each byte, each as one item, which NumPy copies in one go.
        rows = np.ndarray(len(self.buffer) - size + 1, f"V{size}", self.buffer, strides=(1,))
        return rows[begins].view(layout.dtype).reshape(-1, self.width)

    def _check_newlines(self, begins: np.ndarray, first: int, layout: _Layout) -> None:
        ends = begins + layout.length(self.width) - 1
        ends = ends[ends < self.used]
        wrong = np.flatnonzero(np.frombuffer(self.buffer, np.uint8)[ends] != ord("\n"))
        if len(wrong):
            end = int(ends[wrong[0]])
            raise VectorFileError(
                f"{self.source.name}, byte {self.position - self.at + end:,}: expected a newline at the end of row "
                f"{first + int(wrong[0]):,}, as after the previous rows, found {bytes(self.buffer[end : end + 20])!r}."
            )

    def _check_end(self) -> None:
        if self.at == self.used and not self.ended:
            self._fill()
        found = bytes(self.buffer[self.at : min(self.used, self.at + 20)])
        if found not in (b"", b"\n"):
            raise VectorFileError(
                f"{self.source.name}, byte {self.position:,}: expected the end of the file after {self.count:,} rows, as the "
                f"header says, found {found!r}. limit={self.count} takes these rows and no more."
            )


def _layout(body: bytes, count: int, width: int, whole: bool) -> _Layout:
    """The layout in which words are found at the distance of one row.

    A short file must also end at the end of a row. If no layout fits, the file is damaged, and is read as float32 up to
    the damage.
    """
    fits = _ends_well if whole else _looks_like
    fitting = next((layout for layout in _LAYOUTS if fits(body, count, width, layout)), None)
    if fitting:
        return fitting
    space = body.find(b" ")
    return _LAYOUTS[0] if body[space + 1 + 4 * width :][:1] == b"\n" else _LAYOUTS[1]


def _ends_well(body: bytes, count: int, width: int, layout: _Layout) -> bool:
    """Whether `count` rows with plausible words fill the body."""
    padded = body + b"\n" * layout.newline  # that of the very last row may be missing
    rows, likely, at = _followed(padded, count, width, layout, count)
    return rows == count and padded[at:] in (b"", b"\n", b"\n\n") and _likely(rows, likely, layout)


def _looks_like(body: bytes, count: int, width: int, layout: _Layout) -> bool:
    """Whether the first rows have plausible words."""
    rows, likely, _ = _followed(body, count, width, layout, _SAMPLE)
    return rows >= min(count, 1) and _likely(rows, likely, layout)


def _likely(rows: int, likely: int, layout: _Layout) -> bool:
    if layout.dtype == "<f4":
        return layout.newline or likely >= 0.9 * rows
    return rows >= 2 and likely == rows  # half of a float32 is a float16, so a truncated file must not pass for one


def _followed(body: bytes, count: int, width: int, layout: _Layout, most: int) -> tuple[int, int, int]:
    """The number of rows followed, how many of their words are plausible, and the place after the last row."""
    at = likely = rows = 0
    length = layout.length(width)
    while rows < min(count, most):
        space = body.find(b" ", at, at + _LONGEST_WORD)
        after = space + 1 + length
        if space < 0 or after > len(body) or (layout.newline and body[after - 1] != ord("\n")):
            break
        likely += not _UNLIKELY.search(body, at, space)
        at, rows = after, rows + 1
    return rows, likely, at


def can_hold(word: str, row: int) -> bool:
    """Whether a word is read back as the same word: a space ends a word, and other readers skip newlines."""
    raw = encoded(word)
    return raw is not None and b" " not in raw and b"\n" not in raw and len(raw) <= _LONGEST_WORD


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write every row as float32 followed by a newline, as word2vec.c does."""
    with beside.open("wb") as file:
        file.write(f"{len(vectors)} {vectors.vector_size}\n".encode())
        for part in row_slices(vectors.matrix.shape):
            for word, numbers in zip(vectors.words[part], vectors.matrix[part].astype("<f4"), strict=True):
                file.write(b"%b %b\n" % (word.encode("utf-8"), numbers.tobytes()))
