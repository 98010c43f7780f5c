"""Standard streams of a command: closed ones, readers that have gone, full disks, colour."""

import io
import os
import subprocess
import sys

import pytest

from embkeras.app.streams import write_line
from tests.processes import ROOT, started

posix = pytest.mark.skipif(os.name != "posix", reason="descriptors of a shell")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """True."""
        return True


def shell(line, tmp_path):
    """The exit code, stdout and stderr of a line of bash in which `E` is the command."""
    (tmp_path / "v.txt").write_text("cat 3 4\ndog 0 0\n")
    line = line.replace("E ", f"{sys.executable} -m embkeras ")
    # Unbuffered, argparse itself would meet the closed pipe, and ignore it.
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PYTHONUNBUFFERED": ""}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started("bash", "-c", line, cwd=tmp_path, env=env, **pipes) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@posix
@pytest.mark.parametrize("arguments", ["inspect v.txt", "--help", "--version", "help train", "inspect v.txt --json"])
def test_a_reader_that_has_gone(tmp_path, arguments):
    """No traceback, also none at Python's exit, and the exit code of a program that a closed pipe has ended."""
    code, _, err = shell(f"(E {arguments}; echo $? >code) | true; cat code", tmp_path)
    assert (code, err) == (0, "")
    assert (tmp_path / "code").read_text() == "141\n"


@posix
def test_a_reader_of_errors_that_has_gone(tmp_path):
    """The exit code still says that the input was bad."""
    code, out, err = shell("(E inspect absent.txt; echo $? >code) 2> >(true); cat code", tmp_path)
    assert (code, out, err) == (0, "2\n", "")


@posix
@pytest.mark.parametrize(
    ("closed", "arguments", "expected"),
    [
        (">&-", "inspect v.txt", 0),
        (">&-", "--version", 0),
        (">&- 2>&-", "inspect v.txt", 0),
        ("2>&-", "inspect absent.txt", 2),
        ("<&- >&- 2>&-", "inspect absent.txt --json", 2),
    ],
)
def test_closed_streams(tmp_path, closed, arguments, expected):
    """A command runs in silence, and its exit code says how it went."""
    assert shell(f"E {arguments} {closed}", tmp_path) == (expected, "", "")


@posix
def test_files_are_complete_with_closed_streams(tmp_path):
    """What is meant for a closed stream doesn't go into the file that got its number."""
    assert shell("E convert v.txt out.vec >&- 2>&-", tmp_path)[0] == 0
    assert (tmp_path / "out.vec").read_text() == "2 2\ncat 3 4\ndog 0 0\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_standard_output_on_a_full_disk(tmp_path):
    """One line, exit code 2."""
    code, _, err = shell("E inspect v.txt >/dev/full", tmp_path)
    assert code == 2 and err.startswith("embkeras inspect: ") and err.count("\n") == 1
    assert "No space left" in err


def test_colour_on_a_terminal(monkeypatch):
    """The prefix is coloured, and long lines aren't folded."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    write_line("wrong [b]" + "x" * 200, stream, style="bold red", prefix="embkeras: ")
    assert stream.getvalue() == "\x1b[1;31membkeras: \x1b[0mwrong [b]" + "x" * 200 + "\n"


@pytest.mark.parametrize(("variable", "stream"), [("1", Terminal()), ("", io.StringIO())])
def test_no_colour(monkeypatch, variable, stream):
    """Not with NO_COLOR, and not into a file."""
    monkeypatch.setenv("NO_COLOR", variable)
    write_line("wrong", stream, style="bold red", prefix="embkeras: ")
    assert stream.getvalue() == "embkeras: wrong\n"
