"""A safetensors file and the tokens beside it, as model2vec writes them: `model.safetensors` and `tokenizer.json`.

The table is the tensor "embeddings" (or "embedding.weight", as sentence-transformers calls it), with a row for each token
id. Where there is a tensor "mapping", it gives the row of each id, and "weights" a factor: the vector of id t is then
`embeddings[mapping[t]] * weights[t]`. Tokens are kept as they stand ("##ing"), in the order of their ids. Integers, as of a
model quantised to int8, become the same numbers in floats; `provenance.stored` then names their type.

Written is what model2vec loads: the table, a tokenizer that splits at white space, and a `config.json` where there is
none. A table of another name than `model.safetensors` has its tokens in `NAME.tokenizer.json`.
See https://github.com/MinishLab/model2vec.
"""

import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from embkeras._arrays import first_nonfinite_row
from embkeras._files import written_beside
from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.kept_rows import Kept, keep, let_go, nonfinite, rows_at_once
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.io.tensors import TensorFile, begins_so, write_tensor
from embkeras.vectors.io.tokenizer_json import read_tokens, tokenizer_beside, tokenizer_of, tokenizer_text
from embkeras.vectors.io.words_file import check_utf8, read_words
from embkeras.vectors.store import KeyedVectors

MODEL = "model.safetensors"
_TABLES = ("embeddings", "embedding.weight")
_WORDS_CRC = "embkeras.words_crc32"  # which words a file was written with: a kill may leave it beside others


def recognises(source: Source) -> bool:
    """Whether the file begins with the length of a header in JSON."""
    return begins_so(source.head)


def read(source: Source, request: Request) -> KeyedVectors:
    """Memory-map the table and copy the rows of the tokens asked for."""
    if source.compression is not None:
        raise VectorFileError(
            f"{source.name} is a safetensors file inside a .{source.compression} file: unpack it first."
        )
    if not recognises(source):
        raise VectorFileError(f"{source.name} is not a whole safetensors file: it does not begin as one.")
    table = _Table(TensorFile(source), source)
    kept = keep(table.words(request), request)
    matrix = table.copy(kept, request)
    return keyed_vectors(kept.words, matrix, source, "safetensors", request, stored=table.stored, **kept.counts)


