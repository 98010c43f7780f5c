"""What divides a row, and what looks like a value in a word."""

import pytest

from embkeras.errors import ArgumentError
from embkeras.vectors.io.separators import (
    COMMA_THEN_SPACES,
    COMMAS,
    INFERRED,
    SPACES,
    TAB_THEN_SPACES,
    TABS,
    WHITESPACE,
    Separator,
    separator_of,
)


@pytest.mark.parametrize("separator", INFERRED)
def test_argument_names_the_separator(separator):
    """What an error shows can be passed."""
    assert separator_of(separator.argument) == separator


@pytest.mark.parametrize(
    "value",
    ["", "  ", "\n", "5", ".", "e", "-", "é", b" ", 1, ("\t",), ("\t", " ", " "), (" ", ""), ["", " "], "spaces"],
)
def test_what_can_not_divide_is_refused(value):
    """Numbers and lines would be cut; the message shows the value."""
    with pytest.raises(ArgumentError, match="separator must be one character") as raised:
        separator_of(value)
    assert repr(value)[:20] in str(raised.value)


def test_other_characters_can_be_passed():
    """Such as a semicolon."""
    assert separator_of(";") == Separator(b";", b";") and separator_of(["|", " "]) == Separator(b"|", b" ")


@pytest.mark.parametrize(
    ("separator", "line", "width", "fields"),
    [
        (SPACES, b"new york 1 2", 2, [b"new york", b"1", b"2"]),
        (SPACES, b" 1 2  ", 2, [b"", b"1", b"2"]),
        (SPACES, b"a 1", 2, None),
        (TABS, b"new york\t1\t2\t", 2, [b"new york", b"1", b"2"]),
        (TAB_THEN_SPACES, b"a b\tArea 51\t1 2", 2, [b"a b\tArea 51", b"1", b"2"]),
        (TAB_THEN_SPACES, b"Area 51\t1", 2, None),
        (TAB_THEN_SPACES, b"Area 51 1 2", 2, None),
        (COMMAS, b"a,b,1,2", 2, [b"a,b", b"1", b"2"]),
        (COMMA_THEN_SPACES, b"a,1 2", 2, [b"a", b"1", b"2"]),
        (WHITESPACE, b" a \t1   2\t", 2, [b"a", b"1", b"2"]),
        (WHITESPACE, b"a 1", 2, None),
    ],
)
def test_rows_are_divided_from_the_right(separator, line, width, fields):
    """The word keeps what is left."""
    assert separator.divided(line, width) == fields


@pytest.mark.parametrize(
    ("separator", "word", "holds"),
    [
        (SPACES, b"route 66", True),
        (SPACES, b"web 2.0", True),
        (SPACES, b"a 0.1 0.2b", True),
        (SPACES, b"the\t0.1", True),
        (SPACES, b"a 1 2\rb", True),
        (SPACES, b"cat   1 ", True),
        (SPACES, b"x -1.5e-05", True),
        (SPACES, b"66", False),
        (SPACES, b"route 66 west", False),
        (SPACES, b"to infinity", False),
        (SPACES, b"10,000", False),
        (SPACES, b"v 1.2.3", False),
        (TABS, b"route 66", False),
        (TABS, b"route\t66", True),
        (TAB_THEN_SPACES, b"ENTITY/Firefox 3.5", False),
        (COMMAS, b"a,1", True),
        (COMMAS, b"the 0,1 0", True),
        (WHITESPACE, b"a\t5", True),
    ],
)
def test_value_in_a_word(separator, word, holds):
    """A number that looks like one more value of the row."""
    assert bool(separator.value_in_word.search(word)) == holds
