"""Who leaves a race, on runs of known truth."""

import numpy as np
import pytest

from embkeras.experiments.results import MEASURES, Record
from embkeras.experiments.rounds import best_of, leave


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
