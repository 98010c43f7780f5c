"""Plots of training, drift, coverage and comparisons; the only module that imports matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embkeras._checks import shown, whole_number
from embkeras.drift.report import DriftReport
from embkeras.errors import ArgumentError, MissingDependencyError


def new_figure(columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure without a window, with `columns` Axes side by side.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError('Plots need matplotlib: python -m pip install "embkeras[plots]".') from None
    figure = Figure(figsize=(5.5 * columns, 4), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


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
    for key, label in ((name, "training"), (f"val_{name}", "validation")):
        if key in history:
            ax.plot(range(len(history[key])), history[key], marker="o", label=label)
    if unfrozen_at is not None:
        label = f"unfrozen at epoch {unfrozen_at}"
        ax.axvline(unfrozen_at - 0.5, color="black", linestyle="--", linewidth=1, label=label)
    ax.set(xlabel="epoch", ylabel=name, title="Training")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def plot_drift(report: DriftReport, *, topn: int = 12, min_count: int = 1, ax: Any = None) -> Any:
    """The tokens that moved most, as bars of cosine distance.

    Args:
        report: what `drift_report` returned.
        topn: the largest number of tokens to show.
        min_count: occurrences in training that a token needs.
        ax: matplotlib Axes; a new figure if not given.

    Returns:
        The Axes.

    Raises:
        ArgumentError: not a DriftReport, or an invalid `topn` or `min_count`.
        MissingDependencyError: matplotlib is not installed.
    """
    if not isinstance(report, DriftReport):
        raise ArgumentError(f"plot_drift takes what drift_report returned. Received: {shown(report)}.")
    table = report.most_moved(topn, min_count=min_count).iloc[::-1]
    ax = ax or new_figure()[1][0]
    names = [token.replace("$", r"\$") for token in table["token"]]  # "$" starts mathematics in matplotlib
    ax.barh(np.arange(len(table)), table["cosine_distance"], tick_label=names)
    summary = report.summary()
    ax.set(
        xlabel="cosine distance between before and after",
        title=f"Drift: {summary['moved']:,} of {summary['rows']:,} rows moved",
    )
    return ax


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
    for kind in ("exact", "by a fallback", "out of vocabulary"):
        width = np.array([share.get(kind, 0) / max(share.sum(), 1) for share in shares.values()])
        ax.barh(list(shares), width, left=left, label=kind)
        left += width
    ax.set(xlabel="share", xlim=(0, 1), title="Coverage")
    ax.legend()
    return ax


def plot_comparison(comparison: Any, *, ax: Any = None) -> Any:
    """Test accuracy of each strategy as bars, with the standard deviation over seeds.

    Args:
        comparison: what `compare_strategies` returned.
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
    ax.barh(list(table.index), table["accuracy"], xerr=table["accuracy_sd"].fillna(0), capsize=3)
    ax.set(xlabel="test accuracy", title=f"{int(table['seeds'].min())} seed(s) each")
    return ax
