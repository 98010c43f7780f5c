"""Phases as plain data."""

import json
import pickle

import keras
import numpy as np
import pytest

from embkeras.errors import ScheduleError
from embkeras.training.schedule.phases import (
    Phase,
    check_epoch,
    check_phases,
    phase_at,
)


@pytest.mark.parametrize("start", [-1, True, 1.0, "1", None])
def test_start_must_be_an_epoch(start):
    """A negative number, a bool, a float or a string is not an epoch."""
    with pytest.raises(ScheduleError, match=rf"start must be an integer >= 0\. Received: {start!r}"):
        Phase(start)


def test_check_epoch_names_its_argument():
    """The name of the argument is in the message."""
    with pytest.raises(ScheduleError, match=r"resume_at must be .* Received: 2\.5"):
        check_epoch(2.5, "resume_at")


@pytest.mark.parametrize("rate", [0, -0.1, float("inf"), float("nan"), "0.1", True])
def test_learning_rate_must_be_positive(rate):
    """Zero, negative and infinite rates, and what is not a number."""
    with pytest.raises(ScheduleError, match=rf"learning_rate must be .*Received: {rate!r}"):
        Phase(0, learning_rate=rate)


@pytest.mark.parametrize("rate", [1, 0.1, np.float64(0.1), np.float32(0.1)])
def test_learning_rate_of_any_real_type(rate):
    """Python's numbers and NumPy's."""
    assert Phase(0, learning_rate=rate).rate.learning_rate == rate


def test_freeze_and_train_exclude_each_other():
    """The phase and the layers of both are in the message."""
    with pytest.raises(ScheduleError, match=r"phase from epoch 2.* Received: Freeze\(.*'a'.*\) and Train\(.*'b'"):
        Phase(2, freeze="a", train="b")


@pytest.mark.parametrize("field", ["freeze", "train"])
def test_a_phase_takes_names_or_layers(field):
    """Something else is refused under the name of the field."""
    with pytest.raises(ScheduleError, match=rf"{field} .*Received: 3"):
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
    """No phase before the first; the last has no end."""
    assert phase_at([Phase(1), Phase(4)], epoch) == index


def test_train_needs_layers():
    """An empty list would train nothing."""
    with pytest.raises(ScheduleError, match=r"train needs at least one layer\. Received: \[\]"):
        Phase(0, train=[])


def test_learning_rate_may_be_a_schedule():
    """One of Keras or your own."""
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert Phase(0, learning_rate=rate).rate.learning_rate is rate


@pytest.mark.parametrize("factor", [0, -1, float("nan"), "2", True])
def test_rate_factor_must_be_positive(factor):
    """Like a rate."""
    with pytest.raises(ScheduleError, match=rf"factor must be .*Received: {factor!r}"):
        Phase(0, rate_factor=factor)


def test_learning_rate_and_rate_factor_exclude_each_other():
    """A phase takes one of the two."""
    with pytest.raises(ScheduleError, match=r"Received: Rate\(learning_rate=0.1, factor=0.5\)"):
        Phase(2, learning_rate=0.1, rate_factor=0.5)


@pytest.mark.parametrize("patience", [0, -1, 1.0, True, "1"])
def test_patience_is_a_number_of_epochs(patience):
    """At least one."""
    with pytest.raises(ScheduleError, match=rf"patience must be an integer >= 1\. Received: {patience!r}"):
        Phase(0, patience=patience)


def test_integers_of_numpy_are_taken_as_such():
    """The state of a schedule is written as JSON, which takes Python's numbers only."""
    phase = Phase(np.int64(3), patience=np.int64(2))
    assert json.dumps([phase.start, phase.patience]) == "[3, 2]"


def test_phases_travel_to_another_process():
    """Through pickle, with all their actions."""
    phases = [Phase(0, freeze="a", patience=2), Phase(3, train=["b", "c/**"], learning_rate=0.1)]
    assert pickle.loads(pickle.dumps(phases)) == phases
