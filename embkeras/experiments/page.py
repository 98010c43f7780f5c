"""report_html: what a comparison, a profile and a drift report show, on one page that needs nothing but itself."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from embkeras import _checks
from embkeras._checks import flag, shown
from embkeras._files import written_beside
from embkeras.drift.plots import plot_comparison, plot_drift, plot_learning_curve
from embkeras.drift.report import DriftReport
from embkeras.errors import ArgumentError
from embkeras.experiments.markup import (
    Columns,
    count,
    digits,
    document,
    figure,
    number,
    percent,
    points,
    table,
    text,
    turned_table,
    yes,
)
from embkeras.experiments.profile import DataProfile
from embkeras.experiments.statistics import percent_interval

_ROWS = 20  # of lists: repeated texts, suspects, words that moved
_COMPARISON: Columns = {
    "validation_accuracy": ("validation accuracy", percent),
    "accuracy": ("test accuracy", percent),
    "interval": ("test accuracy %, 95% interval", str),
    "accuracy_sd": ("sd over runs", points),
    "unseen_accuracy": ("on unseen words", percent),
    "f1": ("F1", percent),
    "calibration_error": ("calibration error", percent),
    "drift": ("drift", digits),
    "trainable_parameters": ("parameters that train", count),
    "stored_bytes": ("MB stored", lambda value: f"{value / 1e6:,.2f}"),
    "seconds": ("seconds per run", lambda value: f"{value:,.1f}"),
    "seeds": ("runs", count),
    "diverged": ("diverged", count),
    "left": ("left the race", str),
}
_LEADS: Columns = {
    "difference": ("points", points),
    "half_width": ("±\u00a0points (95%)", points),
    "p_value": ("p (Holm)", digits),
    "significant": ("beyond the noise", yes),
}
_CURVE: Columns = {
    "strategy": ("strategy", str),
    "texts": ("training texts", count),
    "interval": ("test accuracy %, 95% interval", str),
    "seeds": ("runs", count),
}
_GAINS: Columns = {
    "strategy": ("strategy", str),
    "texts": ("training texts", count),
    "difference": ("points", points),
    "half_width": ("±\u00a0points (95%)", points),
    "significant": ("beyond the noise", yes),
}
_PARTS: Columns = {
    "texts": ("texts", count),
    "tokens": ("tokens", count),
    "median_tokens": ("tokens of the median text", count),
    "longest": ("tokens of the longest text", count),
    "empty": ("texts without a token", count),
    "types": ("different words", count),
    "coverage_types": ("of these have a vector", percent),
    "coverage_tokens": ("of the running text has a vector", percent),
    "unseen": ("texts with words that training doesn't have", percent),
    "unseen_with_vector": ("texts with such words that have a vector", percent),
    "in_train_exactly": ("texts that repeat a training text exactly", count),
    "in_train_nearly": ("texts that nearly repeat one", count),
    "judged": ("labels looked at", count),
    "agreement": ("labels that the neighbours' vote agrees with", percent),
    "suspects": ("labels unlike those of the neighbours", count),
}
_OCCURRENCES: Columns = {
    "types": ("words", count),
    "with_vector": ("words that have a vector", count),
    "tokens": ("occurrences", count),
}
_COPIES: Columns = {
    "part": ("part", str),
    "text": ("text", number),
    "label": ("label", str),
    "of_text": ("training text", number),
    "of_label": ("its label", str),
    "resemblance": ("resemblance", percent),
    "exact": ("exactly", yes),
}
_SUSPECTS: Columns = {
    "part": ("part", str),
    "text": ("text", number),
    "label": ("label", str),
    "neighbours_label": ("neighbours' label", str),
    "share": ("neighbours with it", percent),
}
_DRIFT: Columns = {
    "rows": ("rows", count),
    "moved": ("rows that moved", count),
    "median_cosine_distance": ("median cosine distance of these", digits),
    "mean_cosine_distance": ("mean", digits),
    "max_cosine_distance": ("largest", digits),
    "mean_relative_l2": ("mean length of the step, of the norm before", percent),
    "mean_norm_ratio": ("mean norm after / before", digits),
    "linear_cka": ("linear CKA of the tables", digits),
    "first_component": ("variance of the steps along one direction", percent),
}
_MOVED: Columns = {
    "token": ("word", str),
    "count": ("occurrences in training", count),
    "cosine_distance": ("cosine distance", digits),
    "relative_l2": ("step / norm before", digits),
}


def report_html(
    result: Any = None,
    *,
    profile: DataProfile | None = None,
    drift: DriftReport | None = None,
    curve: Any = None,
    title: str = "Comparison of training strategies",
) -> str:
    """One page of HTML of what is given: a comparison's advice, table and plot, learning curve, data profile, drift.

    It needs no network and no script. The plots are part of it, or left out with a sentence where matplotlib is not
    installed. Texts are named by their number and not quoted.

    Args:
        result: what `compare_strategies` or `race_strategies` returned.
        profile: what `data_profile` returned.
        drift: what `drift_report` returned, such as that of the strategy you take.
        curve: what `learning_curve` returned.
        title: heading of the page.

    Returns:
        The text of the page.

    Raises:
        ArgumentError: nothing is given, or something else.

    Examples:
        >>> from embkeras import data_profile
        >>> profile = data_profile(["a cat", "a dog"], ["x", "y"])
        >>> "<h1>Cats &amp; dogs</h1>" in report_html(profile=profile, title="Cats & dogs")
        True
    """
    if not isinstance(title, str):
        raise ArgumentError(f"title must be a string. Received: {shown(title)}.")
    parts = {"result": result, "curve": curve, "profile": profile, "drift": drift}
    if all(part is None for part in parts.values()):
        raise ArgumentError("A report needs a result, profile, drift or curve to show. Received: none of them.")
    right = {
        "result": ("compare_strategies or race_strategies", all(hasattr(result, name) for name in ("text", "leads"))),
        "curve": ("learning_curve", hasattr(curve, "texts") and hasattr(curve, "table")),
        "profile": ("data_profile", isinstance(profile, DataProfile)),
        "drift": ("drift_report", isinstance(drift, DriftReport)),
    }
    for name, (source, is_right) in right.items():
        if parts[name] is not None and not is_right:
            raise ArgumentError(f"{name} must be what {source} returned. Received: {shown(parts[name])}.")
    sections: list[str] = []
    each: list[tuple[Any, Callable[[Any], Iterator[str]]]]
    each = [(result, _result), (curve, _curve), (profile, _profile), (drift, _drift)]
    for part, write in each:
        if part is not None:
            sections += write(part)
    return document(title, sections)


def save_report(
    path: str | os.PathLike[str],
    result: Any = None,
    *,
    profile: DataProfile | None = None,
    drift: DriftReport | None = None,
    curve: Any = None,
    title: str = "Comparison of training strategies",
    overwrite: bool = True,
) -> Path:
    """Write the page of `report_html` as one file that opens from disk.

    Args:
        path: the file, such as "report.html".
        result: as for `report_html`, like all arguments below but the last.
        profile: what `data_profile` returned.
        drift: what `drift_report` returned.
        curve: what `learning_curve` returned.
        title: heading of the page.
        overwrite: whether to replace the file if it exists.

    Returns:
        The path.

    Raises:
        ArgumentError: what `report_html` raises, or not a path.
        OutputError: the file can't be written, or exists and `overwrite` is false.

    Examples:
        `save_report("report.html", race_strategies(...), profile=data_profile(...), drift=drift_report(...))`
    """
    target, overwrite = _checks.path(path, "path"), flag(overwrite, "overwrite")
    contents = report_html(result, profile=profile, drift=drift, curve=curve, title=title)
    with written_beside(target, overwrite=overwrite) as beside:
        beside.write_bytes(contents.encode("utf-8", "xmlcharrefreplace"))  # half a surrogate pair is shown as unknown
    return target


def _result(result: Any) -> Iterator[str]:
    yield f'<p class="advice">{text(result.text)}</p>'
    if result.table.empty:
        return
    left_out = ("accuracy_sd", "accuracy") if _has_intervals(result) else ()
    columns = {name: column for name, column in _COMPARISON.items() if name not in left_out}
    yield table(_with_intervals(result.table), columns, "Strategies", names="strategy")
    yield figure(lambda: plot_comparison(result), "Test accuracy of each strategy, as points with intervals")
    leads = result.leads
    if np.isfinite(leads["half_width"]).any():
        texts = "validation" if _has_intervals(result) else "test"
        yield table(leads, _LEADS, f"Lead of {result.table.index[0]} on the {texts} texts", names="over")


def _has_intervals(result: Any) -> bool:
    """Whether it is the advice of a race, which compares by validation texts and has intervals of the test accuracy."""
    return "half_width" in result.table


def _with_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """The table with a column for people, if it has intervals."""
    if "half_width" not in rows:
        return rows
    pairs = zip(rows["accuracy"], rows["half_width"], strict=True)
    return rows.assign(interval=[percent_interval(*pair) for pair in pairs])


def _curve(curve: Any) -> Iterator[str]:
    yield "<h2>Learning curve</h2>"
    if said := getattr(curve, "text", ""):
        yield f"<p>{text(said)}</p>"
    if curve.table.empty:
        return
    yield figure(lambda: plot_learning_curve(curve), "Test accuracy of each strategy by the number of training texts")
    yield table(_with_intervals(curve.table), _CURVE, "Accuracy by the number of training texts")
    gains = getattr(curve, "gains", None)
    if gains is not None and len(gains):
        yield table(
            gains, _GAINS, f"Ahead of {curve.strategies[0]}: from the most texts down, until one is within the noise"
        )


def _profile(profile: DataProfile) -> Iterator[str]:
    yield "<h2>Data</h2>"
    yield "<p>A look at the texts before training. It shows what to expect, and chooses nothing.</p>"
    yield turned_table(profile.parts, _PARTS, "Texts")
    classes: Columns = {name: (name, count) for name in profile.classes}
    yield table(profile.classes, classes, "Texts of each class", names="class")
    yield table(profile.occurrences, _OCCURRENCES, "Words by how often they occur in training", names="they occur")
    copies = profile.duplicates
    inside = copies["part"] == "train"
    leaks = copies[~inside & (copies["of_part"] == "train")].sort_values(
        "part", kind="stable"
    )  # those of the test first
    lists = {
        "Leaks: texts that repeat a training text": leaks,
        "Training texts that repeat another under another label": copies[
            inside & (copies["label"] != copies["of_label"])
        ],
    }
    for heading, rows in lists.items():
        if len(rows):
            yield table(rows, _COPIES, heading, most=_ROWS)
    if len(profile.suspects):
        yield table(profile.suspects, _SUSPECTS, "Labels to look at first", most=_ROWS)
        sampled = " Labels were looked at in a sample of the texts." if profile.sampled else ""
        yield (
            f"<p>The neighbours are the {profile.neighbours} nearest training texts. Their vote agrees with "
            f"{percent(profile.parts.at['train', 'agreement'])} of the training labels. It errs too: read a text before "
            f"you relabel it. Texts are counted from 0 in their part.{sampled}</p>"
        )


def _drift(drift: DriftReport) -> Iterator[str]:
    yield "<h2>Drift</h2>"
    yield "<p>How far training moved the rows of the table from where they were before.</p>"
    yield turned_table(drift.summary().to_frame("table").T, _DRIFT, "Rows of the table")
    moved = drift.most_moved(_ROWS)
    if len(moved):
        yield figure(lambda: plot_drift(drift), "The words that moved most, as bars of cosine distance")
        yield table(moved, _MOVED, "Words that moved most")
