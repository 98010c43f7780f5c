"""learning_curve: growing shares, where training pays, what more texts buy, and what is refused before training."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.experiments import race
from embkeras.experiments.curves import LearningCurve, learning_curve
from embkeras.experiments.data import Data
from embkeras.experiments.race import race_strategies
from embkeras.experiments.results import MEASURES, Record
from embkeras.experiments.runs import Run
from embkeras.experiments.strategies import Strategy
from tests import tiny

IDS, LABELS = np.arange(800).reshape(400, 2), np.arange(400) % 2
DATA = Data((IDS, LABELS), (IDS[:120], LABELS[:120]), (IDS[:4], LABELS[:4]))


def _run(strategy, seed, right, of=4):
    return Run(strategy, seed, np.ones(of, int), (np.arange(of) < right).astype(int), 1.0, {})


@pytest.fixture
def trained(monkeypatch):
    """What was trained: strategy, seed, numbers of training and validation examples, the first ids."""
    seen = []

    def fake(job):
        data, name = job.data.some(job.share, job.seed), job.strategy.name
        seen.append((name, job.seed, len(data.train[1]), len(data.validation[1]), data.train[0][:, 0].tolist()))
        right = np.ones(len(data.labels), bool)
        return Record(name, job.seed, 0, right, right, dict.fromkeys(MEASURES, 1.0), share=job.share)

    monkeypatch.setattr(race, "train_once", fake)
    return seen


def build(strategy):
    """The tiny model."""
    return tiny.model("sgd")


def test_each_share_is_drawn_for_each_seed(trained):
    """Shares grow, the larger contains the smaller, seeds draw their own, and few examples never validate."""
    curve = learning_curve(build, DATA, strategies=["frozen"], shares=[1, 0.1, 0.5], seeds=2)
    assert [each[:4] for each in trained] == [
        ("frozen", seed, count, checked) for seed in (0, 1) for count, checked in ((40, 50), (200, 60), (400, 120))
    ]
    small, half, _, other = (set(each[4]) for each in trained[:4])
    assert small < half and small != other
    assert curve.texts == (40, 200, 400) * 2


def test_labels_stay_with_their_texts():
    """The drawn ids have the labels that they had."""
    some = DATA.some(0.25, 3)
    assert (some.train[1] == some.train[0][:, 0] // 2 % 2).all() and some.test is DATA.test


def test_runs_on_all_examples_are_not_repeated(trained):
    """Those of an earlier comparison on the same test part."""
    ready = Run("frozen", 0, DATA.labels, 1 - DATA.labels, 1.0, {}, model="large")
    curve = learning_curve(build, DATA, strategies=["frozen"], shares=[0.5, 1], seeds=2, done=[ready])
    assert [each[1:3] for each in trained] == [(0, 200), (1, 200), (1, 400)]
    assert [run.accuracy for run in curve.runs] == [1, 0, 1, 1] and curve.runs[1].model is None


def test_table_by_hand():
    """Means over seeds with 95% intervals; the strategies in the order of the runs, the texts rising."""
    runs = [_run("b", 0, 4), _run("a", 0, 1), _run("b", 0, 1), _run("b", 1, 3)]
    table = LearningCurve((20, 20, 10, 10), tuple(runs)).table
    assert table[["strategy", "texts", "seeds"]].values.tolist() == [["b", 10, 2], ["b", 20, 1], ["a", 20, 1]]
    assert table["accuracy"].tolist() == [0.5, 1, 0.25]
    assert table["half_width"].tolist() == [pytest.approx(12.706 * 0.25, rel=1e-4), math.inf, math.inf]


def test_printed():
    """A column for each strategy; the half width only where several seeds have one."""
    curve = LearningCurve((10, 10, 20), (_run("map", 0, 4, 5), _run("map", 1, 4, 5), _run("map", 0, 5)))
    lines = [line.split() for line in str(curve).splitlines()]
    assert lines[1:3] == [["10", "80.0", "±", "0.0"], ["20", "100.0"]]
    assert str(curve).endswith("there are 2 and 3.") and len(lines) == 4


def test_a_real_training():
    """A model is trained on the share and tested on the test part."""
    data = Data((tiny.IDS, tiny.LABELS), (tiny.IDS, tiny.LABELS), (tiny.IDS[4:], tiny.LABELS[4:]))
    curve = learning_curve(build, data, strategies=["frozen"], shares=[0.5], seeds=1, epochs=1)
    assert curve.texts == (6,) and curve.runs[0].correct.shape == (8,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": []}, r"shares .*Received: \[\]"),
        ({"shares": [0.5, 0.5]}, r"each once\. Received: \[0\.5, 0\.5\]"),
        ({"shares": [0]}, "shares .*Received: 0"),
        ({"shares": [0.5, 1.5]}, "share must be at most 1. Received: 1.5"),
        ({"seeds": 0}, r"Received: \['frozen'\], \[\]"),
        ({"done": [3]}, "done must contain runs with these test labels.* Received: 3"),
        (
            {"done": [Run("frozen", 1, 1 - DATA.labels, DATA.labels, 1.0, {})]},
            "done must contain runs with these test labels",
        ),
        ({"done": 3}, "done must be a sequence.* Received: 3"),
        ({"seeds": [-1]}, "seed .*Received: -1"),
        ({"strategies": []}, r"Received: \[\], \[0"),
        (
            {"data": [tf.data.Dataset.from_tensors((IDS, LABELS)), DATA.validation, DATA.test]},
            r"not from a dataset.*data\.train",
        ),
    ],
)
def test_refused_before_training(trained, arguments, message):
    """With what was received."""
    arguments = {"strategies": [Strategy("frozen")], "data": DATA, **arguments}
    with pytest.raises(ArgumentError, match=message):
        learning_curve(build, arguments.pop("data"), **arguments)
    assert not trained


def test_a_builder_that_is_no_function():
    """Refused before anything is trained."""
    with pytest.raises(ArgumentError, match=r"build_model must be a function .*Received: 3"):
        learning_curve(3, DATA, strategies=["frozen"], shares=[1], seeds=1)


def test_a_seed_that_draws_nothing():
    """Below 0."""
    with pytest.raises(ArgumentError, match=r"seed .*Received: -1"):
        DATA.some(0.5, -1)


def curve_of(*, frozen, tuned, counts=(100, 200, 400, 800), texts=2000, noise=0.002):
    """A curve of two strategies from three seeds, whose accuracies are functions of the number of texts."""
    rng, sizes, runs = np.random.default_rng(0), [], []
    for seed in range(3):
        for count in counts:
            draws = rng.random(texts)  # a text that is hard for one is hard for the other
            for name, truth in (("frozen", frozen), ("tuned", tuned)):
                right = draws < truth(count) + rng.normal(0, noise)
                sizes.append(count)
                runs.append(Record(name, seed, 0, right, right, dict.fromkeys(MEASURES, 0.5), share=count / counts[-1]))
    return LearningCurve(tuple(sizes), tuple(runs))


def test_where_training_begins_to_pay():
    """Behind with few texts, ahead with many: from the number on at which it is ahead there and at all larger ones."""
    curve = curve_of(frozen=lambda n: 0.8, tuned=lambda n: 0.7 if n < 300 else 0.9)
    assert curve.pays_from("tuned") == 400
    assert "tuned begins to pay between 200 and 400 texts: from there on it is ahead of frozen" in curve.text
    gains = curve.gains.set_index("texts")
    assert gains.index.tolist() == [800, 400, 200, 100] and gains["significant"].tolist() == [True, True, False, False]
    assert gains.loc[800, "difference"] == pytest.approx(0.1, abs=0.01) and 0 < gains.loc[800, "half_width"] < 0.02
    early = curve_of(frozen=lambda n: 0.8, tuned=lambda n: 0.9)
    assert early.pays_from("tuned") == 100 and "begins to pay with 100 texts or fewer" in early.text


def test_gains_are_corrected_for_the_number_of_strategies():
    """And are those of the seeds that both have."""
    curve = curve_of(frozen=lambda n: 0.8, tuned=lambda n: 0.82, noise=0.01)
    third = [(count, replace(run, strategy="third")) for count, run in zip(curve.texts, curve.runs, strict=True)]
    third = [(count, run) for count, run in third[1::2] if run.seed != 1]
    more = LearningCurve((*curve.texts, *(each for each, _ in third)), (*curve.runs, *(run for _, run in third)))
    two, three = (each.gains[each.gains["strategy"] == "tuned"]["p_value"].to_numpy() for each in (curve, more))
    np.testing.assert_allclose(three, np.minimum(2 * two, 1))
    without = LearningCurve(curve.texts[2:], curve.runs[2:])  # the first seed has no runs on the fewest texts
    lacking = LearningCurve(curve.texts[1:], curve.runs[1:])  # the first strategy alone has none
    assert lacking.gains["strategy"].unique().tolist() == ["frozen"] and len(without.gains) == len(lacking.gains) == 4
    pd.testing.assert_frame_equal(
        lacking.gains[["texts", "half_width"]], without.gains[["texts", "half_width"]], check_exact=False
    )


def test_a_lead_that_is_lost_again_does_not_pay():
    """Ahead with few texts alone; and what is behind, or level, is said so."""
    curve = curve_of(frozen=lambda n: 0.8, tuned=lambda n: 0.9 if n < 300 else 0.7)
    assert curve.pays_from("tuned") is None and "tuned does not pay: it is behind frozen at 800 texts (-1" in curve.text
    level = curve_of(frozen=lambda n: 0.8, tuned=lambda n: 0.8, noise=0.01)
    assert level.pays_from("tuned") is None and "tuned can't be told apart from frozen at 800 texts" in level.text


def test_a_seed_that_the_first_strategy_lacks_is_left_out():
    """Where the time was up before it trained: gains are those of the seeds that both have."""
    runs = [("frozen", 0, 2), ("tuned", 0, 3), ("frozen", 1, 2), ("tuned", 1, 3), ("tuned", 2, 4)]
    made = [_run(strategy, seed, right) for strategy, seed, right in runs]
    whole, cut = LearningCurve((8,) * 5, tuple(made)), LearningCurve((8,) * 4, tuple(made[:4]))
    pd.testing.assert_frame_equal(whole.gains, cut.gains)


def test_with_one_seed_nothing_is_said_to_pay():
    """Its noise is unknown."""
    curve = LearningCurve((10, 10, 10), (_run("frozen", 0, 1), _run("tuned", 0, 4), _run("map", 0, 4)))
    assert curve.text.startswith("With one seed the noise is unknown, so tuned or map isn't called ahead of frozen.")
    assert "would buy a point with frozen or tuned or map: " in curve.text
    assert curve.pays_from("tuned") is None


def test_what_more_labels_would_buy():
    """A number with an interval where the curve rises evenly; none where it is flat. As JSON values too."""
    curve = curve_of(
        frozen=lambda n: 0.8, tuned=lambda n: 0.95 - 2.5 / n**0.5, counts=(100, 200, 400, 800, 1600), texts=200_000
    )
    found = curve.more_texts("tuned")
    truth = (2.5 / (2.5 / 1600**0.5 - 0.01)) ** 2 - 1600
    assert found.low < found.texts < found.high and found.texts == pytest.approx(truth, rel=0.3)
    assert "Another point with tuned would take about" in curve.text
    assert "The data can't tell how many more labelled texts would buy a point with frozen" in curve.text
    saved = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    assert saved["more_texts"]["tuned"]["texts"] == found.texts and saved["more_texts"]["frozen"]["texts"] is None
    assert saved["pays_from"] == {"tuned": curve.pays_from("tuned")} and len(saved["table"]) == 10


def test_more_texts_of_a_strategy_without_runs():
    """With those that there are."""
    curve = curve_of(frozen=lambda n: 0.8, tuned=lambda n: 0.8)
    with pytest.raises(ArgumentError, match=r"no runs of 'x'\. It has frozen, tuned"):
        curve.more_texts("x")
    with pytest.raises(ArgumentError, match=r"points .*Received: 0"):
        curve.more_texts("tuned", 0)


def test_a_killed_curve_continues_and_shares_the_file_of_a_race(trained, tmp_path, monkeypatch):
    """Runs on all texts count for both; no run is repeated."""
    data, path = Data((IDS, LABELS), (IDS[:120], LABELS[:120]), (IDS[:4], LABELS[:4])), tmp_path / "r.jsonl"
    race_strategies(build, data, strategies=["frozen", "fine-tuned"], seeds=2, results=path, verbose=False, epochs=3)
    assert len(trained) == 4
    how = {"strategies": ["frozen"], "shares": [0.25, 1], "results": path, "epochs": 3}
    real, calls = race.train_once, []

    def dying(job):
        if calls:
            raise KeyboardInterrupt
        calls.append(job)
        return real(job)

    monkeypatch.setattr(race, "train_once", dying)
    with pytest.raises(KeyboardInterrupt):
        learning_curve(build, data, seeds=3, **how)
    monkeypatch.setattr(race, "train_once", real)
    curve = learning_curve(build, data, seeds=3, **how)
    assert [each[:3] for each in trained[4:]] == [
        ("frozen", 0, 100), ("frozen", 1, 100), ("frozen", 2, 100), ("frozen", 2, 400)
    ]  # fmt: skip
    assert curve.texts == (100, 400) * 3
    learning_curve(build, data, seeds=3, **how)
    assert len(trained) == 8


def test_no_time(trained):
    """What is done is shown, and that the time was up."""
    curve = learning_curve(build, DATA, strategies=["frozen"], shares=[0.5], seeds=2, max_minutes=1e-9)
    assert not trained and curve.text.startswith("The time was up") and "0 of 2 runs count" in str(curve)
    assert curve.table.empty and curve.to_dict()["table"] == []
