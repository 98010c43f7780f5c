"""Every error is an EmbkerasError and the built-in that fits."""

import inspect
import pickle

import pytest

from embkeras import errors

CHILDREN = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.EmbkerasError) and kind is not errors.EmbkerasError
]


@pytest.mark.parametrize("kind", CHILDREN, ids=lambda kind: kind.__name__)
def test_child_is_also_a_built_in(kind):
    """Code that doesn't know embkeras can catch the built-in."""
    assert issubclass(kind, ValueError | KeyError | OSError | ImportError)


@pytest.mark.parametrize("kind", CHILDREN, ids=lambda kind: kind.__name__)
def test_message_is_printed_as_written(kind):
    """A KeyError prints the repr of its message; ours prints the message."""
    assert str(kind("No row 'x'.")) == "No row 'x'."


def test_warning_is_not_an_error():
    """A filter for our warnings doesn't silence errors."""
    assert issubclass(errors.EmbkerasWarning, UserWarning)
    assert not issubclass(errors.EmbkerasWarning, errors.EmbkerasError)


def test_failed_run_travels_with_the_finished_ones():
    """From a process to the one that asked."""
    error = pickle.loads(pickle.dumps(errors.RunFailedError("it failed", ["a", "b"])))
    assert (str(error), error.runs) == ("it failed", ("a", "b"))
