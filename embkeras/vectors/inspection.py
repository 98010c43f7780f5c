"""What is in a file of vectors, and how much of a text it covers: what `embkeras inspect` and `coverage` tell."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._arrays import BLOCK
from embkeras.errors import EmbkerasWarning, VectorFileError
from embkeras.text.tokenizer import Tokenizer
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import AlignedMatrix, align
from embkeras.vectors.io.registry import load_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.store import check_store
from embkeras.vectors.store import KeyedVectors

_SHOWN = 5
_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?([0-9]{1,18}) ([0-9]{1,18}) ?\r?\n")
_WITH_HEADER = "word2vec"  # the one text format whose first line counts the rows
_STORE = "store"
# Words that readers other than ours cut, drop or change; a word may be odd in several ways.
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
        r"#?n/a|#NA|#N/A N/A|<NA>|NA|NULL|null|None|NaN|nan|-nan|-NaN|1\.#IND|-1\.#IND|1\.#QNAN|-1\.#QNAN|#N/A|N/A"
    ),
}
_WHOLE = ("that pandas reads as missing",)


@dataclass(frozen=True)
class Norms:
    """Lengths (L2) of the vectors, and how many are zeros."""

    smallest: float
    mean: float
    largest: float
    zero_rows: int


@dataclass(frozen=True)
class Inspection:
    """What a file of vectors holds.

    Attributes:
        path: the file.
        format: as `load_vectors` names it.
        compression: "gz", "bz2", "xz", "zip" or None.
        file_bytes: size of the file.
        rows: rows in it, those with repeated words counted.
        width: width of a vector.
        header: (rows, width) as the first line says, or None where there is none.
        duplicates: rows whose word had come before.
        undecodable: words that are not valid in the encoding.
        odd: kind of odd word -> (how many, the first few).
        norms: lengths of the vectors.
        memory: bytes of the table as float32.
        first: the first few words.
        last: the last few.
        subwords: rows of n-grams, 0 if it has none.
        fault: why `load_vectors` refuses the file, though its rows are whole, or None.
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

    def lines(self) -> Iterator[str]:
        """The report, line by line."""
        packed = f", {self.compression}" if self.compression else ""
        yield f"File: {self.path} ({_size(self.file_bytes)})"
        yield f"Format: {self.format}{packed}"
        yield f"Rows: {self.rows:,}, width {self.width}; as float32 {_size(self.memory)} of memory"
        yield f"Header: {self._header()}"
        yield f"Repeated words: {self.duplicates:,}; not valid in the encoding: {self.undecodable:,}"
        if self.subwords:
            yield f"Subwords: {self.subwords:,} rows of n-grams, {_size(4 * self.subwords * self.width)} as float32"
        norms = self.norms
        yield f"Norms: {norms.smallest:.4g} to {norms.largest:.4g}, mean {norms.mean:.4g}; rows of zeros: {norms.zero_rows:,}"
        for kind, (count, words) in self.odd.items():
            yield f"Words {kind}: {count:,} ({', '.join(map(ascii, words))})"
        yield f"First words: {', '.join(map(repr, self.first))}"
        yield f"Last words: {', '.join(map(repr, self.last))}"

    def _header(self) -> str:
        if self.header is None:
            return "none"
        said, width = self.header
        true = "true" if (said, width) == (self.rows, self.width) else f"not true, there are {self.rows:,}"
        return f"{said:,} rows of width {width}: {true}"


