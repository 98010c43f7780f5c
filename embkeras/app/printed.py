"""Results as lines of text, for the commands to print."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from embkeras.drift.neighbours import NeighbourDrift
from embkeras.drift.report import DriftReport
from embkeras.drift.word_pairs import WordSimilarity
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.inspection import Inspection

_SHOWN = 8
_MOST_MISSING = 100
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def table_text(table: pd.DataFrame, *, index: bool = True) -> str:
    """The table with aligned columns, indented by two spaces."""
    return indented(table.to_string(index=index, max_colwidth=60))


def indented(text: str) -> str:
    """Each line two spaces further in."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def coverage_lines(aligned: AlignedMatrix, source: str) -> Iterator[str]:
    """Coverage of `source`, tokens found by fallbacks, and the most frequent tokens without a vector."""
    yield f"Coverage of {source}: {aligned.coverage}"
    by_fallback, oov = _found(aligned)
    if len(by_fallback):
        yield f"Found by fallback spellings: {len(by_fallback):,} tokens ({by_fallback['count'].sum():,} occurrences)"
        for how, group in sorted(by_fallback.groupby("how"), key=lambda pair: -pair[1]["count"].sum()):
            pairs = [f"{row.token} -> {row.spelling}" for row in group.nlargest(4, "count").itertuples()]
            yield f"  {how}: {group['count'].sum():,} ({', '.join(pairs)})"
    if len(oov):
        missing = [f"{row.token} ({row.count})" for row in oov.head(_SHOWN).itertuples()]
        yield f"Most frequent words missing from the vectors: {', '.join(missing)}"


def coverage_figures(aligned: AlignedMatrix) -> dict[str, Any]:
    """The same as figures: shares from 0 to 1, occurrences by fallback, and the 100 most frequent missing tokens."""
    by_fallback, oov = _found(aligned)
    return {
        "coverage": {"types": aligned.coverage.types, "tokens": aligned.coverage.tokens},
        "fallbacks": by_fallback.groupby("how")["count"].sum().to_dict(),
        "missing": oov.head(_MOST_MISSING)[["token", "count"]].to_dict("records"),
    }