def check_words(vectors: KeyedVectors, path: Path) -> None:
    """Refuse what UTF-8 cannot hold."""
    check_utf8(vectors.words, "A tokenizer", path)


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write the table to `beside`, and when it is whole the tokens next to the final `path`."""
    matrix, words = vectors.matrix, list(vectors.words)
    dtype = np.dtype({2: "<f2", 4: "<f4"}.get(matrix.dtype.itemsize, "<f8"))
    write_tensor(beside, _TABLES[0], dtype, matrix.shape, {_WORDS_CRC: str(_crc(words))})
    step = rows_at_once(matrix.shape[1])
    with beside.open("ab") as file:
        for start in range(0, len(matrix), step):
            file.write(np.ascontiguousarray(matrix[start : start + step], dtype).data)
    with written_beside(tokenizer_of(path)) as tokenizer:
        tokenizer.write_text(tokenizer_text(words), encoding="utf-8")
    config = path.with_name("config.json")
    if path.name == MODEL and not config.exists():  # model2vec does not load a folder without one
        with written_beside(config) as file:
            file.write_text(json.dumps({"normalize": False}), encoding="ascii")


def _crc(words: list[str]) -> int:
    return zlib.crc32(json.dumps(words).encode("ascii"))


class _Table:
    """The tensors that make up a table, held against each other."""

    def __init__(self, file: TensorFile, source: Source):
        self._file, self._source = file, source
        self.name = self._chosen()
        tensor = file.tensors[self.name]
        if len(tensor.shape) != 2 or not tensor.shape[1] or not tensor.is_numbers:
            raise self._unfit(f"numbers of shape (tokens, width) in {self.name!r}", tensor)
        self.width = tensor.shape[1]
        self.stored = None if "F" in tensor.dtype else str(file.array(self.name).dtype)
        self._mapping, self._weights = self._of_each_token("mapping", "iu"), self._of_each_token("weights", "f")
        self._rows = tensor.shape[0]
        mapping = self._mapping
        if mapping is not None and len(mapping) and not 0 <= int(mapping.min()) <= int(mapping.max()) < self._rows:
            raise self._unfit(f"rows from 0 to {self._rows - 1:,} in 'mapping'", f"{mapping.min()} to {mapping.max()}")
        self.tokens = self._rows if mapping is None else len(mapping)
        if self._weights is not None and len(self._weights) != self.tokens:
            raise self._unfit(f"{self.tokens:,} factors in 'weights'", f"{len(self._weights):,}")

    def words(self, request: Request) -> list[str]:
        """The token of each id."""
        if request.words_file is not None:
            words = read_words(request.words_file)
            if len(words) != self.tokens:
                raise self._unfit(f"{self.tokens:,} words in {str(request.words_file)!r}", f"{len(words):,}")
            return words
        path = tokenizer_beside(self._source.path)
        words = read_tokens(path, self.tokens)
        written_with = self._file.metadata.get(_WORDS_CRC)
        if written_with is not None and written_with != str(_crc(words)):
            raise self._unfit(f"the words that it was written with in {path.name}", "others")
        return words

    def copy(self, kept: Kept, request: Request) -> np.ndarray:
        """The vectors of the ids kept."""
        matrix = np.empty((len(kept.rows), self.width), request.dtype)
        step = rows_at_once(self.width)
        # By ranges of ids, so that few rows of many do not have the whole file in memory at once.
        ends = np.searchsorted(kept.rows, np.arange(step, self.tokens + step, step)).tolist()
        for start, end in pairwise([0, *ends]):
            ids = kept.rows[start:end]
            rows = ids if self._mapping is None else self._mapping[ids].astype(np.int64)
            values = self._file.floats(self.name, rows)
            with np.errstate(over="ignore", invalid="ignore"):
                if self._weights is not None:
                    values = values * self._weights[ids][:, None]
                matrix[start:end] = values
            let_go(self._file.array(self.name))
            bad = first_nonfinite_row(matrix[start:end])
            if bad is not None:
                raise nonfinite(int(ids[bad]), kept.words[start + bad], self._source, request)
            if request.progress is not None:
                request.progress(end, len(matrix))
        return matrix

    def _chosen(self) -> str:
        """The tensor that `member` names, or one of the usual names, or the only one of two axes."""
        tensors, member = self._file.tensors, self._source.member
        if member in tensors:
            return member
        tables = [name for name, tensor in tensors.items() if len(tensor.shape) == 2 and tensor.is_numbers]
        usual = next((name for name in _TABLES if name in tables), None) or (tables[0] if len(tables) == 1 else None)
        if member is None and usual is not None:
            return usual
        there = ", ".join(f"{name!r} ({tensors[name]})" for name in tables[:20]) or "none"
        if not tables:
            raise VectorFileError(f"{self._source.name} holds no tensor of shape (tokens, width).")
        raise ArgumentError(
            f"member= says which tensor of {str(self._source.path)!r} has the vectors. Received: {member!r}; there are {there}."
        )

    def _of_each_token(self, name: str, kinds: str) -> np.ndarray | None:
        """A tensor that goes with the embeddings, of one number a token."""
        tensor = self._file.tensors.get(name)
        if tensor is None or self.name not in _TABLES:
            return None
        if len(tensor.shape) != 1 or not tensor.is_numbers:
            raise self._unfit(f"one number a token in {name!r}", tensor)
        values = self._file.floats(name, slice(None))
        if values.dtype.kind not in kinds:
            raise self._unfit(f"one number a token in {name!r}", tensor)
        return values

    def _unfit(self, expected: str, found: object) -> VectorFileError:
        return VectorFileError(f"{self._source.name}: expected {expected}, found {found}.")
