"""Fixtures shared by several rooms: a tiny vocabulary, and a matrix aligned to it."""

import numpy as np
import pytest

from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Ten tokens: padding, [UNK] and eight words."""
    return Vocabulary(["", "[UNK]", "cat", "sat", "mat", "dog", "ran", "far", "sun", "sky"])


@pytest.fixture
def aligned(vocabulary: Vocabulary) -> AlignedMatrix:
    """Ten rows of width 4; the padding row isn't zero, so a layer that reads it is noticed."""
    values = np.random.default_rng(0).normal(size=(len(vocabulary), 4)).astype(np.float32)
    return AlignedMatrix(values, vocabulary)
