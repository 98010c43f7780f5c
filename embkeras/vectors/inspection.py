"""What a file of vectors contains, and how much of a text it covers."""

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embkeras._arrays import row_slices
from embkeras._checks import path as checked_path
from embkeras.errors import EmbkerasWarning, VectorFileError
from embkeras.text.tokenizer import Tokenizer
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import align
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.io.reading import header_of
from embkeras.vectors.io.registry import file_at, load_vectors
from embkeras.vectors.io.source import Source, source_at
from embkeras.vectors.io.store import check_store
from embkeras.vectors.store import KeyedVectors

_SHOWN = 5
_WITH_HEADER = "word2vec"  # the one text format whose first line counts the rows
_STORE = "store"
# Words that other readers truncate, drop or change; a word may be odd in several ways.
_ODD = {
    "empty": re.compile(r"\A\Z"),
    "with a space": re.compile(" "),
    "with a no-break space (U+00A0)": re.compile("\u00a0"),
    "with another space or end of line": re.compile(
        "[\t-\r\x1c-\x1f\x85\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
    ),
    "with a control character": re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"),
    "with U+FFFD": re.compile("\ufffd"),
    "with a quotation mark": re.compile('"'),
    "that pandas reads as missing": re.compile(
        r"\A(#?n/a|#?N/A|#NA|#N/A N/A|<NA>|NA|NULL|null|None|-?NaN|-?nan|-?1\.#IND|-?1\.#QNAN)\Z"
    ),
}


@dataclass(frozen=True)
class Norms:
    """Lengths (L2) of the vectors, and how many are zeros."""

    smallest: float
    mean: float
    largest: float
    zero_rows: int


@dataclass(frozen=True)
class Inspection:
    """What a file of vectors contains.

    Attributes:
        path: the file.
        format: as `load_vectors` names it.
        compression: "gz", "bz2", "xz", "zip" or None.
        file_bytes: size of the file.
        rows: rows in the file, including those with repeated words.
        width: width of a vector.
        header: (rows, width) from the first line, or None without a header.
        duplicates: rows whose word occurred before.
        undecodable: words that are not valid in the encoding.
        odd: kind of odd word -> (how many, the first few).
        norms: lengths of the vectors.
        memory: bytes of the table as float32.
        first: the first few words.
        last: the last few.
        subwords: rows of n-grams, 0 without n-grams.
        fault: why `load_vectors` refuses the file, although its rows are intact, or None.
    """

    path: str
    format: str
    compression: str | None
    file_bytes: int
    rows: int
    width: int
    header: tuple[int, int] | None
    duplicates: int
    undecodable: int
    odd: dict[str, tuple[int, list[str]]] = field(repr=False)
    norms: Norms = field(repr=False)
    memory: int
    first: list[str]
    last: list[str]
    subwords: int = 0
    fault: str | None = None


def inspect_vectors(path: str | os.PathLike[str], *, encoding: str = "utf-8", **arguments: Any) -> Inspection:
    """Read a whole file of vectors, and report what it contains.

    A header with a wrong number of rows is reported, together with the error with which `load_vectors` refuses such a
    file; any other damage raises an error, as in `load_vectors`.

    Args:
        path: the file.
        encoding: of the words in text files; words that are not valid in this encoding are counted.
        **arguments: as for `load_vectors`: `format`, `words_file`, `member`, `progress`.

    Raises:
        VectorFileError: no such file, or a damaged one.
        ArgumentError: what `load_vectors` raises.

    Examples:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tiny.vec")
        ...     _ = path.write_text("2 2\\ncat 3.0 4.0\\nNA 0.0 0.0\\n")
        ...     report = inspect_vectors(path)
        >>> report.format, report.rows, report.header, report.norms
        ('word2vec', 2, (2, 2), Norms(smallest=0.0, mean=2.5, largest=5.0, zero_rows=1))
        >>> report.odd
        {'that pandas reads as missing': (1, ['NA'])}
    """
    with source_at(file_at(checked_path(path, "path")), arguments.pop("member", None)) as source:
        return _inspected(source, {**arguments, "encoding": encoding, "errors": "replace"})


