"""What `.ci/docstrings.py` lets pass in a docstring, and what it doesn't."""

import importlib.util
import inspect
import shutil
from pathlib import Path

import pytest

import embkeras as ek

ROOT = Path(__file__).resolve().parent.parent
_SPEC = importlib.util.spec_from_file_location("docstrings", ROOT / ".ci" / "docstrings.py")
docstrings = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(docstrings)

_CODE = '''
def shown(a: int, b: int) -> int:
    """Add.

    Args:
        a: a number.
        b: another one.
    """
    return a + b


def short(a: int) -> int:
    """The number itself."""
    return a


def inside(a: int) -> int:
    """Checked.

    Raises:
        ValueError: below 0.
    """
    return a


def outdated(a: int, b: int) -> int:
    """Add.

    Args:
        b: a number.
        c: a number that isn't taken.
    """
    return a + b


class Built:
    """Made by `shown`.

    It has no public way to make one.
    """

    def __init__(self, a: int):
        self.a = a
'''


@pytest.mark.skipif(shutil.which("pydoclint") is None, reason="needs the program pydoclint")
def test_sections_of_docstrings(tmp_path, capsys):
    """A public name needs all sections, unless a sentence says it all; elsewhere those that are there must be right."""
    for folder in ("docs/reference", "embkeras"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "reference" / "all.md").write_text(
        "::: embkeras.shown\n\n::: embkeras.short\n\n::: embkeras.Built\n"
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "embkeras" / "module.py"
    module.write_text(_CODE)
    assert docstrings.main(tmp_path) == 1
    wrong = [line.split()[1:4] for line in capsys.readouterr().out.splitlines()]
    assert [each[0] for each in wrong if "`shown`" in each] == ["DOC201:"]
    assert {each[2].strip("`:") for each in wrong} == {"shown", "outdated"}
    module.write_text(
        _CODE.partition("def outdated")[0].replace(
            "b: another one.", "b: another one.\n\n    Returns:\n        The sum."
        )
    )
    assert docstrings.main(tmp_path) == 0


# Callers get these from functions, which check; MultiWorkerFit adds methods to a model.
_MADE_BY_FUNCTIONS = {
    "CarriedDrift",
    "DataProfile",
    "DriftReport",
    "MultiWorkerFit",
    "PretrainedDecoder",
    "PretrainedEncoder",
    "SpanAnswer",
    "SpanWindows",
    "TokenCounts",
}


@pytest.mark.parametrize("name", sorted(set(ek.__all__) - _MADE_BY_FUNCTIONS - {"errors"}))
def test_a_public_name_says_what_it_raises(name):
    """Functions, and classes that callers construct."""
    assert "\nRaises:\n" in inspect.getdoc(getattr(ek, name))
