"""A schedule under MirroredStrategy: two replicas on logical CPUs against one."""

import pytest

from tests import mirroring

RUNS = ["Adam", "rates", "EMA, train=", "loss scale", "patience", "RowWiseAdam", "several steps at once"]


@pytest.fixture(scope="module")
def measured():
    """What the script found, in one process for all tests."""
    return mirroring.found_by("tests.training.mirrored")


@pytest.mark.parametrize("name", RUNS)
def test_two_replicas_equal_one(name, measured):
    """Flags, slots, rates of every kind and patience: the weights are those of one replica, and the table moved."""
    run = measured["runs"][name]
    assert "error" not in run, run
    assert run["apart"] <= 1e-6 and run["moved"] > 1e-4 and run["slots"] == 0


def test_every_run_of_the_script_is_looked_at(measured):
    """A run that is added there must be named here."""
    assert sorted(measured["runs"]) == sorted(RUNS)


def test_accumulated_gradients_are_refused(measured):
    """When training begins, with the number of replicas."""
    name, message = measured["refused"]
    assert name == "ScheduleError" and "Adam(gradient_accumulation_steps=2) on 2 replicas (model 'tiny')" in message


@pytest.mark.stock_keras
def test_stock_keras_cannot_accumulate_gradients_on_several_replicas(measured):
    """Its train step fails without any schedule."""
    assert measured["stock"][0] == "RuntimeError"
