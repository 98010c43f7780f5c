"""Variants of a test."""

import pytest

from tests.variants import variants


def test_others_have_the_mark():
    """Pairs stay pairs."""
    first, second, third = variants([("a", 1), ("b", 2), "c"], always=[("a", 1)])
    assert first == ("a", 1)
    assert [(each.values, [mark.name for mark in each.marks]) for each in (second, third)] == [
        (("b", 2), ["thorough"]),
        (("c",), ["thorough"]),
    ]


def test_a_name_that_is_gone_is_noticed():
    """Otherwise no variant would run each time."""
    with pytest.raises(ValueError, match="'z'"):
        variants(["a"], always=["z"])
