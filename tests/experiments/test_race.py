"""race_strategies: rounds, the final round, time, results in a file, executors, and runs that fail."""

import json
import math
import pickle
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest

from embkeras import Strategy
from embkeras.errors import ArgumentError, ResumeError
from embkeras.experiments import race
from embkeras.experiments.data import Data
from embkeras.experiments.race import Job, race_strategies, train_once
from embkeras.experiments.results import MEASURES, Record
from tests import tiny

MANY = (np.tile(tiny.IDS, (8, 1)), np.tile(tiny.LABELS, 8))  # no fewer than 50
DATA = Data(MANY, (tiny.IDS[:4], tiny.LABELS[:4]), (tiny.IDS[4:], tiny.LABELS[4:]))
TRUTH = {"frozen": 0.85, "fine-tuned": 0.85, "shared map": 0.84, "phased": 0.81, "random": 0.4}
COST = {"frozen": 1, "fine-tuned": 100, "shared map": 100, "phased": 100, "random": 100}


def simulated(job, truth=TRUTH, texts=1000):
    """A run of a strategy of known accuracy, which varies by one point from seed to seed."""
    name = job.strategy.name
    rng = np.random.default_rng([job.seed, job.fold, sorted(truth).index(name)])
    skill = truth[name] + rng.normal(0, 0.01)
    test, validation = rng.random(texts) < skill, rng.random(texts) < skill
    measures = dict.fromkeys(MEASURES, 1.0) | {"accuracy": test.mean(), "validation_accuracy": validation.mean()}
    measures |= {"trainable_parameters": COST[name], "unseen_accuracy": math.nan}
    return Record(name, job.seed, job.fold, test, validation, measures)


@pytest.fixture
def trained(monkeypatch):
    """What was trained: the keys of the jobs, in order."""
    seen = []

    def fake(job):
        seen.append(job.key)
        return simulated(job)

    monkeypatch.setattr(race, "train_once", fake)
    return seen


def start(*, data=DATA, **arguments):
    """A race of all five."""
    return race_strategies(
        lambda _: None, data, **{"strategies": list(TRUTH), "most_finalists": 3, "verbose": False, **arguments}
    )


def test_those_behind_leave_and_the_final_round_has_its_own_seeds(trained):
    """Random at once, phased since half go on; then the others from the seeds asked for, and only those count."""
    advice = start(seeds=[3, 0], most_finalists=2)
    by_seed = {seed: [name for name, each, _ in trained if each == seed] for seed in (1, 2, 3, 0)}
    assert list(dict.fromkeys(seed for _, seed, _ in trained)) == [1, 2, 3, 0]
    assert by_seed[1] == list(TRUTH) and by_seed[2] == list(TRUTH)[:3]
    assert by_seed[3] == by_seed[0] and len(by_seed[0]) == 2 and "frozen" in by_seed[0]
    assert {record.seed for record in advice.final} == {0, 3} and len(advice.racing) == 8
    assert advice.left["random"].startswith("round 1: 4") and advice.left["random"].endswith(" points behind")
    assert advice.left["phased"] == "round 1: not among the 3 that go on" and len(advice.left) == 3
    assert advice.table.index[-1] == "random" and math.isnan(advice.table.loc["random", "half_width"])
    assert advice.table.loc["frozen", "seeds"] == 2


def test_a_tie_goes_to_the_cheapest(trained):
    """Three are as good as one another; the frozen one trains the fewest parameters."""
    advice = start(seeds=4)
    assert set(advice.tied) == {"frozen", "fine-tuned", "shared map"} and advice.recommended == "frozen"
    assert "A tie" in advice.text and "could have shown a difference of" in str(advice)


