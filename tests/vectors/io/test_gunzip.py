"""The contents of gzip files, held against the gzip module."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.vectors.io import gunzip
from embkeras.vectors.io.gunzip import Gunzip
from tests.properties import PROPERTY

MEMBERS = st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 9), st.integers(0, 5)), max_size=4)
ERRORS = (EOFError, zlib.error)


def packed(members) -> bytes:
    """Members, each with zeros behind it."""
    return b"".join(gzip.compress(contents, level) + bytes(zeros) for contents, level, zeros in members)


def unpacked(raw: bytes, size: int) -> bytes:
    """All contents, in reads of one size."""
    file, contents, buffer = Gunzip(io.BytesIO(raw)), b"", bytearray(size)
    while count := file.readinto(buffer):
        contents += buffer[:count]
    return contents


@PROPERTY
@given(MEMBERS, st.integers(1, 400), st.integers(1, 400))
def test_contents_are_those_of_the_gzip_module(monkeypatch, members, size, piece):
    """Several members, zeros behind them, reads and pieces of any size."""
    monkeypatch.setattr(gunzip, "_LARGE", piece)
    assert unpacked(packed(members), size) == b"".join(contents for contents, _, _ in members)


@PROPERTY
@given(MEMBERS.filter(bool), st.data())
def test_damage_is_found_where_the_gzip_module_finds_it(members, data):
    """A byte changed, or the end cut off: the same contents, or an error in both."""
    raw = bytearray(packed(members))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        expected = gzip.decompress(raw)
    except (*ERRORS, gzip.BadGzipFile):
        expected = None
    try:
        found = unpacked(raw, 100)
    except ERRORS:
        found = None
    # zlib checks two bits of the header that the module does not, and never takes less for a whole file.
    assert found == expected or found is None


def test_empty_file_has_no_contents():
    """As for the gzip module."""
    assert unpacked(b"", 10) == b""


def test_end_that_is_missing():
    """The message is that of the module."""
    with pytest.raises(EOFError, match="ended before the end-of-stream marker"):
        unpacked(gzip.compress(b"abc" * 100)[:-1], 10)


def test_other_bytes_behind_the_end():
    """Only zeros may stand there."""
    with pytest.raises(zlib.error, match="incorrect header check"):
        unpacked(gzip.compress(b"abc") + b"more", 10)
