"""Labels that a text's nearest neighbours in training don't share: candidates for label noise, not errors.

A text whose label differs from that of most of its nearest neighbours is suspect (Wilson 1972, Asymptotic Properties of
Nearest Neighbor Rules Using Edited Data). The shares of the classes among the neighbours count as probabilities, and another
class needs at least the share that texts of that class have on average, so that a large class doesn't outvote a small one
(Northcutt, Jiang & Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels).
"""

import numpy as np

from embkeras._arrays import nearest_rows, unit_rows
from embkeras._progress import progress

_TOGETHER = 1024  # texts whose neighbours are searched together


def neighbour_shares(
    training: np.ndarray, labels: np.ndarray, classes: int, count: int, queries: np.ndarray | None = None
) -> np.ndarray:
    """The share of each class among the training texts that are nearest to each text, by cosine of centred vectors.

    Args:
        training: a vector for each training text, floats of shape (texts, width); zeros for one without a word known.
        labels: their classes, integers from 0.
        classes: how many classes there are.
        count: neighbours of each text.
        queries: vectors of other texts; by default the training texts, each without itself.

    Returns:
        floats of shape (queries, classes); NaN for a text without a vector, or without a neighbour.

    Examples:
        >>> vectors = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> neighbour_shares(vectors, np.array([0, 0, 1, 1]), classes=2, count=1).tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    known = np.flatnonzero(training.any(axis=1))
    own = queries is None
    queries = training if queries is None else queries
    shares = np.full((len(queries), classes), np.nan)
    count = min(count, len(known) - own)
    if count < 1:
        return shares
    mean = training[known].mean(axis=0)
    units, asked = unit_rows(training[known] - mean), np.flatnonzero(queries.any(axis=1))
    with progress("neighbours of texts") as report:
        for start in range(0, len(asked), _TOGETHER):
            part = asked[start : start + _TOGETHER]
            near = nearest_rows(units, queries[part] - mean, count + own)[0]
            if own:  # the text itself, or, where as many are equal to it, the last
                itself = known[near] == part[:, None]
                itself[~itself.any(axis=1), -1] = True
                near = near[~itself].reshape(len(part), count)
            votes = labels[known[near]]
            shares[part] = (votes[:, :, None] == np.arange(classes)).mean(axis=1)
            report(start + len(part), len(asked))
    return shares


def usual_shares(shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each class, the mean share of it among the neighbours of the texts that have it as their label.

    Args:
        shares: as from `neighbour_shares`.
        labels: the texts' own classes.

    Returns:
        floats of shape (classes,); infinity for a class without texts that could be judged.
    """
    known = ~np.isnan(shares).any(axis=1)
    usual = np.full(shares.shape[1], np.inf)
    for label in np.unique(labels[known]):
        usual[label] = shares[known & (labels == label), label].mean()
    return usual


def suggested(shares: np.ndarray, labels: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """The class that the neighbours of each text suggest instead of its label, or -1 for none.

    Args:
        shares: as from `neighbour_shares`.
        labels: the texts' own classes.
        usual: as from `usual_shares`, of the training texts.

    Examples:
        >>> suggested(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([1, 0]), np.array([0.7, 0.7])).tolist()
        [0, -1]
    """
    rows = np.arange(len(labels))
    own = shares[rows, labels][:, None]
    strong = np.where((shares >= usual) & (shares > own), shares, -1)
    return np.where(strong.max(axis=1) >= 0, strong.argmax(axis=1), -1)
