"""The search among vectors: every one is compared, whatever the block, the batch and the k of other rows."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.serving import nearest as module
from embkeras.serving.nearest import Candidates, all_scores, search_of

WIDTH = 3


def _candidates(table, similarity="dot", excluded=()):
    variable = tf.Variable(table)
    tower = SimpleNamespace(width=WIDTH)
    rows = lambda ids: tf.gather(variable, ids)  # noqa: E731
    return Candidates(tower, tower, len(table), list(excluded), similarity, None, rows, variable)


def _found(candidates, vectors, k):
    specs = [tf.TensorSpec((None, WIDTH), tf.float32), tf.TensorSpec((None,), tf.int32)]
    answers = tf.function(candidates.nearest, input_signature=specs)(
        tf.constant(vectors, tf.float32), tf.constant(k, tf.int32)
    )
    return answers["neighbours"].numpy(), answers["scores"].numpy()


@pytest.fixture
def table():
    """Rows of which many are equal, and one is zeros."""
    rows = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
    rows[10:40:3] = rows[2]
    rows[7] = 0
    return rows


@pytest.mark.parametrize("block", [7 * WIDTH, 1000])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_every_row_is_compared(table, monkeypatch, block, similarity):
    """Recall 1.0 for any block; of equal scores the lower row is first, and excluded rows never come."""
    monkeypatch.setattr(module, "_BLOCK", block)
    queries = np.concatenate([np.random.default_rng(1).normal(size=(6, WIDTH)), table[2:3], np.zeros((1, WIDTH))])
    queries = queries.astype(np.float32)
    wanted = all_scores(queries, table, similarity, [0, 11])
    for k in (1, 48):
        rows, scores = _found(_candidates(table, similarity, [0, 11]), queries, [k] * len(queries))
        np.testing.assert_array_equal(rows, np.argsort(-wanted, axis=1, kind="stable")[:, :k])
        np.testing.assert_array_equal(scores, np.take_along_axis(wanted, rows, axis=1))


def test_a_row_has_its_own_k(table):
    """The answer to a row doesn't depend on those beside it."""
    queries = table[:3]
    rows, scores = _found(_candidates(table), queries, [2, 5, 1])
    assert rows.shape == (3, 5) and (rows[0, 2:] == -1).all() and (rows[2, 1:] == -1).all()
    for place, k in enumerate((2, 5, 1)):
        alone = _found(_candidates(table), queries[place : place + 1], [k])
        np.testing.assert_array_equal(rows[place, :k], alone[0][0])
        np.testing.assert_array_equal(scores[place, :k], alone[1][0])
        assert not scores[place, k:].any()


def test_no_rows_are_answered(table):
    """A batch without rows has an answer without rows."""
    rows, scores = _found(_candidates(table), np.zeros((0, WIDTH)), [])
    assert len(rows) == len(scores) == 0


@pytest.mark.parametrize("k", [0, 50])
def test_k_outside_its_range_is_refused(table, k):
    """There are 50 rows, of which one is excluded."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"k must lie in \[1, 49\]\. Received\] \[{k}\]"):
        _found(_candidates(table, excluded=[3]), table[:2], [3, k])


def test_reasons_why_nothing_is_searched():
    """Texts need candidates, and vectors the same width."""

    def tower(name, width, rank):
        each = SimpleNamespace(name="ids", rank=rank, encoding=object(), size=9)
        return SimpleNamespace(name=name, width=width, contract=SimpleNamespace(asked=[each]))

    assert search_of([], None, "dot", []) == (None, "the export has no towers")
    assert search_of([tower("text", 3, 2)], None, "dot", [])[1].endswith("the tower text takes more than single ids")
    different = [tower("q", 3, 1), tower("item", 4, 1)]
    assert search_of(different, None, "dot", []) == (None, "q has vectors of 3 numbers, and item of 4")
    with pytest.raises(SavedModelError, match="q has vectors of 3 numbers, and item of 4"):
        search_of(different, [[1]], "dot", [])
