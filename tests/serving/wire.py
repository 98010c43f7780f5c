"""The wire format of protocol buffers, as much of it as a SavedModel's signatures and a Predict request need.

https://protobuf.dev/programming-guides/encoding. A process that reads with this needs no package for its messages.
"""

import struct
from collections.abc import Iterator

import numpy as np

# TensorFlow's DataType by NumPy's name (types.proto).
TYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9, "bool": 10,
    "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
STRING, INT32, INT64 = 7, TYPES["int32"], TYPES["int64"]
NAMES = {number: name for name, number in TYPES.items()} | {STRING: "string"}


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and contents of each field of a message: an integer, or bytes.

    Raises:
        ValueError: this is no message.
    """
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _read_varint(message, place)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                size, place = _read_varint(message, place)
            if size is None or place + size > len(message):
                raise ValueError(f"No message: field {number} of kind {kind} at byte {place} of {len(message)}.")
            value, place = message[place : place + size], place + size
        yield number, value


def mapping(message: bytes, number: int) -> dict[str, bytes]:
    """A map<string, message> that is field `number`."""
    entries = (dict(fields(entry)) for each, entry in fields(message) if each == number)
    return {entry.get(1, b"").decode(): entry.get(2, b"") for entry in entries}


def field(number: int, contents: int | bytes) -> bytes:
    """One field."""
    if isinstance(contents, int):
        return varint(number << 3) + varint(contents)
    return varint(number << 3 | 2) + varint(len(contents)) + contents


def entry(number: int, key: str, contents: bytes) -> bytes:
    """One entry of a map<string, message>."""
    return field(number, field(1, key.encode()) + field(2, contents))


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative one is 64 bits of two's complement."""
    value &= (1 << 64) - 1
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes(digits) + bytes([value])


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError(f"No message: a number that does not end at byte {place} of {len(message)}.")


def tensor_proto(value: np.ndarray) -> bytes:
    """A TensorProto: numbers as raw content, bytes as strings."""
    shape = b"".join(field(2, field(1, size)) for size in value.shape)
    if value.dtype == object:
        contents = b"".join(field(8, each) for each in value.ravel())
        return field(1, STRING) + field(2, shape) + contents
    return field(1, TYPES[value.dtype.name]) + field(2, shape) + field(4, value.tobytes())


def read_tensor_proto(message: bytes) -> np.ndarray:
    """The tensor in a TensorProto as `tensor_proto` or TensorFlow writes it: raw content, strings, or floats."""
    parts = list(fields(message))
    found = dict(parts)
    shape = [dict(fields(size)).get(1, 0) for number, size in fields(found.get(2, b"")) if number == 2]
    if found[1] == STRING:
        return np.array([value for number, value in parts if number == 8], object).reshape(shape)
    if 4 in found:
        return np.frombuffer(found[4], NAMES[found[1]]).reshape(shape)
    floats = b"".join(value if isinstance(value, bytes) else struct.pack("<f", value) for at, value in parts if at == 5)
    return np.frombuffer(floats, NAMES[found[1]]).reshape(shape)
