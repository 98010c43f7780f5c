"""fastText's binary models (`.bin`): words, and vectors of words and of character n-grams.

The vector of a word is the mean of its own row and of the rows of its n-grams, bit for bit what fastText's `getWordVector`
returns. The n-grams are returned as `KeyedVectors.subwords`, memory-mapped, so the words of a task cost no more memory than
their own rows, and the file must not change while they are in use. The matrix of a compressed file is unpacked into a
temporary file and mapped from there.

The contents of the file, all little-endian (see `FastText::saveModel` in https://github.com/facebookresearch/fastText):
    magic and version        two int32; the first releases wrote neither
    arguments                twelve int32 and a float64
    dictionary               sizes; for each entry the word, a zero byte, its count and its kind; indices if pruned
    input matrix             a row per word, then a row per bucket of n-grams; a flag before it says whether it is quantised
    output matrix            for training; read here only to see that the file is complete
"""

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from embkeras._arrays import first_nonfinite_row
from embkeras.errors import VectorFileError
from embkeras.vectors.io.other_files import FASTTEXT, with_path
from embkeras.vectors.io.rows import Request, RowSelector, Table
from embkeras.vectors.io.source import Progress, Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.subwords import END_OF_SENTENCE, Subwords, gathered, mean_rows, ngram_rows
from embkeras.vectors.words import Words

FORMAT = "fasttext-binary"
_MAGIC = struct.pack("<i", 793712314)
_VERSIONS = (11, 12)
_SUPERVISED = 3
_LONGEST_WORD = 1 << 16  # bytes; anything longer is not a word
_BATCH = 4096  # words whose vectors are computed at once
_WIDEST, _LONGEST_NGRAM = 1 << 20, 256  # larger values mean damage
_BUFFER = 1 << 20  # bytes read at once


class _Arguments(NamedTuple):
    """The training arguments, in the order of the file."""

    dim: int
    ws: int
    epoch: int
    min_count: int
    neg: int
    word_ngrams: int
    loss: int
    model: int
    bucket: int
    minn: int
    maxn: int
    lr_update_rate: int
    t: float

    def are_usable(self) -> bool:
        """Whether a file with the magic number can be read with these arguments."""
        return 1 <= self.dim <= _WIDEST and self.bucket >= 0 and max(self.minn, self.maxn) <= _LONGEST_NGRAM

    def are_likely(self) -> bool:
        """Whether a file without the magic number is likely to be a model, judging by its arguments."""
        return self.are_usable() and min(self[:12]) >= 0 and 1 <= self.loss <= 4 and 1 <= self.model <= 3


class _Dictionary(NamedTuple):
    """The sizes of the dictionary."""

    entries: int
    words: int
    labels: int
    tokens: int

    def is_possible(self) -> bool:
        return min(self) >= 0 and self.entries == self.words + self.labels


_ARGUMENTS, _DICTIONARY = struct.Struct("<12id"), struct.Struct("<3iq")


def recognises(source: Source) -> bool:
    """Whether the file begins with fastText's magic number or, as in the first releases, with plausible arguments."""
    head = source.head
    if head.startswith(_MAGIC):
        return True
    if len(head) < _ARGUMENTS.size + _DICTIONARY.size:
        return False
    arguments = _Arguments(*_ARGUMENTS.unpack_from(head))
    return arguments.are_likely() and _Dictionary(*_DICTIONARY.unpack_from(head, _ARGUMENTS.size)).is_possible()


def read(source: Source, request: Request) -> KeyedVectors:
    """Compute the vectors of the wanted words, and map those of the n-grams.

    Raises:
        VectorFileError: a fault in the file, with its byte.
    """
    with contextlib.closing(Cursor(source, request.progress)) as cursor:
        return _Reader(cursor, request).read()


