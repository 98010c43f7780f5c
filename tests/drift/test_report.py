"""drift_report: how far each row moved, and its neighbours before and after."""

import numpy as np
import pytest

from embkeras import _arrays, drift_report
from embkeras.drift.report import row_drift
from embkeras.errors import ArgumentError, OutputError, UnknownWordError

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


def test_norm_ratio_is_after_over_before(report):
    """NaN where the norm before is zero, 0 where that after is."""
    np.testing.assert_allclose(report.table["norm_ratio"], [np.nan, 1, 1, 2, 0])


def test_opposite_rows_are_2_apart():
    """The distance runs from 0 to 2."""
    report = drift_report(np.ones((1, 3)), -np.ones((1, 3)), ["a"])
    assert report.table["cosine_distance"].tolist() == [pytest.approx(2)]


def test_rows_are_found_block_by_block(monkeypatch):
    """Blocks smaller than the table don't change the result."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 11, 3))
    whole = drift_report(before, after, list("abcdefghijk")).table
    monkeypatch.setattr(_arrays, "BLOCK", 6)
    assert drift_report(before, after, list("abcdefghijk")).table.equals(whole)


def test_smallest_step_counts_as_moved():
    """One bit of one value is a move."""
    before = np.array([[1, 1e-45], [1, 1]], "float32")
    after = np.array([[1, 0], [1, 1]], "float32")
    assert drift_report(before, after, ["a", "b"]).moved.tolist() == [True, False]


def test_summary_is_of_the_rows_that_moved(report):
    """Counts, and each statistic over the moved rows only; mean, median and largest differ."""
    assert report.summary().to_dict() == pytest.approx(
        {
            "rows": 5,
            "moved": 3,
            "mean_cosine_distance": 2 / 3,
            "median_cosine_distance": 1,
            "max_cosine_distance": 1,
            "mean_relative_l2": (2**0.5 + 1 + 1) / 3,
            "mean_norm_ratio": (1 + 2 + 0) / 3,
            "linear_cka": report.linear_cka,
            "first_component": report.components[0],
        }
    )


def test_summary_of_distances_that_all_differ():
    """Three rows turned by 90, 60 and 0 degrees (the last one became longer)."""
    after = np.array([[0, 1], [0.5, 3**0.5 / 2], [3, 0]])
    summary = drift_report(np.tile([1.0, 0], (3, 1)), after, ["a", "b", "c"]).summary()
    distances = summary[["mean_cosine_distance", "median_cosine_distance", "max_cosine_distance"]]
    assert distances.tolist() == pytest.approx([0.5, 0.5, 1])
    after[2] = [0, 2]
    summary = drift_report(np.tile([1.0, 0], (3, 1)), after, ["a", "b", "c"]).summary()
    assert summary["mean_cosine_distance"] == pytest.approx(2.5 / 3)
    assert summary["median_cosine_distance"] == pytest.approx(1)
    assert summary["mean_relative_l2"] == pytest.approx((2**0.5 + 1 + 5**0.5) / 3)


def test_summary_where_nothing_moved():
    """Zeros, no NaN; the norms and the table as a whole are the same."""
    assert drift_report(BEFORE, BEFORE, TOKENS).summary().tolist() == [5, 0, 0, 0, 0, 0, 1, 1, 0]


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


def test_neighbours_have_a_name():
    """Padding is not a neighbour, even if its row is the nearest."""
    tables = turned([1, 0, 5, 9])
    assert drift_report(tables, tables, ["", "a", "b", "c"]).neighbours("a", 2) == (["b", "c"], ["b", "c"])


def test_neighbours_of_an_unknown_token(report):
    """The message names the token and the number of rows."""
    with pytest.raises(UnknownWordError, match="No row for the token 'bird' among 5"):
        report.neighbours("bird")


@pytest.fixture
def pairs():
    """Words of letters in pairs of near-synonyms, the first of each seen: angles in degrees before and after."""
    before = {"TV": 0, "television": 5, "dog": 90, "hound": 100, "car": 180, "auto": 230}
    after = before | {"TV": 20, "dog": 60, "car": 100}
    tables = [np.deg2rad([angles[word] for word in before]) for angles in (before, after)]
    tables = [np.stack([np.cos(angles), np.sin(angles)], axis=1) for angles in tables]
    return drift_report(*tables, list(before), counts=[5, 0] * 3)


def test_diverged_synonyms_come_in_order(pairs):
    """The most diverged pairs come first; a cosine below 0.7 before is not a near-synonym."""
    table = pairs.diverged_synonyms()
    assert table[["seen", "unseen"]].to_numpy().tolist() == [["dog", "hound"], ["TV", "television"]]
    np.testing.assert_allclose(table["similarity_before"], np.cos(np.deg2rad([10, 5])), rtol=1e-6)
    np.testing.assert_allclose(table["similarity_after"], np.cos(np.deg2rad([40, 15])), rtol=1e-6)
    assert pairs.diverged_synonyms(1)["seen"].tolist() == ["dog"]


@pytest.mark.parametrize(
    ("min_similarity", "seen"),
    [(0.6, ["car", "dog", "TV"]), (0.99, ["TV"]), (0.98, ["dog", "TV"]), (0.999, [])],
)
def test_diverged_synonyms_by_similarity(pairs, min_similarity, seen):
    """The cosine before decides, from 0.643 of the farthest pair to 0.996 of the nearest."""
    assert pairs.diverged_synonyms(min_similarity=min_similarity)["seen"].tolist() == seen


def test_diverged_synonyms_finds_the_synonym_left_behind():
    """TV was trained, television was not: they diverge. The others stay or were never near."""
    before = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], "float32")
    after = before.copy()
    after[0] = [0.2, 1]
    after[2] = [0, 1.5]
    report = drift_report(before, after, ["TV", "television", "dog", "hound"], counts=[5, 0, 5, 0])
    pairs = report.diverged_synonyms()
    assert pairs[["seen", "unseen"]].to_numpy().tolist() == [["TV", "television"]]
    assert pairs["similarity_before"][0] > 0.99 > pairs["similarity_after"][0]


def turned(angles):
    """Unit rows at these angles in degrees."""
    return np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], axis=1)


@pytest.mark.parametrize(
    ("tokens", "after", "counts", "found"),
    [
        (["TV", "television"], [60, 5], [1, 0], 1),
        (["TV", "television"], [60, 5], [1, 1], 0),
        (["TV", "t-v"], [60, 5], [1, 0], 0),
        (["T.V.", "television"], [60, 5], [1, 0], 0),
        (["TV", "television"], [60, 1], [1, 0], 0),
        (["TV", "television"], [60, 5], [0, 0], 0),
        (["TV", "television"], [0, 5], [1, 0], 0),
    ],
    ids=["pair", "both seen", "marks", "marks seen", "both moved", "none seen", "none moved"],
)
def test_which_words_are_diverged_synonyms(tokens, after, counts, found):
    """One seen and moved, the other neither, both of letters."""
    report = drift_report(turned([0, 5]), turned(after), tokens, counts=counts)
    assert len(report.diverged_synonyms()) == found


@pytest.mark.parametrize(("between", "found"), [(4, 1), (5, 0)])
def test_synonyms_are_among_the_five_nearest(between, found):
    """The unseen word counts only if fewer than five others are nearer."""
    angles = np.arange(between + 2)
    after = np.where(angles == 0, 60, angles)
    report = drift_report(
        turned(angles), turned(after), list("abcdefghij"[: len(angles)]), counts=(angles <= between).astype(int)
    )
    assert len(report.diverged_synonyms()) == found


def test_diverged_synonyms_where_all_were_seen():
    """An empty table with the same columns."""
    pairs = drift_report(BEFORE[1:], AFTER[1:] + 1, TOKENS[1:]).diverged_synonyms()
    assert pairs.empty
    assert list(pairs) == ["seen", "unseen", "similarity_before", "similarity_after"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BEFORE, AFTER[:4], TOKENS), r"after must have 5 rows. Received: shape \(4, 2\)"),
        ((BEFORE, AFTER[:, :1], TOKENS), r"the same shape. Received: \(5, 2\) and \(5, 1\)"),
        ((BEFORE, AFTER, TOKENS[:4]), "tokens must name 5 rows. Received: 4"),
        ((BEFORE, AFTER, "abcde"), "tokens must be a sequence, .* Received: 'abcde'"),
        ((BEFORE, AFTER, b"abcde"), "tokens must be a sequence, .* Received: b'abcde'"),
        ((BEFORE, AFTER, None), "tokens must be a sequence. Received: None"),
        ((BEFORE, AFTER, range(5)), "tokens must be strings: .* Received: 0 .* place 0"),
        ((BEFORE, AFTER, ["a", "b", "c", b"d", "e"]), "tokens must be strings: .* Received: b'd' .* place 3"),
        ((None, AFTER, TOKENS), r"before must have the shape .* Received: shape \(\)"),
        ((BEFORE, "after", TOKENS), r"after must have the shape"),
        (([[1.0], [1.0, 2.0]], AFTER, TOKENS), r"before must be an array of numbers. Received: a list"),
        ((BEFORE.astype(int), AFTER, TOKENS), "before must hold floats. Received: dtype int64"),
    ],
)
def test_tables_that_do_not_fit_are_refused(arguments, message):
    """The message names the table and what was received."""
    with pytest.raises(ArgumentError, match=message):
        drift_report(*arguments)


@pytest.mark.parametrize(
    ("counts", "received"),
    [
        ([1, 2], r"shape \(2,\), dtype int64"),
        ("many", r"shape \(\), dtype <U4"),
        ([1, 2, 3, 4, -5], r"shape \(5,\), dtype int64"),
        ([1, 2, 3, 4, np.nan], "dtype float64"),
        ([1, 2, 3, 4, np.inf], "dtype float64"),
        (list("abcde"), "dtype <U1"),
        ([[1], [1, 2]], "a list"),
    ],
)
def test_invalid_counts_are_refused(counts, received):
    """Of another shape, negative, or not numbers."""
    with pytest.raises(ArgumentError, match=rf"counts must .* Received: .*{received}"):
        drift_report(BEFORE, AFTER, TOKENS, counts=counts)


def test_token_with_half_a_surrogate_pair():
    """Such a token has a row like any other."""
    found = drift_report(BEFORE, AFTER, [*TOKENS[:3], "\ud800", "gone"])
    assert found.table["token"][3] == "\ud800"
    assert found.neighbours("\ud800", 1)[0]
    assert "\ud800" in found.neighbour_drift(1).table["token"].tolist()


def test_reports_compare_by_identity(report):
    """`==` has an answer, and a report can be in a set."""
    assert report == report and report != drift_report(BEFORE, AFTER, TOKENS) and len({report, report}) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.most_moved(0), "topn must be an integer >= 1. Received: 0"),
        (lambda report: report.most_moved(True), "topn must .* Received: True"),
        (lambda report: report.most_moved(min_count="2"), "min_count must .* Received: '2'"),
        (lambda report: report.neighbours("turned", 1.5), "topn must .* Received: 1.5"),
        (lambda report: report.neighbours("turned", None), "topn must .* Received: None"),
        (lambda report: report.diverged_synonyms(-1), "topn must .* Received: -1"),
        (lambda report: report.diverged_synonyms(min_similarity=2), "min_similarity must .* Received: 2"),
        (lambda report: report.diverged_synonyms(min_similarity="high"), "min_similarity must .* Received: 'high'"),
    ],
)
def test_invalid_arguments_are_refused(report, call, message):
    """The message names the argument and the value."""
    with pytest.raises(ArgumentError, match=message):
        call(report)


@pytest.mark.parametrize("token", [None, b"turned", 2, np.array(["turned"])])
def test_neighbours_of_what_is_no_token(report, token):
    """Something other than a string is an unknown token."""
    with pytest.raises(UnknownWordError, match="No row for the token"):
        report.neighbours(token)


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
    assert list(table) == ["cosine_distance", "l2", "relative_l2", "norm_ratio"]
    np.testing.assert_array_equal(table, report.table[list(table)])


@pytest.mark.parametrize("counts", [None, [0, 1, 2, 3, 4]])
def test_both_tables_for_the_projector(report, counts, tmp_path):
    """With token, count where known, and distance of each row; `load_vectors` reads them again."""
    report = drift_report(BEFORE, AFTER, TOKENS, counts=counts)
    assert report.export_projector(tmp_path) == tmp_path
    for name, table in (("before", BEFORE), ("after", AFTER)):
        np.testing.assert_array_equal(np.loadtxt(tmp_path / f"{name}.tsv"), table)
    lines = [line.split("\t") for line in (tmp_path / "metadata.tsv").read_text().splitlines()]
    assert lines[0] == ["token", *(["count"] if counts else []), "cosine_distance"]
    assert [line[0] for line in lines[1:]] == TOKENS and float(lines[3][-1]) == 1
    with pytest.raises(OutputError, match="already exists"):
        report.export_projector(tmp_path, overwrite=False)
