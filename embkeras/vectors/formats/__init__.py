"""load_vectors and save_vectors: one file a format, each with its read and its write.

To add a format, write a module with `read(path, request)`, `check_words(vectors, path)` and `write(vectors, beside, path)`
and enter it in `FORMATS`; CONTRIBUTING.md has the details.
"""

import numbers
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError, VectorFileError
from embkeras.files import written_beside
from embkeras.vectors.fallbacks import check_fallbacks, spellings
from embkeras.vectors.formats import npy, text
from embkeras.vectors.formats.request import Request
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.vocabulary import Vocabulary

# name -> module and the name endings it is the default for when writing
FORMATS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "glove": (text.GLOVE, (".txt",)),
    "word2vec": (text.WORD2VEC, (".vec",)),
    "npy": (npy, (".npy",)),
}


def load_vectors(
    path: str | os.PathLike,
    *,
    format: str | None = None,
    words: Vocabulary | Iterable[str] | None = None,
    fallbacks: Sequence[str] = ("lower",),
    words_file: str | os.PathLike | None = None,
    limit: int | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    dtype: str = "float32",
) -> KeyedVectors:
    """Read word vectors: GloVe text, word2vec text and fastText `.vec`, or a `.npy` matrix with a list of words.

    Nothing is normalised, lower-cased or reordered. Where a word stands twice, the first row is kept, the others
    are counted in `provenance.duplicates` and warned of.

    Args:
        path: the file.
        format: "glove", "word2vec" or "npy"; found by the content if not given.
        words: read only these words and the spellings that `fallbacks` makes of them; memory follows their number.
        fallbacks: names from `embkeras.vectors.fallbacks`, used with `words`; give the same to `align`.
        words_file: for `.npy`, the words: `.txt` (one a line), `.json` (a list), or `.parquet` (first column of
            strings); by default the file of the same stem.
        limit: read only the first so many rows.
        encoding: of the words in text files.
        errors: for words that are not valid in `encoding`: "strict" raises, "replace" puts U+FFFD, "skip" leaves
            the row out; counted in `provenance.undecodable`.
        dtype: "float32" or "float16".

    Raises:
        VectorFileError: no such file, or a file that is damaged, with the line or row and what was expected there.
        ArgumentError: an argument outside the above.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tiny.txt")
        ...     _ = path.write_text("cat 1.0 0.5\\ndog 0.9 0.4\\n")
        ...     load_vectors(path, words=["Dog"])
        KeyedVectors(1 words, vector_size=2, dtype=float32)
    """
    if errors not in ("strict", "replace", "skip"):
        raise ArgumentError(f'errors must be "strict", "replace" or "skip". Received: {errors!r}.')
    if dtype not in ("float32", "float16"):
        raise ArgumentError(f'dtype must be "float32" or "float16". Received: {dtype!r}.')
    if limit is not None and not (isinstance(limit, numbers.Integral) and limit >= 1):
        raise ArgumentError(f"limit must be an integer of at least 1. Received: {limit!r}.")
    path = Path(path)
    if not path.is_file():
        reason = "it is a folder" if path.is_dir() else "there is no such file"
        raise VectorFileError(f"Cannot read vectors from {str(path)!r}: {reason}.")
    request = Request(
        wanted=_wanted(words, check_fallbacks(fallbacks)),
        words_file=Path(words_file) if words_file is not None else None,
        limit=limit,
        encoding=encoding,
        errors=errors,
        dtype=dtype,
    )
    module = _module(format) if format is not None else npy if npy.is_npy(path) else text.ANY
    if words_file is not None and module is not npy:
        raise ArgumentError(f"words_file belongs to .npy vectors. Received: {str(words_file)!r} with {str(path)!r}.")
    try:
        vectors = module.read(path, request)
    except OSError as error:
        raise VectorFileError(f"Cannot read vectors from {str(path)!r}: {error.strerror or error}.") from error
    if vectors.provenance.duplicates:
        warnings.warn(
            f"{str(path)!r} holds {vectors.provenance.duplicates:,} rows whose word had come before; "
            f"the first was kept.",
            EmbkerasWarning,
            stacklevel=2,
        )
    return vectors


def save_vectors(vectors: KeyedVectors, path: str | os.PathLike, *, format: str | None = None) -> Path:
    """Write word vectors as GloVe text (`.txt`), word2vec text (`.vec`) or `.npy` with a list of words beside it.

    Text is written with 9 digits, so that float32 values are read back bit for bit. The file appears whole or not
    at all.

    Raises:
        VectorFileError: a word that the format cannot hold.
        ArgumentError: the format is not given and the name's ending does not tell it.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if format is None:
        fitting = [name for name, (_, endings) in FORMATS.items() if path.suffix in endings]
        if not fitting:
            raise ArgumentError(f"format must be one of {', '.join(FORMATS)} for a name such as {path.name!r}.")
        format = fitting[0]
    module = _module(format)
    if path.is_dir():
        raise OutputError(f"Cannot write {str(path)!r}: it is a folder.")
    module.check_words(vectors, path)
    with written_beside(path) as beside:
        module.write(vectors, beside, path)
    return path


def _module(format: str) -> Any:
    if format not in FORMATS:
        raise ArgumentError(f"format must be one of {', '.join(FORMATS)}. Received: {format!r}.")
    return FORMATS[format][0]


def _wanted(words: Vocabulary | Iterable[str] | None, fallbacks: tuple[str, ...]) -> frozenset[str] | None:
    """Every spelling under which a wanted word may stand in the file."""
    if words is None:
        return None
    if isinstance(words, str):
        raise ArgumentError(f"words must be a Vocabulary or a sequence of words. Received the string {words!r}.")
    tokens = words.token_to_id if isinstance(words, Vocabulary) else list(words)
    strange = [token for token in tokens if not isinstance(token, str)]
    if strange:
        raise ArgumentError(f"words must be strings. Received: {strange[0]!r}.")
    return frozenset(spelling for token in tokens for spelling, _ in spellings(token, fallbacks))
