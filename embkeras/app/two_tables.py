"""Two tables of vectors to compare, from vector files, models or exports, and a picture of how they differ."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._checks import path as checked_path
from embkeras._checks import shown
from embkeras._files import check_writable, written_beside
from embkeras.drift.plots import new_figure, plot_drift
from embkeras.drift.report import DriftReport, drift_report
from embkeras.errors import ArgumentError, OutputError
from embkeras.serving import names
from embkeras.text.labelled import read_texts
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.io.registry import load_vectors
from embkeras.vectors.store import KeyedVectors

PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True, eq=False)
class Table:
    """Vectors, and how often each word occurred in training where a model's vocabulary knows it."""

    vectors: KeyedVectors
    counts: dict[str, int] | None = None


def is_model(path: str) -> bool:
    """Whether a path is a `.keras` file or the folder of an exported model, and not a file of vectors."""
    place = checked_path(path, "path")
    if place.is_dir():
        return (names.export_folder(place) / "saved_model.pb").exists()
    return place.suffix == ".keras" and zipfile.is_zipfile(place)


def read_table(
    path: str, layer: str | None, words_file: Path | None, wanted: Sequence[str] | None, start: Callable[[], None]
) -> Table:
    """The table in a file of vectors, a model or an export.

    Args:
        path: the file or folder.
        layer: path of a model's embedding layer.
        words_file: the word of each row, for files and models that don't hold them: one a line, or a vocabulary as
            `Vocabulary.save` writes it.
        wanted: the only words to read from a file of vectors; None for all.
        start: imports TensorFlow, which models need.
    """
    if not is_model(path):
        vectors = load_vectors(path, words=wanted, fallbacks=(), words_file=words_file)
        return Table(vectors)
    words: list[str] | None = None
    if words_file is not None:
        is_vocabulary = words_file.suffix == ".json"
        words = list(Vocabulary.load(words_file).tokens) if is_vocabulary else list(read_texts(words_file))
    place = names.export_folder(path)
    saved = place / "assets" / "vocabulary.json"
    vocabulary = Vocabulary.load(saved) if saved.is_file() else None
    start()
    from embkeras.tables.saved import load_table

    vectors = load_table(place, layer, words=words)
    if vocabulary is None or vocabulary.counts is None:
        return Table(vectors)
    return Table(vectors, dict(zip(vocabulary.tokens, vocabulary.counts.tolist(), strict=True)))


def compared(before: Table, after: Table, sources: Sequence[str]) -> DriftReport:
    """A report on the words that both tables have, in the order of the second one.

    Raises:
        ArgumentError: no word is in both, or the vectors have different widths.
    """
    both = [word for word in after.vectors.words if word in before.vectors]
    if not both:
        like = [", ".join(map(repr, table.vectors.words[:3])) for table in (before, after)]
        raise ArgumentError(
            f"{shown(sources[0])} and {shown(sources[1])} have no word in common. "
            f"Received: words like {like[0]}, and like {like[1]}."
        )
    first, second = _rows(before.vectors, both), _rows(after.vectors, both)
    counts = after.counts or before.counts
    return drift_report(first, second, both, counts=None if counts is None else [counts.get(word, 0) for word in both])


def _rows(vectors: KeyedVectors, words: list[str]) -> np.ndarray:
    return np.asarray(vectors.matrix[[vectors.key_to_index[word] for word in words]], np.float32)


def check_picture(path: Path | None, *, overwrite: bool) -> None:
    """Refuse at once a picture that couldn't be drawn or written, or exists.

    Raises:
        ArgumentError: an unknown kind of picture.
        OutputError: it exists.
        MissingDependencyError: matplotlib is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in PICTURES:
        raise ArgumentError(f"out must be a picture: {', '.join(PICTURES)}. Received: {str(path)!r}.")
    if path.exists() and not overwrite:
        raise OutputError(f"{str(path)!r} already exists. Pass overwrite=True to replace it, or choose another name.")
    check_writable(path.parent)
    new_figure()


def draw(report: DriftReport, path: Path, *, min_count: int = 1) -> None:
    """Save the four plots of a report, or three without counts, as one picture."""
    kinds = ["moved", "plane", "synonyms"] + ["frequency"] * ("count" in report.table)
    figure, axes = new_figure(2, rows=2)
    for kind, ax in zip(kinds, axes, strict=False):
        plot_drift(report, kind, min_count=min_count, ax=ax)
    for ax in axes[len(kinds) :]:
        ax.set_axis_off()
    settings: dict[str, Any] = {"format": path.suffix.lower().removeprefix("."), "dpi": 120}
    with written_beside(path) as beside:
        figure.savefig(beside, **settings)
