"""The statistics of a comparison: macro F1, calibration, paired differences with intervals, and Holm's correction."""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embkeras.errors import MissingDependencyError

_CONFIDENCE = 0.95
ALPHA = 1 - _CONFIDENCE
_MOST_SEEDS = 1000  # more than anybody trains
_SMALLEST = 1e-300  # p-value
_BINS = 10  # of the expected calibration error


def require(module: str) -> Any:
    """A module of SciPy or scikit-learn."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependencyError(
            'Comparing strategies needs scipy and scikit-learn: python -m pip install "embkeras[compare]".'
        ) from None


def check_statistics() -> None:
    """Check, before long work begins, that SciPy and scikit-learn are installed."""
    for module in ("scipy.stats", "sklearn.metrics"):
        require(module)


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes of F1, the harmonic mean of precision and recall; 0 to 1.

    A class that is only predicted, or never predicted, counts as 0.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Examples:
        >>> round(macro_f1(np.array([0, 0, 1]), np.array([0, 0, 0])), 3)
        0.4
    """
    return float(require("sklearn.metrics").f1_score(labels, predicted, average="macro", zero_division=0))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95% interval by Student's t; infinite for one value.

    Raises:
        MissingDependencyError: SciPy is not installed.

    Examples:
        >>> mean, half = mean_interval([0.8, 0.9, 1.0])
        >>> round(mean, 3), round(half, 3)
        (0.9, 0.248)
    """
    if len(values) < 2:
        return float(values[0]), math.inf
    stats = require("scipy.stats")
    return float(np.mean(values)), float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))


def percent_interval(mean: float, half: float) -> str:
    """An accuracy and its 95% interval, in percent without the sign; the ends are written out where one is cut at 0 or 100.

    With few runs, Student's interval can be wider than what an accuracy can be.

    Examples:
        >>> percent_interval(0.5, 0.1), percent_interval(0.9, 0.25), percent_interval(0.9, math.inf)
        ('50.0 ± 10.0', '90.0 (65.0 to 100)', '90.0')
    """
    if not math.isfinite(half):
        return f"{100 * mean:.1f}" if math.isfinite(mean) else "-"
    low, high = 100 * (mean - half), 100 * (mean + half)
    if low >= 0 and high <= 100:
        return f"{100 * mean:.1f} ± {100 * half:.1f}"
    ends = "0" if low < 0 else f"{low:.1f}", "100" if high > 100 else f"{high:.1f}"
    return f"{100 * mean:.1f} ({ends[0]} to {ends[1]})"


def paired_difference(differences: np.ndarray) -> tuple[float, float]:
    """The mean difference and half the width of its 95% interval, from `Difference.of_texts`.

    Args:
        differences: floats of shape (seeds, texts): correct with the first strategy minus correct with the second.

    Raises:
        MissingDependencyError: SciPy is not installed.
    """
    difference = Difference.of_texts(differences)
    return difference.mean, difference.half_width()


@dataclass(frozen=True)
class Difference:
    """A mean difference in accuracy, and how exactly it is known.

    Its interval adds up, as squares, the noise of training (Student's t over the runs) and that of the texts (the normal
    distribution). With one run, or one text, one of the two is unknown, and the half width infinite.

    Attributes:
        mean: of the runs, -1 to 1.
        spread: standard deviation of the difference over the runs.
        runs: how many pairs of runs.
        freedom: degrees of freedom of the spread.
        testing: standard error over the texts; 0 where each run has texts of its own, since the spread contains it then.
        overlap: of runs on folds, the number of scored examples over that of training examples.
    """

    mean: float
    spread: float
    runs: int
    freedom: int
    testing: float = 0.0
    overlap: float = 0.0

    @classmethod
    def of_texts(cls, differences: np.ndarray) -> "Difference":
        """Of runs on the same texts.

        Args:
            differences: floats of shape (runs, texts): correct with the first strategy minus correct with the second.
        """
        by_run, by_text = differences.mean(axis=1), differences.mean(axis=0)
        spread = float(by_run.std(ddof=1)) if len(by_run) > 1 else math.inf
        testing = float(by_text.std(ddof=1) / math.sqrt(len(by_text))) if len(by_text) > 1 else math.inf
        return cls(float(by_run.mean()), spread, len(by_run), len(by_run) - 1, testing)

    @classmethod
    def of_folds(cls, differences: np.ndarray, overlap: float) -> "Difference":
        """Of runs that each have texts of their own.

        Runs on folds train on texts that they share, so they vary less than new texts would make them. Their variance
        is therefore increased by `overlap` (Nadeau & Bengio 2003, for several rounds of folds Bouckaert & Frank 2004).

        Args:
            differences: floats of shape (runs,): accuracy of the first strategy minus that of the second.
            overlap: the number of scored examples over that of training examples, in a run.
        """
        spread = float(differences.std(ddof=1)) if len(differences) > 1 else math.inf
        return cls(float(differences.mean()), spread, len(differences), len(differences) - 1, 0.0, overlap)

    def half_width(self, alpha: float = ALPHA) -> float:
        """Half the width of the interval that misses the true difference with probability `alpha`."""
        if math.isinf(self.spread) or math.isinf(self.testing) or self.freedom < 1:
            return math.inf
        stats = require("scipy.stats")
        training = self.spread * math.sqrt(1 / self.runs + self.overlap)
        return math.hypot(
            training and float(stats.t.isf(alpha / 2, self.freedom)) * training,
            self.testing and float(stats.norm.isf(alpha / 2)) * self.testing,
        )

    @property
    def p_value(self) -> float:
        """The smallest `alpha` whose interval excludes 0; 1 where there is no difference, or the noise is unknown."""
        wanted = abs(self.mean)
        if wanted == 0 or math.isinf(self.half_width()):
            return 1.0
        if self.half_width(_SMALLEST) <= wanted:
            return _SMALLEST
        found = require("scipy.optimize").brentq(
            lambda exponent: self.half_width(10**exponent) - wanted, math.log10(_SMALLEST), 0.0
        )
        return float(10**found)

    def with_runs(self, runs: int) -> "Difference":
        """What more, or fewer, runs would show if the spread were the same."""
        return replace(self, runs=runs, freedom=runs - 1)

    def runs_needed(self, alpha: float) -> int | None:
        """How many runs it takes until the interval at `alpha` excludes 0; None if more runs alone don't get there.

        It takes the mean and the spread for the true ones, so it is a plan and no promise.
        """
        if math.isinf(self.half_width()) or self.with_runs(_MOST_SEEDS).half_width(alpha) >= abs(self.mean):
            return None
        few, enough = 1, _MOST_SEEDS
        while enough - few > 1:
            middle = (few + enough) // 2
            if self.with_runs(middle).half_width(alpha) < abs(self.mean):
                enough = middle
            else:
                few = middle
        return enough


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values adjusted for the number of comparisons (Holm 1979), in the order received.

    Called significant where they are below 0.05, the probability that any of them is called so wrongly is below 0.05.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, float)
    order = values.argsort(kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def pooled_spread(values: np.ndarray) -> tuple[float, int]:
    """Standard deviation of the difference of two strategies, from the runs of all of them; and its degrees of freedom.

    What a strategy and a seed add is taken out; what remains is the noise, taken to be the same for all strategies. With
    few seeds it is known far better than from two strategies alone.

    Args:
        values: accuracies of shape (strategies, seeds), at least two of each.
    """
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    return math.sqrt(2 * float((rest**2).sum()) / freedom), freedom


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error, 0 to 1: how far the highest score is from the share that is right (Guo et al. 2017).

    The mean over ten bins of equal width, each weighted by its texts. NaN if a score is not a finite number.

    Args:
        labels: the true classes, shape (texts,).
        scores: probabilities, shape (texts, classes).

    Examples:
        >>> round(calibration_error(np.array([0, 1]), np.array([[0.8, 0.2], [0.8, 0.2]])), 3)
        0.3
    """
    if not np.isfinite(scores).all():
        return math.nan
    highest, right = scores.max(axis=1).astype(float), scores.argmax(axis=1) == labels
    place = np.clip((highest * _BINS).astype(int), 0, _BINS - 1)
    gaps = np.bincount(place, weights=highest - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))
