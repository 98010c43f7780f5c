"""The bar of a long reading."""

import io

import pytest

from embkeras.vectors.io import progress
from embkeras.vectors.io.progress import Bar, bar_for
from embkeras.vectors.io.registry import load_vectors


@pytest.fixture
def at_once(monkeypatch):
    """No waiting before the bar is shown."""
    monkeypatch.setattr(progress, "_AFTER", 0)
    monkeypatch.setattr(progress, "_EVERY", 0)


def test_it_shows_the_share(at_once):
    """Name, bar and percent on one line, which is cleared at the end."""
    stream = io.StringIO()
    bar = Bar("glove.txt", stream)
    bar(50, 100)
    assert stream.getvalue() == "\rglove.txt: [" + 15 * "=" + 15 * " " + "]  50%"
    bar.close()
    assert stream.getvalue().endswith(" \r")


def test_short_readings_show_nothing():
    """Before its time there is no bar, and nothing to clear."""
    stream = io.StringIO()
    bar = Bar("glove.txt", stream)
    bar(50, 100)
    bar.close()
    assert stream.getvalue() == ""


def test_never_in_a_pipe_unless_asked_for(monkeypatch):
    """By default only where standard error is a terminal."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert bar_for("v", None) is None and bar_for("v", False) is None and bar_for("v", True) is not None


def test_load_vectors_shows_it(at_once, tmp_path, capsys):
    """Asked for, it shows the file's name and clears the line."""
    path = tmp_path / "glove.txt"
    path.write_text("a 1.0\nb 2.0\n")
    load_vectors(path, progress=True)
    shown = capsys.readouterr().err
    assert "glove.txt: [" in shown and "100%" in shown and shown.endswith("\r")
