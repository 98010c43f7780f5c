"""Progress of long work: when a bar is drawn, and where."""

import io
import re
import sys

import pytest

from embkeras import _progress
from embkeras._progress import progress, shown
from tests.processes import run_python


@pytest.fixture
def at_once(monkeypatch):
    """Bars appear with the first report, and every report is drawn."""
    monkeypatch.setattr(_progress, "_AFTER", 0)
    monkeypatch.setattr(_progress, "_EVERY", 0)


def drawn(name="work", asked=None, **more):
    """What standard error has received, without the codes of a terminal."""
    with progress(name, asked, **more) as report:
        report(1, 4)
        report(3, 4)


def visible(text):
    """The text without the codes of a terminal."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


def test_silent_by_default(at_once, capsys):
    """The library draws nothing that nobody asked for."""
    drawn()
    assert capsys.readouterr() == ("", "")


def test_a_bar_has_name_and_share(at_once, capsys):
    """On standard error, and cleared at the end."""
    drawn("reading [v.txt]", True)
    out, err = capsys.readouterr()
    assert out == "" and "reading [v.txt]" in err
    assert re.search(r" 25%.* 75%", visible(err), re.DOTALL)
    assert err.endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("choice", "asked", "unasked", "is_drawn"),
    [
        (True, None, False, True),
        (True, False, False, False),
        (False, True, False, True),
        (False, None, True, False),
        (None, None, True, True),
        (None, None, False, False),
    ],
)
def test_who_decides(at_once, monkeypatch, capsys, choice, asked, unasked, is_drawn):
    """What the caller asks for, else what the program says, else what holds on a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with shown(choice):
        drawn(asked=asked, unasked=unasked)
    assert bool(capsys.readouterr().err) == is_drawn


def test_nobody_is_asked_in_a_pipe(at_once, capsys):
    """What a terminal would show unasked is not drawn into a file."""
    drawn(unasked=True)
    assert capsys.readouterr().err == ""


def test_no_choice_changes_nothing(at_once, capsys):
    """`shown(None)` keeps what holds around it."""
    with shown(True), shown(None):
        drawn()
    assert "work" in capsys.readouterr().err


def test_short_work_draws_nothing(capsys):
    """Nothing appears in the first second and a half."""
    drawn(asked=True)
    assert capsys.readouterr().err == ""


def test_the_choice_ends_with_its_block(at_once, capsys):
    """Also when the block fails."""
    with pytest.raises(KeyError), shown(True):
        raise KeyError
    drawn()
    assert capsys.readouterr().err == ""


def test_a_failing_work_clears_its_bar(at_once, capsys):
    """The line is free for the message, and the cursor is back."""
    with pytest.raises(OSError), progress("work", True) as report:
        report(1, 2)
        raise OSError
    assert capsys.readouterr().err.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_no_color(at_once, monkeypatch, capsys):
    """With NO_COLOR a bar has no colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    drawn(asked=True)
    assert not re.search(r"\x1b\[[0-9;]*m", capsys.readouterr().err)


def test_rich_is_imported_late():
    """Work that shows no bar doesn't pay for one."""
    code = "import sys; from embkeras._progress import progress\nwith progress('a', True) as report: report(1, 2)\n"
    assert run_python("-c", code + "print('rich' in sys.modules)").stdout == "False\n"


def test_prints_are_left_alone(at_once, monkeypatch):
    """A bar on standard error doesn't redirect standard output, which may be a file."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with progress("work", True) as report:
        report(1, 2)
        print("a line")
    assert out.getvalue() == "a line\n"
