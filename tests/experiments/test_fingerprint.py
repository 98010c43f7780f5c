"""What records of runs depend on: the same in another process, and different where a run would be."""

import json
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from embkeras import AlignedMatrix, Phase, Strategy, Vocabulary, unfreeze_at
from embkeras.errors import ArgumentError
from embkeras.experiments.data import Data
from embkeras.experiments.fingerprint import data_fingerprint, described, plain
from embkeras.experiments.strategies import default_strategies, encoder_strategies
from tests import tiny

PAIR = (tiny.IDS, tiny.LABELS)


def table(value):
    """Two rows of this number."""
    return AlignedMatrix(np.full((2, 2), value, "float32"), Vocabulary(["", "[UNK]"]))


def test_data_that_are_the_same():
    """As arrays, tensors or lists of pairs."""
    found = data_fingerprint(Data(PAIR, PAIR, PAIR))
    assert found == data_fingerprint(Data(list(PAIR), (tf.constant(tiny.IDS), tiny.LABELS.copy()), PAIR))
    assert found == data_fingerprint(Data(PAIR, PAIR, PAIR, unseen=np.ones(12, bool)))


@pytest.mark.parametrize(
    "other",
    [
        (tiny.IDS[::-1], tiny.LABELS),
        (tiny.IDS, tiny.LABELS[::-1]),
        (tiny.IDS[:11], tiny.LABELS[:11]),
        (tiny.IDS.astype("int32"), tiny.LABELS),
        (*PAIR, np.ones(12)),
    ],
)
def test_data_that_are_not(other):
    """Another order, another number, another dtype, weights; in the training part or another."""
    found = data_fingerprint(Data(PAIR, PAIR, PAIR))
    assert found != data_fingerprint(Data(other, PAIR, PAIR)) != data_fingerprint(Data(PAIR, other, PAIR)) != found


def test_texts_and_dictionaries():
    """Arrays of strings count by their characters, inputs by their names."""
    texts = np.array(["a", "b"], object)
    data = [Data(*[(each, np.arange(2))] * 3) for each in ({"t": texts}, {"u": texts}, {"t": texts[::-1]}, texts)]
    assert len({data_fingerprint(each) for each in data}) == 4


def test_a_dataset_is_refused():
    """What is in it isn't known."""
    with pytest.raises(ArgumentError, match=r"pass arrays\. Received: data\.validation, a "):
        data_fingerprint(Data(PAIR, tf.data.Dataset.from_tensor_slices(PAIR).batch(4), PAIR))


def test_strategies_as_json():
    """Without addresses, which differ from process to process; a schedule by its phases."""
    strategies = [*default_strategies(2, which="all").values(), *encoder_strategies([["a"], ["b"]]).values()]
    strategies += [
        Strategy("own", vectors=lambda aligned: aligned),
        Strategy("mask", embedding={"trainable": np.ones(3, bool)}),
    ]
    text = json.dumps([described(strategy) for strategy in strategies], allow_nan=False)
    assert "0x" not in text and "start=2" in text and "<lambda>" in text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"vectors": partial(len, 1)}, {"vectors": partial(len, 2)}),
        ({"embedding": {"trainable": np.arange(4) > 1}}, {"embedding": {"trainable": np.arange(4) > 2}}),
        ({"schedule": [Phase(1, freeze="a")]}, {"schedule": [Phase(2, freeze="a")]}),
        ({"schedule": unfreeze_at(1, "a")}, {"schedule": unfreeze_at(1, "b")}),
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}),
        ({"vectors": table(0)}, {"vectors": table(1)}),
    ],
)
def test_strategies_that_differ(one, other):
    """In any of their parts."""
    assert described(Strategy("a", **one)) == described(Strategy("a", **one)) != described(Strategy("a", **other))


def test_numbers_of_numpy():
    """Are those of Python in a file."""
    assert plain({"weights": {0: np.float64(0.5), 1: np.int64(3)}}) == {"weights": {"0": 0.5, "1": 3}}
