"""A way forward through a binary file."""

import gzip

import pytest

from embkeras.errors import VectorFileError
from embkeras.vectors.io import cursor
from embkeras.vectors.io.cursor import Cursor
from embkeras.vectors.io.source import Source

CONTENTS = bytes(range(100))


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def at_start(request, tmp_path, monkeypatch):
    """A cursor before 100 bytes, read in sevens."""
    monkeypatch.setattr(cursor, "BUFFER", 7)
    (tmp_path / "file").write_bytes(gzip.compress(CONTENTS) if request.param else CONTENTS)
    with Cursor(Source(tmp_path / "file")) as opened:
        yield opened


def test_takes_skips_and_parts(at_start):
    """In any order; the place follows."""
    assert at_start.take(3, "three bytes") == CONTENTS[:3]
    at_start.skip(20, "twenty bytes")
    assert at_start.position == 23
    assert at_start.unpack("<hb", "numbers") == (0x1817, 25)
    assert b"".join(at_start.parts(50, "fifty bytes")) == CONTENTS[26:76]
    at_start.skip(24, "the rest")
    assert at_start.position == 100
    assert not at_start.more()


@pytest.mark.parametrize("step", ["take", "skip", "parts"])
def test_end_of_the_file(at_start, step):
    """The message names what was expected, and where."""
    at_start.take(90, "ninety bytes")
    with pytest.raises(VectorFileError, match=r"file', byte (90|100): expected .*what is missing.*found"):
        list(getattr(at_start, step)(11, "what is missing") or ())


def test_room(at_start):
    """A claim is held against the length, where it is known."""
    at_start.check_room(100, "all")
    if at_start.size is not None:
        with pytest.raises(VectorFileError, match="byte 0: expected a claim: 101 bytes or more, found 100 bytes"):
            at_start.check_room(101, "a claim")


def test_error_may_point_back(at_start):
    """At the value that was just read."""
    at_start.take(4, "a value")
    assert "byte 2: expected this, found that." in str(at_start.error("this", "that", 2))
