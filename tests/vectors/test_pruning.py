"""share_rows: words that take the row of a neighbour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import AlignedMatrix, Vocabulary
from embkeras.errors import ArgumentError
from embkeras.vectors import pruning
from embkeras.vectors.pruning import share_rows
from tests.properties import PROPERTY


def aligned_of(rows, counts=None, **special):
    """Rows of words behind padding and [UNK], whose rows are like the first word's."""
    rows = np.asarray(rows, np.float32)
    tokens = ["", "[UNK]", *(f"w{i}" for i in range(len(rows)))]
    counts = None if counts is None else [0, 0, *counts]
    return AlignedMatrix(np.vstack([rows[:1], rows[:1], rows]), Vocabulary(tokens, counts=counts), **special)


def random_rows(seed, rows, width=3):
    """Rows of which many are alike, and some zeros."""
    rng = np.random.default_rng(seed)
    some = np.vstack([rng.normal(size=(max(1, rows // 3), width)), np.zeros(width)])
    return some[rng.integers(0, len(some), rows)] * rng.uniform(0.5, 2, (rows, 1)) + 0.0


def cosine(first, second):
    """Of two rows; 1 for two of zeros, 0 for one."""
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    first, second = first.astype(np.float64), second.astype(np.float64)
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


ROWS = [[1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9], [-1, 0]]


def test_keeps_the_most_frequent_by_counts():
    """The others take the row nearest by cosine; ids and places are those of the table."""
    shared = share_rows(aligned_of(ROWS, [1, 9, 8, 0, 1]), keep=4)
    assert shared.kept.tolist() == [0, 1, 3, 4]
    assert shared.row_of.tolist() == [0, 1, 3, 2, 3, 2, 2]
    np.testing.assert_allclose(
        shared.similarity, [1, 1, 0.9 / np.hypot(0.9, 0.1), 1, 1, 0.9 / np.hypot(0.9, 0.1), 0], atol=1e-6
    )
    assert (shared.kept.dtype, shared.row_of.dtype, shared.similarity.dtype) == (np.int64, np.int32, np.float32)


@pytest.mark.parametrize(("counts", "by"), [(None, "counts"), ([1, 9, 8, 0, 1], "order")])
def test_keeps_the_first_ids_without_counts(counts, by):
    """Where they are not known, or not asked for."""
    assert share_rows(aligned_of(ROWS, counts), keep=4, by=by).kept.tolist() == [0, 1, 2, 3]


def test_equal_counts_keep_the_order_of_the_ids():
    """The earlier id stays."""
    assert share_rows(aligned_of(ROWS, [1, 1, 5, 1, 1]), keep=4).kept.tolist() == [0, 1, 2, 4]


@PROPERTY
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(1, 12))
def test_others_take_the_nearest_row_kept(seed, words, keep, queries, block):
    """Against every pair one by one, whatever the size of a block."""
    aligned = aligned_of(random_rows(seed, words), np.random.default_rng(seed).integers(0, 5, words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "_QUERIES", queries)
        patch.setattr(pruning, "BLOCK", block)
        shared = share_rows(aligned, min(keep, words) + 2)
    counts = aligned.vocabulary.counts[2:]
    kept = sorted(np.argsort(-counts, kind="stable")[:keep] + 2)
    assert shared.kept.tolist() == [0, 1, *kept]
    for id_ in range(2, words + 2):
        taken = shared.kept[shared.row_of[id_]]
        cosines = [cosine(aligned.values[id_], aligned.values[other]) for other in kept]
        assert taken == id_ if id_ in kept else taken in kept
        assert shared.similarity[id_] == pytest.approx(max(cosines), abs=1e-5)
        assert cosine(aligned.values[id_], aligned.values[taken]) == pytest.approx(max(cosines), abs=1e-5)


@PROPERTY
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([0.5, 0.9, 1.0]), st.integers(1, 7))
def test_similarity_shares_near_duplicates_alone(seed, words, least, queries):
    """Greedily from the most frequent down, against the same one word after the other."""
    aligned = aligned_of(random_rows(seed, words), np.random.default_rng(seed).integers(0, 5, words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "_QUERIES", queries)
        shared = share_rows(aligned, similarity=least)
    kept = []
    for id_ in (np.argsort(-aligned.vocabulary.counts[2:], kind="stable") + 2).tolist():
        cosines = [cosine(aligned.values[id_], aligned.values[other]) for other in kept]
        nearest = max(cosines, default=-2)
        if nearest < least - 1e-5:
            kept.append(id_)
            nearest = 1
        assert shared.similarity[id_] == pytest.approx(nearest, abs=1e-5)
    assert shared.kept.tolist() == [0, 1, *sorted(kept)]
    for id_ in range(words + 2):
        taken = shared.kept[shared.row_of[id_]]
        assert cosine(aligned.values[id_], aligned.values[taken]) == pytest.approx(shared.similarity[id_], abs=1e-5)


@pytest.mark.parametrize("arguments", [{"keep": 3}, {"similarity": 0.5}])
def test_special_ids_keep_their_rows(arguments):
    """And no word takes one of them, though it were the nearest."""
    shared = share_rows(aligned_of([[0, 1], [1, 0]]), **arguments)
    assert shared.kept[shared.row_of[:2]].tolist() == [0, 1]
    assert (shared.kept[shared.row_of[2:]] >= 2).all()


def test_special_ids_may_stand_anywhere():
    """Among the words, and several of them."""
    vocabulary = Vocabulary(["a", "x", "", "b", "y", "c"], padding_id=2, oov_ids=(1, 4))
    shared = share_rows(AlignedMatrix(np.eye(6), vocabulary), keep=4)
    assert shared.kept.tolist() == [0, 1, 2, 4]


def test_equal_rows_are_shared_at_similarity_1():
    """Rounding of float32 does not keep duplicates apart; another length is the same direction."""
    row = np.random.default_rng(0).normal(size=300)
    shared = share_rows(aligned_of([row, row * 3, row * 1e-30, -row]), similarity=1)
    assert shared.kept.tolist() == [0, 1, 2, 5]


def test_similarity_is_a_cosine():
    """Rounding does not take it over 1."""
    rows = np.random.default_rng(0).normal(size=(50, 300))
    shared = share_rows(aligned_of(np.vstack([rows, rows])), keep=52)
    assert shared.similarity.max() == 1


def test_rows_of_zeros_are_alike():
    """They share one row, and no other word takes it."""
    shared = share_rows(aligned_of([[0, 1], [0, 0], [0, 0], [1e-3, 0]]), similarity=0.1)
    assert shared.kept.tolist() == [0, 1, 2, 3, 5]
    assert shared.row_of.tolist() == [0, 1, 2, 3, 3, 4]


@pytest.mark.parametrize("arguments", [{"keep": 7}, {"similarity": 1.0}])
def test_all_rows_may_be_kept(arguments):
    """Nothing is shared, and the text says so."""
    shared = share_rows(aligned_of(ROWS), **arguments)
    assert shared.row_of.tolist() == list(range(7))
    assert str(shared) == "all 7 rows kept"


def test_text_names_rows_and_cosines():
    """Mean and smallest of those that are shared."""
    text = str(share_rows(aligned_of(ROWS, [1, 9, 8, 0, 1]), keep=4))
    assert text == (
        "4 of 7 rows kept; the others take a row with a cosine to their own of 0.663 on average and 0.000 at least"
    )


def test_arrays_are_read_only():
    """What was found cannot change afterwards."""
    with pytest.raises(ValueError, match="read-only"):
        share_rows(aligned_of(ROWS), keep=4).row_of[0] = 1


@pytest.mark.parametrize(
    ("arguments", "expected"), [({"keep": 4}, [4, 5]), ({"similarity": 0.5}, [2, 4, 5])], ids=["keep", "similarity"]
)
def test_progress_counts_words(monkeypatch, arguments, expected):
    """After each block, up to all."""
    monkeypatch.setattr(pruning, "_QUERIES", 2)
    calls = []
    share_rows(aligned_of(ROWS), **arguments, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(done, 5) for done in expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "keep or similarity, and not both. Received: keep=None, similarity=None"),
        ({"keep": 4, "similarity": 0.5}, "not both. Received: keep=4, similarity=0.5"),
        ({"keep": 2}, r"keep must be a whole number in \(2, 7\].* Received: 2"),
        ({"keep": 8}, r"in \(2, 7\].* Received: 8"),
        ({"keep": 3.0}, r"in \(2, 7\].* Received: 3.0"),
        ({"keep": True}, r"in \(2, 7\].* Received: True"),
        ({"similarity": 0}, r"similarity must be a cosine in \(0, 1\]. Received: 0"),
        ({"similarity": 1.5}, r"in \(0, 1\]. Received: 1.5"),
        ({"similarity": "0.9"}, r"in \(0, 1\]. Received: '0.9'"),
        ({"keep": 4, "by": "length"}, '"counts" or "order". Received: \'length\''),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    """The message names the rule and the value."""
    with pytest.raises(ArgumentError, match=message):
        share_rows(aligned_of(ROWS), **arguments)


def test_bare_matrix_is_refused():
    """Special ids and counts are the vocabulary's."""
    with pytest.raises(ArgumentError, match=r"takes what align.. returns. Received: ndarray"):
        share_rows(np.eye(3), keep=2)