def test_few_labels_put_the_strategies_for_them_first(trained):
    """Below 50 training texts they run first, and a tie goes to them, however cheap another is; the text says why."""
    first = [Strategy("shared map"), Strategy("fine-tuned", few_labels=True), Strategy("frozen")]
    few = Data((MANY[0][:49], MANY[1][:49]), DATA.validation, DATA.test)
    advice = start(strategies=first, seeds=3, data=few)
    assert [name for name, *_ in trained[:3]] == ["fine-tuned", "shared map", "frozen"]
    assert (
        advice.recommended == "fine-tuned"
        and "Only 49 labelled texts train. Below 50, start with fine-tuned" in advice.text
    )
    assert "the cheapest of fine-tuned, which come first where so few texts train" in advice.text
    more = start(strategies=first, seeds=12, rounds=1, data=few)
    assert {each.seed for each in more.final} == set(range(12))
    many = start(strategies=first, seeds=3, data=Data((MANY[0][:50], MANY[1][:50]), DATA.validation, DATA.test))
    assert many.recommended == "frozen" and "Only" not in many.text and many.labelled == 50


def test_at_most_so_many_reach_the_final_round(trained):
    """The leader and the cheapest stay; the advice names those that left although they can't be told apart from them."""
    advice = start(seeds=2, rounds=1, most_finalists=2)
    assert len(advice.leads) == 1 and "frozen" in [*advice.leads.index, advice.table.index[0]]
    assert sum(why == "round 1: not among the 2 that go on" for why in advice.left.values()) == 2


def test_drift_is_measured_of_the_layers_that_any_strategy_names(monkeypatch):
    """So that all strategies are measured alike."""
    asked = []
    monkeypatch.setattr(race, "train_once", lambda job: asked.append(job.layers) or simulated(job))
    start(strategies=[Strategy("frozen", freeze="low"), Strategy("random", freeze="high")], seeds=2)
    assert set(asked) == {("low", "high")}


def test_without_rounds_all_are_trained_from_all_seeds(trained):
    """The full grid."""
    advice = start(seeds=2, rounds=0)
    assert len(trained) == 10 and not advice.left and len(advice.final) == 10


def test_the_final_round_ends_when_its_recommendation_is_settled(trained, capsys):
    """After fewer seeds, with the recommendation of all of them; an executor changes nothing."""
    early = start(seeds=12, most_finalists=2, verbose=True)
    final = [seed for _, seed, _ in trained if seed < 12]
    assert set(early.left) == {"random", "phased", "shared map"} and 6 <= len(final) == len(early.final) < 24
    note = f"The final round ended after {len(final) // 2} of 12 seeds"
    assert note in early.text and note in capsys.readouterr().out
    whole = start(seeds=12, most_finalists=2, stop_early=False)
    assert len(whole.final) == 24 and not whole.note and whole.recommended == early.recommended == "frozen"
    with ThreadPoolExecutor(2) as executor:
        assert str(start(seeds=12, most_finalists=2, executor=executor)) == str(early)
    assert len(start(seeds=4, rounds=0).final) == 20


def test_folds(trained):
    """A round trains on one fold, the final round on each; every fold tests other texts."""
    data = Data(*[(tiny.IDS, tiny.LABELS)] * 3)
    advice = start(data=data, seeds=2, folds=4, most_finalists=2, strategies=["frozen", "fine-tuned", "random"])
    assert [key[1:] for key in trained[:3]] == [(2, 0)] * 3
    assert {key[1:] for key in trained[3:]} - {(3, 1)} == {(seed, fold) for seed in (0, 1) for fold in range(4)}
    assert advice.folds == 4 and 0.8 < advice.reported.mean < 0.9 and "each fold" in advice.text


