"""Spellings tried after the exact token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.errors import ArgumentError
from embkeras.vectors.fallbacks import FALLBACKS, check_fallbacks, spellings
from tests.properties import PROPERTY

TOKENS = st.one_of(st.text(max_size=12), st.text("#<>aA-é!?(", max_size=8))
NAMES = st.lists(st.sampled_from(sorted(FALLBACKS)), unique=True)


@pytest.mark.parametrize(
    ("name", "token", "made"),
    [
        ("lower", "CaT", ["cat"]),
        ("upper", "CaT", ["CAT"]),
        ("title", "new york", ["New york"]),
        ("unaccent", "café", ["cafe"]),
        ("hashtag", "#win", ["win"]),
        ("hashtag", "win", []),
        ("hashtag", "#", []),
        ("placeholder", "<url>", ["url"]),
        ("placeholder", "<3", []),
        ("placeholder", "<>", []),
        ("repeats", "soooo", ["soo", "so"]),
        ("repeats", "soo", []),
        ("hyphen", "e-mail", ["email"]),
        ("hyphen", "--", []),
        ("hyphen", "---", []),
        ("marks", "?!", ["?"]),
        ("marks", "?", []),
    ],
)
def test_each_fallback(name, token, made):
    """What one fallback makes of one token; empty and equal spellings are left out."""
    assert [spelling for spelling, _ in spellings(token, (name,))][1:] == made


def test_later_fallbacks_work_on_earlier_spellings():
    """The name says how a spelling was made."""
    assert list(spellings("#Win", ("lower", "hashtag"))) == [
        ("#Win", "exact"),
        ("#win", "lower"),
        ("Win", "hashtag"),
        ("win", "lower+hashtag"),
    ]


@PROPERTY
@given(TOKENS, NAMES)
def test_exact_token_comes_first(token, names):
    """The token itself is tried first, with any fallbacks."""
    assert next(spellings(token, names)) == (token, "exact")


@PROPERTY
@given(TOKENS, NAMES)
def test_spellings_are_distinct_and_not_empty(token, names):
    """No spelling is tried twice, and the empty one never."""
    made = [spelling for spelling, _ in spellings(token, names)]
    assert len(set(made)) == len(made)
    assert all(made[1:])


@PROPERTY
@given(TOKENS, NAMES, st.integers(0, 9))
def test_fewer_fallbacks_try_the_same_first(token, names, kept):
    """Loading with more fallbacks than aligning is safe: the spellings of fewer are a beginning of those of more."""
    fewer, more = list(spellings(token, names[:kept])), list(spellings(token, names))
    assert more[: len(fewer)] == fewer


def test_known_names_are_kept_in_order():
    """The order given is the order tried."""
    assert check_fallbacks(["title", "lower"]) == ("title", "lower")


def test_unknown_name_is_refused():
    """The message names the known ones and the one received."""
    with pytest.raises(ArgumentError, match=r"one of lower, upper, .* Received: 'stem'"):
        check_fallbacks(["lower", "stem"])


def test_bare_string_is_refused():
    """A string is not read as a sequence of letters."""
    with pytest.raises(ArgumentError, match=r"fallbacks must .* Received: 'lower'"):
        check_fallbacks("lower")
