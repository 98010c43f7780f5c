"""A `.npy` matrix and its list of words in a second file."""

import json
from pathlib import Path
from tokenize import TokenError

import numpy as np

from embkeras._files import written_beside
from embkeras.errors import VectorFileError
from embkeras.vectors.io.kept_rows import blocks_of, keep, take
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.words_file import read_words, words_file_of
from embkeras.vectors.store import KeyedVectors

_MAGIC = b"\x93NUMPY"


def recognises(source: Source) -> bool:
    """Whether the contents begin as a `.npy` file does."""
    return source.head.startswith(_MAGIC)


def read(source: Source, request: Request) -> KeyedVectors:
    """Memory-map the matrix and copy the rows asked for."""
    path = source.path
    if source.compression is not None:
        raise VectorFileError(f"{source.name} is a .npy file inside a .{source.compression} file: unpack it first.")
    if not recognises(source):
        raise VectorFileError(f"{str(path)!r} is not a whole .npy file: it does not begin as one.")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TokenError, OverflowError) as error:  # the header is a Python literal
        raise VectorFileError(f"{str(path)!r} is not a whole .npy file: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.shape[1]:
        raise VectorFileError(
            f"{str(path)!r} must hold floats of shape (words, width), but holds {matrix.dtype} {matrix.shape}."
        )
    words_file = request.words_file or words_file_of(path)
    words = read_words(words_file)
    if len(words) != len(matrix):
        raise VectorFileError(f"{str(path)!r} has {len(matrix):,} rows, but {str(words_file)!r} {len(words):,} words.")
    kept = keep(words, request)
    taken = take(kept, matrix.shape[1], blocks_of(matrix, kept.rows, request), source, request)
    return keyed_vectors(kept.words, taken, source, "npy", request, **kept.counts)


def check_words(vectors: KeyedVectors, path: Path) -> None:
    """Any word can be held: the list is JSON."""


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write the matrix to `beside`, and when it is whole the words next to the final `path`."""
    with beside.open("wb") as file:
        np.save(file, vectors.matrix, allow_pickle=False)
    with written_beside(path.with_suffix(".json")) as words:
        words.write_text(json.dumps(list(vectors.words)), encoding="ascii")
