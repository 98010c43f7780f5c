"""Variants of a test: a few run each time, and all of them with `.ci/matrix`, on every set of versions."""

from collections.abc import Iterable
from typing import Any

import pytest

THOROUGH = pytest.mark.thorough


def variants(values: Iterable[Any], *, always: Iterable[Any]) -> list[Any]:
    """Values for `parametrize`; those that are not in `always` have the mark `thorough`, which `python -m pytest` leaves out."""
    values, always = list(values), list(always)
    unknown = [each for each in always if each not in values]
    if unknown:
        raise ValueError(f"always must be some of the values. Received: {unknown}.")
    return [each if each in always else _rarely(each) for each in values]


def _rarely(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=THOROUGH)
