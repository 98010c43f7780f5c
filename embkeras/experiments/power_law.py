"""How many more labelled texts would raise the accuracy by so much: an inverse power law through a learning curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_EXPONENTS = np.linspace(0.05, 2.0, 40)
_DRAWS = 1000
_INTERVAL = (0.025, 0.975)
_FAR = 10  # times the texts there are: no law is believed beyond
_SIZES, _RUNS = 4, 8  # the fewest that say how a curve bends, and how exactly it is known


@dataclass(frozen=True)
class MoreTexts:
    """What a learning curve says of further labels.

    Attributes:
        points: how much the accuracy shall rise, 0 to 1.
        texts: about how many more labelled texts that takes; None where the curve can't tell.
        low, high: the 95% interval of it; infinite where there may be no such number. NaN without a fit.
        why: why the curve can't tell, or nothing.
    """

    points: float
    texts: int | None
    low: float
    high: float
    why: str = ""


def more_texts(texts: Sequence[int], accuracy: Sequence[float], points: float = 0.01) -> MoreTexts:
    """How many more labelled texts would raise the accuracy by so much, by the law error = a + b * texts ** -c.

    The law is fitted by least squares, in which the runs on many texts count for more, in proportion to the number of texts
    (as Figueroa et al. 2012 weight the points of a curve). Its interval is that of 1,000 fits to curves drawn from it with
    the noise that the runs have around it.

    It is no answer if the interval has no upper end within ten times the texts there are, or if fewer than four numbers of
    texts, or eight runs, were trained.

    Args:
        texts: how many texts trained, one number for each run.
        accuracy: of each run, 0 to 1.
        points: how much it shall rise.

    Examples:
        >>> texts = [100, 200, 400, 800] * 3
        >>> noise = np.random.default_rng(0).normal(0, 0.002, 12)
        >>> found = more_texts(texts, 0.9 - 2 / np.array(texts) ** 0.5 + noise)
        >>> 250 < found.low < 285 < found.high < 320  # 285 is true
        True
    """
    counts, errors = np.asarray(texts, float), 1 - np.asarray(accuracy, float)
    sizes = len(np.unique(counts))
    if sizes < _SIZES or len(counts) < _RUNS:
        why = f"that takes runs on {_SIZES} numbers of texts or more, and {_RUNS} runs; there are {sizes} and {len(counts)}"
        return MoreTexts(points, None, math.nan, math.nan, why)
    most = counts.max()
    a, b, c = _fitted(counts, errors[None])
    fit = a[0] + b[0] * counts ** -c[0]
    weights = counts / most
    freedom = len(counts) - 3
    rng = np.random.default_rng(0)
    variance = (weights * (errors - fit) ** 2).sum() / rng.chisquare(freedom, _DRAWS)
    noise = rng.normal(size=(_DRAWS, len(counts))) * np.sqrt(variance[:, None] / weights)
    found = _wanted(*_fitted(counts, np.concatenate([errors[None], fit + noise])), most, points)
    low, high = (float(each) for each in np.quantile(found[1:], _INTERVAL, method="inverted_cdf"))
    if not high <= _FAR * most:
        return MoreTexts(points, None, low, high, "the curve is too flat, or too noisy, to be drawn out so far")
    return MoreTexts(points, round(float(min(max(found[0], low), high))), low, high)


def _fitted(counts: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b and c of each curve, shape (curves,), none below 0; errors of shape (curves, runs)."""
    weights = counts / counts.max()
    best = np.full(len(errors), np.inf)
    found = np.zeros((3, len(errors)))
    for c in _EXPONENTS:
        x = (counts / counts.max()) ** -c
        mean_x, mean_e = np.average(x, weights=weights), np.average(errors, weights=weights, axis=1)
        b = (weights * (x - mean_x) * (errors - mean_e[:, None])).sum(axis=1) / (weights * (x - mean_x) ** 2).sum()
        b = np.maximum(b, 0)
        a = mean_e - b * mean_x
        through_zero = np.maximum((weights * x * errors).sum(axis=1) / (weights * x**2).sum(), 0)
        a, b = np.where(a < 0, 0, a), np.where(a < 0, through_zero, b)
        apart = (weights * (errors - a[:, None] - b[:, None] * x) ** 2).sum(axis=1)
        better = apart < best
        best = np.where(better, apart, best)
        found = np.where(better, np.stack([a, b * counts.max() ** c, np.full(len(errors), c)]), found)
    return found[0], found[1], found[2]


def _wanted(a: np.ndarray, b: np.ndarray, c: np.ndarray, most: float, points: float) -> np.ndarray:
    """How many texts more than `most` each law asks for; infinite where its accuracy never gets there."""
    left = b * most**-c - points
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found: np.ndarray = np.where(left > 0, (b / left) ** (1 / c) - most, np.inf)
    return found
