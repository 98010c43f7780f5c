"""Of align and AlignedMatrix: four words with vectors, and a vocabulary that has some of them."""

import numpy as np
import pytest

from embkeras import KeyedVectors, Vocabulary

WORDS = ["cat", "dog", "car", "the"]
MATRIX = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")


@pytest.fixture
def vectors():
    """Four words of width 5."""
    return KeyedVectors(WORDS, MATRIX)


@pytest.fixture
def vocabulary():
    """Padding, [UNK], an exact word, one by a fallback, two without a vector."""
    return Vocabulary(["", "[UNK]", "car", "Dog", "xyz", "zyx"], counts=[0, 2, 4, 1, 3, 0])
