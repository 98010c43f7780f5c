"""Completion scripts."""

import os
import shutil
import subprocess
import sys

import pytest

from embkeras.app import cli, completion
from tests.processes import started


def test_without_shtab(monkeypatch, capsys):
    """One line with the extra that installs it."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == (
        'embkeras completion: Completion scripts need shtab: python -m pip install "embkeras[completion]".\n'
    )


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_names_commands_and_flags(capsys, shell):
    """For each shell."""
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "coverage" in script and "unfreeze-at" in script


def test_file_names_as_shtab_has_them():
    """What we pass to shtab is its own constant."""
    assert completion.FILE.items() <= pytest.importorskip("shtab").FILE.items()


@pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("embkeras cov", "coverage"),
        ("embkeras train --learn", "--learning-rate"),
        ("embkeras demo --architecture l", "lstm"),
        ("embkeras inspect vec", "vectors.txt"),
    ],
)
def test_bash_completes(tmp_path, capsys, typed, completed):
    """A word is completed as a user of bash sees it: commands, flags, choices, files."""
    pytest.importorskip("shtab")
    cli.main(["completion", "bash"])
    (tmp_path / "vectors.txt").touch()
    (tmp_path / "script").write_text(capsys.readouterr().out)
    words = typed.split(" ")
    line = f"""shopt -s progcomp; source ./script; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
        COMP_LINE='{typed}'; COMP_POINT={len(typed)}; _shtab_embkeras embkeras {words[-1]} {words[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    with started("bash", "-c", line, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.communicate(timeout=30)[0].split() == [completed]
