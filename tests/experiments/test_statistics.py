"""Macro F1 and the interval of a paired difference, against values worked out by hand."""

import math
import sys

import numpy as np
import pytest
from scipy import stats

from embkeras.errors import MissingDependencyError
from embkeras.experiments.statistics import (
    Difference,
    calibration_error,
    holm,
    macro_f1,
    paired_difference,
    pooled_spread,
)

# Two-sided 95% quantiles of Student's t, from printed tables.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 29: 2.045, 120: 1.980}


def test_macro_f1_by_hand():
    """Class 0: precision 2/3, recall 1; class 1: 1, 1/2; class 2: 1, 1."""
    labels, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 2])
    assert macro_f1(labels, predicted) == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)


def test_macro_f1_of_a_class_never_predicted_and_one_never_right():
    """Both count as 0, and nothing is divided by 0."""
    assert macro_f1(np.array([0, 1]), np.array([0, 2])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("freedom", "quantile"), T95.items())
def test_noise_of_training_is_students_t(freedom, quantile):
    """The half width of a mean over seeds, where all texts of a seed agree."""
    by_seed = np.random.default_rng(0).normal(size=freedom + 1)
    difference, half = paired_difference(np.tile(by_seed[:, None], 5))
    expected = quantile * by_seed.std(ddof=1) / math.sqrt(freedom + 1)
    assert (difference, half) == (pytest.approx(by_seed.mean()), pytest.approx(expected, rel=3e-4))


def test_noise_of_testing_is_the_standard_error():
    """The normal quantile, where all seeds agree."""
    by_text = np.random.default_rng(0).normal(size=50)
    _, half = paired_difference(np.tile(by_text, (3, 1)))
    assert half == pytest.approx(1.96 * by_text.std(ddof=1) / math.sqrt(50), rel=1e-4)


def test_both_noises_add_up_as_squares():
    """Two seeds, four texts, by hand."""
    difference, half = paired_difference(np.array([[0, 1, 1, 0], [1, 0, 0, 0]], float))
    by_seed, by_text = np.array([0.5, 0.25]), np.array([0.5, 0.5, 0.5, 0])
    training, testing = 12.706 * by_seed.std(ddof=1) / math.sqrt(2), 1.96 * by_text.std(ddof=1) / 2
    assert (difference, half) == (0.375, pytest.approx(math.hypot(training, testing), rel=1e-4))


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 1)])
def test_one_seed_or_one_text_shows_no_noise(shape):
    """The half width is infinite."""
    assert paired_difference(np.ones(shape)) == (1, math.inf)


def test_equal_answers_have_no_noise():
    """The half width is 0, not NaN."""
    assert paired_difference(np.zeros((3, 4))) == (0, 0)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("sklearn.metrics", lambda: macro_f1(np.array([0, 1]), np.array([0, 1]))),
        ("scipy.stats", lambda: paired_difference(np.zeros((3, 4)))),
    ],
)
def test_without_the_extra_the_message_names_it(monkeypatch, module, call):
    """What to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"embkeras\[compare\]"):
        call()


def test_intervals_contain_the_truth():
    """In 95% of 500 experiments with a known difference, noise of training and noise of texts; rarely more than 98%."""
    rng, truth, hits = np.random.default_rng(0), 0.02, []
    for _ in range(500):
        noise = rng.normal(0, 0.02, (4, 1)) + rng.normal(0, 0.3, 200) + rng.normal(0, 0.1, (4, 200))
        difference = Difference.of_texts(truth + noise)
        hits.append(abs(difference.mean - truth) <= difference.half_width())
    assert 0.93 <= np.mean(hits) <= 0.99


def test_folds_that_share_texts_need_the_overlap():
    """Runs that share most of their noise: with the overlap the interval contains the truth, without it too rarely."""
    rng, hits = np.random.default_rng(1), {0.0: [], 1 / 3: []}
    for _ in range(400):
        runs = rng.normal(0, 0.01) + rng.normal(0, 0.02, 5)
        for overlap, found in hits.items():
            difference = Difference.of_folds(runs, overlap)
            found.append(abs(difference.mean) <= difference.half_width())
    assert np.mean(hits[1 / 3]) >= 0.95 > 0.92 > np.mean(hits[0.0])


@pytest.mark.parametrize("testing", [0.0, 0.01])
def test_p_value_is_the_alpha_whose_interval_ends_at_zero(testing):
    """For any size of the difference; that of Student's t where the texts add no noise."""
    for mean in (0.001, 0.03, -0.03, 0.5):
        difference = Difference(mean, 0.02, 4, 3, testing)
        assert difference.half_width(difference.p_value) == pytest.approx(abs(mean), rel=1e-6)
    t = 0.03 / (0.02 / 2)
    assert testing or Difference(0.03, 0.02, 4, 3).p_value == pytest.approx(2 * stats.t.sf(t, 3))


