"""The container of safetensors: 8 bytes with the length of a header (little-endian), the header in JSON, the numbers.

The header gives for each tensor its type, shape, and first and last byte in the numbers. They lie without gaps up to the
end of the file. See https://huggingface.co/docs/safetensors.
"""

import json
import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.io.source import Source

_LENGTH = 8
_LONGEST_HEADER = 100_000_000  # bytes; safetensors has the same limit
_LARGEST = 1 << 48  # of sizes and places; no file has more
_METADATA = "__metadata__"
# bfloat16 is the upper half of a float32: NumPy has no name for it, so its bits are read.
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2"}
_TYPES |= {"I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "BOOL": "?"}


class Tensor(NamedTuple):
    """What the header says of a tensor. `dtype` is its name there, `begin` a byte of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def is_numbers(self) -> bool:
        """Whether it holds numbers that can be read as floats."""
        return self.dtype in _TYPES and self.dtype != "BOOL"

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class TensorFile:
    """The tensors of a safetensors file, by their names; the numbers are memory-mapped.

    Raises:
        VectorFileError: a header that is damaged, or says that there are other bytes than there are.
    """

    def __init__(self, source: Source):
        self._source = source
        self.tensors: dict[str, Tensor] = {}
        with source.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = header_length(self._map[:_LENGTH])
        self._start = _LENGTH + length
        if self._start > len(self._map):
            raise self._damaged(f"a header of {length:,} bytes", f"{len(self._map):,} bytes in all")
        header = self._header(self._map[_LENGTH : self._start])
        metadata = header.pop(_METADATA, None)
        self.metadata: dict[str, str] = metadata if isinstance(metadata, dict) else {}
        ends = [self._start, *(self._add(name, entry) for name, entry in header.items())]
        if max(ends) != len(self._map):
            raise self._damaged(f"{max(ends):,} bytes, as the header says", f"{len(self._map):,}")

    def floats(self, name: str, rows: Any) -> np.ndarray:
        """The rows asked for of a tensor, as NumPy holds them; bfloat16 as float32, which holds each exactly."""
        tensor = self.tensors[name]
        values = self.array(name)[rows]
        return (values.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else values

    def array(self, name: str) -> np.ndarray:
        """A tensor where it stands in the file; of bfloat16 the bits."""
        tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        dtype = np.dtype(_TYPES[tensor.dtype])
        if not count:
            return np.empty(tensor.shape, dtype)
        return np.frombuffer(self._map, dtype, count, tensor.begin).reshape(tensor.shape)

    def _header(self, raw: bytes) -> dict[str, Any]:
        try:
            header = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._damaged("a header in JSON", error) from error
        if not isinstance(header, dict):
            raise self._damaged("a header with an entry a tensor", type(header).__name__)
        return header

    def _add(self, name: str, entry: Any) -> int:
        """Take in what the header says of a tensor, and return where it ends."""
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = (*shape, begin, end)
            good = (
                isinstance(dtype, str) and all(type(x) is int and 0 <= x < _LARGEST for x in numbers) and begin <= end
            )
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise self._damaged(f"type, shape and place of the tensor {name!r}", repr(entry)[:80])
        size = np.dtype(_TYPES[dtype]).itemsize * math.prod(shape) if dtype in _TYPES else end - begin
        if size != end - begin or self._start + end > len(self._map):
            raise self._damaged(
                f"{size:,} bytes of {name!r} ({dtype} {shape})",
                f"bytes {self._start + begin:,} to {self._start + end:,} of {len(self._map):,}",
            )
        self.tensors[name] = Tensor(dtype, shape, self._start + begin)
        return self._start + end

    def _damaged(self, expected: str, found: object) -> VectorFileError:
        return VectorFileError(
            f"{self._source.name} is not a whole safetensors file: expected {expected}, found {found}."
        )


def header_length(head: bytes) -> int:
    """The length of the header, by the first bytes of a file."""
    return int.from_bytes(head[:_LENGTH], "little")


def begins_so(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a safetensors file."""
    return head[_LENGTH : _LENGTH + 1] == b"{" and 2 <= header_length(head) <= _LONGEST_HEADER


def write_tensor(path: Path, name: str, dtype: np.dtype, shape: tuple[int, ...], metadata: dict[str, str]) -> int:
    """Write the header of a file with one tensor of floats; returns the byte at which its numbers are to follow."""
    kind = next(kind for kind, code in _TYPES.items() if np.dtype(code) == dtype)
    end = math.prod(shape) * dtype.itemsize
    entry = {"dtype": kind, "shape": list(shape), "data_offsets": [0, end]}
    header = json.dumps({_METADATA: metadata, name: entry}, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % _LENGTH)  # so that the numbers are aligned
    return path.write_bytes(len(header).to_bytes(_LENGTH, "little") + header)
