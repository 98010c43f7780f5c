"""The neighbours of rows before and after, against a plain sort of all cosines."""

import numpy as np
import pytest

from embkeras import _arrays, drift_report
from embkeras.drift import neighbours
from embkeras.errors import ArgumentError

RNG = np.random.default_rng(0)
BEFORE = RNG.normal(size=(60, 5)).astype(np.float32)
AFTER = BEFORE.copy()
AFTER[::3] += RNG.normal(size=(20, 5)).astype(np.float32)
BEFORE[7], AFTER[30], AFTER[7] = 0, 0, 1  # without a direction before, and after
TOKENS = [f"w{row}" for row in range(60)]


def plain(topn):
    """Row -> (share of neighbours kept, mean difference of their ranks), with a sorted list of all others each."""
    usable = [row for row in range(60) if BEFORE[row].any() and AFTER[row].any()]

    def ranked(table, row):
        unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
        cosine = unit @ unit[row]
        return sorted((other for other in usable if other != row), key=lambda other: -cosine[other])

    found = {}
    for row in usable:
        first, then = ranked(BEFORE, row)[:topn], ranked(AFTER, row)
        kept = len(set(first) & set(then[:topn])) / topn
        shift = sum(abs(then.index(other) - first.index(other)) for other in first) / topn
        found[row] = (kept, shift)
    return found


@pytest.mark.parametrize("topn", [1, 10])
@pytest.mark.parametrize("block", [None, 40])
def test_every_row_against_a_sort(topn, block, monkeypatch):
    """Share kept and shift of rank of each row; blocks of queries and of rows don't change them."""
    if block:
        monkeypatch.setattr(_arrays, "BLOCK", block)
        monkeypatch.setattr(neighbours, "_QUERIES", 7)
    result = drift_report(BEFORE, AFTER, TOKENS).neighbour_drift(topn)
    expected = plain(topn)
    assert result.table.index.tolist() == list(expected)
    np.testing.assert_allclose(result.table[["kept", "rank_shift"]], list(expected.values()), rtol=1e-9)
    assert result.table["token"].tolist() == [TOKENS[row] for row in expected]
    assert not result.sampled and (result.moved, result.unmoved) == (19, 39)


def test_summary_is_of_moved_and_unmoved_rows():
    """Means over all rows, and over each group."""
    result = drift_report(BEFORE, AFTER, TOKENS).neighbour_drift()
    expected, summary = plain(10), result.summary()
    for place, name in enumerate(["kept", "rank_shift"]):
        moved = [values[place] for row, values in expected.items() if row % 3 == 0]
        others = [values[place] for row, values in expected.items() if row % 3]
        means = [np.mean(moved + others), np.mean(moved), np.mean(others)]
        assert summary[[name, f"{name}_moved", f"{name}_unmoved"]].tolist() == pytest.approx(means)
    assert summary[["looked_at", "rows", "sampled"]].tolist() == [58, 58, False]
    assert summary["kept_moved"] < summary["kept_unmoved"] < 1


def test_a_sample_has_half_of_each_and_weighs_them():
    """The rows that moved count by how many there are, not by how many were looked at."""
    result = drift_report(BEFORE, AFTER, TOKENS).neighbour_drift(exact=False, sample=20)
    assert result.sampled and result.table["moved"].sum() == 10 == len(result.table) / 2
    summary, means = result.summary(), result.table.groupby("moved")["kept"].mean()
    assert summary["kept"] == pytest.approx((19 * means[True] + 39 * means[False]) / 58)
    expected = plain(10)
    assert all(expected[row][0] == pytest.approx(kept) for row, kept in result.table["kept"].items())


@pytest.mark.parametrize(("sample", "moved", "unmoved"), [(50, 19, 31), (58, 19, 39), (1000, 19, 39), (4, 2, 2)])
def test_a_small_group_leaves_its_places(sample, moved, unmoved):
    """A sample is as large as was asked for, if there are so many rows."""
    table = drift_report(BEFORE, AFTER, TOKENS).neighbour_drift(exact=False, sample=sample).table
    assert (table["moved"].sum(), (~table["moved"]).sum()) == (moved, unmoved)
    assert table.index.is_unique


def test_large_tables_are_sampled_unless_asked(monkeypatch):
    """From a number of rows on; exact=True looks at all."""
    report = drift_report(BEFORE, AFTER, TOKENS)
    monkeypatch.setattr("embkeras.drift.report.EXACT", 59)
    assert report.neighbour_drift(sample=20).summary()[["looked_at", "sampled"]].tolist() == [20, True]
    assert not report.neighbour_drift(sample=20, exact=True).sampled
    assert neighbours.EXACT == 100_000


def test_nothing_moved_keeps_all():
    """Equal rows have equal ranks, whatever the order in which they are found."""
    table = np.repeat(BEFORE[10:20], 3, axis=0)
    summary = drift_report(table, table, TOKENS[:30]).neighbour_drift(4).summary()
    assert summary[["kept", "rank_shift"]].tolist() == [1, 0]
    assert np.isnan(summary["kept_moved"])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_rows_than_neighbours(rows):
    """The others are the neighbours; a row alone has none, and no figure."""
    summary = drift_report(BEFORE[:rows], BEFORE[:rows], TOKENS[:rows]).neighbour_drift().summary()
    assert summary["kept"] == pytest.approx(np.nan if rows == 1 else 1, nan_ok=True)


@pytest.mark.parametrize(
    "arguments", [{"topn": 0}, {"topn": 1.5}, {"sample": 0}, {"exact": 1}, {"progress": "yes"}], ids=str
)
def test_invalid_arguments(arguments):
    """The message names the argument and the value."""
    (name, value), *_ = arguments.items()
    with pytest.raises(ArgumentError, match=f"{name} must .* Received: {value!r}"):
        drift_report(BEFORE, AFTER, TOKENS).neighbour_drift(**arguments)