def inspect_vectors(path: str | os.PathLike, *, encoding: str = "utf-8", **arguments: Any) -> Inspection:
    """Read a file of vectors whole, and say what it holds.

    A header that counts the rows wrong is reported, with the fault by which `load_vectors` refuses such a file; any other
    damage is raised as `load_vectors` does.

    Args:
        path: the file.
        encoding: of the words in text files; words that are not valid in it are counted.
        **arguments: as for `load_vectors`: `format`, `words_file`, `member`, `progress`.

    Raises:
        VectorFileError: no such file, or a damaged one.
        ArgumentError: whatever `load_vectors` raises.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "tiny.vec")
        ...     _ = path.write_text("2 2\\ncat 3.0 4.0\\nNA 0.0 0.0\\n")
        ...     for line in list(inspect_vectors(path).lines())[1:]:
        ...         print(line)
        Format: word2vec
        Rows: 2, width 2; as float32 16 bytes of memory
        Header: 2 rows of width 2: true
        Repeated words: 0; not valid in the encoding: 0
        Norms: 0 to 5, mean 2.5; rows of zeros: 1
        Words that pandas reads as missing: 1 ('NA')
        First words: 'cat', 'NA'
        Last words: 'cat', 'NA'
    """
    path, fault = Path(path), None
    arguments = {**arguments, "encoding": encoding, "errors": "replace"}
    try:
        vectors = _load(path, arguments)
    except VectorFileError as error:
        rows = _rows_of_lying_header(path, arguments)
        if rows is None:
            raise
        fault = str(error)
        vectors = _load(path, {**arguments, "limit": rows})
    told = vectors.provenance
    if told.format == _STORE:
        check_store(path)  # opening a store does not read its matrix, and so not its checksum
    source = Source(path, arguments.get("member"))
    header = _header(source) if told.format == _WITH_HEADER else None
    words, rows = list(vectors.words), told.rows if told.rows is not None else len(vectors)
    return Inspection(
        path=str(path),
        format=told.format,
        compression=source.compression if path.is_file() else None,
        file_bytes=path.stat().st_size,
        rows=rows,
        width=vectors.vector_size,
        header=header,
        duplicates=told.duplicates,
        undecodable=told.undecodable,
        odd=odd_words(words),
        norms=_norms(vectors.matrix),
        memory=4 * len(vectors) * vectors.vector_size,
        first=words[:_SHOWN],
        last=words[-_SHOWN:],
        subwords=0 if vectors.subwords is None else vectors.subwords.buckets,
        fault=fault,
    )


def _load(path: Path, arguments: dict[str, Any]) -> KeyedVectors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbkerasWarning)  # of repeated words, which are in the report
        return load_vectors(path, **arguments)


def _rows_of_lying_header(path: Path, arguments: dict[str, Any]) -> int | None:
    """The rows of a text whose header counts them wrong; None for any other file."""
    source = Source(path, arguments.get("member"))
    if not path.is_file() or arguments.get("format") not in (None, _WITH_HEADER):
        return None
    header = _header(source)
    if header is None:
        return None
    rows = -1
    with source.open() as stream:
        file = stream.buffered()
        for line in file:
            rows += bool(line.strip())
    return rows if rows > 0 and rows != header[0] else None


def _header(source: Source) -> tuple[int, int] | None:
    found = _HEADER.match(source.head)
    return (int(found[1]), int(found[2])) if found else None


def odd_words(words: Iterable[str]) -> dict[str, tuple[int, list[str]]]:
    """Kind of odd word -> how many there are and the first of them, for the kinds that there are.

    Example:
        >>> odd_words(["cat", "new york", "nan"])
        {'with a space': (1, ['new york']), 'that pandas reads as missing': (1, ['nan'])}
    """
    found: dict[str, list[str]] = {kind: [] for kind in _ODD}
    for word in words:
        for kind, pattern in _ODD.items():
            if pattern.fullmatch(word) if kind in _WHOLE else pattern.search(word):
                found[kind].append(word)
    return {kind: (len(those), those[:_SHOWN]) for kind, those in found.items() if those}


def _norms(matrix: np.ndarray) -> Norms:
    step = max(1, BLOCK // matrix.shape[1])
    norms = [
        np.linalg.norm(np.asarray(matrix[at : at + step], np.float64), axis=1) for at in range(0, len(matrix), step)
    ]
    every = np.concatenate(norms)
    return Norms(float(every.min()), float(every.mean()), float(every.max()), int((every == 0).sum()))


def _size(count: int) -> str:
    """A number of bytes for people."""
    size, units = float(count), iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.3g} {unit}"


def text_coverage(
    path: str | os.PathLike,
    texts: Iterable[str],
    *,
    tokenizer: Tokenizer,
    fallbacks: Sequence[str] = ("lower",),
    **arguments: Any,
) -> AlignedMatrix:
    """How much of some texts a file of vectors covers: `.coverage` and `.report()` of what comes back tell.

    Only the words of the texts are read, and of the vectors one column is kept.

    Args:
        path: the file.
        texts: the texts; gone through once.
        tokenizer: cuts them.
        fallbacks: spellings to try after the exact token, as for `align`.
        **arguments: as for `load_vectors`.

    Raises:
        VectorFileError: whatever `load_vectors` raises.
        VocabularyError: texts without a token.
        AlignmentError: none of the words is in the file.
    """
    vocabulary = Vocabulary.from_texts(texts, tokenizer=tokenizer)
    loaded = load_vectors(path, words=vocabulary, fallbacks=fallbacks, **arguments)
    narrow = KeyedVectors(list(loaded.words), np.zeros((len(loaded), 1), np.float32), provenance=loaded.provenance)
    return align(narrow, vocabulary, fallbacks=fallbacks, oov="zeros")
