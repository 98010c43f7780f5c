"""Plots of training, drift, coverage and comparisons; the only module that imports matplotlib."""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from embkeras._checks import one_of, shown, strings, whole_number
from embkeras.drift.report import DriftReport
from embkeras.errors import ArgumentError, MissingDependencyError, UnknownWordError

BLUE, ORANGE, VERMILION, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"  # Okabe and Ito's, and a grey
_COLOURS = (VERMILION, BLUE, ORANGE, GREY, "#009E73", "#CC79A7")


def new_figure(columns: int = 1, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure without a window, with rows of Axes side by side; and these, row by row.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError('Plots need matplotlib: python -m pip install "embkeras[plots]".') from None
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def svg_of(ax: Any) -> bytes:
    """The figure of some Axes as an SVG file, which is the same each time: without a date, and letters as shapes."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "embkeras", "svg.fonttype": "path"}):
        ax.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def plot_training(history: Mapping[str, Sequence[float]], *, unfrozen_at: int | None = None, ax: Any = None) -> Any:
    """Accuracy (or loss) of training and validation by epoch.

    Args:
        history: `History.history` of Keras, one number per epoch.
        unfrozen_at: epoch, counted from 0, at which the table was unfrozen; it is marked.
        ax: matplotlib Axes; a new figure if not given.

    Returns:
        The Axes.

    Raises:
        ArgumentError: the history contains neither accuracy nor loss, or `unfrozen_at` is not an integer >= 0.
        MissingDependencyError: matplotlib is not installed.
    """
    if not isinstance(history, Mapping):
        raise ArgumentError(f"plot_training takes the history attribute of a History. Received: {shown(history)}.")
    name = next((name for name in ("accuracy", "loss") if name in history), None)
    if name is None:
        raise ArgumentError(f"history must contain accuracy or loss. Received: {', '.join(map(str, history))}.")
    if unfrozen_at is not None:
        unfrozen_at = whole_number(unfrozen_at, "unfrozen_at", least=0)
    ax = ax or new_figure()[1][0]
    lines = ((name, "training", BLUE, "o"), (f"val_{name}", "validation", VERMILION, "^"))
    for key, label, color, marker in lines:
        if key in history:
            ax.plot(range(len(history[key])), history[key], marker=marker, color=color, label=label)
    if unfrozen_at is not None:
        label = f"unfrozen at epoch {unfrozen_at}"
        ax.axvline(unfrozen_at - 0.5, color="black", linestyle="--", linewidth=1, label=label)
    ax.set(xlabel="epoch", ylabel=name, title="Training")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def plot_drift(
    report: DriftReport,
    kind: str = "moved",
    *,
    topn: int = 12,
    min_count: int = 1,
    tokens: Iterable[str] | None = None,
    ax: Any = None,
) -> Any:
    """How far a table moved, as one of four plots.

    - "moved": the tokens that moved most, as bars of cosine distance.
    - "frequency": cosine distance of each token that moved, by its count in training.
    - "plane": the tokens that moved most, as arrows from before to after, in the plane in which they lie and move most;
      its axes are the two principal components of these rows, before and after.
    - "synonyms": cosine similarity before and after of near-synonyms that diverged (`DriftReport.diverged_synonyms`).

    Colours are those of Okabe and Ito, which colour-blind people can tell apart, and shapes differ where they do.

    Args:
        report: what `drift_report` returned.
        kind: which plot.
        topn: the largest number of tokens or pairs to show; of "frequency", to name.
        min_count: occurrences in training that a token needs.
        tokens: show these in place of those that moved most, whether they moved or not; not for "synonyms".
        ax: matplotlib Axes; a new figure if not given.

    Returns:
        The Axes.

    Raises:
        ArgumentError: not a DriftReport, an unknown `kind`, an invalid `topn` or `min_count`, "frequency" of a report
            without counts, or `tokens` for "synonyms".
        UnknownWordError: one of `tokens` is not in the table.
        MissingDependencyError: matplotlib is not installed.
    """
    if not isinstance(report, DriftReport):
        raise ArgumentError(f"plot_drift takes what drift_report returned. Received: {shown(report)}.")
    draw = _DRIFT[one_of(kind, "kind", _DRIFT)]
    movers = report.most_moved(topn, min_count=min_count) if tokens is None else _chosen(report, kind, tokens)
    if kind == "frequency" and "count" not in report.table:
        raise ArgumentError(
            'kind="frequency" needs counts: pass counts= to drift_report. Received: a report without them.'
        )
    ax = ax or new_figure()[1][0]
    draw(report, movers, topn, min_count, ax)
    return ax


def _chosen(report: DriftReport, kind: str, tokens: Iterable[str]) -> pd.DataFrame:
    """The rows of the report's table of some tokens, in their order."""
    if kind == "synonyms":
        raise ArgumentError('kind="synonyms" shows pairs: it takes no tokens. Received: tokens.')
    row_of = {token: row for row, token in reversed(list(enumerate(report.table["token"])))}
    wanted = strings(tokens, "tokens")
    missing = [token for token in wanted if token not in row_of]
    if missing:
        raise UnknownWordError(f"No row for the token {shown(missing[0])} among {len(report.table):,}.")
    return report.table.loc[[row_of[token] for token in wanted]]


def _draw_moved(report: DriftReport, movers: pd.DataFrame, topn: int, min_count: int, ax: Any) -> None:
    movers = movers.iloc[::-1]
    ax.barh(np.arange(len(movers)), movers["cosine_distance"], tick_label=_names(movers["token"]), color=BLUE)
    ax.set(
        xlabel="cosine distance between before and after",
        title=f"Drift: {int(report.moved.sum()):,} of {len(report.table):,} rows moved",
    )


def _draw_frequency(report: DriftReport, movers: pd.DataFrame, topn: int, min_count: int, ax: Any) -> None:
    table = report.table[report.moved & (report.table["count"] >= max(min_count, 1))]
    ax.scatter(table["count"], table["cosine_distance"], s=8, alpha=0.4, color=BLUE, linewidths=0, rasterized=True)
    ax.scatter(movers["count"], movers["cosine_distance"], s=24, color=VERMILION, marker="^")
    if len(table):
        ax.set_xscale("log")
    ax.margins(x=0.1)  # room for the names
    named = movers[["count", "cosine_distance"]].to_numpy(float)
    _write_names(ax, movers["token"], named, among=named)
    ax.set(
        xlabel="occurrences in training", ylabel="cosine distance", title=f"Drift of {len(table):,} tokens that moved"
    )


def _draw_plane(report: DriftReport, movers: pd.DataFrame, topn: int, min_count: int, ax: Any) -> None:
    rows = movers.index.to_numpy()
    start, end = plane_of(report.before[rows], report.after[rows])
    ax.plot(*start.T, "o", color=BLUE, label="before")
    ax.plot(*end.T, "^", color=VERMILION, label="after")
    for tail, head in zip(start, end, strict=True):
        ax.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": GREY})
    ax.margins(x=0.15)  # room for the names
    _write_names(ax, movers["token"], end, among=np.concatenate([start, end]))
    ax.set(xlabel="first component", ylabel="second component", title="Before and after, in the plane of these words")
    ax.legend()


def _draw_synonyms(report: DriftReport, movers: pd.DataFrame, topn: int, min_count: int, ax: Any) -> None:
    pairs = report.diverged_synonyms(topn).iloc[::-1]
    height = np.arange(len(pairs))
    ax.hlines(height, pairs["similarity_after"], pairs["similarity_before"], color=GREY)
    ax.plot(pairs["similarity_before"], height, "o", color=BLUE, label="before")
    ax.plot(pairs["similarity_after"], height, "^", color=VERMILION, label="after")
    names = [f"{seen} / {unseen}" for seen, unseen in zip(pairs["seen"], pairs["unseen"], strict=True)]
    ax.set_yticks(height, _names(names))
    ax.set(xlabel="cosine similarity", title="Near-synonyms that diverged: seen / not seen")
    _legend_on_top(ax, len(pairs))


_DRIFT = {"moved": _draw_moved, "frequency": _draw_frequency, "plane": _draw_plane, "synonyms": _draw_synonyms}


def _names(tokens: Iterable[str]) -> list[str]:
    """Names that matplotlib shows as they are: "$" would start mathematics."""
    return [token.replace("$", r"\$") for token in tokens]


def _write_names(ax: Any, tokens: Iterable[str], points: np.ndarray, *, among: np.ndarray) -> None:
    """Write each token beside its point, at the first place inside the axes that covers no earlier name and no point.

    A line leads from a name that had to move away to its point.
    """
    ax.get_xlim(), ax.get_ylim()  # the scales are settled from here on
    scale = ax.figure.dpi / 72
    taken = [(point - 3 * scale, point + 3 * scale) for point in ax.transData.transform(among)]
    for name, point, spot in zip(_names(tokens), points, ax.transData.transform(points), strict=True):
        size = np.array([5 * len(name), 10]) * scale  # about that of letters of 8 pt
        places = []
        for up, right in itertools.product((6, -6, 15, -15, 24, -24), (True, False)):
            low = spot + np.array([4 if right else -4, up]) * scale - size * [not right, 0.5]
            hits = sum(((low < end) & (low + size > begin)).all() for begin, end in taken)
            hits += not (low > ax.bbox.min).all() or not (low + size < ax.bbox.max).all()
            places.append((hits, low, (4 if right else -4, up), "left" if right else "right"))
        _, low, offset, side = min(places, key=lambda place: place[0])
        taken.append((low, low + size))
        edge = (0 if side == "left" else 1, 0.5)
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3, "relpos": edge}
        led = line if abs(offset[1]) > 10 else None
        ax.annotate(name, point, offset, textcoords="offset points", fontsize=8, ha=side, va="center", arrowprops=led)


