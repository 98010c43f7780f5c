"""The vectorised reader of numbers: float() is the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.vectors.io import digits
from embkeras.vectors.io.digits import MARGIN, Digits
from tests.properties import PROPERTY

REGULAR = st.from_regex(r"-?[0-9]\.[0-9]{1,16}", fullmatch=True)
SHAPED = st.from_regex(r"[-+]?[0-9]{0,3}\.?[0-9]{0,18}([eE][-+]?[0-9]{1,3})?", fullmatch=True)
NOISE = st.text(st.characters(min_codepoint=0, max_codepoint=255, exclude_characters=" "), max_size=20)


def read(
    fields: list[bytes], offset: int = 0, between: bytes = b" ", dtype: str = "float32"
) -> tuple[np.ndarray, set[int]]:
    """The values and the odd indices of fields written one after the other into a buffer, `offset` bytes after its margin."""
    raw = between.join(fields)
    buffer = np.full((2 * MARGIN + offset + len(raw) + 7) // 8 * 8, ord("7"), np.uint8)
    buffer[MARGIN + offset : MARGIN + offset + len(raw)] = list(raw)
    lengths = np.array([len(field) for field in fields])
    stops = MARGIN + offset + np.cumsum(lengths) + len(between) * np.arange(len(fields))
    values, odd = Digits(buffer).values(stops - lengths, stops, dtype)
    return values.copy(), set(odd.tolist())


@PROPERTY
@given(st.lists(REGULAR, min_size=1, max_size=30), st.integers(0, 7), st.sampled_from([b" ", b"", b"\xff", b"9"]))
def test_regular_numbers_are_what_float_reads(fields, offset, between):
    """Bit for bit in float64, at any place in an aligned word and with any separator."""
    values, odd = read([field.encode() for field in fields], offset, between)
    expected = np.array([float(field) for field in fields])
    fast = [i for i in range(len(fields)) if i not in odd]
    assert values[fast].tobytes() == expected[fast].tobytes()


@PROPERTY
@given(st.lists(SHAPED | NOISE, min_size=1, max_size=30), st.integers(0, 7))
def test_what_is_not_odd_is_what_float_reads(fields, offset):
    """Numbers of other shapes, and noise: each is odd, or its value is right."""
    values, odd = read([field.encode("latin-1") for field in fields], offset)
    for place, field in enumerate(fields):
        if place not in odd:
            assert values[place].tobytes() == np.float64(float(field)).tobytes()


LONG = st.one_of(
    st.from_regex(r"-?[0-9]{1,9}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,8}\.[0-9]{1,24}(e[+-][0-9]{2})?", fullmatch=True),
    st.from_regex(r"-?[0-9](\.[0-9]{1,18})?[eE][+-][0-9]{2}", fullmatch=True),
    st.floats(width=32).map(lambda value: f"{value:.18e}"),
    st.floats(-9, 9).map(repr),
)


@PROPERTY
@given(
    st.lists(LONG | NOISE | SHAPED, min_size=1, max_size=30), st.integers(0, 7), st.sampled_from(["float32", "float16"])
)
def test_numbers_of_every_way_are_what_float_reads_in_their_type(monkeypatch, fields, offset, dtype):
    """Integers, many digits, exponents, noise: each is odd, or the same in float32 or float16."""
    monkeypatch.setattr(digits, "_FEW", 0)
    values, odd = read([field.encode("latin-1") for field in fields], offset, dtype=dtype)
    for place, field in enumerate(fields):
        if place not in odd:
            assert values[place].astype(dtype).tobytes() == np.float64(float(field)).astype(dtype).tobytes()


@pytest.mark.parametrize(
    "field",
    [
        "0",
        "-7",
        "12345678",
        "-0.418e-01",
        "4.194199979305267334e-01",
        "-1e-05",
        "12.5",
        "0.12345678901234567",
        "3.0E+02",
        "123.25",
        "0.000000000000000000e+00",
        "98765.4321e+02",
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_these_are_left_to_no_float(monkeypatch, field, alone):
    """What NumPy and other programs write is read in bulk, in a block of its kind and among others."""
    monkeypatch.setattr(digits, "_FEW", 0)
    values, odd = read([field.encode()] * 40 + ([] if alone else [b"0.25", b"3", b"-1.5e-03"] * 20))
    assert not odd
    assert values[:40].astype("float32").tolist() == [np.float32(float(field))] * 40


def test_middle_between_two_numbers_is_odd(monkeypatch):
    """Where the last bits decide: 1 + 2**-24 in float32, 1 + 2**-11 in float16, and what is not a normal number there."""
    monkeypatch.setattr(digits, "_FEW", 0)
    single, half = f"{1 + 2**-24:.24f}".encode(), f"{1 + 2**-11:.18e}".encode()
    assert read([single], dtype="float32")[1] == {0} and read([half], dtype="float16")[1] == {0}
    assert read([single], dtype="float16")[1] == read([half], dtype="float32")[1] == set()
    assert read([b"1.0e-39", b"3.5e+38", b"1.0e-20"], dtype="float32")[1] == {0, 1}


def test_way_that_fitted_last_is_tried_first(monkeypatch):
    """A block of another kind after it, larger or smaller, is read as well."""
    monkeypatch.setattr(digits, "_FEW", 0)
    buffer = np.zeros(2 * MARGIN + 24000, np.uint8)
    reader = Digits(buffer)
    for count, text in [
        (3, b"1.25e-01 "),
        (500, b"2.5e+01 "),
        (90, b"7 "),
        (600, b"-12 "),
        (700, b"0.5 "),
        (9, b"1e+01 "),
    ]:
        buffer[MARGIN : MARGIN + count * len(text)] = list(text * count)
        starts = MARGIN + len(text) * np.arange(count)
        values, odd = reader.values(starts, starts + len(text) - 1)
        assert not len(odd)
        assert values.tolist() == [float(text)] * count


@pytest.mark.parametrize("count", range(1, 17))
@pytest.mark.parametrize("sign", ["", "-"])
def test_every_count_of_digits_is_read_without_float(count, sign):
    """One to sixteen digits after the point, in one or two groups of eight."""
    field = f"{sign}0.{'1234567890123456'[:count]}"
    values, odd = read([field.encode()])
    assert not odd
    assert values[0] == float(field)


@pytest.mark.parametrize("digit", "0123456789")
def test_every_digit_in_every_place(digit):
    """Each digit in each of the seventeen places."""
    fields = [f"{digit if place == 0 else 0}.{'0' * max(place - 1, 0)}{digit}" for place in range(1, 16)]
    values, odd = read([field.encode() for field in fields])
    assert not odd
    assert values.tolist() == [float(field) for field in fields]


@pytest.mark.parametrize(
    "field",
    [
        *[
            "",
            "-",
            ".",
            "1",
            "-1",
            "1.",
            ".5",
            "12.5",
            "+1.5",
            "1e-5",
            "1.5e-5",
            "nan",
            "1.2.3",
            "1.-5",
            "--1.5",
            "1,5",
        ],
        *["0.12345678901234567", "9.0071992547409920", "/.5", ":.5", "0./", "0.:", "0.1\xff", "0.1\x00", "1.5\r"],
    ],
)
def test_other_shapes_are_odd(field):
    """They are left to float(), also between regular ones."""
    values, odd = read([b"0.25", field.encode("latin-1"), b"-0.5"])
    assert odd == {1}
    assert values[[0, 2]].tolist() == [0.25, -0.5]


@pytest.mark.parametrize("byte", sorted(set(range(256)) - set(b"0123456789")))
def test_a_byte_that_is_no_digit_is_seen_in_every_place(byte):
    """Each of the other 246 bytes, before the point and at each place after it."""
    fields = [
        b"-0.1234567890123456"[:place] + bytes([byte]) + b"-0.1234567890123456"[place + 1 :] for place in range(19)
    ]
    wrong = [1, *range(3, 19)]
    _, odd = read([fields[place] for place in wrong], between=b" ")
    assert odd == set(range(len(wrong)))


@pytest.mark.parametrize(("field", "odd"), [("0.9007199254740991", False), ("0.9007199254740992", True)])
def test_integers_above_53_bits_are_odd(field, odd):
    """They are not exact in float64."""
    assert bool(read([field.encode()])[1]) == odd


def test_minus_zero_keeps_its_sign():
    """As float() has it."""
    values, _ = read([b"-0.0", b"0.0"])
    assert np.signbit(values).tolist() == [True, False]


def test_scratch_is_used_again():
    """A short call after a long one, and a longer one after that, give their own values."""
    buffer = np.zeros(2 * MARGIN + 4000, np.uint8)
    reader = Digits(buffer)
    for count, text in [(500, b"0.250 "), (3, b"0.123456789012 "), (600, b"-1.5 ")]:
        buffer[MARGIN : MARGIN + count * len(text)] = list(text * count)
        starts = MARGIN + len(text) * np.arange(count)
        values, odd = reader.values(starts, starts + len(text) - 1)
        assert not len(odd)
        assert values.tolist() == [float(text)] * count


def test_no_numbers():
    """Nothing in, nothing out."""
    values, odd = Digits(np.zeros(2 * MARGIN, np.uint8)).values(np.empty(0, np.int64), np.empty(0, np.int64))
    assert (len(values), len(odd)) == (0, 0)


def test_big_endian_machine_leaves_all_to_float(monkeypatch):
    """The lanes would lie the other way round."""
    monkeypatch.setattr(digits.sys, "byteorder", "big")
    assert read([b"0.5", b"0.25"])[1] == {0, 1}
