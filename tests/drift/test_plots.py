"""Plots: each function draws on the Axes that it returns."""

import io
import itertools
import string
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from embkeras import KeyedVectors, Vocabulary, align, drift_report
from embkeras.drift import plots
from embkeras.drift.plots import (
    BLUE,
    VERMILION,
    new_figure,
    plane_of,
    plot_comparison,
    plot_coverage,
    plot_drift,
    plot_learning_curve,
    plot_training,
    svg_of,
)
from embkeras.errors import ArgumentError, MissingDependencyError, UnknownWordError


@pytest.fixture(autouse=True)
def matplotlib():
    """Every test here draws."""
    return pytest.importorskip("matplotlib", reason="plots need matplotlib")


def drawn(ax):
    """The Axes, after its figure has really been drawn."""
    ax.figure.savefig(io.BytesIO(), format="png")
    return ax


def labels(ax):
    """The names in the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


HISTORY = {"accuracy": [0.5, 0.7], "val_accuracy": [0.4, 0.6], "loss": [1, 0.5]}


def test_training_shows_accuracy_of_both():
    """Two lines, an epoch a point."""
    ax = drawn(plot_training(HISTORY))
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.7], [0.4, 0.6]]
    assert labels(ax) == ["training", "validation"]


def test_training_marks_the_epoch_of_unfreezing():
    """The line is just before the first epoch that trains the table."""
    ax = drawn(plot_training(HISTORY, unfrozen_at=1))
    assert labels(ax)[-1] == "unfrozen at epoch 1"
    assert list(ax.lines[-1].get_xdata()) == [0.5, 0.5]


def test_training_falls_back_to_the_loss():
    """A history without accuracy shows the loss, and no validation where there was none."""
    ax = drawn(plot_training({"loss": [1.0, 0.5]}))
    assert (ax.get_ylabel(), labels(ax)) == ("loss", ["training"])


def test_training_refuses_another_history():
    """The message names what was received."""
    with pytest.raises(ArgumentError, match=r"accuracy or loss. Received: f1"):
        plot_training({"f1": [1]})


@pytest.mark.parametrize("tokens", [["cat", "dog"], ["$x", "a$b$"], ["$^$", "\\$"], ["", " "], ["cat", "cat"]])
def test_drift_draws_any_token(tokens):
    """Bars of the tokens that moved, the largest on top; "$" does not start mathematics."""
    report = drift_report(np.eye(2), np.array([[0.0, 1], [1, 1]]), tokens)
    ax = drawn(plot_drift(report))
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([1 - 0.5**0.5, 1])
    assert "2 of 2 rows moved" in ax.get_title()


def test_drift_shows_so_many():
    """topn bars at most."""
    assert len(plot_drift(drift_report(np.eye(5), np.ones((5, 5)), list("abcde")), topn=3).patches) == 3


def test_drift_where_nothing_moved():
    """The title of an empty plot says so."""
    ax = drawn(plot_drift(drift_report(np.eye(2), np.eye(2), ["a", "b"])))
    assert "0 of 2 rows moved" in ax.get_title()


def moving():
    """Four words of letters in pairs of near-synonyms, in the plane of two of three columns; the seen ones move."""
    before = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.1, 0.9, 0]])
    after = before.copy()
    after[0], after[2] = [0, 1, 0], [0.6, 0.8, 0]
    return drift_report(before, after, ["tv", "television", "x$y", "dog"], counts=[100, 0, 7, 0])


def test_drift_by_frequency():
    """Each token that moved by its count, the movers named; tokens never seen are not there."""
    ax = drawn(plot_drift(moving(), "frequency", topn=1))
    points, movers = (each.get_offsets().tolist() for each in ax.collections)
    assert points == [[100, pytest.approx(1)], [7, pytest.approx(0.2)]] and movers == [[100, pytest.approx(1)]]
    assert [text.get_text() for text in ax.texts] == ["tv"] and ax.get_xscale() == "log"


def test_drift_by_frequency_needs_counts():
    """The message says where to pass them."""
    with pytest.raises(ArgumentError, match=r"counts= to drift_report"):
        plot_drift(drift_report(np.eye(2), np.eye(2), ["a", "b"]), "frequency")


def test_drift_as_arrows_in_a_plane():
    """Each mover's arrow has the length of its step, because these rows lie in a plane."""
    ax = drawn(plot_drift(moving(), "plane"))
    start, end = (np.array(line.get_data()).T for line in ax.lines)
    np.testing.assert_allclose(np.linalg.norm(end - start, axis=1), [2**0.5, 0.4**0.5], rtol=1e-6)
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["tv", r"x\$y"]
    assert sum(text.arrow_patch is not None for text in ax.texts) == 2 and labels(ax) == ["before", "after"]


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (1, 1), (2, 1), (1, 5)])
def test_a_plane_of_few_rows(rows, width):
    """No row, or one column, is a plane too; distances that fit into it are kept."""
    before, after = np.ones((rows, width)), np.full((rows, width), 3.0)
    start, end = plane_of(before, after)
    assert start.shape == end.shape == (rows, 2)
    np.testing.assert_allclose(np.linalg.norm(end - start, axis=1), 2 * width**0.5)


