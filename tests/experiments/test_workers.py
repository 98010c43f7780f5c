"""Runs through an executor: their order, what travels, and runs that fail. tests/engines has real engines."""

import pickle
import sys
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from keras import optimizers

from embkeras import Strategy
from embkeras.errors import ArgumentError, MissingDependencyError, RunFailedError
from embkeras.experiments import runs as module
from embkeras.experiments import workers
from embkeras.experiments.curves import learning_curve
from embkeras.experiments.data import Data
from embkeras.experiments.race import race_strategies
from embkeras.experiments.runs import Run, compare_strategies
from tests import tiny

PART = (tiny.IDS, tiny.LABELS)
DATA = Data(PART, PART, PART)
KEYS = [(name, seed) for seed in range(3) for name in ("a", "b")]


class Elsewhere(Executor):
    """What another process would receive and return, in this one; it begins once all are submitted, with the last."""

    def __init__(self):
        self.calls, self.travelled, self.threads = [], 0, []

    def submit(self, call, *arguments):
        """Pickle the call, as a process would; the last of `count` starts them all."""
        self.threads.append(arguments[-1])
        self.calls.append((pickle.dumps((call, arguments)), Future()))
        if len(self.calls) == self.count:
            threading.Thread(target=self._work).start()
        return self.calls[-1][1]

    def _work(self):
        for pickled, future in reversed(self.calls):
            if not future.set_running_or_notify_cancel():
                continue
            call, arguments = pickle.loads(pickled)
            try:
                answer = pickle.dumps(call(*arguments))
            except Exception as error:
                future.set_exception(pickle.loads(pickle.dumps(error)))
            else:
                self.travelled += len(answer)
                future.set_result(pickle.loads(answer))


@pytest.fixture
def elsewhere(monkeypatch):
    """An executor for a number of runs; TensorFlow's threads stay."""
    asked = []
    monkeypatch.setattr(workers, "limit_threads", asked.append)

    def made(count=6):
        executor = Elsewhere()
        executor.count, executor.asked = count, asked
        return executor

    return made


def fake(job, *callbacks, wrong=None):
    """A run without a training."""
    if (job.strategy.name, job.seed) == wrong:
        raise RuntimeError("out of memory")
    classes = np.full(12, job.seed)
    return Run(job.strategy.name, job.seed, tiny.LABELS, classes, 1.0, {}, model=job.build_model(job.strategy))


def start(executor=None, **arguments):
    """Six runs, with a closure."""
    table = np.ones(3)
    built = {
        "build_model": lambda strategy: table,
        "strategies": [Strategy("a"), Strategy("b")],
        "seeds": 3,
    } | arguments
    return compare_strategies(built.pop("build_model"), built.pop("data", DATA), executor=executor, **built).runs


def test_order_is_that_of_one_process(elsewhere, monkeypatch):
    """Whatever the order in which runs end; `on_run` has each once, and models stay where they are."""
    monkeypatch.setattr(module, "run_job", fake)
    executor, ended = elsewhere(), []
    runs = start(executor, on_run=ended.append, threads=2)
    assert [(run.strategy, run.seed) for run in runs] == KEYS
    assert sorted((run.strategy, run.seed) for run in ended) == sorted(KEYS)
    assert {run.model for run in (*runs, *ended)} == {None} and executor.asked == [2] * 6
    assert [run.predicted.tolist() for run in runs] == [run.predicted.tolist() for run in start()]


@pytest.mark.parametrize("where", ["here", "threads", "elsewhere"])
def test_failed_run_leaves_the_finished_ones(elsewhere, monkeypatch, where):
    """The error has them, and names the run; `done=` trains the others. Without an executor too."""
    monkeypatch.setattr(module, "run_job", partial(fake, wrong=("b", 1)))
    executor = {"here": lambda: None, "threads": lambda: ThreadPoolExecutor(1), "elsewhere": elsewhere}[where]()
    with pytest.raises(RunFailedError, match="strategy 'b', seed 1 failed: RuntimeError: out of memory") as failed:
        start(executor)
    keys = {(run.strategy, run.seed) for run in failed.value.runs}
    assert keys <= set(KEYS) - {("b", 1)} and keys and f"Finished runs: {len(keys)};" in str(failed.value)
    monkeypatch.setattr(module, "run_job", fake)
    ended = []
    runs = start(elsewhere(6 - len(keys)), done=failed.value.runs, on_run=ended.append)
    assert {(run.strategy, run.seed) for run in ended} == set(KEYS) - keys
    assert [(run.strategy, run.seed) for run in runs] == KEYS


class Unpicklable(Exception):
    """It can't be made again from its message."""

    def __init__(self, message, lock):
        super().__init__(message)
        self.lock = lock


def test_error_that_cannot_travel(elsewhere, monkeypatch):
    """Its class and message arrive: a pool would take the failure for a worker that died."""
    assert isinstance(workers._as_it_arrives(Unpicklable("no such layer", threading.Lock())), RuntimeError)
    known = ArgumentError("wrong")
    assert workers._as_it_arrives(known) is known

    def failing(job):
        raise Unpicklable("no such layer", threading.Lock())

    monkeypatch.setattr(module, "run_alone", failing)
    with pytest.raises(RunFailedError, match="RuntimeError: Unpicklable: no such layer"):
        start(elsewhere())


def test_executor_that_was_shut_down():
    """Before the first run, and after some have ended."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RunFailedError, match="strategy 'a', seed 0 failed: RuntimeError: cannot schedule"):
        start(executor)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"build_model": partial(print, threading.Lock())}, "build_model can't travel .*lock"),
        ({"data": [PART, PART, ({"ids": tiny.IDS}, tiny.LABELS)]}, "same structure"),
        ({"on_start": partial(print, threading.Lock())}, "the callbacks can't travel"),
        ({"strategies": [Strategy("a", vectors=partial(print, threading.Lock()))]}, "strategy can't travel"),
        ({"executor": 3}, "executor must be .* Received: 3"),
        ({"threads": 0}, "threads must be .* Received: 0"),
        ({"on_run": 3}, "on_run must be a function. Received: 3"),
        ({"on_start": 3}, "on_start must be a function. Received: 3"),
    ],
)
def test_what_cannot_travel(elsewhere, part, named):
    """The part is named, before anything runs."""
    with pytest.raises(ArgumentError, match=named):
        start(**{"executor": elsewhere(), **part})


def test_closures_need_cloudpickle(elsewhere, monkeypatch):
    """A function of a module doesn't."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(MissingDependencyError, match=r"build_model is not a function .*embkeras\[parallel\]"):
        start(elsewhere())
    monkeypatch.setattr(module, "run_job", fake)
    assert len(start(elsewhere(), build_model=str)) == 6


def _build(strategy):
    return tiny.model(optimizers.SGD(0.5), trainable=strategy.embedding.get("trainable", False))


def test_race_and_curve_travel(elsewhere, tmp_path):
    """Their records are those of one process, and the number of threads is in them."""
    arguments = {"strategies": [Strategy("frozen"), Strategy("tuned", embedding={"trainable": True})], "epochs": 1}
    raced = [
        race_strategies(_build, DATA, seeds=1, verbose=False, executor=executor, **arguments)
        for executor in (None, elsewhere(2))
    ]
    tables = [each.table.drop(columns="seconds") for each in raced]
    assert tables[0].equals(tables[1]) and tables[0]["threads"].min() >= 1
    curves = [
        learning_curve(_build, DATA, seeds=1, shares=[0.5], executor=executor, **arguments)
        for executor in (None, elsewhere(2))
    ]
    assert curves[0].table.equals(curves[1].table)
