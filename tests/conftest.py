"""Fixtures shared by several rooms: a tiny vocabulary, and a matrix aligned to it."""

import gc
import os

import numpy as np
import pytest

from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix

gc.disable()  # until the tests are collected: seven full collections of 2 s each would find nothing


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: those that wait for a process of their own leave theirs idle. On two cores it saves a ninth."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """Keep what the imports made out of the garbage collector: 400,000 objects, 0.3 s in each full collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 5)  # for garbage by the million, as each traced graph is
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _graphs_that_tensorflow_keeps():
    """The same for graphs that no test can free: TensorFlow keeps each one around a `custom_gradient`, as in all_reduce."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Ten tokens: padding, [UNK] and eight words."""
    return Vocabulary(["", "[UNK]", "cat", "sat", "mat", "dog", "ran", "far", "sun", "sky"])


@pytest.fixture
def aligned(vocabulary: Vocabulary) -> AlignedMatrix:
    """Ten rows of width 4; the padding row isn't zero, so a layer that reads it is noticed."""
    values = np.random.default_rng(0).normal(size=(len(vocabulary), 4)).astype(np.float32)
    return AlignedMatrix(values, vocabulary)