def _inspected(source: Source, arguments: dict[str, Any]) -> Inspection:
    fault = None
    try:
        vectors = _load(source, arguments)
    except VectorFileError as error:
        actual_rows = _rows_under_wrong_header(source, arguments)
        if actual_rows is None:
            raise
        fault = str(error)
        vectors = _load(source, {**arguments, "limit": actual_rows})
    read: Any = vectors.provenance
    if read.format == _STORE:
        check_store(source.path)  # opening a store does not read its matrix, and so not its checksum
    header = header_of(source.head) if read.format == _WITH_HEADER else None
    words, matrix = list(vectors.words), vectors.matrix
    parts = row_slices(matrix.shape)
    norms = np.concatenate([np.linalg.norm(np.asarray(matrix[part], np.float64), axis=1) for part in parts])
    return Inspection(
        path=str(source.shown),
        format=read.format,
        compression=source.compression,
        file_bytes=source.path.stat().st_size,
        rows=len(vectors) if read.rows is None else read.rows,
        width=vectors.vector_size,
        header=(header.rows, header.width) if header else None,
        duplicates=read.duplicates,
        undecodable=read.undecodable,
        odd=odd_words(words),
        norms=Norms(float(norms.min()), float(norms.mean()), float(norms.max()), int((norms == 0).sum())),
        memory=4 * matrix.size,
        first=words[:_SHOWN],
        last=words[-_SHOWN:],
        subwords=0 if vectors.subwords is None else vectors.subwords.buckets,
        fault=fault,
    )


def _load(source: Source, arguments: dict[str, Any]) -> KeyedVectors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbkerasWarning)  # about repeated words, which are in the report
        return load_vectors(source, **arguments)


def _rows_under_wrong_header(source: Source, arguments: dict[str, Any]) -> int | None:
    """The rows of a text whose header has another number; None for any other file."""
    if arguments.get("format") not in (None, _WITH_HEADER):
        return None
    header = header_of(source.head)
    if header is None:
        return None
    with source.open() as stream:
        rows = sum(bool(line.strip()) for line in stream.buffered()) - 1
    return rows if rows > 0 and rows != header.rows else None


def odd_words(words: Iterable[str]) -> dict[str, tuple[int, list[str]]]:
    """Kind of odd word -> how many there are and the first few, for the kinds that occur.

    Examples:
        >>> odd_words(["cat", "new york", "nan"])
        {'with a space': (1, ['new york']), 'that pandas reads as missing': (1, ['nan'])}
    """
    found: dict[str, list[str]] = {kind: [] for kind in _ODD}
    for word in words:
        for kind, pattern in _ODD.items():
            if pattern.search(word):
                found[kind].append(word)
    return {kind: (len(those), those[:_SHOWN]) for kind, those in found.items() if those}


def text_coverage(
    path: str | os.PathLike[str],
    texts: Iterable[str],
    *,
    tokenizer: Tokenizer,
    fallbacks: Sequence[str] = ("lower",),
    **arguments: Any,
) -> AlignedMatrix:
    """How much of some texts a file of vectors covers: see `.coverage` and `.report()` of the result.

    Only the words of the texts are read, and the result has one column of zeros instead of the vectors.

    Args:
        path: the file.
        texts: the texts; they are read once.
        tokenizer: splits them.
        fallbacks: spellings to try after the exact token, as for `align`.
        **arguments: as for `load_vectors`.

    Raises:
        VectorFileError: what `load_vectors` raises.
        VocabularyError: texts without a token.
        AlignmentError: none of the words is in the file.
    """
    path = checked_path(path, "path")
    vocabulary = Vocabulary.from_texts(texts, tokenizer=tokenizer)
    loaded = load_vectors(path, words=vocabulary, fallbacks=fallbacks, **arguments)
    narrow = KeyedVectors(list(loaded.words), np.zeros((len(loaded), 1), np.float32), provenance=loaded.provenance)
    return align(narrow, vocabulary, fallbacks=fallbacks, oov="zeros")