def test_diverged_synonyms_before_and_after():
    """A line for each pair, from the similarity after to that before; the most diverged on top."""
    report = moving()
    ax = drawn(plot_drift(report, "synonyms"))
    pairs = report.diverged_synonyms().iloc[::-1]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["tv / television"] and len(pairs) == 1
    assert [line.get_xdata().tolist() for line in ax.lines] == [
        pairs["similarity_before"].tolist(),
        pairs["similarity_after"].tolist(),
    ]


@pytest.mark.parametrize("kind", ["moved", "frequency", "plane"])
def test_tokens_are_shown_in_place_of_the_movers(kind):
    """Those that are named, in their order, also one that did not move."""
    names = ["b", "a", "$c"]
    report = drift_report(np.eye(3), np.array([[0.0, 1, 0], [0, 1, 0], [0, 1, 1]]), ["a", "b", "$c"], counts=[2, 1, 1])
    ax = drawn(plot_drift(report, kind, tokens=names))
    if kind == "moved":
        assert [tick.get_text() for tick in ax.get_yticklabels()][::-1] == ["b", "a", r"\$c"]
        assert [bar.get_width() for bar in ax.patches][::-1] == pytest.approx([0, 1, 1 - 0.5**0.5])
    else:
        assert [text.get_text() for text in ax.texts if text.get_text()] == ["b", "a", r"\$c"]


def test_tokens_must_be_in_the_table():
    """The message names the one that isn't; pairs take none."""
    with pytest.raises(UnknownWordError, match="'zebra' among"):
        plot_drift(moving(), "plane", tokens=["zebra"])
    with pytest.raises(ArgumentError, match="synonyms"):
        plot_drift(moving(), "synonyms", tokens=["zebra"])


def _name_extent(text):
    """Of the name, without the line that leads to its point."""
    from matplotlib.text import Text

    return Text.get_window_extent(text)


@pytest.mark.parametrize("kind", ["frequency", "plane"])
def test_names_of_points_close_together_do_not_cover_each_other(kind):
    """Four words that moved alike: each name has a side of its own, and none lies on a point."""
    after = np.tile([0.0, 1, 0.2], (4, 1)) + np.arange(4)[:, None] * [0, 0, 0.002]
    before = np.tile([1.0, 0, 0], (4, 1)) + np.arange(4)[:, None] * [0, 0.002, 0]
    report = drift_report(before, after, ["awesome", "damn", "hello", "world"], counts=[50, 51, 52, 53])
    ax = drawn(plot_drift(report, kind))
    boxes = [_name_extent(text) for text in ax.texts if text.get_text()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    named = [line.get_xydata() for line in ax.lines] or [ax.collections[1].get_offsets()]
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes)
    assert not any(box.contains(*point) for box in boxes for point in ax.transData.transform(np.concatenate(named)))


def test_six_names_of_one_point_and_long_names_at_an_edge():
    """Each name has a place of its own, inside the axes."""
    _, (ax,) = new_figure()
    points = np.array([*[[0.5, 0.5]] * 6, [0.98, 0.5], *[[0.01, 0.01]] * 2, [0.5, 0.99]])
    ax.set(xlim=(0, 1), ylim=(0, 1))
    plots._write_names(ax, [*"abcdef", "television set", "left", "below", "above"], points, among=points)
    boxes = [_name_extent(text) for text in drawn(ax).texts]
    assert len(boxes) == 10 and not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes)
    assert all(ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1 for box in boxes)
    led = [text.get_text() for text in ax.texts if text.arrow_patch is not None]
    assert led == ["e", "f", "below"]  # the others are next to their points


@pytest.mark.parametrize("rows", [1, 12])
def test_a_legend_covers_no_row(rows):
    """Of near-synonyms and of coverage."""
    turned = np.array([[0.0, 1, 0], [0.9, 0.1, 0]])
    before = np.kron(np.eye(rows), [[1.0, 0, 0], [0.9, 0.1, 0]])
    after = np.kron(np.eye(rows), turned)
    names = [f"{kind}{letter}" for letter in string.ascii_letters[:rows] for kind in ("seen", "unseen")]
    pairs = drawn(plot_drift(drift_report(before, after, names, counts=[1, 0] * rows), "synonyms"))
    top = pairs.transData.transform([0, len(pairs.get_yticks()) - 1])[1]
    assert len(pairs.get_yticks()) == rows and pairs.get_legend().get_window_extent().ymin > top
    covered = drawn(
        plot_coverage(align(KeyedVectors(["a"], np.eye(1)), Vocabulary(["", "[UNK]", "a"], counts=[0, 1, 2])))
    )
    assert covered.get_legend().get_window_extent().ymin > max(bar.get_window_extent().ymax for bar in covered.patches)


@pytest.mark.parametrize("kind", ["moved", "frequency", "plane", "synonyms"])
def test_each_drift_plot_where_nothing_moved(kind):
    """Empty, and no error."""
    assert drawn(plot_drift(drift_report(np.eye(2), np.eye(2), ["a", "b"], counts=[1, 1]), kind)).get_title()


