"""Blocks of complete lines, and the places of their fields."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.vectors.io import lines
from embkeras.vectors.io.lines import Block, Lines
from embkeras.vectors.io.separators import COMMA_THEN_SPACES, COMMAS, SPACES, TAB_THEN_SPACES, TABS, WHITESPACE
from embkeras.vectors.io.source import Source
from tests.properties import PROPERTY

LINES = st.lists(st.text("a1. \r\t", max_size=12).map(str.encode), max_size=12)
LONG_LINES = st.lists(
    st.tuples(st.sampled_from(["", "a" * 61, "b" * 200]), st.text("a1. ", max_size=9)).map("".join), min_size=1
)


class Refused(Exception):
    """Stands for the error of a reader: (row, what was found)."""


@pytest.fixture
def taken(tmp_path):
    """A function that makes `Lines` over some bytes."""

    def make(contents: bytes, separator=SPACES, limit=None, **options):
        (tmp_path / "lines").write_bytes(contents)
        stream = Source(tmp_path / "lines").open()
        return Lines(stream, separator, limit=limit, refuse=lambda row, line: Refused(row, line), **options)

    return make


def all_lines(some: Lines, size: int) -> list[bytes]:
    """Every line, block by block."""
    block, found = Block(size), []
    while some.take(block):
        assert block.rows.tolist() == list(range(len(found), len(found) + len(block)))
        found += [block.line(place) for place in range(len(block))]
    return found


def without_end(line: bytes) -> bytes:
    """A line without its end, in plain Python."""
    return line.removesuffix(b"\r").rstrip(b" \t")


@PROPERTY
@given(LINES, st.integers(1, 100), st.booleans())
def test_lines_are_those_of_split(taken, written, size, final):
    """For any size of a block: the lines that split returns, without their ends and the blank lines at the end."""
    contents = b"\n".join(written) + (b"\n" if final else b"")
    expected = [without_end(line) for line in contents.split(b"\n")]
    while expected and not expected[-1]:
        expected.pop()
    try:
        found = all_lines(taken(contents), size)
    except Refused as refused:
        row, line = refused.args
        assert line == expected[row] == b""
    else:
        assert found == expected


@PROPERTY
@given(LINES.filter(bool) | LONG_LINES.map(lambda some: [line.encode() for line in some]), st.integers(1, 4))
def test_fields_are_those_of_rsplit(taken, written, width):
    """The last fields of each line, cut from the right at spaces; the words alone are the same."""
    written = [b"x" + line + b"y" for line in written]  # none is blank
    block = Block(4096)
    assert taken(b"\n".join(written)).take(block)
    found, fields = block.words(width), block.fields(width)
    expected = [line.rsplit(b" ", width) for line in written]
    if any(len(parts) <= width for parts in expected):
        assert fields is None and found is None
        return
    assert [array.tolist() for array in found] == [fields.words.tolist(), fields.spaced.tolist()]
    words = [bytes(block.raw[a:b]) for a, b in zip(block.starts, fields.words, strict=True)]
    values = [bytes(block.raw[a:b]) for a, b in zip(fields.starts, fields.stops, strict=True)]
    assert words == [parts[0] for parts in expected]
    assert values == [value for parts in expected for value in parts[1:]]
    assert fields.spaced.tolist() == [i for i, parts in enumerate(expected) if b" " in parts[0]]


@PROPERTY
@given(
    st.lists(st.text("a1 \t,", max_size=9).map(str.encode), min_size=1, max_size=5),
    st.integers(1, 3),
    st.sampled_from([TABS, COMMAS, TAB_THEN_SPACES, COMMA_THEN_SPACES, WHITESPACE]),
)
def test_fields_at_other_separators(taken, written, width, separator):
    """Those into which each row is divided on its own; None if one row has too few, or other separators."""
    written = [b"x" + line + b"y" for line in written]
    block = Block(4096, separator)
    assert taken(b"\n".join(written), separator).take(block)
    found, fields = block.words(width), block.fields(width)
    expected = [separator.divided(line, width) for line in written]
    if None in expected:
        assert fields is None and found is None
        return
    words = [bytes(block.raw[a:b]) for a, b in zip(block.starts, fields.words, strict=True)]
    values = [bytes(block.raw[a:b]) for a, b in zip(fields.starts, fields.stops, strict=True)]
    assert words == [parts[0] for parts in expected]
    assert values == [value for parts in expected for value in parts[1:]]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_limit_ends_the_blocks(taken, size):
    """No row after it is returned, for any size of the blocks."""
    assert all_lines(taken(b"a\nb\nc\nd\n", limit=3), size) == [b"a", b"b", b"c"]


def test_line_longer_than_any_text_is_refused(taken, monkeypatch):
    """A file without newlines is not read into memory completely."""
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    with pytest.raises(Refused, match=r"\(1, b'x+'\)"):
        all_lines(taken(b"a\n" + 10_000 * b"x"), 10)


def test_rows_are_reserved_in_the_order_of_the_file(taken):
    """Whichever thread takes a block."""
    reserved = []
    contents = b"".join(b"%d\n" % i for i in range(3000))

    def reserve(count):
        reserved.append(count)
        return sum(reserved) - count

    some = taken(contents)
    some.reserve = reserve
    places: list = []
    some.each(lambda block: (block.out, int(block.line(0))), places.append, block_size=50, threads=3)
    assert len(places) == some.blocks > 100
    assert all(out == first for out, first in places)


def first_block_last():
    """A function that gives the number of a block, for the first one only after another was parsed."""
    later = threading.Event()

    def parse(block):
        if block.index == 0:
            assert later.wait(10)
        else:
            later.set()
        return block.index

    return parse


def test_results_come_in_the_order_of_the_file(taken):
    """The first block is done last here."""
    results: list[int] = []
    taken(b"a\nb\nc\nd\n").each(first_block_last(), results.append, block_size=2, threads=2)
    assert results == [0, 1, 2, 3]


def test_first_error_of_the_file_is_raised(taken):
    """Also where a later one is met before it."""
    parse = first_block_last()

    def fail(block):
        raise Refused(parse(block))

    with pytest.raises(Refused, match=r"^0$"):
        taken(b"a\nb\nc\nd\n").each(fail, [].append, block_size=2, threads=2)


def test_error_of_a_consumer_ends_the_reading(taken):
    """No result after it is consumed."""
    consumed = []

    def consume(result):
        consumed.append(result)
        if result == 1:
            raise Refused(result)

    some = taken(b"a\n" * 5000)
    with pytest.raises(Refused, match=r"^1$"):
        some.each(lambda block: block.index, consume, block_size=2, threads=2)
    assert consumed == [0, 1] and some.blocks < 5000


def test_damage_of_the_stream_comes_behind_what_was_read_before_it(taken):
    """A block with a fault is before the end that is missing."""
    some = taken(b"a\nb\n\nc\n")
    with pytest.raises(Refused, match=r"\(2, b''\)"):
        some.each(lambda block: block.index, [].append, block_size=2, threads=2)


def test_interrupt_stops_the_other_thread(taken):
    """No thread continues to read."""
    before = threading.active_count()

    def parse(block):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        taken(b"a\n" * 5000).each(parse, [].append, block_size=2, threads=2)
    assert threading.active_count() == before


def test_interrupt_does_not_wait_for_the_end_of_the_file(taken, monkeypatch):
    """Not even where the other thread is in the middle of a read."""
    some = taken(b"a\n" * 5000)
    readinto, reading, reads = some._stream.readinto, threading.Event(), []

    def slowly(buffer):
        reads.append(1)
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            time.sleep(0.2)
        return readinto(buffer)

    def parse(block):
        if threading.current_thread() is threading.main_thread():
            assert reading.wait(10)
            raise KeyboardInterrupt("stop")

    monkeypatch.setattr(some._stream, "readinto", slowly)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        some.each(parse, [].append, block_size=2, threads=2)
    assert (
        len(reads) < 500
    )  # of 2,500: on a busy machine the other thread may read a while before this one has its turn


def test_block_loads_lines_with_their_ends(taken):
    """More than it held before, too."""
    block, other = Block(64), Block(1)
    assert taken(b"a 1 \nb 2\r\nc  \n").take(block)
    other.load(block.lines_and_ends(np.arange(3)), [7, 8, 9])
    assert [other.line(place) for place in range(3)] == [b"a 1", b"b 2", b"c"]
    np.testing.assert_array_equal(other.rows, [7, 8, 9])


@pytest.mark.parametrize("gap", [3, 8, 9, 25])
def test_separators_between_long_numbers(gap):
    """Are found eight bytes at a time; where two share such a word, one by one, and so in all later blocks."""
    block = Block(1 << 10)
    block.load([b"w " + b" ".join([b"1" * gap] * 20) + b"\n"], [0])
    fields = block.fields(20)
    assert [block.raw[a:b] for a, b in zip(fields.starts, fields.stops, strict=True)] == [b"1" * gap] * 20
    assert block._sparse == (gap > 6)
    block.load([b"w " + b" ".join([b"2"] * 20) + b"\n"], [0])
    fields = block.fields(20)
    assert [block.raw[a:b] for a, b in zip(fields.starts, fields.stops, strict=True)] == [b"2"] * 20
