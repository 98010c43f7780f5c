"""The phases that ran."""

import json

import numpy as np
import pytest

from embkeras.training.schedule.patience import Watch
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.record import COLUMNS, Record

PHASES = [Phase(0), Phase(4), Phase(6)]


@pytest.mark.parametrize(
    ("index", "handed_over", "epoch", "expected"),
    [
        (None, False, 0, 0),
        (None, False, 5, 1),
        (0, False, 3, 0),
        (0, True, 2, 1),
        (1, False, 2, 1),
        (1, False, 6, 2),
        (0, True, 6, 2),
        (2, True, 3, 2),
    ],
)
def test_phase_of_an_epoch(index, handed_over, epoch, expected):
    """The one that runs, the next where patience handed over, and at the latest when a start has come."""
    assert Record(index=index, handed_over=handed_over).phase_at(epoch, PHASES) == expected


def test_before_the_first_start_there_is_none():
    """Nothing runs yet."""
    assert Record().phase_at(1, [Phase(2)]) is None


def test_a_table_of_nothing_has_its_columns():
    """Before training."""
    table = Record().table()
    assert list(table.columns) == COLUMNS and len(table) == 0


def test_rows():
    """A phase that goes on in another fit keeps its row, and what ended it first stays."""
    record = Record()
    record.begin(0, 0, 15, 0.1)
    record.epoch_ended(0, 15)
    record.end("training ended")
    record.begin(0, 1, 15, 0.1)
    assert record.table()["ended"].tolist() == [""]
    record.epoch_ended(1, 20)
    record.end("patience")
    record.begin(1, 2, 55, None)
    table = record.table()
    assert table[["phase", "first_epoch", "last_epoch"]].to_numpy().tolist() == [[1, 0, 1], [2, 2, 2]]
    assert table["trainable_parameters"].tolist() == [20, 55]  # as the last epoch found them
    assert table["ended"].tolist() == ["patience", ""] and table["learning_rate"].isna().tolist() == [False, True]


def test_state_goes_through_json():
    """All but the weights, which are arrays at the top level; the next record is the same."""
    record = Record(watch=Watch(0.5, 1, 2, [np.arange(3.0), np.ones((2, 2), np.float32)]))
    record.begin(0, 0, 15, None)
    record.watch = Watch(0.5, 1, 2, [np.arange(3.0), np.ones((2, 2), np.float32)])
    state = record.state()
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    again = Record.from_state({**json.loads(json.dumps({k: v for k, v in state.items() if k not in arrays})), **arrays})
    assert sorted(arrays) == ["best_weights/0", "best_weights/1"]
    assert again.table().equals(record.table()) and again.watch.state() == record.watch.state()
    for before, after in zip(record.watch.weights, again.watch.weights, strict=True):
        np.testing.assert_array_equal(after, before)
