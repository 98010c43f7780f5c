"""Forms of tables under MirroredStrategy: two replicas on logical CPUs against one."""

import pytest

from tests import mirroring

RUNS = [
    "int8, thawed",
    "quantized",
    "LoRA",
    "combined",
    "unfreeze_rows",
    "change_vocabulary",
    "change_vocabulary of LoRA",
]


@pytest.fixture(scope="module")
def measured():
    """What the script found, in one process for all tests."""
    return mirroring.found_by("tests.tables.mirrored")


@pytest.mark.parametrize("name", RUNS)
def test_two_replicas_equal_one(name, measured):
    """Weights and table are those of one replica, both replicas have the same values, and the table moved."""
    run = measured[name]
    assert "error" not in run, run
    assert run["apart"] <= 1e-6 and run["matrix"] <= 1e-6 and run["replicas"] == 0 and run["moved"] > 1e-3


def test_every_run_of_the_script_is_looked_at(measured):
    """The runs named here are those of the script."""
    assert sorted(measured) == sorted(RUNS)
