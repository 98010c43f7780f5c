"""Rows of ids in batches."""

import numpy as np
import pytest

from embkeras.serving.batches import in_batches, padded


def _rows(*lengths):
    return [np.arange(1, length + 1) for length in lengths]


def test_batches_hold_each_text_once():
    """Shortest first, at most the batch size."""
    rows = _rows(5, 1, 3, 1, 9, 0, 3)
    batches = list(in_batches(rows, 3, mixed=True))
    assert [[len(rows[place]) for place in batch] for batch in batches] == [[0, 1, 1], [3, 3, 5], [9]]
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))


def test_batches_of_one_length_each():
    """Without padding, a batch has one length."""
    rows = _rows(2, 1, 2, 1, 2)
    batches = list(in_batches(rows, 2, mixed=False))
    assert [batch.tolist() for batch in batches] == [[1, 3], [0, 2], [4]]


@pytest.mark.parametrize("seed", range(20))
def test_batches_of_lengths_that_are_alike(seed):
    """Each text once; little padding, and few batches more than without."""
    rng = np.random.default_rng(seed)
    rows = _rows(*np.clip(rng.lognormal(2.7, 0.9, 3000), 0, 500).astype(int))
    batches = list(in_batches(rows, 256, mixed=True, alike=True))
    assert sorted(np.concatenate(batches).tolist()) == list(range(3000))
    assert all(max(widths) <= 1.25 * min(widths) + 4 for batch in batches if (widths := [len(rows[k]) for k in batch]))
    assert len(batches) <= 30


def test_no_texts_are_no_batches():
    """Nothing to send."""
    assert list(in_batches([], 3, mixed=True, alike=True)) == []
    assert list(in_batches([], 3, mixed=True)) == list(in_batches([], 3, mixed=False)) == []


@pytest.mark.parametrize(
    ("padding", "leading", "wanted"),
    [
        (0, True, [[0, 1, 0, 0], [0, 1, 2, 3]]),
        (0, False, [[1, 0, 0], [1, 2, 3]]),
        (7, True, [[7, 1, 7, 7], [7, 1, 2, 3]]),
    ],
)
def test_padding_goes_in_front_and_behind(padding, leading, wanted):
    """The vocabulary's own padding id, in one array."""
    ids = padded(_rows(1, 3), padding, leading=leading)
    assert ids.tolist() == wanted
    assert ids.dtype == np.int64
