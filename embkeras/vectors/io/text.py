"""GloVe text (no header) and word2vec text, which fastText calls `.vec` (first line: count and width).

A row is a word and its numbers, separated by spaces and ended by a newline. Words may hold spaces of any kind but the
newline, so a row is cut from the right, at the byte 0x20 only. See https://nlp.stanford.edu/projects/glove/ and
https://fasttext.cc/docs/en/english-vectors.html.
"""

import bz2
import contextlib
import gzip
import lzma
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embkeras.errors import VectorFileError
from embkeras.vectors.io.request import Request
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.text_reader import TextReader
from embkeras.vectors.io.text_shape import BOM, HEADER, NUMBER, VALUE_AT_END
from embkeras.vectors.store import KeyedVectors

# The endings of the names under which text is written compressed.
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")


@dataclass(frozen=True)
class Text:
    """A reader and writer of text vectors; `header` says whether the first line gives count and width."""

    header: bool | None  # None: look

    @property
    def name(self) -> str:
        """The name of the format."""
        return "word2vec" if self.header else "glove"

    def recognises(self, source: Source) -> bool:
        """Whether the first line is a header, for word2vec text; what no other format recognises is GloVe text."""
        return not self.header or bool(HEADER.fullmatch(source.head.removeprefix(BOM).split(b"\n", 1)[0]))

    def read(self, source: Source, request: Request) -> KeyedVectors:
        """Parse the rows asked for; the others are only cut at the word."""
        return TextReader(source, request, self.header).read()

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
        if b"\n" in raw or raw.endswith(b"\r") or VALUE_AT_END.search(raw):
            return False
        # Without a header the first row tells the width, and a number at the end of its word would count as one more.
        return bool(self.header) or row > 0 or b" " not in raw or not NUMBER.fullmatch(raw.rpartition(b" ")[2])

    def write(self, vectors: KeyedVectors, beside: Path, path: Path) -> None:
        """Write every row with 9 digits, which give a float32 back bit for bit; compressed if the name ends so."""
        with _opened(beside, path) as file:
            if self.header:
                file.write(f"{len(vectors)} {vectors.vector_size}\n".encode())
            for word, row in zip(vectors.words, vectors.matrix, strict=True):
                file.write(word.encode("utf-8") + b" " + " ".join([f"{x:.9g}" for x in row.tolist()]).encode() + b"\n")


GLOVE, WORD2VEC = Text(header=False), Text(header=True)


@contextlib.contextmanager
def _opened(beside: Path, path: Path) -> Iterator[Any]:
    """A file to write to. No time goes into it, so that the same vectors give the same bytes."""
    suffix = path.suffix
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(beside.open("wb"))
        if suffix == ".zip":  # x.vec.zip holds x.vec
            archive = stack.enter_context(zipfile.ZipFile(file, "w"))
            member = zipfile.ZipInfo(path.stem)  # of 1980
            member.compress_type = zipfile.ZIP_DEFLATED
            file = stack.enter_context(archive.open(member, "w", force_zip64=True))
        elif suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        elif suffix == ".bz2":
            file = stack.enter_context(bz2.BZ2File(file, "wb"))
        elif suffix == ".xz":
            file = stack.enter_context(lzma.LZMAFile(file, "wb"))
        yield file
