"""Data: three parts, as `fit` takes them."""

import pickle

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


FOLDED = Data(
    (np.arange(20)[:, None], np.arange(20) % 2),
    (np.arange(20, 26)[:, None], np.arange(6) % 2),
    (np.arange(26, 31)[:, None], np.zeros(5, int)),
)


@pytest.mark.parametrize("of", [3, 5])
def test_folds_share_out_all_examples(of):
    """Each tests once and validates once, labels stay with their texts, and the parts have the same share of each class."""
    folds = [FOLDED.fold(place, of, 7) for place in range(of)]
    for part in ("test", "validation"):
        assert sorted(np.concatenate([getattr(fold, part)[0][:, 0] for fold in folds])) == list(range(31))
    for fold in folds:
        parts = fold.train, fold.validation, fold.test
        assert sorted(np.concatenate([ids[:, 0] for ids, _ in parts])) == list(range(31))
        assert abs(fold.labels.sum() - 13 / of) < 1
        for ids, labels in parts:
            assert (labels == np.where(ids[:, 0] < 26, ids[:, 0] % 2, 0)).all()
    again, other = FOLDED.fold(0, of, 7).test[0], FOLDED.fold(0, of, 8).test[0]
    assert (folds[0].test[0] == again).all() and (again != other).any()


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (FOLDED, (0, 2, 0), "folds must be an integer >= 3. Received: 2"),
        (FOLDED, (3, 3, 0), "place .* Received: 3"),
        (FOLDED, (0, 16, 0), "16 folds need at least 32 examples. Received: 31"),
        (Data(Batches(), PAIR, PAIR), (0, 3, 0), r"data\.train, <"),
        (Data((*PAIR, np.ones(12)), PAIR, PAIR), (0, 3, 0), r"sample_weight.* Received: data\.train"),
        (Data((tiny.IDS[:, :3], tiny.LABELS), PAIR, PAIR), (0, 3, 0), "parts of one shape"),
        (Data((tiny.IDS, np.eye(3)[tiny.LABELS]), PAIR, PAIR), (0, 3, 0), "all labels as class numbers"),
    ],
)
def test_folds_that_cannot_be_dealt(data, arguments, message):
    """With the reason."""
    with pytest.raises(ArgumentError, match=message):
        data.fold(*arguments)


def test_texts_with_unseen_words():
    """Those with an id that no training text has, 0 aside; or those that the caller says; unknown for other inputs."""
    ids = np.array([[1, 2], [2, 2]]), np.array([0, 1])
    asked = np.array([[1, 0], [3, 1], [0, 0]]), np.array([0, 1, 0])
    assert Data(ids, ids, asked).unseen_texts.tolist() == [False, True, False]
    assert Data(ids, ids, asked, unseen=np.array([True, True, False])).unseen_texts.tolist() == [True, True, False]
    assert Data((ids[0] * 0.5, ids[1]), ids, asked).unseen_texts is None
    for wrong in (np.ones(2, bool), np.ones(3)):
        with pytest.raises(ArgumentError, match=r"unseen must be a bool array of shape \(3,\)"):
            Data(ids, ids, asked, unseen=wrong)


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


def test_arrays_over_files_travel_as_paths(tmp_path):
    """Also inside a dictionary; other arrays and what is unseen travel whole."""
    np.save(tmp_path / "ids.npy", np.tile(tiny.IDS, (1, 2000)))
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    unseen = np.arange(12) < 3
    part = {"a": mapped, "b": tiny.IDS}, tiny.LABELS
    given = Data(part, part, part, unseen)
    assert given.labels is not None
    pickled = pickle.dumps(given)
    found = pickle.loads(pickled)
    assert len(pickled) < 10_000 and isinstance(found.train[0]["a"], np.memmap)
    for one, other in zip(
        keras.tree.flatten([given.train, given.test]), keras.tree.flatten([found.train, found.test]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert found.unseen.tolist() == unseen.tolist() and found.labels.tolist() == given.labels.tolist()


def test_a_dataset_that_can_be_pickled_travels():
    """It is pickled as it is, beside arrays of other parts."""
    found = pickle.loads(pickle.dumps(Data(Batches(), PAIR, PAIR)))
    assert isinstance(found.train, Batches) and np.array_equal(found.test[0], tiny.IDS)
