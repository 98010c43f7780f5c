"""learning_curve: growing shares of the training examples, and what is refused before training."""

import math

import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.experiments import curves
from embkeras.experiments.curves import LearningCurve, learning_curve
from embkeras.experiments.data import Data
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

    def fake(build_model, data, strategy, *, seed, callbacks, **more):
        seen.append((strategy.name, seed, len(data.train[1]), len(data.validation[1]), data.train[0][:, 0].tolist()))
        return Run(strategy.name, seed, data.labels, data.labels, 1.0, {}, model="large")

    monkeypatch.setattr(curves, "run_strategy", fake)
    return seen


def test_each_share_is_drawn_for_each_seed(trained):
    """Shares grow, the larger contains the smaller, seeds draw their own, and few examples never validate."""
    curve = learning_curve(None, DATA, strategies=["frozen"], shares=[1, 0.1, 0.5], seeds=2)
    assert [each[:4] for each in trained] == [
        ("frozen", seed, count, checked) for seed in (0, 1) for count, checked in ((40, 50), (200, 60), (400, 120))
    ]
    small, half, _, other = (set(each[4]) for each in trained[:4])
    assert small < half and small != other
    assert curve.texts == (40, 200, 400) * 2 and all(run.model is None for run in curve.runs)


def test_labels_stay_with_their_texts():
    """The drawn ids have the labels that they had."""
    some = DATA.some(0.25, 3)
    assert (some.train[1] == some.train[0][:, 0] // 2 % 2).all() and some.test is DATA.test


def test_runs_on_all_examples_are_not_repeated(trained):
    """Those of an earlier comparison on the same test part."""
    ready = Run("frozen", 0, DATA.labels, 1 - DATA.labels, 1.0, {})
    curve = learning_curve(None, DATA, strategies=["frozen"], shares=[0.5, 1], seeds=2, done=[ready])
    assert [each[1:3] for each in trained] == [(0, 200), (1, 200), (1, 400)]
    assert [run.accuracy for run in curve.runs] == [1, 0, 1, 1]


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
    assert [line.split() for line in str(curve).splitlines()][1:] == [["10", "80.0", "±", "0.0"], ["20", "100.0"]]


def test_a_real_training():
    """A model is trained on the share and tested on the test part."""
    data = Data((tiny.IDS, tiny.LABELS), (tiny.IDS, tiny.LABELS), (tiny.IDS[4:], tiny.LABELS[4:]))
    curve = learning_curve(lambda _: tiny.model("sgd"), data, strategies=["frozen"], shares=[0.5], seeds=1, epochs=1)
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
        learning_curve(None, arguments.pop("data"), **arguments)
    assert not trained


def test_a_builder_that_is_no_function():
    """Refused by run_strategy, so by a comparison too."""
    with pytest.raises(ArgumentError, match=r"build_model must be a function .*Received: 3"):
        learning_curve(3, DATA, strategies=["frozen"], shares=[1], seeds=1)


def test_a_seed_that_draws_nothing():
    """Below 0."""
    with pytest.raises(ArgumentError, match=r"seed .*Received: -1"):
        DATA.some(0.5, -1)
