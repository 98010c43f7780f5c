"""What a command prints."""

import json
import sys

import numpy as np
import pytest

from embkeras.app.output import Output, plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.arange(2), [0, 1]),
        ((1, [np.int64(2)]), [1, [2]]),
        ({"a": float("inf")}, {"a": None}),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({1: True}, {"1": True}),
    ],
)
def test_plain(value, expected):
    """Values of NumPy, and numbers that JSON lacks."""
    assert plain(value) == expected
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected


def test_json_goes_alone_to_standard_output(capsys):
    """The report, and what others print meanwhile, go to standard error."""
    output = Output("train", as_json=True)
    with output.running():
        output.say("\nDrift")
        print("Epoch 1/8")
        output.answer("an answer")
    output.result["figure"] = 1
    output.print_json()
    out, err = capsys.readouterr()
    assert json.loads(out) == {"command": "train", "figure": 1}
    assert err == "\nDrift\nEpoch 1/8\n"


def test_a_quiet_command(capsys):
    """No report; answers, warnings and errors are printed, and Keras trains in silence."""
    output = Output("train", quiet=True)
    with output.running():
        output.say("a report")
        output.answer("an answer")
        output.warning("odd")
        output.error("wrong", "DataError")
    assert capsys.readouterr() == ("an answer\n", "embkeras train: warning: odd\nembkeras train: wrong\n")
    assert output.verbosity == 0


@pytest.mark.parametrize(("terminal", "no_color", "verbosity"), [(False, "", 2), (True, "", 1), (True, "1", 2)])
def test_the_bar_of_keras_is_for_terminals(monkeypatch, terminal, no_color, verbosity):
    """And not for those that shall have no colour; there Keras prints a line per epoch."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert Output("train").verbosity == verbosity


def test_an_odd_path_is_valid_json(capsys):
    """A file name that is not UTF-8."""
    output = Output("inspect", as_json=True)
    output.result["path"] = "caf\udce9"
    output.print_json()
    assert json.loads(capsys.readouterr().out)["path"] == "caf\udce9"