def _found(aligned: AlignedMatrix) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tokens that occurred and were found by a fallback, and those that were not found, the most frequent first."""
    report = aligned.report()
    occurred = report[report["count"] > 0]
    by_fallback = occurred[~occurred["how"].isin(["exact", "oov", "special"])]
    oov = occurred[occurred["how"] == "oov"]
    return by_fallback, oov.nlargest(len(oov), "count")


def inspection_lines(report: Inspection) -> Iterator[str]:
    """What a file of vectors contains; odd words are shown with their escapes."""
    packed = f", {report.compression}" if report.compression else ""
    yield f"File: {report.path} ({_size(report.file_bytes)})"
    yield f"Format: {report.format}{packed}"
    yield f"Rows: {report.rows:,}, width {report.width}; as float32 {_size(report.memory)} of memory"
    yield f"Header: {_header(report)}"
    yield f"Repeated words: {report.duplicates:,}; not valid in the encoding: {report.undecodable:,}"
    if report.subwords:
        yield f"Subwords: {report.subwords:,} rows of n-grams, {_size(4 * report.subwords * report.width)} as float32"
    norms = report.norms
    yield f"Norms: {norms.smallest:.4g} to {norms.largest:.4g}, mean {norms.mean:.4g}; rows of zeros: {norms.zero_rows:,}"
    for kind, (count, words) in report.odd.items():
        yield f"Words {kind}: {count:,} ({', '.join(map(ascii, words))})"
    yield f"First words: {', '.join(map(repr, report.first))}"
    yield f"Last words: {', '.join(map(repr, report.last))}"


def _header(report: Inspection) -> str:
    if report.header is None:
        return "none"
    rows, width = report.header
    verdict = "correct" if report.header == (report.rows, report.width) else f"wrong, there are {report.rows:,}"
    return f"{rows:,} rows of width {width}: {verdict}"


def _size(count: int) -> str:
    """A number of bytes for people."""
    size, units = float(count), iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.3g} {unit}"


def duration_text(seconds: float) -> str:
    """A duration for people.

    Examples:
        >>> [duration_text(seconds) for seconds in (0.2, 42, 100, 4000, 200_000)]
        ['a few seconds', 'about 40 seconds', 'about 2 minutes', 'about 67 minutes', 'about 2 days']
    """
    if seconds < 10:
        return "a few seconds"
    for size, unit in _UNITS:
        if seconds >= 1.5 * size:
            return f"about {round(seconds / size)} {unit}s"
    return f"about {round(seconds, -1):.0f} seconds"


def drift_lines(report: DriftReport) -> Iterator[str]:
    """How far the table moved, which words moved most, and which near-synonyms diverged."""
    summary = report.summary()
    yield (
        f"Rows moved: {summary['moved']:,} of {summary['rows']:,}; their cosine distance: "
        f"median {summary['median_cosine_distance']:.4f}, mean {summary['mean_cosine_distance']:.4f}, "
        f"largest {summary['max_cosine_distance']:.4f}; mean L2 distance {summary['mean_relative_l2']:.1%} of the norm"
    )
    yield (
        f"Norm after over before: {summary['mean_norm_ratio']:.3f}; linear CKA of the tables: {summary['linear_cka']:.4f}; "
        f"share of the steps' variance along one direction: {summary['first_component']:.0%}"
    )
    often = " (words seen at least 5 times)" if "count" in report.table else ""
    if summary["moved"]:
        yield f"Largest moves{often}, with neighbours before -> after:"
    for row in report.most_moved(_SHOWN, min_count=5)[["token", "cosine_distance"]].itertuples(index=False):
        before, after = report.neighbours(row.token, 4)
        yield f"  {row.token:<14} {row.cosine_distance:.3f}  {', '.join(before)}  ->  {', '.join(after)}"
    pairs = report.diverged_synonyms(_SHOWN)
    if len(pairs):
        which = "one seen in training and one not" if often else "of which one moved"
        yield f"Near-synonyms that diverged, {which} (cosine similarity before -> after):"
        for row in pairs.itertuples(index=False):
            yield f"  {row.seen:<14} / {row.unseen:<14} {row.similarity_before:.3f} -> {row.similarity_after:.3f}"


def neighbour_lines(drift: NeighbourDrift) -> Iterator[str]:
    """How many of the nearest neighbours are still the nearest, of rows that moved and of others."""
    found = drift.summary()
    of = (
        f"a sample of {found['looked_at']:,} of {found['rows']:,} rows"
        if found["sampled"]
        else f"{found['rows']:,} rows"
    )
    yield f"Of the {drift.topn} nearest neighbours before, {found['kept']:.1%} are still the nearest ({of}):"
    for group, did, count in (("moved", "moved", drift.moved), ("unmoved", "did not move", drift.unmoved)):
        if count:
            kept, shift = found[f"kept_{group}"], found[f"rank_shift_{group}"]
            rows = f"{count:,} row{'s' * (count > 1)}"
            yield f"  {rows} that {did}: {kept:.1%} kept, ranks changed by {shift:,.1f} places on average"


def similarity_line(found: WordSimilarity, source: str) -> str:
    """Spearman's correlation with people's scores, before and after."""
    return (
        f"Word similarity of {source}: {found.before:.3f} -> {found.after:.3f} "
        f"(Spearman; {found.found:,} of {found.pairs:,} pairs found)"
    )


def comparison_text(table: pd.DataFrame) -> str:
    """Accuracy and F1 of each strategy in percent, with the standard deviation over several seeds."""
    shown = pd.DataFrame(index=table.index.rename(None))
    for column in ("accuracy", "f1"):
        percent, spread = 100 * table[column], 100 * table[f"{column}_sd"]
        shown[f"{column} %"] = [
            f"{mean:.1f}" if np.isnan(sd) else f"{mean:.1f} ± {sd:.1f}"
            for mean, sd in zip(percent, spread, strict=True)
        ]
    shown["seeds"] = table["seeds"]
    shown["s per training"] = table["seconds"].map("{:.0f}".format)
    return table_text(shown)


def models_text(table: pd.DataFrame) -> str:
    """Models side by side: accuracy and F1 in percent, minutes of training, and the size that is served."""
    shown = pd.DataFrame(index=table.index)
    for column in ("accuracy", "f1"):
        shown[f"{column} %"] = (100 * table[column]).map("{:.1f}".format)
    shown["min of training"] = (table["seconds"] / 60).map("{:.1f}".format)
    for column, name in (("bytes", "MB served"), ("bytes_int8", "MB with an int8 table")):
        shown[name] = (table[column] / 1e6).map("{:.1f}".format)
    return table_text(shown)


def bytes_text(table: pd.DataFrame) -> str:
    """The size of a request as token ids and as vectors."""
    shown = table.assign(ratio=table["ratio"].map("{:.0f}x".format))
    return table_text(shown.rename(columns={"ids": "bytes as ids", "vectors": "bytes as float vectors"}))


def predictions_text(texts: Sequence[str], labels: Sequence[Any], probabilities: Sequence[Any]) -> str:
    """One line per text: label, probability, text; several labels of a text side by side, "-" for none."""
    shown = [label if isinstance(label, str) else ", ".join(label) or "-" for label in labels]
    every = [each if isinstance(each, list) else [each] for each in probabilities]
    figures = [", ".join(f"{each:.3f}" for each in row) or "-" for row in every]
    wide, wider = max(map(len, shown), default=0), max(map(len, figures), default=0)
    lines = zip(shown, figures, texts, strict=True)
    return "\n".join(f"  {label:<{wide}}  {figure:<{wider}}  {' '.join(text.split())}" for label, figure, text in lines)
