"""The table of an Embedding in a `.keras` file, with the words of a TextVectorization or StringLookup of the same model.

A `.keras` file is a zip of `config.json` (which layers there are), `model.weights.h5` (a group a layer, whose `vars`
hold its variables by number and carry its name) and `assets/` (vocabularies that were adapted; one that was given
stands in the config). It is read with h5py and without Keras: no code of the model runs.
See https://keras.io/guides/serialization_and_saving/.
"""

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from embkeras._arrays import first_nonfinite_row
from embkeras.errors import ArgumentError, EmbkerasError, VectorFileError, VocabularyError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.io.kept_rows import keep, nonfinite
from embkeras.vectors.io.keras_layers import EmbeddingLayer, embedding_layers, vocabularies
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source, is_keras_model
from embkeras.vectors.io.words_file import read_words
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.stored_tables import StoredTable

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_LONGEST_TEXT = 1 << 28  # bytes of a config or a vocabulary; a table that was written into a config may be large
_BLOCK = 1 << 20
# What zipfile and h5py raise on damaged contents.
_DAMAGED = (OSError, ValueError, KeyError, RuntimeError, EOFError, TypeError, NotImplementedError, zlib.error)


def recognises(source: Source) -> bool:
    """Whether the file is a zip archive with the two files that every saved Keras model has."""
    return is_keras_model(source.path)


def read(source: Source, request: Request) -> KeyedVectors:
    """Read the table of the layer that `member` names, or of the only one."""
    try:
        with zipfile.ZipFile(source.path) as archive:
            config = _json(_text(archive, CONFIG))
            layer = _chosen(embedding_layers(config), source)
            words = _words(archive, config, layer, source, request)
            with _weights(archive) as file:
                return _vectors(layer.table(file, source.name), words, source, request)
    except (EmbkerasError, MemoryError):
        raise
    except (zipfile.BadZipFile, RecursionError, *_DAMAGED) as error:
        reason = str(error) or type(error).__name__
        raise VectorFileError(f"{str(source.path)!r} is not a whole .keras file: {reason}") from error


def _vectors(table: StoredTable, words: list[str], source: Source, request: Request) -> KeyedVectors:
    """The rows asked for, with their words."""
    if len(words) != table.rows:
        raise VectorFileError(
            f"{table.name} has {table.rows:,} rows, but its words ({request.words_file or 'in the model'}) are {len(words):,}."
        )
    kept = keep(words, request)
    with np.errstate(over="ignore"):
        matrix = table.read(kept.rows).astype(request.dtype, copy=False)
    bad = first_nonfinite_row(matrix)
    if bad is not None:
        raise nonfinite(int(kept.rows[bad]), kept.words[bad], source, request)
    return keyed_vectors(kept.words, matrix, source, "keras", request, **kept.counts)


def _chosen(layers: dict[str, EmbeddingLayer], source: Source) -> EmbeddingLayer:
    """The layer that is meant."""
    path = str(source.path)
    if not layers:
        raise VectorFileError(f"{path!r} holds no word vectors: its {CONFIG} has no Embedding layer.")
    if source.member is None and len(layers) == 1:
        return next(iter(layers.values()))
    if source.member not in layers:
        named = ", ".join(f"{name!r} ({layer.rows:,} x {layer.width})" for name, layer in layers.items())
        raise ArgumentError(
            f"{path!r} is a model with {len(layers)} tables: member= says which to read. "
            f"Received: {source.member!r}; there are {named}."
        )
    return layers[source.member]


def _words(archive: zipfile.ZipFile, config: Any, layer: EmbeddingLayer, source: Source, request: Request) -> list[str]:
    """One word a row: from `words_file`, or from the layer of the model that makes such ids of words."""
    if request.words_file is not None:
        return words_of(request.words_file)
    there = vocabularies(config)
    for name in archive.namelist():
        if name.startswith("assets/") and name.endswith("/vocabulary.txt"):
            # By "\n" alone: a word may hold U+2028.
            there.append(_text(archive, name).decode("utf-8").replace("\r\n", "\n").split("\n"))
    fitting = {tuple(words) for words in there if len(words) == layer.rows}
    if len(fitting) == 1:
        return list(fitting.pop())
    found = "no layer that makes ids of words"
    if there:
        sizes = ", ".join(f"{size:,}" for size in sorted({len(words) for words in there}))
        found = f"{len(fitting)} vocabularies of that size" if fitting else f"vocabularies of {sizes} words"
    raise VectorFileError(
        f"The words of {layer.name!r} in {str(source.path)!r} should be the vocabulary, {layer.rows:,} words, of a "
        f"TextVectorization or StringLookup in the model; found {found}. Give words_file= with a word for each row, "
        f"such as the file that vocabulary.save wrote."
    )


def words_of(path: Path) -> list[str]:
    """The words of a list of words, or the tokens of a vocabulary that was saved.

    Raises:
        VectorFileError: neither of them.
    """
    if path.suffix == ".json":
        try:
            return list(Vocabulary.load(path).tokens)
        except VocabularyError:
            pass  # a plain list, or whatever the reader of lists says it is
    return read_words(path)


def _text(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > _LONGEST_TEXT:
        raise ValueError(f"{name} says that it has {info.file_size:,} bytes, more than any model's")
    return archive.read(info)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG} is not JSON: {error}") from error


@contextmanager
def _weights(archive: zipfile.ZipFile) -> Iterator[h5py.File]:
    """The weights as an HDF5 file, after their checksum was found right: HDF5 itself would not see a flipped bit."""
    info = archive.getinfo(WEIGHTS)
    with tempfile.TemporaryFile() as unpacked:
        with archive.open(info) as packed:
            while block := packed.read(_BLOCK):
                if info.compress_type != zipfile.ZIP_STORED:
                    unpacked.write(block)
        if info.compress_type != zipfile.ZIP_STORED:  # by a tool; Keras stores it as it is
            with h5py.File(unpacked, "r") as file:
                yield file
            return
        with open(archive.filename, "rb") as whole, h5py.File(_Window(whole, info), "r") as file:
            yield file


class _Window:
    """A member that is stored as it is, as a file of its own: seeking in zipfile's reads everything up to there."""

    def __init__(self, file: BinaryIO, info: zipfile.ZipInfo):
        file.seek(info.header_offset + 26)  # the lengths of the name and the extra field that precede the contents
        lengths = file.read(4)
        self._start = info.header_offset + 30 + sum(np.frombuffer(lengths, "<u2").tolist())
        self._file, self._size, self._at = file, info.file_size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte of the member."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """The byte of the member at which the next read begins."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; fewer bytes at the end only."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view[: max(0, min(len(view), self._size - self._at))])
        self._at += count
        return count

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        left = max(0, self._size - self._at)
        buffer = bytearray(left if count < 0 else min(count, left))
        return bytes(buffer[: self.readinto(buffer)])