def test_colours_differ_in_brightness_and_shape():
    """Before and after can be told apart without colours."""
    ax = drawn(plot_drift(moving(), "plane"))
    (one, other), markers = [line.get_color() for line in ax.lines], [line.get_marker() for line in ax.lines]
    assert (one, other) == (BLUE, VERMILION) and markers == ["o", "^"]


@pytest.mark.parametrize(("counts", "shares"), [(None, [1 / 4, 1 / 4, 2 / 4]), ([0, 9, 5, 3, 1, 1], [0.5, 0.3, 0.2])])
def test_coverage_shows_shares(counts, shares):
    """Exact, by a fallback and out of vocabulary add up to 1."""
    vocabulary = Vocabulary(["", "[UNK]", "a", "B", "x", "y"], counts=counts)
    ax = drawn(plot_coverage(align(KeyedVectors(["a", "b"], np.eye(2)), vocabulary)))
    last_of_each_kind = [container[-1].get_width() for container in ax.containers]
    assert last_of_each_kind == pytest.approx(shares)
    assert labels(ax) == ["exact", "by a fallback", "out of vocabulary"]


@pytest.mark.parametrize("deviation", [0.1, np.nan])
def test_comparison_shows_each_strategy(deviation):
    """The first strategy on top; one seed has no deviation."""
    table = pd.DataFrame(
        {"accuracy": [0.5, 0.7], "accuracy_sd": [deviation, deviation], "seeds": [3, 3]}, index=["frozen", "tuned"]
    )
    ax = drawn(plot_comparison(SimpleNamespace(table=table)))
    assert ax.lines[0].get_xdata().tolist() == [0.7, 0.5]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["tuned", "frozen"]
    assert ax.get_title() == ("3 seeds each" if np.isnan(deviation) else "Mean and standard deviation, 3 seeds each")


def test_race_is_drawn_with_its_intervals():
    """What left the race has none, nor has one run; and they have different numbers of runs."""
    columns = {"accuracy": [0.7, 0.6, 0.5], "accuracy_sd": [0.1] * 3, "half_width": [0.2, np.inf, np.nan]}
    table = pd.DataFrame(columns | {"seeds": [5, 1, 1]}, index=["a", "b$", "c$"])
    ax = drawn(plot_comparison(SimpleNamespace(table=table)))
    (bars,) = ax.containers[0].lines[2]
    assert [np.ptp(segment[:, 0]) for segment in bars.get_segments() if len(segment)] == pytest.approx([0.4])
    assert ax.get_title() == "Mean and 95% interval, 1 to 5 runs each"


def test_svg_is_the_same_each_time():
    """Without a date or random names."""
    first, second = (svg_of(plot_training(HISTORY)) for _ in range(2))
    assert first == second and b"<svg" in first and b"<dc:date>" not in first


def test_learning_curve_has_bands():
    """A line for each strategy on a scale of logarithms, and a band where every point has an interval."""
    table = pd.DataFrame(
        {
            "strategy": ["map", "map", "stock", "stock"],
            "texts": [100, 1600] * 2,
            "accuracy": [0.7, 0.9, 0.6, 0.8],
            "half_width": [0.02, 0.01, np.inf, 0.01],
            "seeds": 3,
        }
    )
    ax = drawn(plot_learning_curve(SimpleNamespace(table=table)))
    assert labels(ax) == ["map", "stock"] and ax.get_xscale() == "log"
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.7, 0.9], [0.6, 0.8]]
    assert len(ax.collections) == 1
    assert [text.get_text() for text in ax.get_xticklabels()] == ["100", "1,600"]


def test_draws_on_the_axes_given():
    """ax= is used and returned, and no other figure is made."""
    figure, (left, right) = new_figure(2)
    assert plot_training(HISTORY, ax=right) is right
    assert not left.lines
    assert figure.axes == [left, right]


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    """What to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"need matplotlib: .*embkeras\[plots\]"):
        plot_training(HISTORY)


@pytest.mark.parametrize("value", [None, "text", b"bytes", 3, [0.5], {"table": 1}])
@pytest.mark.parametrize("plot", [plot_training, plot_drift, plot_coverage, plot_comparison, plot_learning_curve])
def test_other_objects_are_refused(plot, value):
    """The message names the function that returns what is needed, or the value."""
    with pytest.raises(ArgumentError, match=r"Received: "):
        plot(value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_training(HISTORY, unfrozen_at=True), "unfrozen_at must be an integer >= 0. Received: True"),
        (lambda: plot_training(HISTORY, unfrozen_at="3"), "Received: '3'"),
        (lambda: plot_drift(drift_report(np.eye(2), np.eye(2), ["a", "b"]), topn=0), "topn must .* Received: 0"),
        (lambda: plot_drift(moving(), "bars"), "kind must be one of moved, .* Received: 'bars'"),
    ],
)
def test_invalid_numbers_are_refused(call, message):
    """The message names the argument and the value."""
    with pytest.raises(ArgumentError, match=message):
        call()
