"""load_vectors and save_vectors: one file a format, each with its read and its write.

To add a format, write a module with `recognises(source)` and `read(source, request)` and, if it can be written,
`check_words(vectors, path)` and `write(vectors, beside, path)`, and enter it in `FORMATS`; CONTRIBUTING.md has the details.
"""

import numbers
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embkeras._files import written_beside
from embkeras.errors import ArgumentError, EmbkerasError, EmbkerasWarning, OutputError, VectorFileError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.fallbacks import check_fallbacks, spellings
from embkeras.vectors.io import (
    fasttext_binary,
    hdf5,
    keras_file,
    npy,
    npz,
    pandas_hdf5,
    safetensors_file,
    text,
    word2vec_binary,
)
from embkeras.vectors.io.progress import bar_for
from embkeras.vectors.io.refusals import what_it_is
from embkeras.vectors.io.request import Request
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors

# name -> module and the name endings it is the default for when writing. A file is read by the first that recognises it.
FORMATS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "keras": (keras_file, ()),
    "store": (hdf5, (".h5",)),
    "pandas-h5": (pandas_hdf5, ()),
    "npz": (npz, (".npz",)),
    "npy": (npy, (".npy",)),
    "safetensors": (safetensors_file, (".safetensors",)),
    "fasttext-binary": (fasttext_binary, ()),
    "word2vec-binary": (word2vec_binary, (".bin",)),
    "word2vec": (text.WORD2VEC, (".vec",)),
    "glove": (text.GLOVE, (".txt",)),
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
    member: str | None = None,
    progress: bool | None = None,
) -> KeyedVectors:
    """Read word vectors from a file of any format that is known, found by its contents.

    GloVe text, word2vec text and fastText `.vec`, each also compressed (`.gz`, `.bz2`, `.xz`, a member of a `.zip`) and
    decompressed on the way; word2vec binary; fastText `.bin`, with its n-grams as `subwords`; embkeras's own store (`.h5`),
    which stays in the file and opens at once; `.npy` and `.npz` with a list of words; safetensors as model2vec writes
    them, or the folder that holds them; ConceptNet Numberbatch's `mini.h5`; the table of an Embedding in a `.keras` file.

    Nothing is normalised, lower-cased or reordered. Where a word stands twice, the first row is kept, the others
    are counted in `provenance.duplicates` and warned of.

    Args:
        path: the file.
        format: its format, one of `FORMATS`; found by the content if not given.
        words: read only these words and the spellings that `fallbacks` makes of them; memory follows their number.
        fallbacks: names from `embkeras.vectors.fallbacks`, used with `words`; give the same to `align`.
        words_file: for `.npy`, `.npz`, safetensors and `.keras`, the words: `.txt` (one a line), `.json` (a list), or
            `.parquet` (first column of strings); by default the file of the same stem, or what the file itself holds.
        limit: read only the first so many rows.
        encoding: of the words in text and binary files.
        errors: for words that are not valid in `encoding`: "strict" raises, "replace" puts U+FFFD, "skip" leaves
            the row out; counted in `provenance.undecodable`.
        dtype: "float32" or "float16".
        member: the file in a zip archive of several, the table in a file of several, or the layer of a `.keras` model.
        progress: show a bar on standard error; by default on a terminal, when it takes long.

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
    if (path / safetensors_file.MODEL).is_file():  # a model2vec folder
        path = path / safetensors_file.MODEL
    if not path.is_file():
        reason = "it is a folder" if path.is_dir() else "there is no such file"
        if (path / "saved_model.pb").is_file():
            reason = "it is a SavedModel, whose table embkeras.tables.saved.table_of_saved_model reads"
        raise VectorFileError(f"Cannot read vectors from {str(path)!r}: {reason}.")
    request = Request(
        wanted=_wanted(words, check_fallbacks(fallbacks)),
        words_file=Path(words_file) if words_file is not None else None,
        limit=limit,
        encoding=encoding,
        errors=errors,
        dtype=dtype,
    )
    source = Source(path, member)
    bar = bar_for(path.name, progress)
    try:
        module = _module(format) if format is not None else _recognised(source)
        if words_file is not None and module not in (npy, npz, safetensors_file, keras_file):
            raise ArgumentError(
                f"words_file belongs to .npy, .npz and safetensors tables and .keras models. "
                f"Received: {str(words_file)!r} with {source.name}."
            )
        vectors = module.read(source, replace(request, progress=bar))
    except OSError as error:
        if isinstance(error, EmbkerasError):
            raise
        raise VectorFileError(f"Cannot read vectors from {source.name}: {error.strerror or error}.") from error
    finally:
        if bar is not None:
            bar.close()
    if vectors.provenance.duplicates:
        warnings.warn(
            f"{str(path)!r} holds {vectors.provenance.duplicates:,} rows whose word had come before; "
            f"the first was kept.",
            EmbkerasWarning,
            stacklevel=2,
        )
    return vectors


def save_vectors(vectors: KeyedVectors, path: str | os.PathLike, *, format: str | None = None) -> Path:
    """Write word vectors in the format that the name's ending tells.

    GloVe text (`.txt`), word2vec text (`.vec`) and binary (`.bin`), embkeras's own store (`.h5`), `.npz`, `.npy` with a list
    of words beside it, `.safetensors` with a `tokenizer.json` beside it. Text is written with 9 digits, so that float32
    values are read back bit for bit, and compressed if the name ends in `.gz`, `.bz2`, `.xz` or `.zip` (`x.vec.gz`). The file
    appears whole or not at all. No format that is written holds n-grams: of vectors that have `subwords` only the words
    are written, with a warning.

    Raises:
        VectorFileError: a word that the format cannot hold.
        ArgumentError: the format is not given and the name's ending does not tell it.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if format is None:
        compressed = path.suffix in text.COMPRESSED  # x.vec.gz is x.vec, compressed; only text is written so
        ending = Path(path.stem).suffix if compressed else path.suffix
        fitting = [
            name
            for name, (module, endings) in FORMATS.items()
            if ending in endings and (not compressed or isinstance(module, text.Text))
        ]
        if not fitting:
            raise ArgumentError(f"format must be one of {_writable()} for a name such as {path.name!r}.")
        format = fitting[0]
    module = _module(format)
    if not hasattr(module, "write"):
        raise ArgumentError(f"format must be one of {_writable()} to write. Received: {format!r}, which is only read.")
    if path.is_dir():
        raise OutputError(f"Cannot write {str(path)!r}: it is a folder.")
    module.check_words(vectors, path)
    with written_beside(path) as beside:
        module.write(vectors, beside, path)
    if vectors.subwords is not None:
        warnings.warn(
            f"{str(path)!r} holds the {len(vectors):,} words and not the {vectors.subwords.buckets:,} rows of n-grams: it "
            f"gives no vectors for other words.",
            EmbkerasWarning,
            stacklevel=2,
        )
    return path


def _recognised(source: Source) -> Any:
    """The format that a file has by its contents."""
    what = what_it_is(source.head)
    if what is not None:
        raise VectorFileError(f"{source.name} holds no word vectors: it is {what}.")
    return next(module for module, _ in FORMATS.values() if module.recognises(source))


def _writable() -> str:
    return ", ".join(name for name, (module, _) in FORMATS.items() if hasattr(module, "write"))


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
