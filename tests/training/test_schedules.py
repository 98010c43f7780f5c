"""Phases as plain data."""

import numpy as np
import pytest

from embkeras.errors import ScheduleError
from embkeras.training.schedules import Phase, check_epoch, check_phases, phase_at


@pytest.mark.parametrize("start", [-1, True, 1.0, "1", None])
def test_start_must_be_an_epoch(start):
    """A negative number, a bool, a float or a text is no epoch."""
    with pytest.raises(ScheduleError, match=rf"start must be an epoch: an integer >= 0\. Received: {start!r}"):
        Phase(start)


def test_check_epoch_names_its_argument():
    """The caller's word for the epoch is in the message."""
    with pytest.raises(ScheduleError, match=r"resume_at must be an epoch: .* Received: 2\.5"):
        check_epoch(2.5, "resume_at")


@pytest.mark.parametrize("rate", [0, -0.1, float("inf"), float("nan"), "0.1", True])
def test_learning_rate_must_be_positive(rate):
    """No rate, a negative or boundless one, and what is no number."""
    with pytest.raises(ScheduleError, match=rf"learning_rate must be a positive number\. Received: {rate!r}"):
        Phase(0, learning_rate=rate)


@pytest.mark.parametrize("rate", [1, 0.1, np.float64(0.1), np.float32(0.1)])
def test_learning_rate_of_any_real_type(rate):
    """Python's numbers and NumPy's scalars."""
    assert Phase(0, learning_rate=rate).learning_rate == rate


def test_freeze_and_train_exclude_each_other():
    """A phase says one of the two, and shows what it was given."""
    with pytest.raises(ScheduleError, match=r"freeze or train, not both\. Received: Phase\(start=2, freeze=\('a',\)"):
        Phase(2, freeze="a", train="b")


@pytest.mark.parametrize("field", ["freeze", "train"])
def test_a_phase_takes_names_or_layers(field):
    """Something else is refused under the name of the field."""
    with pytest.raises(ScheduleError, match=rf"{field} takes names of layers or layers\. Received: 3"):
        Phase(0, **{field: 3})


def test_named_gathers_what_a_phase_names():
    """From freeze or from train."""
    assert (Phase(0, freeze="a").named, Phase(0, train=["b", "c"]).named, Phase(0).named) == (("a",), ("b", "c"), ())


@pytest.mark.parametrize("phases", [[], ["a"], [Phase(0), 3]])
def test_a_schedule_needs_phases(phases):
    """None at all, or something else among them."""
    with pytest.raises(ScheduleError, match=r"at least one Phase\. Received: \("):
        check_phases(phases)


@pytest.mark.parametrize("starts", [(0, 3, 3), (0, 3, 2)])
def test_phases_begin_one_after_the_other(starts):
    """Two in one epoch, or in the wrong order, are refused with both epochs."""
    with pytest.raises(ScheduleError, match=rf"Received: epoch {starts[2]} after epoch 3"):
        check_phases([Phase(start) for start in starts])


@pytest.mark.parametrize(("epoch", "index"), [(0, None), (1, 0), (3, 0), (4, 1), (99, 1)])
def test_phase_of_an_epoch(epoch, index):
    """None before the first; the last has no end."""
    assert phase_at([Phase(1), Phase(4)], epoch) == index
