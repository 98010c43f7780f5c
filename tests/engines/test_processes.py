"""Pools of processes of one machine: runs to the bit, and a worker that is killed."""

import contextlib
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import pytest

from embkeras.errors import RunFailedError
from tests.engines import experiment
from tests.variants import variants

pytest.importorskip("cloudpickle", reason="cloudpickle is not installed (extra parallel)")


@contextlib.contextmanager
def pool(kind):
    """One worker, which is gone at the end."""
    if kind == "spawn":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            yield executor
    else:
        loky = pytest.importorskip("loky", reason="loky is not installed")
        executor = loky.ProcessPoolExecutor(1)
        try:
            yield executor
        finally:
            executor.shutdown(kill_workers=True)


@pytest.mark.parametrize("kind", variants(["spawn", "loky"], always=["spawn"]))
def test_worker_that_is_killed(kind, tmp_path):
    """The error has the run that had ended, from which a new pool continues; both are those of one process."""
    wanted = experiment.compared(experiment.model_maker(tmp_path))
    deadly, ended = experiment.model_maker(tmp_path, deadly=True), []
    with (
        pool(kind) as executor,
        pytest.raises(RunFailedError, match=r"(?s)'fine-tuned', seed 3 failed: .*Finished runs: 1") as died,
    ):
        experiment.compared(deadly, executor=executor, on_run=ended.append)
    assert [run.strategy for run in ended] == ["frozen"] and died.value.runs == tuple(ended)
    with pool(kind) as executor:
        runs = experiment.compared(deadly, executor=executor, done=died.value.runs, on_run=ended.append)
    assert [run.strategy for run in ended] == ["frozen", "fine-tuned"]
    experiment.check_same(runs, wanted)
    assert {run.threads for run in runs} == {1} and "TF_NUM_INTRAOP_THREADS" not in os.environ


@pytest.mark.thorough
def test_race_and_learning_curve(tmp_path):
    """In two processes their records are those of one."""
    build_model = experiment.model_maker(tmp_path)
    wanted, _ = experiment.raced_and_curved(build_model)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        found, threads = experiment.raced_and_curved(build_model, executor=executor)
    assert threads == {1}
    for table, other in zip(found, wanted, strict=True):
        pd.testing.assert_frame_equal(table, other)
