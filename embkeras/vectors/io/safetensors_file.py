"""A safetensors file and the tokens beside it, as model2vec writes them: `model.safetensors` and `tokenizer.json`.

The table is the tensor "embeddings" (or "embedding.weight", as sentence-transformers calls it), with a row for each token
id. If there is a tensor "mapping", it says the row of each id, and "weights" a factor: the vector of id t is then
`embeddings[mapping[t]] * weights[t]`. Tokens stay as they are ("##ing"), in the order of their ids. Integers, as in a model
that was quantised to int8, become the same numbers as floats; `provenance.stored` then names their type.

Files are written so that model2vec loads them: the table, a tokenizer that splits at white space and, if missing, a
`config.json`. A table with another name than `model.safetensors` has its tokens in `NAME.tokenizer.json`. The table's
metadata contains the checksum of the tokens, because the two files can't be renamed into place at once.
See https://github.com/MinishLab/model2vec and https://huggingface.co/docs/safetensors.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._arrays import row_slices
from embkeras.errors import ArgumentError, MissingDependencyError, OutputError, VectorFileError
from embkeras.vectors.io.rows import Kept, Request, blocks_of, keep_listed, keyed_vectors, take
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.words_file import (
    read_tokens,
    read_words,
    tokenizer_beside,
    tokenizer_of,
    write_tokenizer,
)
from embkeras.vectors.store import KeyedVectors

MODEL, _CONFIG = "model.safetensors", "config.json"
_TABLES = ("embeddings", "embedding.weight")
_WORDS_CRC = "embkeras.words_crc32"  # in the metadata of the file
_LENGTH = 8  # bytes with the length of the header, at the start of the file
_LONGEST_HEADER = 100_000_000  # bytes; safetensors has the same limit
_FLOATS = ("F64", "F32", "F16", "BF16")
_INTEGERS = {"I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16"}
_INTEGERS |= {"I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64"}


def recognises(source: Source) -> bool:
    """Whether the file begins with the length of a header in JSON."""
    length = int.from_bytes(source.head[:_LENGTH], "little")
    return source.head[_LENGTH : _LENGTH + 1] == b"{" and 2 <= length <= _LONGEST_HEADER


def sidecars(path: Path) -> list[Path]:
    """The files that `write` writes beside the table. An existing config.json is kept."""
    config = path.with_name(_CONFIG)
    return [tokenizer_of(path), *([config] if path.name == MODEL and not config.exists() else [])]


def read(source: Source, request: Request) -> KeyedVectors:
    """Read the wanted rows of the table; safetensors memory-maps the file.

    Raises:
        VectorFileError: a damaged file, one without a table, or tokens that don't belong to it.
        ArgumentError: several tables, and `member` names none of them.
        MissingDependencyError: safetensors is not installed.
    """
    source.refuse_compression("a safetensors file")
    if not recognises(source):
        raise VectorFileError(f"{source.name} is not a complete safetensors file: it does not begin like one.")
    safetensors = _package(str(source.shown))
    try:
        with safetensors.safe_open(source.path, framework="numpy") as file:
            table = _Table(file, source)
            kept = keep_listed(table.words(request), request)
            matrix = take(kept, table.shape[1], table.blocks(kept, request), source, request)
    except safetensors.SafetensorError as error:
        raise VectorFileError(f"{source.name} is not a complete safetensors file: {error}") from error
    return keyed_vectors(kept.words, matrix, source, "safetensors", request, stored=table.stored, **kept.counts)


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write the table, and its tokens beside it."""
    safetensors = _package(str(path))
    words, matrix = list(vectors.words), vectors.matrix
    dtype = np.dtype({2: "<f2", 4: "<f4"}.get(matrix.dtype.itemsize, "<f8"))
    tensors = {_TABLES[0]: np.ascontiguousarray(matrix, dtype)}
    try:
        safetensors.numpy.save_file(tensors, beside, metadata={_WORDS_CRC: str(_crc(words))})
    except safetensors.SafetensorError as error:
        raise OutputError(f"Cannot write {str(path)!r}: {error}.") from error
    write_tokenizer(tokenizer_of(beside), words)
    if path.with_name(_CONFIG) in sidecars(path):  # model2vec doesn't load a folder without one
        beside.with_name(_CONFIG).write_text(json.dumps({"normalize": False}), encoding="ascii")


def _package(path: str) -> Any:
    try:
        import ml_dtypes  # noqa: F401 - it comes with TensorFlow, and teaches NumPy the type bfloat16
        import safetensors.numpy
    except ImportError as error:
        raise MissingDependencyError(
            f'{path!r} needs the package {error.name}: python -m pip install "embkeras[safetensors]".'
        ) from None
    return safetensors


def _crc(words: Sequence[str]) -> int:
    return zlib.crc32(json.dumps(words).encode("ascii"))


