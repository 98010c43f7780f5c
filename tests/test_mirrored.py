"""Tables, schedules and optimizers under MirroredStrategy: two replicas on logical CPUs against one."""

import json

import pytest

from tests.processes import run_python
from tests.variants import variants

TRAINING = ["RowWiseAdamW", "RowWiseSGD"]
TABLES = ["enable_lora", "combined", "unfreeze_rows", "dense gradients"]
RARELY = ["rates", "loss scale", "quantized", "LoRA", "change_vocabulary", "change_vocabulary of LoRA", "int8, thawed"]
RARELY += ["EMA, train=", "patience", "several steps at once"]
PROCESSES = [[*TRAINING, *TABLES, "files", "refused", "stock"], RARELY]  # one start of TensorFlow each


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measures a name, with all others of its process."""
    known, folder = {}, tmp_path_factory.mktemp("mirrored")

    def measure(name):
        if name not in known:
            names = next(each for each in PROCESSES if name in each)
            done = run_python("-m", "tests.mirrored", folder, *names, timeout=290)
            known.update(json.loads(done.stdout.splitlines()[-1]))
        return known[name]

    return measure


@pytest.mark.parametrize("name", variants(TRAINING + TABLES + RARELY, always=TRAINING + TABLES))
def test_two_replicas_equal_one(name, measured):
    """Weights, slots and table are those of one replica, both replicas have the same values, and the table moved."""
    run = measured(name)
    assert "error" not in run, run
    assert run["apart"] <= 1e-6 and run["matrix"] <= 1e-6 and run["replicas"] == 0 and run["slots"] == 0, run
    assert run["moved"] > 1e-3, run


@pytest.mark.parametrize("name", ["RowWiseAdamW", "RowWiseSGD"])
def test_unseen_rows_stay(name, measured):
    """Bit for bit, with decay and momentum."""
    assert measured(name)["unseen"] == 0


def test_the_padding_row_stays_zeros(measured):
    """On both replicas, under dense gradients and after an assignment outside the scope."""
    assert measured("dense gradients")["padding"] == 0


def test_every_replica_is_filled(measured):
    """The table of a new layer is in both, and so is one that was filled outside the scope, or loaded from a file."""
    assert measured("RowWiseAdamW")["filled"] == 0
    assert measured("files") == 0


def test_combination_from_a_file(measured):
    """A saved model of two replicas comes back."""
    assert measured("combined")["loaded"] == 0


def test_accumulated_gradients_are_refused(measured):
    """When training begins, with the number of replicas."""
    name, message = measured("refused")
    assert name == "ScheduleError" and "Adam(gradient_accumulation_steps=2) on 2 replicas (model 'tiny')" in message


@pytest.mark.stock_keras
def test_stock_keras_cannot_accumulate_gradients_on_several_replicas(measured):
    """Its train step fails without any schedule."""
    assert measured("stock")[0] == "RuntimeError"
