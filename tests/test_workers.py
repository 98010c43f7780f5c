"""Several workers of tf.distribute, as processes on this machine, against one process over the joined batches."""

import json
import signal

import pytest

from tests.processes import run_workers
from tests.variants import variants
from tests.workers import RUNS

ALWAYS = ["unfreeze_at, patience, validation"]
THREE = ["unfreeze_at, patience, validation", "pipeline", "LSTM", "oov"]  # on three workers
RARELY = [name for name in RUNS if name not in ALWAYS]
PROCESSES = [[*ALWAYS, "stock", "refused"], RARELY]  # one start of TensorFlow on two workers each, in half a minute


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measures a name on each worker, with all others of its processes."""
    known, folder = {}, tmp_path_factory.mktemp("workers")

    def measure(name):
        if name not in known:
            names = next(each for each in PROCESSES if name in each)
            done = [json.loads(text.splitlines()[-1]) for text in _run(folder, *names)]
            known.update({each: [one[each] for one in done] for each in names})
        return known[name]

    return measure


def _run(folder, *names, **expected):
    return run_workers("-m", "tests.workers", folder, *names, timeout=290, **expected)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Some runs on three workers."""
    done = [json.loads(text.splitlines()[-1]) for text in _run(tmp_path_factory.mktemp("three"), *THREE, count=3)]
    return {name: [one[name] for one in done] for name in THREE}


def check_runs(name, runs):
    """Weights and predictions are those of one process, all workers have the same bits, and the table moved."""
    assert not any("error" in run for run in runs), runs
    assert len({run["bits"] for run in runs}) == 1 and all(run["moved"] > 1e-3 for run in runs), runs
    one = next(run for run in runs if "apart" in run)
    assert one["apart"] <= 1e-6 and one["predicted"] <= 1e-6, one
    # Keras weighs a loss over masked tokens by rows when it logs it, also in one process.
    assert name == "masked tokens" or one["logs"] <= 1e-6, one


@pytest.mark.parametrize("name", variants(RUNS, always=ALWAYS))
def test_workers_equal_one_process(name, measured):
    """Weights and predictions are those of one process, all workers have the same bits, and the table moved."""
    check_runs(name, measured(name))


@pytest.mark.thorough
@pytest.mark.parametrize("name", THREE)
def test_three_workers_equal_one_process(name, three):
    """None of whose batches of 8 can be divided by three, and one of which leaves two workers without a row."""
    check_runs(name, three[name])


def test_patience_ends_on_all_workers(measured):
    """Before the last epoch."""
    assert [run["epochs"] for run in measured("unfreeze_at, patience, validation")] == [3, 3]


@pytest.mark.stock_keras
def test_both_causes_in_stock_keras(measured):
    """A batch reduced into a PerReplica, and a mean along an axis that a scalar lacks; each alone ends `fit`."""
    for reduced, scalar in measured("stock"):
        assert reduced[0] == "ValueError" and "PerReplica" in reduced[1], reduced
        assert scalar[0] == "ValueError" and "Invalid reduction dimension 0" in scalar[1], scalar


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model", "TF_CONFIG names 2 workers, but model 'tiny' was made outside the scope"),
        ("optimizer", "The optimizer must be made inside `with strategy.scope():`"),
        ("layer", "Received: variable 'outside/embeddings' of model 'tiny'"),
        ("weights", "The workers don't have the weights in common"),
        ("data", "batches in an epoch in common. Pass all the data to every worker"),
        ("epochs", "the number of epochs in common. Pass the same arguments to fit on every worker. Received: 1, 2."),
        ("seed", "the random seed of the shuffle in common. Call keras.utils.set_random_seed"),
        ("no seed", "Received: no seed."),
    ],
)
def test_refused_by_all_workers(name, expected, measured):
    """Before a step, with what was received; no worker waits for another."""
    for worker in measured("refused"):
        assert worker[name][0] == "DistributionError" and expected in worker[name][1], worker[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["first killed", "second killed"])
def test_a_killed_worker(name, tmp_path):
    """The survivor says what to do and ends; started again, all workers have the bits of an uninterrupted run."""
    (whole,) = {json.loads(text.splitlines()[-1])["resumed"]["weights"] for text in _run(tmp_path / "whole", "resumed")}
    killed = 0 if name == "first killed" else 1
    codes = [None, None]
    codes[killed] = -signal.SIGKILL
    texts = _run(tmp_path, name, returncodes=codes)
    problem = json.loads(texts[1 - killed].splitlines()[-1])[name]["problem"]
    assert problem[0] == "DistributionError" and "Start the script again on all workers" in problem[1]
    again = [json.loads(text.splitlines()[-1])["resumed"] for text in _run(tmp_path, "resumed")]
    assert [(run["problem"], run["weights"], run["epochs"]) for run in again] == [(None, whole, [0, 1, 2, 3])] * 2
