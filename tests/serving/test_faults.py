"""Malformed requests are refused or read as "[UNK]", and never crash an export."""

import json

import numpy as np
import pytest

from tests.processes import run_python
from tests.serving.make_golden import FOLDER
from tests.serving.malformed import Judge, Malformed

COUNT = 2_500
C_API = {"outside", "wrong_type", "wrong_rank", "empty", "long", "cut", "flipped", "shape", "type", "rubbish", "text"}
SIGNATURE = {"outside", "wrong_type", "wrong_rank", "empty", "long"}


def test_thousands_of_malformed_requests():
    """Through the C API and the signature, in one process; valid requests have the same answers before and after."""
    counts = json.loads(run_python("-m", "tests.serving.malformed", FOLDER / "1", COUNT, "6").stdout)
    assert sum(counts["c_api"].values()) + sum(counts["tensorflow"].values()) == COUNT
    for runtime, kinds in (("c_api", C_API), ("tensorflow", SIGNATURE)):
        assert {name.split(":")[0] for name in counts[runtime]} == kinds
        assert counts[runtime]["outside: answer"] and not counts[runtime].get("outside: error")
        for kind in ("wrong_type", "wrong_rank"):
            assert counts[runtime][f"{kind}: error"] and not counts[runtime].get(f"{kind}: answer")


def first_of(kind):
    """A request that is malformed in this way, with ids outside the table."""
    requests = (each for each in iter(Malformed(0, 10).array, None) if each[0] == kind)
    return next(value for _, value in requests if kind != "outside" or (value[value != 1] >= 10).any())


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("outside", lambda ids: np.minimum(ids, 9).sum(axis=1, keepdims=True), "has the scores"),
        ("outside", lambda ids: np.take([], ids), "was refused"),
        ("wrong_type", lambda ids: np.zeros((len(ids), 1)), "was answered"),
        ("wrong_rank", lambda ids: np.zeros((1, 1)), "was answered"),
    ],
)
def test_wrong_answers_are_found_out(kind, answer, message):
    """The last row for an id outside, an unexpected refusal, scores for an invalid request."""
    with pytest.raises(SystemExit, match=message):
        Judge(answer, (IndexError, TypeError), 10, 1).put(kind, *[first_of(kind)] * 2)
