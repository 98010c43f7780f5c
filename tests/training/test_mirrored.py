"""A schedule under MirroredStrategy: two replicas on logical CPUs against one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = ["Adam", "rates", "EMA, train=", "loss scale", "patience", "RowWiseAdam", "several steps at once"]


@pytest.fixture(scope="module")
def measured():
    """What the script found, in one process for all tests."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.training.mirrored"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", RUNS)
def test_two_replicas_equal_one(name, measured):
    """Flags, slots, rates of every kind and patience: the weights are those of one replica, and the table moved."""
    run = measured["runs"][name]
    assert "error" not in run, run
    assert run["apart"] <= 1e-6 and run["moved"] > 1e-4 and run["slots"] == 0


def test_every_run_of_the_script_is_looked_at(measured):
    """A run that is added there has to be named here."""
    assert sorted(measured["runs"]) == sorted(RUNS)


def test_accumulated_gradients_are_refused(measured):
    """When training begins, with the number of replicas."""
    name, message = measured["refused"]
    assert name == "ScheduleError" and "Adam(gradient_accumulation_steps=2) on 2 replicas (model 'tiny')" in message


@pytest.mark.stock_keras
def test_stock_keras_cannot_accumulate_gradients_on_several_replicas(measured):
    """Its train step fails, without any schedule."""
    assert measured["stock"][0] == "RuntimeError"
