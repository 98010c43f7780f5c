"""Linear CKA and the components of the steps, against plain loops over the formulas."""

import numpy as np
import pytest

from embkeras import _arrays, drift_report
from embkeras.drift.geometry import linear_cka, step_components

BEFORE = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
AFTER = (BEFORE + np.random.default_rng(1).normal(size=(11, 3)) * [2, 0.5, 0.1] + 7).astype(np.float32)


def plain_cka(before, after):
    """HSIC of the two Gram matrices with rows and columns centred, as in the paper's equation 3."""
    count = len(before)
    grams = []
    for table in (before, after):
        gram = [[sum(a * b for a, b in zip(row, other, strict=True)) for other in table] for row in table]
        means = [sum(row) / count for row in gram]
        whole = sum(means) / count
        grams.append([[gram[i][j] - means[i] - means[j] + whole for j in range(count)] for i in range(count)])

    def hsic(one, other):
        return sum(one[i][j] * other[i][j] for i in range(count) for j in range(count))

    return hsic(*grams) / (hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])) ** 0.5


def test_cka_is_that_of_the_gram_matrices(monkeypatch):
    """The same number as from similarities between rows; blocks don't change it."""
    expected = plain_cka(BEFORE.tolist(), AFTER.tolist())
    assert 0.05 < expected < 0.9
    assert linear_cka(BEFORE, AFTER) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(_arrays, "BLOCK", 6)
    assert linear_cka(BEFORE, AFTER) == pytest.approx(expected, rel=1e-6)


def test_cka_of_a_rotation_a_factor_and_a_shift_is_1():
    """What changes no relation between rows is no change."""
    turned = 3 * BEFORE @ np.linalg.qr(AFTER[:3])[0] + 5
    assert linear_cka(BEFORE, turned) == pytest.approx(1)
    assert np.isnan(linear_cka(BEFORE, np.ones_like(BEFORE)))


def test_components_are_shares_of_the_variance(monkeypatch):
    """Those of the covariance of the steps of the moved rows, the largest first."""
    moved = np.arange(11) % 4 != 1
    step = (AFTER.astype(float) - BEFORE)[moved].tolist()
    mean = [sum(row[j] for row in step) / len(step) for j in range(3)]
    covariance = [[sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in step) for j in range(3)] for i in range(3)]
    values = sorted(np.linalg.eigvals(covariance).real, reverse=True)
    monkeypatch.setattr(_arrays, "BLOCK", 6)
    shares = step_components(BEFORE, AFTER, moved)
    np.testing.assert_allclose(shares, np.array(values) / sum(values), rtol=1e-6)
    assert shares.sum() == pytest.approx(1) and shares[0] > 0.6


@pytest.mark.parametrize("rows", [[], [3], [2, 4]])
def test_steps_without_a_direction(rows):
    """No row, one, or two that took the same step: zeros and no NaN."""
    assert step_components(np.ones((11, 3)), np.full((11, 3), 1.1), np.isin(np.arange(11), rows)).tolist() == [0, 0, 0]


def test_a_report_has_both():
    """Of the whole table, and of the rows that moved; in the summary too."""
    report = drift_report(BEFORE, AFTER, list("abcdefghijk"))
    assert report.linear_cka == linear_cka(BEFORE, AFTER)
    assert report.components.tolist() == step_components(BEFORE, AFTER, np.ones(11, bool)).tolist()
    assert report.summary()[["linear_cka", "first_component"]].tolist() == [report.linear_cka, report.components[0]]
