"""fastText's binary models (`.bin`): words, and vectors of words and of character n-grams.

The vector of a word is the mean of its own row and of the rows of its n-grams, as fastText's `getWordVector` gives it,
bit for bit. The n-grams come along as `KeyedVectors.subwords`, memory-mapped, so that the words of a task cost no more than
their own rows; so the file must stay as it is while they are in use. The matrix of a compressed file is unpacked into a
temporary file, and mapped from there.

The order in the file, all little-endian (see `FastText::saveModel` in https://github.com/facebookresearch/fastText):
    magic and version        two int32; the first releases wrote neither
    arguments                twelve int32 and a float64
    dictionary               sizes; for each entry the word, a zero byte, its count and its kind; indices if pruned
    input matrix             a row a word, then a row a bucket of n-grams; a flag before says whether it is quantised
    output matrix            what training needs; here it only shows that the file is whole
"""

import struct
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from embkeras._arrays import first_nonfinite_row
from embkeras.errors import VectorFileError
from embkeras.vectors.io.cursor import Cursor
from embkeras.vectors.io.request import Request
from embkeras.vectors.io.selection import GrowingTable, Selection
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.subwords import END_OF_SENTENCE, Subwords, gathered, mean_rows, ngram_rows
from embkeras.vectors.words import Words

FORMAT = "fasttext-binary"
_MAGIC = struct.pack("<i", 793712314)
_VERSIONS = (11, 12)
_SUPERVISED = 3
_LONGEST_WORD = 1 << 16  # bytes; what is longer is no word
_BATCH = 4096  # words whose vectors are worked out at once
_WIDEST, _LONGEST_NGRAM = 1 << 20, 256  # what is beyond is no model, but damage


class _Arguments(NamedTuple):
    """The arguments of training, in the order of the file."""

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
        """Whether a file with the magic number can be read by these."""
        return 1 <= self.dim <= _WIDEST and self.bucket >= 0 and max(self.minn, self.maxn) <= _LONGEST_NGRAM

    def are_likely(self) -> bool:
        """Whether a file without the magic number is a model, to judge by these."""
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
    """Whether the file begins with fastText's magic number or, as the first releases wrote it, with possible arguments."""
    head = source.head
    if head.startswith(_MAGIC):
        return True
    if len(head) < _ARGUMENTS.size + _DICTIONARY.size:
        return False
    arguments = _Arguments(*_ARGUMENTS.unpack_from(head))
    return arguments.are_likely() and _Dictionary(*_DICTIONARY.unpack_from(head, _ARGUMENTS.size)).is_possible()


def read(source: Source, request: Request) -> KeyedVectors:
    """Work out the vectors of the words asked for, and map those of the n-grams."""
    selection = Selection(request)
    with Cursor(source, request.progress) as cursor:
        return _Reader(cursor, request, selection).read()


class _Reader:
    """One reading of one file, from its beginning to its end."""

    def __init__(self, cursor: Cursor, request: Request, selection: Selection):
        self.cursor, self.request, self.selection = cursor, request, selection
        self.source = cursor.source
        self.whole: bytes | None = END_OF_SENTENCE  # the word without n-grams

    def read(self) -> KeyedVectors:
        arguments, dictionary, tagged = self._head()
        self.whole = END_OF_SENTENCE if tagged else None
        raw, rows = self._words(dictionary)
        if tagged and self.cursor.unpack("<?", "whether the matrix is quantised")[0]:
            raise self.cursor.error(
                "a matrix of float32",
                "a quantised one (an .ftz model). Its vectors are approximations: load the .bin",
                1,
            )
        matrix = self._input(arguments, dictionary)
        self._check_end(arguments, tagged)
        subwords = self._subwords(arguments, dictionary, matrix)
        table = GrowingTable(arguments.dim, self.request.dtype, len(rows))
        for first in range(0, len(rows), _BATCH):
            self._add(table, matrix, raw[first : first + _BATCH], rows[first : first + _BATCH], subwords)
            if self.request.progress is not None and self.cursor.size is not None:
                self.request.progress(min(first + _BATCH, len(rows)), len(rows))
        read = min(dictionary.words, self.request.limit or dictionary.words)
        return self.selection.keyed(table, self.source, FORMAT, read, subwords)

    def _head(self) -> tuple[_Arguments, _Dictionary, bool]:
        """Arguments, sizes of the dictionary, and whether the file has the flags that came with the magic number."""
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
        if arguments.model == _SUPERVISED and version < 12:  # these did not use n-grams of characters
            arguments = arguments._replace(maxn=0)
        dictionary = _Dictionary(*self.cursor.unpack(_DICTIONARY.format, "the sizes of the dictionary"))
        if not dictionary.is_possible():
            raise self.cursor.error("as many entries as words and labels", str(tuple(dictionary)), _DICTIONARY.size)
        if version and (pruned := self.cursor.unpack("<q", "the number of pruned n-grams")[0]) >= 0:
            raise self.cursor.error(
                "a whole model", f"one pruned to {pruned:,} n-grams, as quantising does. Load the .bin", 8
            )
        self.cursor.check_room(10 * dictionary.entries, f"{dictionary.entries:,} entries of the dictionary")
        return arguments, dictionary, version > 0

    def _words(self, dictionary: _Dictionary) -> tuple[list[bytes], list[int]]:
        """The words kept, as bytes and as rows of the matrix; labels have no rows."""
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
            chosen = self.selection.keep(
                Words.of(some), lambda i, places=places: f"{self.source.name}, byte {places[i]:,}"
            )
            kept += [some[i] for i in chosen]
            rows += [entry + i for i in chosen]
            entry += len(raw)
        return kept, rows

    def _entries(self, count: int) -> Iterator[tuple[list[bytes], bytes, list[int]]]:
        """Words, kinds and places of the entries, as many at once as are at hand."""
        while count:
            buffer, start, at = self.cursor.ahead, self.cursor.position, 0
            used, find = len(buffer), buffer.find
            raw, kinds, places = [], [], []
            for _ in range(count):
                end = find(b"\0", at)
                if end < 0 or end + 10 > used:  # the zero byte, eight of the count, one of the kind
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
        """The matrix of words and n-grams, mapped; float32 of shape (words + buckets, dim)."""
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
        """Go over the matrix that only training needs, so that a file cut off in it is found out."""
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
        """The rows of the n-grams; None for a model without any."""
        lengths = max(1, arguments.minn), arguments.maxn  # an n-gram has a character
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
        self, table: GrowingTable, matrix: np.ndarray, raw: list[bytes], rows: list[int], subwords: Subwords | None
    ) -> None:
        """Work out the vectors of some words: the mean of the own row, which comes first, and those of the n-grams."""
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
                f"{self.source.name}: expected finite {self.request.dtype} numbers, found NaN, infinity or more than it can hold "
                f"in the vector of entry {rows[bad]:,} (word {raw[bad][:40]!r})."
            )


def _mapped(file: Any, place: int, shape: tuple[int, int]) -> np.ndarray:
    """The matrix that begins at a byte of the file, read-only. It lives on when the file is closed."""
    whole = np.memmap(file, np.uint8, "r")  # not at `place`: a row need not start at a multiple of 4 bytes
    return np.ndarray(shape, "<f4", whole, place)
