"""What the commands print: results as lines of text."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from embkeras.drift.report import DriftReport
from embkeras.vectors.align import AlignedMatrix

_SHOWN = 8


def table_text(table: pd.DataFrame, *, index: bool = True) -> str:
    """A table with its columns aligned, indented by two spaces."""
    text = table.to_string(index=index, max_colwidth=60)
    return "\n".join(f"  {line}" for line in text.splitlines())


def coverage_lines(aligned: AlignedMatrix, of: str = "the training texts") -> Iterator[str]:
    """Coverage, what the fallbacks rescued, and the most frequent tokens without a vector."""
    yield f"Coverage of {of}: {aligned.coverage}"
    report = aligned.report()
    occurred = report[report["count"] > 0]
    rescued = occurred[~occurred["how"].isin(["exact", "oov", "special"])]
    if len(rescued):
        yield f"Rescued by fallbacks: {len(rescued):,} tokens ({rescued['count'].sum():,} occurrences)"
        for how, group in sorted(rescued.groupby("how"), key=lambda pair: -pair[1]["count"].sum()):
            pairs = [f"{row.token} -> {row.spelling}" for row in group.nlargest(4, "count").itertuples()]
            yield f"  {how}: {group['count'].sum():,} ({', '.join(pairs)})"
    oov = occurred[occurred["how"] == "oov"].nlargest(_SHOWN, "count")
    if len(oov):
        pairs = zip(oov["token"], oov["count"], strict=True)
        yield "Most frequent out of the vectors: " + ", ".join(f"{token} ({count})" for token, count in pairs)


def drift_lines(report: DriftReport) -> Iterator[str]:
    """How far the table moved, which words moved most, and which near-synonyms parted."""
    summary = report.summary()
    yield (
        f"Rows moved: {summary['moved']:,} of {summary['rows']:,}; cosine distance of those: "
        f"median {summary['median_cosine_distance']:.4f}, mean {summary['mean_cosine_distance']:.4f}, "
        f"largest {summary['max_cosine_distance']:.4f}; mean step {summary['mean_relative_l2']:.1%} of the norm"
    )
    yield "Moved most (words seen at least 5 times), with their neighbours before and after:"
    for row in report.most_moved(_SHOWN, min_count=5)[["token", "cosine_distance"]].itertuples(index=False):
        before, after = report.neighbours(row.token, 4)
        yield f"  {row.token:<14} {row.cosine_distance:.3f}  {', '.join(before)}  ->  {', '.join(after)}"
    pairs = report.diverged_synonyms(_SHOWN)
    if len(pairs):
        yield "Near-synonyms that parted, one seen in training and one not (cosine similarity before -> after):"
        for row in pairs.itertuples(index=False):
            yield (f"  {row.seen:<14} / {row.unseen:<14} {row.similarity_before:.3f} -> {row.similarity_after:.3f}")


def comparison_text(table: pd.DataFrame) -> str:
    """Accuracy and F1 of each strategy in percent, with their spread where there are several seeds."""
    shown = pd.DataFrame(index=table.index.rename(None))
    for column in ("accuracy", "f1"):
        percent, spread = 100 * table[column], 100 * table[f"{column}_sd"]
        shown[f"{column} %"] = [
            f"{mean:.1f}" if np.isnan(sd) else f"{mean:.1f} ± {sd:.1f}"
            for mean, sd in zip(percent, spread, strict=True)
        ]
    shown["seeds"] = table["seeds"]
    shown["s a training"] = table["seconds"].map("{:.0f}".format)
    return table_text(shown)


def bytes_text(table: pd.DataFrame) -> str:
    """What a request weighs as ids and as vectors."""
    shown = table.assign(ratio=table["ratio"].map("{:.0f}x".format))
    return table_text(shown.rename(columns={"ids": "bytes as ids", "vectors": "bytes as float vectors"}))


def predictions_text(texts: Sequence[str], labels: Sequence[str], probabilities: Sequence[float]) -> str:
    """One line a text: label, probability, text."""
    width = max(map(len, labels), default=0)
    lines = zip(labels, probabilities, texts, strict=True)
    return "\n".join(
        f"  {label:<{width}}  {probability:.3f}  {' '.join(text.split())}" for label, probability, text in lines
    )
