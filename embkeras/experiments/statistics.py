"""The statistics of a comparison: macro F1, and the interval of a paired difference in accuracy."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from embkeras.errors import MissingDependencyError

_CONFIDENCE = 0.95


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

    Example:
        >>> round(macro_f1(np.array([0, 0, 1]), np.array([0, 0, 0])), 3)
        0.4
    """
    return float(require("sklearn.metrics").f1_score(labels, predicted, average="macro", zero_division=0))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95% interval by Student's t; infinite for one value.

    Raises:
        MissingDependencyError: SciPy is not installed.

    Example:
        >>> mean, half = mean_interval([0.8, 0.9, 1.0])
        >>> round(mean, 3), round(half, 3)
        (0.9, 0.248)
    """
    if len(values) < 2:
        return float(values[0]), math.inf
    stats = require("scipy.stats")
    return float(np.mean(values)), float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))


def paired_difference(differences: np.ndarray) -> tuple[float, float]:
    """The mean difference and half the width of its 95% interval.

    The interval adds up, as squares, the noise of training (Student's t over the seeds) and that of the test set (the
    standard error over the texts). With one seed or one text one of the two is unknown and the half width infinite.

    Args:
        differences: floats of shape (seeds, texts): correct with the first strategy minus correct with the second.

    Raises:
        MissingDependencyError: SciPy is not installed.
    """
    by_seed, by_text = differences.mean(axis=1), differences.mean(axis=0)
    if len(by_seed) < 2 or len(by_text) < 2:
        return float(by_seed.mean()), math.inf
    stats = require("scipy.stats")
    upper = (1 + _CONFIDENCE) / 2
    training = stats.t.ppf(upper, len(by_seed) - 1) * stats.sem(by_seed)
    testing = stats.norm.ppf(upper) * stats.sem(by_text)
    return float(by_seed.mean()), math.hypot(training, testing)