class _Table:
    """The tensors that form a table, after a check that they fit each other.

    Attributes:
        name: name of the tensor with the vectors.
        shape: its shape, (rows, width).
        stored: the type of its numbers if they are not floats, else None.
        tokens: the number of token ids.
    """

    def __init__(self, file: Any, source: Source):
        self._file, self._source = file, source
        self._slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not iterable
        self.name = self._chosen()
        self.shape, dtype = tuple(self._slices[self.name].get_shape()), self._slices[self.name].get_dtype()
        if not self._is_matrix(self.name):
            raise self._misfit(f"numbers of shape (tokens, width) in {self.name!r}", self._kind(self.name))
        self.stored = _INTEGERS.get(dtype)
        rows = self.shape[0]
        self._mapping = self._per_token("mapping", tuple(_INTEGERS))
        self._weights = self._per_token("weights", _FLOATS)
        mapping = self._mapping
        if mapping is not None and len(mapping) and not 0 <= int(mapping.min()) <= int(mapping.max()) < rows:
            raise self._misfit(f"rows from 0 to {rows - 1:,} in 'mapping'", f"{mapping.min()} to {mapping.max()}")
        self.tokens = rows if mapping is None else len(mapping)
        if not self.tokens:
            raise VectorFileError(f"{source.name} contains no vectors.")
        if self._weights is not None and len(self._weights) != self.tokens:
            raise self._misfit(f"{self.tokens:,} factors in 'weights'", f"{len(self._weights):,}")

    def words(self, request: Request) -> Sequence[str | None]:
        """The token of each id."""
        if request.words_file is not None:
            return read_words(request.words_file, self.tokens, self._source)
        path = tokenizer_beside(self._source.shown)
        words = read_tokens(path, self.tokens)
        written_with = (self._file.metadata() or {}).get(_WORDS_CRC)
        if written_with is not None and written_with != str(_crc(words)):
            raise VectorFileError(
                f"The words in {path.name} were written with another table than {self._source.name} (the checksums differ). "
                f"Write both files again, or pass words_file= if you have the right words."
            )
        return words

    def blocks(self, kept: Kept, request: Request) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors of the token ids, in blocks; the first id of each block, and its vectors."""
        tensor, weights = self._slices[self.name], self._weights
        if self._mapping is None:
            blocks = blocks_of(tensor, kept.rows, request.progress, self.shape)
        else:
            blocks = self._mapped_blocks(kept, request)
        for start, block in blocks:
            if weights is not None:
                with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused
                    block = block * weights[start : start + len(block), None]
            yield start, block

    def _mapped_blocks(self, kept: Kept, request: Request) -> Iterator[tuple[int, np.ndarray]]:
        """The rows that the mapping gives the token ids; only rows of kept ids are read."""
        mapping = self._mapping[kept.rows].astype(np.int64)  # type: ignore[index]
        rows, places = np.unique(mapping, return_inverse=True)
        parts = [
            block[rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(block))] - start]
            for start, block in blocks_of(self._slices[self.name], rows, request.progress, self.shape)
        ]
        stored = np.concatenate(parts) if parts else np.empty((0, self.shape[1]), np.float32)
        for part in row_slices((self.tokens, self.shape[1])):
            first, last = np.searchsorted(kept.rows, [part.start, part.stop])
            if first < last:
                block = np.zeros((part.stop - part.start, self.shape[1]), stored.dtype)
                block[kept.rows[first:last] - part.start] = stored[places[first:last]]
                yield part.start, block

    def _chosen(self) -> str:
        """The tensor that `member` names, or one with a usual name, or the only matrix."""
        member = self._source.member
        if member is not None and member in self._slices:
            return member
        tables = [name for name in self._slices if self._is_matrix(name)]
        usual = next((name for name in _TABLES if name in tables), None) or (tables[0] if len(tables) == 1 else None)
        if member is None and usual is not None:
            return usual
        if not tables:
            raise VectorFileError(f"{self._source.name} contains no tensor of shape (tokens, width).")
        raise ArgumentError(
            f"member= must name the tensor with the vectors in {str(self._source.shown)!r}. Received: {member!r}; the file "
            f"contains {', '.join(f'{name!r} ({self._kind(name)})' for name in tables[:20])}."
        )

    def _is_matrix(self, name: str) -> bool:
        shape, dtype = self._slices[name].get_shape(), self._slices[name].get_dtype()
        return len(shape) == 2 and shape[1] > 0 and (dtype in _FLOATS or dtype in _INTEGERS)

    def _kind(self, name: str) -> str:
        return f"{self._slices[name].get_dtype()} {tuple(self._slices[name].get_shape())}"

    def _per_token(self, name: str, dtypes: tuple[str, ...]) -> np.ndarray | None:
        """A tensor with one number per token, which belongs to the embeddings; None if there is none."""
        if name not in self._slices or self.name not in _TABLES:
            return None
        if len(self._slices[name].get_shape()) != 1 or self._slices[name].get_dtype() not in dtypes:
            raise self._misfit(f"one number per token in {name!r}", self._kind(name))
        return self._file.get_tensor(name)

    def _misfit(self, expected: str, found: object) -> VectorFileError:
        return VectorFileError(f"{self._source.name}: expected {expected}, found {found}.")