def test_a_killed_race_continues(trained, tmp_path, monkeypatch):
    """From the middle of a record; the answer is that of an unbroken race, and nothing is trained twice."""
    path, whole = tmp_path / "results.jsonl", start(seeds=3)
    keys = list(trained)
    trained.clear()
    real = race.train_once

    def dying(job):
        if len(trained) == 7:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(race, "train_once", dying)
    with pytest.raises(KeyboardInterrupt):
        start(seeds=3, results=path)
    with path.open("ab") as file:
        file.write(b'{"strategy": "frozen", "se')
    trained.clear()
    monkeypatch.setattr(race, "train_once", real)
    reported = []
    again = start(seeds=3, results=path, on_record=reported.append)
    assert trained == keys[7:] and len(reported) == len(keys)
    assert str(again) == str(whole) and len(path.read_text().splitlines()) == len(keys)
    trained.clear()
    assert str(start(seeds=3, results=path)) == str(whole) and not trained


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": Data(DATA.train, DATA.validation, (tiny.IDS[3:], tiny.LABELS[3:]))}, "line 1 belongs to other data"),
        ({"epochs": 9}, "line 1 belongs to other epochs"),
        (
            {"strategies": [Strategy("frozen", learning_rate=0.5)]},
            "line 1 is of another strategy 'frozen': its learning_rate differ",
        ),
    ],
    ids=["data", "settings", "strategy"],
)
def test_records_of_something_else_are_refused(trained, tmp_path, arguments, message):
    """With the line and what differs."""
    start(seeds=1, strategies=["frozen"], results=tmp_path / "r", epochs=2)
    trained.clear()
    with pytest.raises(ResumeError, match=message):
        start(**{"seeds": 1, "strategies": ["frozen"], "results": tmp_path / "r", "epochs": 2, **arguments})
    assert not trained


def seconds(record, took):
    """The record of a longer training."""
    return replace(record, measures={**record.measures, "seconds": took})


def test_time_is_up(trained, monkeypatch):
    """Half of it is left to the final round, of which only whole seeds count."""
    now = [0.0]
    monkeypatch.setattr(race.time, "monotonic", lambda: now[0])
    real = race.train_once

    def slow(job):
        now[0] += 60
        return real(job)

    monkeypatch.setattr(race, "train_once", slow)
    advice = start(seeds=20, max_minutes=14, most_finalists=2)
    assert len(trained) == 14 and len(advice.racing) == 7
    assert "up after 14 minutes: 6 of 60 runs" in advice.text and len(advice.final) == 6
    monkeypatch.setattr(race, "train_once", lambda job: seconds(slow(job), 60.0))
    now[0] = 0.0
    few = start(seeds=8, max_minutes=25, stop_early=False)
    assert few.left["shared map"] == "round 1: no time for it in the final round"
    assert len(few.final) == 16 and not few.note
    now[0] = 0.0
    short = start(seeds=5, max_minutes=0.5)
    assert short.recommended is None and "nothing is recommended" in str(short)
    json.dumps(short.to_dict(), allow_nan=False)


@pytest.mark.parametrize("workers", [None, 2])
def test_a_run_that_fails(trained, tmp_path, monkeypatch, workers):
    """The error has its strategy and seed, and what was finished is in the file."""
    real = race.train_once

    def failing(job):
        if job.key == ("fine-tuned", 1, 0):
            raise RuntimeError("no such layer")
        return real(job)

    monkeypatch.setattr(race, "train_once", failing)
    path = tmp_path / "results.jsonl"
    executor = workers and ThreadPoolExecutor(workers)
    with pytest.raises(ArgumentError, match="strategy 'fine-tuned', seed 1 failed: RuntimeError: no such layer"):
        start(seeds=3, rounds=0, results=path, executor=executor)
    assert len(path.read_text().splitlines()) == len(trained) >= 6
    monkeypatch.setattr(race, "train_once", real)
    advice = start(seeds=3, rounds=0, results=path, executor=executor)
    assert len(trained) == len(set(trained)) == len(advice.final) == 15


class Stalled(Executor):
    """Its first run fails, and the others never begin."""

    def __init__(self):
        self.futures = []

    def submit(self, call, *arguments):
        """A future."""
        self.futures.append(Future())
        if len(self.futures) == 1:
            self.futures[0].set_exception(RuntimeError("out of memory"))
        return self.futures[-1]


def test_runs_that_have_not_begun_are_cancelled():
    """When one fails; else the race would wait for all of them."""
    executor = Stalled()
    with pytest.raises(ArgumentError, match="strategy 'frozen', seed 0 failed: RuntimeError: out of memory"):
        race_strategies(tiny.model, DATA, strategies=list(TRUTH), rounds=0, executor=executor, verbose=False)
    assert [future.cancelled() for future in executor.futures] == [False] + [True] * 24


