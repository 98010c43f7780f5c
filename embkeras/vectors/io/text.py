"""Writing text vectors. `reading` finds how a file of text is to be read, and `text_reader` reads its rows.

Two formats differ in the first line. GloVe text begins with a row; word2vec text, which fastText calls `.vec`, begins with
the number of rows and the width. A row is a word and its numbers, separated by spaces and ended by a newline. Words may
contain any white space except newlines.
See https://nlp.stanford.edu/projects/glove/ and https://fasttext.cc/docs/en/english-vectors.html.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from embkeras._progress import progress
from embkeras.errors import VectorFileError
from embkeras.vectors.io.compressed import opened
from embkeras.vectors.io.reading import reading_of
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.separators import SPACES
from embkeras.vectors.io.source import HEAD, Progress, Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded


def can_hold(word: str, row: int) -> bool:
    """Whether a word in this row is read back as the same word."""
    raw = encoded(word)
    return raw is not None and b"\n" not in raw and not raw.endswith(b"\r") and not SPACES.value_in_word.search(raw)


def write(vectors: KeyedVectors, beside: Path, path: Path, *, header: bool) -> None:
    """Write every row with 9 digits, which restore a float32 bit for bit; compressed if the name ends so.

    Raises:
        VectorFileError: the first rows would be read in another way, such as words that are all numbers without a header.
    """
    with progress(f"writing {path.name}") as report, opened(beside, path) as file:
        lines = _lines(vectors, header, report)
        head = bytearray()
        while len(head) < HEAD and (line := next(lines, None)) is not None:
            head += line
        _check_head(bytes(head), vectors, path, header)
        file.write(head)
        for line in lines:
            file.write(line)


def _lines(vectors: KeyedVectors, header: bool, report: Progress) -> Iterator[bytes]:
    if header:
        yield f"{len(vectors)} {vectors.vector_size}\n".encode()
    for place, (word, row) in enumerate(zip(vectors.words, vectors.matrix, strict=True)):
        report(place, len(vectors))
        yield word.encode("utf-8") + b" " + " ".join([f"{x:.9g}" for x in row.tolist()]).encode() + b"\n"


def _check_head(head: bytes, vectors: KeyedVectors, path: Path, header: bool) -> None:
    """Refuse to write what its own reader would read as something else."""
    try:
        reading = reading_of(Source(path), io.BytesIO(head), Request(), None)
    except VectorFileError as error:
        raise VectorFileError(f"{error} So it can't be written in this format: write a .npy file instead.") from None
    start = head.index(b"\n") + 1 if header else 0  # a byte order mark would not be read as part of the first word
    found = reading.separator, reading.width, reading.line_end, reading.first_line, reading.start
    if found != (SPACES, vectors.vector_size, b"\n", 1 + header, start):
        raise VectorFileError(
            f"{str(path)!r} can't hold these words in its format: its first lines {head[:40]!r} would be read in another way. "
            f"Write a .npy file instead, which holds any word."
        )
