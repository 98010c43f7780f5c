"""Labels that a text's nearest neighbours don't share."""

import numpy as np

from embkeras.experiments.suspects import neighbour_shares, suggested, usual_shares

# Two bundles of three directions, and a text without a vector.
VECTORS = np.array([[1, 0.0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1], [-0.1, 1], [0, 0]])
LABELS = np.array([0, 0, 1, 1, 1, 1, 0])


def test_shares_by_hand():
    """Of the two nearest others, the share of each class; NaN without a vector."""
    shares = neighbour_shares(VECTORS, LABELS, classes=2, count=2)
    assert shares[:6].tolist() == [[0.5, 0.5], [0.5, 0.5], [1, 0], [0, 1], [0, 1], [0, 1]]
    assert np.isnan(shares[6]).all()


def test_other_texts_ask_all_training_texts():
    """A text of another part is asked about beside its equal in training."""
    asked = np.array([[1, -0.1], [0, 0]])
    shares = neighbour_shares(VECTORS, LABELS, classes=2, count=1, queries=asked)
    assert shares[0].tolist() == [0, 1] and np.isnan(shares[1]).all()


def test_equal_texts_are_left_out_once():
    """Among more equal texts than neighbours, each is asked about its others."""
    shares = neighbour_shares(np.array([[1, 0.0]] * 5 + [[0, 1]]), np.array([0, 0, 0, 0, 1, 1]), classes=2, count=4)
    assert shares[4].tolist() == [1, 0]
    assert shares[0].tolist() == [0.75, 0.25]


def test_directions_count_not_lengths():
    """A long vector is as near as a short one of its direction from the mean."""
    vectors = np.array([[3.0, 0], [-3, 0], [300, 1], [-300, -1]])
    assert neighbour_shares(vectors, np.array([0, 1, 0, 1]), 2, 1).tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_too_few_texts_have_no_neighbours():
    """One text, or none with a vector."""
    assert np.isnan(neighbour_shares(np.ones((1, 2)), np.array([0]), 2, 5)).all()
    assert np.isnan(neighbour_shares(np.zeros((3, 2)), np.array([0, 1, 1]), 2, 5)).all()


def test_large_class_needs_its_usual_share():
    """Where texts of class 1 have 0.9 of it around them, 0.8 of it around a text of class 0 is no suspicion."""
    usual = usual_shares(np.array([[0.3, 0.7], [0.1, 0.9], [0.1, 0.9]]), np.array([0, 1, 1]))
    np.testing.assert_allclose(usual, [0.3, 0.9])
    shares = np.array([[0.2, 0.8], [0.05, 0.95], [0.4, 0.6], [np.nan, np.nan]])
    assert suggested(shares, np.array([0, 0, 1, 0]), usual).tolist() == [-1, 1, -1, -1]


def test_class_without_training_texts_is_never_suggested():
    """Its usual share is unknown."""
    usual = usual_shares(np.array([[1.0, 0.0]]), np.array([0]))
    assert usual.tolist() == [1, np.inf]
    assert suggested(np.array([[1.0, 0.0]]), np.array([1]), usual).tolist() == [0]
