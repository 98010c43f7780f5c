"""Data: three parts, as `fit` takes them."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.experiments import data as module
from embkeras.experiments.data import Data
from tests import tiny

PAIR = (tiny.IDS, tiny.LABELS)
NAMED = ({"a": tiny.IDS, "b": tiny.IDS[:, :1]}, tiny.LABELS)


class Batches(keras.utils.PyDataset):
    """Two batches."""

    def __len__(self):
        return 2

    def __getitem__(self, place):
        rows = slice(6 * place, 6 * place + 6)
        return tiny.IDS[rows], tiny.LABELS[rows]


class Endless(Batches):
    """It never ends."""

    @property
    def num_batches(self):
        """Unknown."""


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([1, PAIR, PAIR], r"data\.train must be a pair .* Received: 1"),
        ([PAIR, PAIR, PAIR * 2], r"data\.test must be a pair"),
        ([PAIR, iter([PAIR]), PAIR], r"data\.validation must be a pair .* Received: <list_iterator"),
        ([PAIR, PAIR, (*PAIR, tiny.LABELS)], "test part takes no sample_weight"),
        ([PAIR, PAIR, (tiny.IDS, tiny.LABELS[:3])], r"12 texts, labels of shape \(3,\)"),
        ([PAIR, PAIR, (tiny.IDS, tiny.LABELS[:, None])], r"12 texts, labels of shape \(12, 1\)"),
        ([PAIR, PAIR, (tiny.IDS, tiny.LABELS + 0.5)], "dtype float64"),
        ([PAIR, PAIR, (tiny.IDS, list("abcabcabcabc"))], "dtype <U1"),
        ([PAIR, PAIR, (tiny.IDS, [[1], [1, 2]])], "The test labels must be an array"),
        ([PAIR, PAIR, (tiny.IDS[:0], tiny.LABELS[:0])], "at least one text.* 0 texts"),
        ([(tiny.IDS, tiny.LABELS[:5]), PAIR, PAIR], r"data\.train must have one label .* 12 inputs, 5 labels"),
        ([PAIR, (*PAIR, tiny.LABELS[:2]), PAIR], r"data\.validation .* 12 inputs, 12 labels, 2 weights"),
        ([({"a": tiny.IDS, "b": tiny.IDS[:5]}, tiny.LABELS), NAMED, NAMED], r"data\.train .* 12 at 'a', 5 at 'b'"),
        ([({"a": tiny.IDS, "b": 3}, tiny.LABELS), NAMED, NAMED], r"data\.train must hold arrays.* Received: 3 at 'b'"),
        ([(tiny.IDS.tolist(), tiny.LABELS), PAIR, PAIR], r"data\.train must hold arrays.* at '0/0'"),
        ([NAMED, NAMED, PAIR], r"data\.train has inputs at 'a', at 'b'; data\.test has inputs in one array"),
        ([({}, tiny.LABELS), NAMED, NAMED], r"Received: no array"),
        ([PAIR, PAIR, tf.data.Dataset.from_tensors(PAIR).repeat()], r"data\.test must end"),
        ([PAIR, Endless(), PAIR], r"data\.validation must end"),
        ([PAIR, PAIR, tf.data.Dataset.from_tensors(tiny.IDS)], r"data\.test must have batches \(inputs, labels\)"),
    ],
)
def test_parts_that_fit_could_not_use(parts, message):
    """Before anything is trained; the message names the part, and the array in it."""
    with pytest.raises(ArgumentError, match=message):
        Data(*parts)


@pytest.mark.parametrize(
    "test",
    [
        ({"a": tiny.IDS}, tiny.LABELS),
        ({"a": tf.constant(tiny.IDS)}, tf.constant(tiny.LABELS)),
        ({"a": pd.DataFrame(tiny.IDS)}, pd.Series(tiny.LABELS)),
        tf.data.Dataset.from_tensor_slices(({"a": tiny.IDS}, tiny.LABELS)).shuffle(12).batch(5),
    ],
    ids=["arrays", "tensors", "pandas", "dataset"],
)
def test_test_batches_have_their_labels(monkeypatch, test):
    """In one order, also from a dataset that returns another one each time."""
    monkeypatch.setattr(module, "_BATCH", 5)
    data = Data(PAIR, PAIR, test) if isinstance(test, tf.data.Dataset) else Data(test, test, test)
    for _ in range(2):
        batches = [np.array(batch["a"]) for batch in data.test_batches()]
        assert [len(batch) for batch in batches] == [5, 5, 2]
        known = {tuple(ids): label for ids, label in zip(tiny.IDS.tolist(), tiny.LABELS, strict=True)}
        assert [known[tuple(ids)] for ids in np.concatenate(batches).tolist()] == data.labels.tolist()


def test_arguments_of_fit():
    """Weights and a dataset reach `fit`; a dataset has its own batches."""
    weights = np.ones(12)
    data = Data([*PAIR, weights], list(PAIR), PAIR)
    arguments = data.fit_arguments(7)
    assert set(arguments) == {"x", "y", "sample_weight", "validation_data", "batch_size"}
    assert arguments["sample_weight"] is weights and isinstance(arguments["validation_data"], tuple)
    batches = Batches()
    assert Data(batches, PAIR, batches).fit_arguments(7) == {"x": batches, "validation_data": PAIR}
    np.testing.assert_array_equal(Data(batches, PAIR, batches).labels, tiny.LABELS)
