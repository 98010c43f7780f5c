"""When a request is sent again."""

import time

import pytest

from embkeras.errors import ServingError, ServingTimeoutError
from embkeras.serving import attempts
from embkeras.serving.attempts import Unavailable, attempted, quoted


class _Server:
    """Raises these errors, one a request, and then answers."""

    def __init__(self, *errors):
        self.errors, self.given = list(errors), []

    def __call__(self, seconds):
        self.given.append(seconds)
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def pauses(monkeypatch):
    """Pauses are written down and not slept."""
    found = []
    monkeypatch.setattr(attempts.time, "sleep", found.append)
    return found


def test_first_answer_is_taken(pauses):
    """With all of the time for it."""
    server = _Server()
    assert attempted(server, 5.0, 2) == "answer"
    assert server.given[0] == pytest.approx(5.0, abs=0.5)
    assert pauses == []


def test_pauses_grow(pauses):
    """Each twice as long as the one before, give or take a half."""
    assert attempted(_Server(*[Unavailable("no")] * 3), 60.0, 3) == "answer"
    assert all(0.5 <= pause / wanted <= 1.5 for pause, wanted in zip(pauses, (0.1, 0.2, 0.4), strict=True))


@pytest.mark.parametrize("error", [ServingTimeoutError("late"), ServingError("refused"), attempts.Gone("which?")])
def test_other_errors_are_not_tried_again(pauses, error):
    """A time-out above all: the server may be at work still."""
    server = _Server(error)
    with pytest.raises(type(error), match=str(error).replace("?", ".")):
        attempted(server, 5.0, 9)
    assert len(server.given) == 1


def test_no_attempt_begins_after_the_time(pauses):
    """What is left is too short for a pause and an attempt."""
    server = _Server(*[Unavailable("no")] * 9)
    start = time.monotonic()
    with pytest.raises(ServingError, match=r"no \(attempts: 1\)"):
        attempted(server, 0.01, 9)
    assert time.monotonic() - start < 1.0


def test_retries_are_counted(pauses):
    """None at all is one attempt."""
    server = _Server(*[Unavailable("no")] * 9)
    with pytest.raises(ServingError, match=r"no \(attempts: 1\)"):
        attempted(server, 5.0, 0)
    with pytest.raises(ServingError, match=r"no \(attempts: 4\)"):
        attempted(server, 60.0, 3)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("a\n  b\t", "a b"), (b"a\xff", "a\\xff"), ({"a": 1}, "{'a': 1}"), ("x" * 501, "x" * 500 + "..."), (b"", "")],
)
def test_what_is_quoted_is_short_and_on_one_line(said, wanted):
    """Whatever the server sends."""
    assert quoted(said) == wanted
