"""Macro F1 and the interval of a paired difference, against values worked out by hand."""

import math
import sys

import numpy as np
import pytest

from embkeras.errors import MissingDependencyError
from embkeras.experiments.statistics import macro_f1, paired_difference

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
