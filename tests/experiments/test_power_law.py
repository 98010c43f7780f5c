"""more_texts: how many more texts would buy a point, and when a curve can't tell."""

import math

import numpy as np
import pytest

from embkeras.experiments.power_law import more_texts

SIZES = (150, 300, 600, 1200, 2400)


def curve(seed, law, *, seeds=3, noise=0.003):
    """Numbers of texts, and accuracies that vary around 1 - law(texts), less for many texts."""
    rng, texts = np.random.default_rng(seed), np.repeat(SIZES, seeds)
    return texts.tolist(), (1 - law(texts) + rng.normal(0, noise, len(texts)) * (2400 / texts) ** 0.5).tolist()


def test_the_interval_holds_the_truth():
    """In nearly all of 24 curves from a known law, and most of them can tell."""
    truth = (1.2 / (1.2 * 2400**-0.4 - 0.01)) ** 2.5 - 2400
    found = [more_texts(*curve(seed, lambda n: 0.1 + 1.2 * n**-0.4)) for seed in range(24)]
    told = [each for each in found if each.texts is not None]
    assert len(told) >= 15 and np.mean([each.low <= truth <= each.high for each in told]) >= 0.9
    assert np.median([each.texts for each in told]) == pytest.approx(truth, rel=0.35)
    assert np.mean([each.low <= truth for each in found]) >= 0.8


def test_more_points_take_more_texts():
    """And few points few."""
    texts, accuracy = curve(0, lambda n: 0.1 + 1.2 * n**-0.4, noise=0.001)
    half, whole = (more_texts(texts, accuracy, points) for points in (0.005, 0.01))
    assert 0 < half.texts < whole.texts / 2 * 1.1


@pytest.mark.parametrize("law", [lambda n: 0.2 + 0 * n, lambda n: 0.1 + 0.00001 * n], ids=["level", "falling accuracy"])
def test_a_curve_that_no_longer_rises(law):
    """No number, and no upper end."""
    found = more_texts(*curve(1, law))
    assert found.texts is None and found.high == math.inf and "too flat, or too noisy" in found.why


def test_what_is_too_far():
    """A slow curve without much noise: three points more take thirteen times the texts, which no curve shows."""
    found = more_texts(*curve(0, lambda n: 0.3 * n**-0.08, noise=0.0003), 0.03)
    assert found.texts is None and 10 * 2400 < found.high < math.inf and found.low > 2400


def test_a_noisy_curve():
    """The same law, but each run is off by three points."""
    found = more_texts(*curve(3, lambda n: 0.1 + 1.2 * n**-0.4, noise=0.03))
    assert found.texts is None and found.low >= 0


def test_too_few_runs():
    """Three numbers of texts don't show how a curve bends."""
    texts, accuracy = zip(*[(n, 0.8) for n in SIZES[:3] * 4], strict=True)
    assert "there are 3 and 12" in more_texts(texts, accuracy).why
    found = more_texts(SIZES, [0.8] * 5)
    assert found.texts is None and math.isnan(found.low) and "there are 5 and 5" in found.why
