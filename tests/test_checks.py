"""Checks of arguments: what they return, and the rule and the value in their errors."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from embkeras._checks import number, path, sequence, shown, strings, whole_number
from embkeras.errors import ArgumentError


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_whole_number_becomes_an_int(value):
    """NumPy's integers too."""
    assert type(whole_number(value, "n", least=3, most=3)) is int


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), Fraction(3), -1.7e308])
def test_number_becomes_a_float(value):
    """Any finite real number."""
    assert type(number(value, "x")) is float and number(value, "x") == value


OTHER_NUMBERS = [True, None, "3", np.nan, np.inf, -np.inf, 10**400, -(10**5000), 3j, np.float32("inf")]


@pytest.mark.parametrize("value", OTHER_NUMBERS, ids=range(len(OTHER_NUMBERS)))
def test_other_numbers_are_refused(value):
    """Integers too large for a float as well, even those that Python does not print."""
    with pytest.raises(ArgumentError, match=r"x must be a number\. Received: .+ \(here\)\."):
        number(value, "x", where="(here)")


@pytest.mark.parametrize(
    ("bounds", "rule"),
    [
        ({}, ""),
        ({"least": 12345678}, " >= 12345678"),
        ({"most": -3}, " <= -3"),
        ({"least": 1, "most": 2**40}, " from 1 to 1099511627776"),
    ],
)
def test_bounds_of_a_whole_number(bounds, rule):
    """Written out in full."""
    with pytest.raises(ArgumentError, match=rf"n must be an integer{rule}\. Received: 'a'\."):
        whole_number("a", "n", **bounds)


@pytest.mark.parametrize("value", ["a" * 300, 10**300, 10**5000], ids=["text", "long", "huge"])
def test_long_values_are_cut(value):
    """A message does not fill the screen."""
    assert len(shown(value)) <= 203


@pytest.mark.parametrize(("check", "value"), [(sequence, "cat"), (strings, b"cat"), (strings, ["a", 3]), (path, 3)])
def test_other_types_are_refused(check, value):
    """The message shows the value."""
    with pytest.raises(ArgumentError, match=r"x must be .*Received: "):
        check(value, "x")


@pytest.mark.parametrize(
    ("address", "command"),
    [
        (
            "https://host.org/a b.zip",
            r"'https://host.org/a b.zip'. Fetch it first: curl -LO 'https://host.org/a b.zip'\.",
        ),
        (Path("http://host.org/v.txt"), r"curl -LO 'http://host.org/v.txt'"),
        ("s3://bucket/v.bin", r"aws s3 cp 's3://bucket/v.bin' \./"),
        ("gs://bucket/v.bin", r"gcloud storage cp 'gs://bucket/v.bin' \./"),
        ("hf://org/name/model.safetensors", r"python -c .*fetch\('org/name'\)"),
        ("file:///data/v.txt", r"pass its path, '/data/v.txt'"),
        ("other://v", r"the address 'other://v'\."),
    ],
)
def test_addresses_are_no_paths(address, command):
    """They are refused with the command that fetches what is there, also where pathlib has shortened them."""
    with pytest.raises(ArgumentError, match=rf"place must be a path on this machine\. .*{command}"):
        path(address, "place")


def test_home_folder(monkeypatch):
    """~ is expanded as in a shell: a user who is not there stays as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert path("~/v", "place") == Path("/home/me/v") and path("~/v", "place").is_absolute()
    assert str(path("~nobody-here/v", "place")) == "~nobody-here/v" and str(path("a~/v", "place")) == "a~/v"


@pytest.mark.parametrize("name", ["C:/x", "data:/x", "a:b", "x//y"])
def test_paths_with_colons_are_paths(name):
    """Drives and odd names are no addresses."""
    assert path(name, "place") == Path(name)


@pytest.mark.parametrize(("item", "advice"), [(3, r"with str\(\)"), (b"a", r"decode"), (None, "leave it out")])
def test_items_that_are_no_strings(item, advice):
    """The message says how to make a string of each, and where it is."""
    with pytest.raises(ArgumentError, match=rf"{advice}.* Received: {item!r} \({type(item).__name__}\) at place 1"):
        strings(["a", item], "words")
