"""A `.npy` matrix and its list of words in a second file."""

import json
from pathlib import Path
from tokenize import TokenError

import numpy as np

from embkeras.arrays import first_nonfinite_row
from embkeras.errors import MissingDependencyError, VectorFileError
from embkeras.files import written_beside
from embkeras.vectors.formats.request import Request, keyed_vectors
from embkeras.vectors.store import KeyedVectors

_MAGIC = b"\x93NUMPY"
_ENDINGS = (".txt", ".json", ".parquet")


def is_npy(path: Path) -> bool:
    """Whether the file begins as a `.npy` file does."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read(path: Path, request: Request) -> KeyedVectors:
    """Memory-map the matrix and copy the rows asked for."""
    if not is_npy(path):
        raise VectorFileError(f"{str(path)!r} is not a whole .npy file: it does not begin as one.")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TokenError) as error:  # the header is a Python literal
        raise VectorFileError(f"{str(path)!r} is not a whole .npy file: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.shape[1]:
        raise VectorFileError(
            f"{str(path)!r} must hold floats of shape (words, width), but holds {matrix.dtype} {matrix.shape}."
        )
    words_file = request.words_file or _words_file_of(path)
    words = _read_words(words_file)
    if len(words) != len(matrix):
        raise VectorFileError(f"{str(path)!r} has {len(matrix):,} rows, but {str(words_file)!r} {len(words):,} words.")
    rows: dict[str, int] = {}
    read_rows = words[: request.limit]
    duplicates = 0
    for row, word in enumerate(read_rows):
        if request.wanted is None or word in request.wanted:
            duplicates += rows.setdefault(word, row) != row
    kept = matrix[list(rows.values())] if len(rows) < len(matrix) else np.array(matrix)
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(kept, request.dtype)
    bad = first_nonfinite_row(kept)
    if bad is not None:
        word = list(rows)[bad]
        raise VectorFileError(
            f"{str(path)!r} holds NaN, infinity or more than {request.dtype} can hold in row {rows[word]} (word {word!r})."
        )
    return keyed_vectors(list(rows), kept, path, "npy", request, rows=len(read_rows), duplicates=duplicates)


def _words_file_of(path: Path) -> Path:
    """The file of the same stem that holds the words."""
    beside = [path.with_suffix(ending) for ending in _ENDINGS]
    there = [candidate for candidate in beside if candidate.is_file()]
    if path.with_suffix(".json") in there:  # what save_vectors writes; a .txt beside it is likely its source
        return path.with_suffix(".json")
    if len(there) != 1:
        found = ", ".join(candidate.name for candidate in there) or "none of them"
        names = ", ".join(candidate.name for candidate in beside)
        raise VectorFileError(
            f"The words of {str(path)!r} should stand in one of {names}; found {found}. Give words_file=."
        )
    return there[0]


def _read_words(path: Path) -> list[str]:
    try:
        if path.suffix == ".parquet":
            words = _parquet_words(path)
        elif path.suffix == ".json":
            words = json.loads(path.read_text("utf-8"))
        else:
            words = path.read_text("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise VectorFileError(f"Cannot read the words {str(path)!r}: {error.strerror or error}.") from error
    except ValueError as error:
        raise VectorFileError(f"{str(path)!r} is not a readable list of words: {error}") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise VectorFileError(f"{str(path)!r} must hold a list of strings.")
    return words


def _parquet_words(path: Path) -> list[str]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f'Reading {str(path)!r} needs pyarrow: python -m pip install "embkeras[demo]".'
        ) from None
    table = pyarrow.parquet.read_table(path)
    strings = [name for name, kind in zip(table.schema.names, table.schema.types, strict=True) if "string" in str(kind)]
    if not strings:
        raise VectorFileError(f"{str(path)!r} has no column of strings; columns: {table.schema.names}.")
    return table.column(strings[0]).to_pylist()


def check_words(vectors: KeyedVectors, path: Path) -> None:
    """Any word can be held: the list is JSON."""


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write the matrix to `beside`, and when it is whole the words next to the final `path`."""
    with beside.open("wb") as file:
        np.save(file, vectors.matrix, allow_pickle=False)
    with written_beside(path.with_suffix(".json")) as words:
        words.write_text(json.dumps(vectors.words), encoding="ascii")