def test_an_executor_answers_as_no_executor(trained):
    """Whatever the order in which runs end."""
    with ThreadPoolExecutor(3) as executor:
        assert str(start(executor=executor)) == str(start())


def test_a_strategy_that_diverges_leaves(monkeypatch):
    """And is named; another one that diverges in the final round too."""

    def fake(job):
        record = simulated(job)
        late = job.strategy.name == "fine-tuned" and job.seed == 0
        wrong = job.strategy.name == "shared map" or late
        return Record(*record.key, record.test & ~wrong, record.validation & ~wrong, record.measures, bool(wrong))

    monkeypatch.setattr(race, "train_once", fake)
    advice = start(seeds=2, strategies=["frozen", "fine-tuned", "shared map"])
    assert advice.left == {"shared map": "round 1: diverged"}
    assert "Some runs diverged (scores that are no numbers): fine-tuned, shared map." in advice.text


def test_it_says_what_happens(trained, capsys):
    """A line for each round and run, and for who leaves."""
    start(seeds=1, verbose=True, strategies=["frozen", "shared map", "random"])
    printed = capsys.readouterr().out
    assert "Round 1: frozen, shared map, random\n  frozen, seed 1: validation 8" in printed
    assert "random leaves the race: round 1: 4" in printed and "Final round: frozen, shared map; 2 runs" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, r"Received: .*, \[\]"),
        ({"seeds": 10**30}, "seeds must be at most 10,000.* Received: 1000"),
        ({"callbacks": []}, r"callbacks must be a function. Received: \[\]"),
        ({"on_record": 3}, "on_record must be a function. Received: 3"),
        ({"layer": np.array("x")}, "layer must name layers.* Received: array"),
        ({"seeds": [-1]}, "Received: -1"),
        ({"folds": 2}, "folds must be an integer >= 3. Received: 2"),
        ({"folds": 60}, "60 folds need at least 120 examples. Received: 108"),
        ({"rounds": -1}, "rounds .* Received: -1"),
        ({"most_finalists": 1}, "most_finalists .* Received: 1"),
        ({"stop_early": 2}, "stop_early .* Received: 2"),
        ({"max_minutes": 0}, "max_minutes .* Received: 0"),
        ({"executor": 3}, "executor .* Received: 3"),
        ({"verbose": 2}, "verbose .* Received: 2"),
        ({"epoch": 2}, "Received: epoch"),
        ({"data": Data(DATA.train, (tiny.IDS, np.eye(3)[tiny.LABELS]), DATA.test)}, r"(?s)validation part.*\(12, 3\)"),
    ],
)
def test_refused_before_anything_runs(trained, arguments, message):
    """With what was received."""
    with pytest.raises(ArgumentError, match=message):
        start(**arguments)
    assert not trained


def build(strategy):
    """The tiny model."""
    return tiny.model(keras.optimizers.SGD(1e30 if strategy.name == "wild" else 0.5), trainable=True, run_eagerly=True)


def test_a_real_run():
    """Its figures are those of the model, a training that diverges is never right, and the job can be pickled."""
    job = Job(build, DATA, Strategy("tuned"), 3, fit={"epochs": 1})
    record = train_once(pickle.loads(pickle.dumps(job)))
    assert record.key == ("tuned", 3, 0) and record.test.shape == (8,) and record.validation.shape == (4,)
    measured = record.measures
    assert measured["accuracy"] == record.test.mean() and measured["epochs"] == 1 and not record.diverged
    assert measured["parameters"] == measured["trainable_parameters"] == 55 and measured["stored_bytes"] == 220
    assert measured["drift"] > 0
    assert 0 <= measured["calibration_error"] <= 1 and math.isnan(measured["unseen_accuracy"])
    wild = train_once(Job(build, DATA, Strategy("wild"), 0, fit={"epochs": 1}))
    assert wild.diverged and not wild.test.any() and math.isnan(wild.measures["calibration_error"])