class Cursor:
    """A position in the contents of a binary file. Errors say where it is; nothing is allocated before it has been read.

    Args:
        source: what is read; compressed contents are decompressed.
        progress: called while a compressed file is read; in other files, large parts are skipped by seeking.

    Attributes:
        size: bytes of the contents, or None if compression hides it.
        ahead: bytes after the position that are read already.
    """

    def __init__(self, source: Source, progress: Progress | None = None):
        self.source = source
        self.size = source.path.stat().st_size if source.compression is None else None
        self._file: Any = source.open(progress) if self.size is None else source.path.open("rb")
        self._read = 0
        self.ahead = b""

    @property
    def position(self) -> int:
        """Bytes before the current position."""
        return self._read - len(self.ahead)

    def more(self) -> bool:
        """Read more bytes ahead; False at the end."""
        part = self._file.read(_BUFFER)
        self._read += len(part)
        self.ahead += part
        return bool(part)

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, which should be few; `what` says in an error what was expected."""
        while len(self.ahead) < count:
            if not self.more():
                raise self.error(what, f"{len(self.ahead)} bytes and the end of the file")
        taken, self.ahead = self.ahead[:count], self.ahead[count:]
        return taken

    def unpack(self, format: str, what: str) -> tuple[Any, ...]:
        """The next values, in a format of the module struct."""
        return struct.unpack(format, self.take(struct.calcsize(format), what))

    def check_room(self, count: int, what: str) -> None:
        """Refuse a claim that exceeds the rest of the file, if its length is known."""
        if self.size is not None and count > self.size - self.position:
            raise self.error(f"{what}: {count:,} bytes or more", f"{self.size - self.position:,} bytes")

    def skip(self, count: int, what: str) -> None:
        """Skip `count` bytes."""
        if self.size is None:
            for _ in self.parts(count, what):
                pass
            return
        self.check_room(count, what)
        self._read, self.ahead = self._file.seek(self.position + count), b""

    def parts(self, count: int, what: str) -> Iterator[bytes]:
        """The next `count` bytes in pieces."""
        while count:
            if not self.ahead and not self.more():
                raise self.error(f"{count:,} more bytes of {what}", "the end of the file")
            part, self.ahead = self.ahead[:count], self.ahead[count:]
            count -= len(part)
            yield part

    def error(self, expected: str, found: str, back: int = 0) -> VectorFileError:
        """The error to raise at this position, or `back` bytes before it."""
        return VectorFileError(
            f"{self.source.name}, byte {self.position - back:,}: expected {expected}, found {found}."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Reader:
    """One reading of one file, from beginning to end."""

    def __init__(self, cursor: Cursor, request: Request):
        self.cursor, self.request, self.selector = cursor, request, RowSelector(request)
        self.source = cursor.source
        self.whole: bytes | None = END_OF_SENTENCE  # the word that has no n-grams

    def read(self) -> KeyedVectors:
        arguments, dictionary, tagged = self._head()
        self.whole = END_OF_SENTENCE if tagged else None
        raw, rows = self._words(dictionary)
        if tagged and self.cursor.unpack("<?", "whether the matrix is quantised")[0]:
            raise self.cursor.error(
                "a matrix of float32",
                f"a quantised one (an .ftz model), whose vectors are approximations. Load the .bin, or {self._as_text()}",
                1,
            )
        matrix = self._input(arguments, dictionary)
        self._check_end(arguments, tagged)
        subwords = self._subwords(arguments, dictionary, matrix)
        table = Table(arguments.dim, self.request.dtype, len(rows))
        for first in range(0, len(rows), _BATCH):
            self._add(table, matrix, raw[first : first + _BATCH], rows[first : first + _BATCH], subwords)
            if self.request.progress is not None and self.cursor.size is not None:
                self.request.progress(min(first + _BATCH, len(rows)), len(rows))
        read = min(dictionary.words, self.request.limit or dictionary.words)
        return self.selector.keyed(table.matrix(), self.source, FORMAT, read, subwords)

    def _head(self) -> tuple[_Arguments, _Dictionary, bool]:
        """Arguments, sizes of the dictionary, and whether the file has the flags that were introduced with the magic number."""
        first = self.cursor.take(len(_MAGIC), "a fastText model")
        version = 0
        if first == _MAGIC:
            version = self.cursor.unpack("<i", "a version")[0]
            if version not in _VERSIONS:
                raise self.cursor.error("version 11 or 12", f"version {version}", 4)
        else:
            self.cursor.ahead = first + self.cursor.ahead
        arguments = _Arguments(*self.cursor.unpack(_ARGUMENTS.format, "the arguments of training"))
        if not (arguments.are_usable() if version else arguments.are_likely()):
            raise self.cursor.error("the arguments of a fastText model", str(tuple(arguments)), _ARGUMENTS.size)
        if arguments.model == _SUPERVISED and version < 12:  # these versions did not use n-grams of characters
            arguments = arguments._replace(maxn=0)
        dictionary = _Dictionary(*self.cursor.unpack(_DICTIONARY.format, "the sizes of the dictionary"))
        if not dictionary.is_possible():
            raise self.cursor.error("as many entries as words and labels", str(tuple(dictionary)), _DICTIONARY.size)
        if version and (pruned := self.cursor.unpack("<q", "the number of pruned n-grams")[0]) >= 0:
            raise self.cursor.error(
                "a complete model",
                f"one that was pruned to {pruned:,} n-grams when it was quantised. Load the .bin, or {self._as_text()}",
                8,
            )
        self.cursor.check_room(10 * dictionary.entries, f"{dictionary.entries:,} entries of the dictionary")
        return arguments, dictionary, version > 0

    def _as_text(self) -> str:
        return f"convert it once: {with_path(FASTTEXT, self.cursor.source)}"

    def _words(self, dictionary: _Dictionary) -> tuple[list[bytes], list[int]]:
        """The kept words, as bytes and as rows of the matrix; labels have no rows."""
        limit = min(dictionary.words, self.request.limit or dictionary.words)
        kept: list[bytes] = []
        rows: list[int] = []
        entry = 0
        for raw, kinds, places in self._entries(dictionary.entries):
            expected = bytes(max(0, min(len(raw), dictionary.words - entry))).ljust(len(raw), b"\1")
            if kinds != expected:
                wrong = next(i for i in range(len(raw)) if kinds[i] != expected[i])
                raise VectorFileError(
                    f"{self.source.name}, byte {places[wrong]:,}: expected {'a label' if expected[wrong] else 'a word'} as entry "
                    f"{entry + wrong:,} of the dictionary, found kind {kinds[wrong]} (word {raw[wrong][:40]!r})."
                )
            some = raw[: max(0, limit - entry)]
            chosen = self.selector.keep(Words.of(some), partial(self._place, places))
            kept += [some[i] for i in chosen]
            rows += [entry + i for i in chosen]
            entry += len(raw)
        return kept, rows

    def _place(self, places: list[int], i: int) -> str:
        return f"{self.source.name}, byte {places[i]:,}"

    def _entries(self, count: int) -> Iterator[tuple[list[bytes], bytes, list[int]]]:
        """Words, kinds and places of the entries, as many at once as have been read."""
        while count:
            buffer, start, at = self.cursor.ahead, self.cursor.position, 0
            used, find = len(buffer), buffer.find
            raw: list[bytes] = []
            kinds: list[int] = []
            places: list[int] = []
            for _ in range(count):
                end = find(b"\0", at)
                if end < 0 or end + 10 > used:  # the zero byte, eight bytes of the count, one of the kind
                    break
                raw.append(buffer[at:end])
                kinds.append(buffer[end + 9])
                places.append(start + at)
                at = end + 10
            count, self.cursor.ahead = count - len(raw), buffer[at:]
            longest = max(map(len, raw), default=0)
            if max(longest, (used - at if end < 0 else 0)) > _LONGEST_WORD:
                raise self.cursor.error(f"words of at most {_LONGEST_WORD:,} bytes", "a longer one")
            yield raw, bytes(kinds), places
            if count and not self.cursor.more():
                raise self.cursor.error(f"{count:,} more entries of the dictionary", "the end of the file")

    def _input(self, arguments: _Arguments, dictionary: _Dictionary) -> np.ndarray:
        """The memory-mapped matrix of words and n-grams, float32 of shape (words + buckets, dim)."""
        shape = self.cursor.unpack("<2q", "the shape of the matrix")
        expected = (dictionary.words + arguments.bucket, arguments.dim)
        if shape != expected:
            raise self.cursor.error(f"a matrix of shape {expected}: words and buckets, width", f"{shape}", 16)
        size = 4 * shape[0] * shape[1]
        self.cursor.check_room(size, f"a matrix of shape {shape}")
        if not size:
            return np.empty(shape, np.float32)
        if self.cursor.size is not None:
            place = self.cursor.position
            self.cursor.skip(size, "the matrix")
            return _mapped(self.source.path, place, shape)
        with tempfile.TemporaryFile() as file:
            for part in self.cursor.parts(size, "the matrix"):
                file.write(part)
            file.flush()
            return _mapped(file, 0, shape)

    def _check_end(self, arguments: _Arguments, tagged: bool) -> None:
        """Skip the matrix that only training needs, which shows whether the file is cut off in it."""
        if tagged and self.cursor.unpack("<?", "whether the output matrix is quantised")[0]:
            raise self.cursor.error("an output matrix of float32", "a quantised one", 1)
        rows, width = self.cursor.unpack("<2q", "the shape of the output matrix")
        if rows < 0 or width != arguments.dim:
            raise self.cursor.error(f"an output matrix of width {arguments.dim}", f"shape {(rows, width)}", 16)
        self.cursor.check_room(4 * rows * width, f"an output matrix of shape {(rows, width)}")
        self.cursor.skip(4 * rows * width, "the output matrix")
        if self.cursor.ahead or self.cursor.more():
            raise self.cursor.error("the end of the file", f"{self.cursor.ahead[:20]!r}")

    def _subwords(self, arguments: _Arguments, dictionary: _Dictionary, matrix: np.ndarray) -> Subwords | None:
        """The rows of the n-grams; None for a model without n-grams."""
        lengths = max(1, arguments.minn), arguments.maxn  # an n-gram has at least one character
        if lengths[0] > lengths[1] or not arguments.bucket:
            return None
        return Subwords(
            matrix[dictionary.words :],
            min_n=lengths[0],
            max_n=lengths[1],
            buckets=arguments.bucket,
            encoding=self.request.encoding,
        )

    def _add(
        self, table: Table, matrix: np.ndarray, raw: list[bytes], rows: list[int], subwords: Subwords | None
    ) -> None:
        """Compute the vectors of some words: the mean of their own row, which comes first, and those of their n-grams."""
        own = np.array(rows, np.int64)
        if subwords is None:
            vectors = gathered(matrix, own)
        else:
            lengths = {"min_n": subwords.min_n, "max_n": subwords.max_n}
            ngrams, counts = ngram_rows(raw, **lengths, buckets=subwords.buckets, whole=self.whole)
            words = len(matrix) - subwords.buckets
            vectors = mean_rows(matrix, np.insert(ngrams + words, np.cumsum(counts) - counts, own), counts + 1)
        bad = first_nonfinite_row(table.add(vectors))
        if bad is not None:
            raise VectorFileError(
                f"{self.source.name}: expected finite {self.request.dtype} numbers, found NaN, infinity or a number too "
                f"large in the vector of entry {rows[bad]:,} (word {raw[bad][:40]!r})."
            )


def _mapped(file: Any, place: int, shape: tuple[int, int]) -> np.ndarray:
    """The matrix that begins at a byte of the file, read-only. It stays valid when the file is closed."""
    whole = np.memmap(file, np.uint8, "r")  # not from `place` on, which may not be a multiple of 4 bytes
    return np.ndarray(shape, "<f4", whole, place)
