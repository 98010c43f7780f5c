"""drift_report: how far each row moved, and in which company it stands."""

import numpy as np
import pytest

from embkeras import drift_report
from embkeras.drift import report as module
from embkeras.drift.report import row_drift
from embkeras.errors import ArgumentError, UnknownWordError

BEFORE = np.array([[0, 0], [1, 0], [0, 2], [3, 4], [1, 1]], "float32")
AFTER = np.array([[0, 0], [1, 0], [2, 0], [6, 8], [0, 0]], "float32")
TOKENS = ["", "same", "turned", "scaled", "gone"]


@pytest.fixture
def report():
    """Five rows: zero, unmoved, turned by a right angle, doubled, and set to zero."""
    return drift_report(BEFORE, AFTER, TOKENS)


def test_cosine_distance(report):
    """0 where nothing moved or only the length did, 1 at a right angle and where a row became zero."""
    np.testing.assert_allclose(report.table["cosine_distance"], [0, 0, 1, 0, 1], atol=1e-12)


def test_l2_is_the_length_of_the_step(report):
    """Euclidean, in the table's own unit."""
    np.testing.assert_allclose(report.table["l2"], [0, 0, 8**0.5, 5, 2**0.5])


def test_relative_l2_is_over_the_norm_before(report):
    """NaN where the norm before is zero."""
    np.testing.assert_allclose(report.table["relative_l2"], [np.nan, 0, 2**0.5, 1, 1])


def test_opposite_rows_are_2_apart():
    """The distance runs from 0 to 2."""
    report = drift_report(np.ones((1, 3)), -np.ones((1, 3)), ["a"])
    assert report.table["cosine_distance"].tolist() == [pytest.approx(2)]


def test_rows_are_found_block_by_block(monkeypatch):
    """A block smaller than the table gives the same table."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 11, 3))
    whole = drift_report(before, after, range(11)).table
    monkeypatch.setattr(module, "BLOCK", 6)
    assert drift_report(before, after, range(11)).table.equals(whole)


def test_smallest_step_counts_as_moved():
    """One bit of one value is a move."""
    before = np.array([[1, 1e-45], [1, 1]], "float32")
    after = np.array([[1, 0], [1, 1]], "float32")
    assert drift_report(before, after, ["a", "b"]).moved.tolist() == [True, False]


def test_summary_is_of_the_rows_that_moved(report):
    """Counts, and the mean over the moved rows only."""
    summary = report.summary()
    assert (summary["rows"], summary["moved"]) == (5, 3)
    assert summary["mean_cosine_distance"] == pytest.approx(2 / 3)
    assert summary["max_cosine_distance"] == pytest.approx(1)


def test_summary_where_nothing_moved():
    """Zeros, no NaN."""
    assert drift_report(BEFORE, BEFORE, TOKENS).summary().tolist() == [5, 0, 0, 0, 0, 0]


def test_most_moved_comes_first(report):
    """The largest cosine distance first, unmoved rows never."""
    assert report.most_moved()["token"].tolist()[-1] == "scaled"
    assert set(report.most_moved()["token"]) == {"turned", "scaled", "gone"}
    assert len(report.most_moved(1)) == 1


def test_most_moved_needs_the_count():
    """Tokens seen less often than min_count are left out."""
    report = drift_report(BEFORE, AFTER, TOKENS, counts=[0, 9, 1, 5, 0])
    assert report.most_moved()["token"].tolist() == ["turned", "scaled"]
    assert report.most_moved(min_count=2)["token"].tolist() == ["scaled"]


def test_neighbours_before_and_after(report):
    """The token itself is left out on both sides."""
    before, after = report.neighbours("turned", topn=1)
    assert (before, after) == (["scaled"], ["same"])


def test_neighbours_of_an_unknown_token(report):
    """The message names the token and the number of rows."""
    with pytest.raises(UnknownWordError, match="No row for the token 'bird' among 5"):
        report.neighbours("bird")


def test_diverged_synonyms_finds_the_synonym_left_behind():
    """TV was trained, television was not: they part. The others stay or were never near."""
    before = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], "float32")
    after = before.copy()
    after[0] = [0.2, 1]
    after[2] = [0, 1.5]
    report = drift_report(before, after, ["TV", "television", "dog", "hound"], counts=[5, 0, 5, 0])
    pairs = report.diverged_synonyms()
    assert pairs[["seen", "unseen"]].to_numpy().tolist() == [["TV", "television"]]
    assert pairs["similarity_before"][0] > 0.99 > pairs["similarity_after"][0]


def test_diverged_synonyms_where_all_were_seen():
    """An empty table with the same columns."""
    pairs = drift_report(BEFORE[1:], AFTER[1:] + 1, TOKENS[1:]).diverged_synonyms()
    assert pairs.empty
    assert list(pairs) == ["seen", "unseen", "similarity_before", "similarity_after"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BEFORE, AFTER[:4], TOKENS), r"after must have 5 rows. Received: shape \(4, 2\)"),
        ((BEFORE, AFTER[:, :1], TOKENS), r"one shape. Received: \(5, 2\) and \(5, 1\)"),
        ((BEFORE, AFTER, TOKENS[:4]), "tokens must name 5 rows. Received: 4"),
        ((BEFORE, AFTER, "abcde"), r"tokens must be a sequence of tokens, such as vocabulary\.tokens\. Received: str"),
        ((BEFORE.astype(int), AFTER, TOKENS), "before must hold floats. Received: dtype int64"),
    ],
)
def test_tables_that_do_not_fit_are_refused(arguments, message):
    """The message names the table and what was received."""
    with pytest.raises(ArgumentError, match=message):
        drift_report(*arguments)


def test_counts_of_another_shape_are_refused():
    """The message names both shapes."""
    with pytest.raises(ArgumentError, match=r"counts must have the shape \(5,\). Received: \(2,\)"):
        drift_report(BEFORE, AFTER, TOKENS, counts=[1, 2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_table_that_is_not_finite_is_refused(value):
    """A training that diverged is not reported as rows that did not move."""
    after = AFTER.copy()
    after[2, 1] = value
    with pytest.raises(ArgumentError, match=r"after must be finite. .* row 2 \(token 'turned'\)"):
        drift_report(BEFORE, after, TOKENS)


def test_row_drift_is_a_table_of_the_same_columns(report):
    """DriftMonitor reads it by name."""
    table = row_drift(BEFORE, AFTER)
    assert list(table) == ["cosine_distance", "l2", "relative_l2"]
    np.testing.assert_array_equal(table, report.table[list(table)])