def _legend_on_top(ax: Any, rows: int) -> None:
    """A legend in one line above so many rows of bars or lines, in a row of its own: it covers none of them."""
    ax.set_ylim(-0.6, rows + 0.4)
    columns = len(ax.get_legend_handles_labels()[1])
    ax.legend(loc="upper center", ncols=columns, frameon=False, fontsize=9, columnspacing=1.2, borderaxespad=0.2)


def plane_of(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both states of some rows in the plane of their first two principal components, each of shape (rows, 2)."""
    both = np.concatenate([before, after]).astype(np.float64)
    both -= both.mean(axis=0) if len(both) else 0
    axes = np.linalg.svd(both, full_matrices=False)[2][:2]
    flat = np.zeros((len(both), 2))
    flat[:, : len(axes)] = both @ axes.T
    return flat[: len(before)], flat[len(before) :]


def plot_coverage(aligned: Any, *, ax: Any = None) -> Any:
    """Where the rows of a vocabulary came from: shares of its tokens, and of the running text, by kind of match.

    Args:
        aligned: what `align` returned.
        ax: matplotlib Axes; a new figure if not given.

    Returns:
        The Axes.

    Raises:
        ArgumentError: not an AlignedMatrix.
        MissingDependencyError: matplotlib is not installed.
    """
    if not hasattr(aligned, "report"):
        raise ArgumentError(f"plot_coverage takes what align returned. Received: {shown(aligned)}.")
    ax = ax or new_figure()[1][0]
    table = aligned.report()
    table = table[table["how"] != "special"]
    kinds = np.select([table["how"] == "exact", table["how"] == "oov"], ["exact", "out of vocabulary"], "by a fallback")
    shares = {"vocabulary": table.groupby(kinds).size()}
    if "count" in table:
        shares["running text"] = table["count"].groupby(kinds).sum()
    left = np.zeros(len(shares))
    looks = (("exact", BLUE, ""), ("by a fallback", ORANGE, "///"), ("out of vocabulary", GREY, "..."))
    for kind, color, hatch in looks:
        width = np.array([share.get(kind, 0) / max(share.sum(), 1) for share in shares.values()])
        ax.barh(list(shares), width, left=left, label=kind, color=color, hatch=hatch, edgecolor="white")
        left += width
    ax.set(xlabel="share", xlim=(0, 1), title="Coverage")
    _legend_on_top(ax, len(shares))
    return ax


def plot_learning_curve(curve: Any, *, ax: Any = None) -> Any:
    """Test accuracy by the number of training texts, one line for each strategy, with a band of the 95% intervals.

    Args:
        curve: what `learning_curve` returned.
        ax: matplotlib Axes; a new figure if not given.

    Returns:
        The Axes.

    Raises:
        ArgumentError: not a LearningCurve.
        MissingDependencyError: matplotlib is not installed.
    """
    table = getattr(curve, "table", None)
    if table is None or "half_width" not in table:
        raise ArgumentError(f"plot_learning_curve takes what learning_curve returned. Received: {shown(curve)}.")
    ax = ax or new_figure()[1][0]
    looks = itertools.cycle(zip(_COLOURS, "o^sDvP", strict=True))
    for (name, own), (color, marker) in zip(table.groupby("strategy", sort=False), looks, strict=False):
        low, high = own["accuracy"] - own["half_width"], own["accuracy"] + own["half_width"]
        ax.plot(own["texts"], own["accuracy"], color=color, marker=marker, label=name)
        if np.isfinite(own["half_width"]).all():
            ax.fill_between(own["texts"], low.clip(0, 1), high.clip(0, 1), color=color, alpha=0.15, linewidth=0)
    ax.set_xscale("log")
    ticks = sorted(set(table["texts"]))
    ax.set_xticks(ticks, [f"{count:,}" for count in ticks])
    ax.set_xticks([], minor=True)
    seeds = int(table["seeds"].min())
    ax.set(
        xlabel="labelled texts that train",
        ylabel="test accuracy",
        title=f"Mean and 95% interval, {_number(seeds, 'seed')}",
    )
    ax.legend()
    return ax


def plot_comparison(comparison: Any, *, ax: Any = None) -> Any:
    """Test accuracy of each strategy as a point, with its standard deviation over seeds or, of a race, its 95% interval.

    A strategy of one run has neither: its point is alone.

    Args:
        comparison: what `compare_strategies` or `race_strategies` returned.
        ax: matplotlib Axes; a new figure if not given.

    Returns:
        The Axes.

    Raises:
        ArgumentError: not a Comparison.
        MissingDependencyError: matplotlib is not installed.
    """
    table = getattr(comparison, "table", None)
    if table is None or "accuracy_sd" not in table:
        raise ArgumentError(f"plot_comparison takes what compare_strategies returned. Received: {shown(comparison)}.")
    ax = ax or new_figure()[1][0]
    table = table.iloc[::-1]
    spread = table.get("half_width", table["accuracy_sd"]).replace(np.inf, np.nan)  # NaN: not known
    ends = np.minimum([spread, spread], [table["accuracy"], 1 - table["accuracy"]])  # an accuracy is between 0 and 1
    height = np.arange(len(table))
    ax.errorbar(table["accuracy"], height, xerr=ends, fmt="o", markersize=7, capsize=4, color=BLUE)
    ax.set_yticks(height, _names(table.index))
    ax.grid(axis="x", alpha=0.3)
    few, many = int(table["seeds"].min()), int(table["seeds"].max())
    runs = _number(few, "seed") if few == many else f"{few} to {many} runs"
    kind = "95% interval" if "half_width" in table else "standard deviation"
    title = f"Mean and {kind}, {runs} each" if spread.notna().any() else f"{runs} each"
    ax.set(xlabel="test accuracy", title=title, ylim=(-0.5, len(table) - 0.5))
    return ax


def _number(count: int, thing: str) -> str:
    """Such as "1 seed" and "3 seeds"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
