"""Who leaves a race, on runs of known truth."""

import numpy as np
import pytest

from embkeras.experiments.results import MEASURES, Record
from embkeras.experiments.rounds import best_of, is_settled, leave
from embkeras.experiments.statistics import Difference


def rounds(truth, count, *, seed=0, texts=500, noise=0.01):
    """Records of strategies of these accuracies."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, skill in truth.items():
        right = [rng.random(texts) < skill + rng.normal(0, noise) for _ in range(count)]
        found[name] = [
            Record(name, place, 0, each, each, dict.fromkeys(MEASURES, 1.0)) for place, each in enumerate(right)
        ]
    return found


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_equals_stay_and_the_hopeless_leave(count, folds):
    """Of eight equals at most 5% leave; who is 30 points behind leaves at once."""
    truth = dict.fromkeys("abcdefgh", 0.8) | {"z": 0.5}
    gone = [leave(rounds(truth, count, seed=seed), 0.5 * folds, folds=folds) for seed in range(25)]
    assert all("z" in each for each in gone)
    assert np.mean([len(each) - 1 for each in gone]) / 8 <= 0.1
    assert all(each["z"].startswith(f"round {count}: ") for each in gone)


def test_a_few_points_take_more_rounds():
    """Four points behind with 500 texts: seldom after one round, mostly after four."""
    truth = dict.fromkeys("abcd", 0.85) | {"z": 0.79}
    shares = [np.mean(["z" in leave(rounds(truth, count, seed=seed)) for seed in range(25)]) for count in (1, 4)]
    assert shares[0] < 0.3 and shares[1] > 0.6


def test_two_always_stay():
    """So that there is a difference to measure."""
    assert list(leave(rounds({"a": 0.9, "b": 0.2, "c": 0.1}, 2))) == ["c"]


def test_who_goes_on():
    """The leader, the cheapest, the next best, in the order received."""
    found = rounds({"a": 0.5, "b": 0.7, "c": 0.9, "d": 0.8}, 1, noise=0)
    (first,) = found["a"]
    found["a"] = [Record(*first.key, first.test, first.validation, {**first.measures, "stored_bytes": 0})]
    assert [best_of(found, most) for most in (2, 3, 4)] == [["a", "c"], ["a", "c", "d"], list("abcd")]


def costing(found, **price):
    """The records with these bytes to store."""
    return {
        name: [
            Record(*each.key, each.test, each.validation, {**each.measures, "stored_bytes": price.get(name, 1)})
            for each in records
        ]
        for name, records in found.items()
    }


def first(found, count):
    """The first records of each."""
    return {name: records[:count] for name, records in found.items()}


def recommended(found):
    """The leader and, of "cheap" and "b", the recommendation."""
    pairs = [one.validation.astype(float) - other.validation for one, other in zip(*found.values(), strict=True)]
    difference = Difference.of_texts(np.stack(pairs))
    shown = -difference.mean > difference.half_width()
    return "b" if difference.mean < 0 else "cheap", "b" if shown else "cheap"


def test_settled_is_what_all_runs_will_recommend():
    """For leads of 0 to 9 points: many end early, and hardly any of those would have ended otherwise."""
    ended, wrong = [], 0
    for seed in range(60):
        truth = {"cheap": 0.85 - 0.03 * (seed % 4), "b": 0.85}
        found = costing(rounds(truth, 8, seed=seed), cheap=0)
        before = rounds({**truth, "c": 0.8}, 2, seed=1000 + seed)
        for count in range(3, 8):
            so_far = first(found, count)
            if is_settled(so_far, *recommended(so_far), 8, before):
                ended.append(count)
                wrong += recommended(so_far)[1] != recommended(found)[1]
                break
    assert len(ended) > 30 and np.mean(ended) < 5 and wrong <= 1


@pytest.mark.parametrize("folds", [False, True])
def test_what_is_not_settled(folds):
    """Two runs, one strategy, noise that hides a lead, a cheap one that may not stay behind, a rival of the same price."""
    sure = {"overlap": 0.5 * folds, "folds": folds}
    apart = costing(rounds({"cheap": 0.4, "b": 0.9}, 4, noise=0), cheap=0)
    assert is_settled(apart, "b", "b", 50, {}, **sure)
    assert not is_settled(first(apart, 2), "b", "b", 50, {}, **sure)
    assert not is_settled({"b": apart["b"]}, "b", "b", 50, {}, **sure)
    wild = rounds(dict.fromkeys("xyz", 0.5), 3, noise=1)
    assert not is_settled(apart, "b", "b", 50, wild, **sure)
    assert not is_settled(apart, "b", "cheap", 50, {}, **sure)
    near = costing(rounds({"cheap": 0.8, "b": 0.82}, 4, noise=0), cheap=0)
    assert not is_settled(near, "b", "b", 50, {}, **sure)
    same = {name: records * 3 for name, records in rounds({"a": 0.8, "b": 0.8}, 1).items()}
    best, other = sorted(same, key=lambda name: -same[name][0].validation.mean())
    assert is_settled(same, best, best, 50, {}, **sure) and not is_settled(same, best, other, 50, {}, **sure)