def test_p_values_at_the_ends():
    """No difference, no noise, and noise that is unknown."""
    assert Difference(0.0, 0.0, 3, 2).p_value == 1 and Difference(0.1, 0.0, 3, 2).p_value < 1e-200
    assert Difference.of_texts(np.ones((1, 9))).p_value == 1 and Difference.of_folds(np.ones(1), 0.5).p_value == 1


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_runs_needed_is_the_fewest(alpha):
    """One fewer would not do; and no number does where the texts alone hide the difference."""
    for spread in (0.001, 0.02, 0.1):
        difference = Difference(0.03, spread, 3, 2, 0.005)
        needed = difference.runs_needed(alpha)
        assert (
            difference.with_runs(needed).half_width(alpha) < 0.03 <= difference.with_runs(needed - 1).half_width(alpha)
        )
    assert Difference(0.03, 0.02, 3, 2, 0.05).runs_needed(alpha) is None
    assert Difference.of_texts(np.ones((1, 9))).runs_needed(alpha) is None


def test_holm_by_its_definition():
    """The k-th smallest is called where it and all smaller ones are below alpha / (m - k + 1)."""
    rng = np.random.default_rng(0)
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    for size in (0, 1, *[2, 5, 9] * 50):
        values = rng.random(size) ** 3
        called, order = np.zeros(size, bool), values.argsort()
        for step, place in enumerate(order):
            if values[place] >= 0.05 / (size - step):
                break
            called[place] = True
        np.testing.assert_array_equal(holm(values) < 0.05, called)


def test_holm_rarely_calls_what_is_not_there():
    """Of 2,000 families of six, two of which are real: at most 5% have a false call, and about 20% without it."""
    rng = np.random.default_rng(0)
    values = rng.random((2000, 6))
    values[:, :2] *= 1e-4
    false, plain = (np.mean([(each[2:] < 0.05).any() for each in found]) for found in (map(holm, values), values))
    assert false <= 0.06 and plain > 0.15


def test_pooled_spread_is_that_of_a_difference():
    """Whatever strategies and seeds add."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.02, (60, 50)) + rng.normal(size=(60, 1)) + rng.normal(size=50)
    spread, freedom = pooled_spread(values)
    assert spread == pytest.approx(0.02 * math.sqrt(2), rel=0.05) and freedom == 59 * 49


def test_calibration_error_by_hand():
    """Bins of 0.1 up to and with 1; scores that are right as often as they say have none."""
    scores = np.array([[1.0, 0.0], [1.0, 0.0], [0.45, 0.55], [0.55, 0.45]])
    assert calibration_error(np.array([0, 1, 1, 0]), scores) == pytest.approx((1 + 0.9) / 4)
    rng = np.random.default_rng(0)
    highest = rng.uniform(0.5, 1, 50_000)
    right = rng.random(50_000) < highest
    assert calibration_error(1 - right.astype(int), np.stack([highest, 1 - highest], 1)) < 0.01
    assert math.isnan(calibration_error(np.array([0]), np.array([[np.nan, 0.5]])))
