"""The whole way as functions: what `embkeras demo`, `train` and `predict` do."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras._files import check_writable, written_beside
from embkeras.app import material as datasets
from embkeras.app import printed as presentation
from embkeras.app.preparation import Prepared, Say, Settings, prepare
from embkeras.drift.plots import new_figure, plot_drift, plot_training
from embkeras.drift.report import DriftReport, drift_report
from embkeras.errors import MissingDependencyError
from embkeras.experiments.runs import Run, Strategy, compare_strategies, default_strategies, run_strategy
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel, ask_in_new_process, request_bytes
from embkeras.tables.builders import build_classifier
from embkeras.text.labelled import Split, labelled, read_labelled, split
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.vectors.align import AlignedMatrix

LAYER = "embedding"
QUICK_TEXTS = 900
NEAR_ZERO = 0.5  # mean ratings closer to zero than this are neither positive nor negative
EXAMPLES = (
    "What a lovely surprise, this made my whole week :)",
    "Stuck in traffic again and the radio is broken. Worst morning ever",
    "@anonymous I can't believe how good that concert was!!!",
    "The flat smells horrible and nobody answers the phone",
)


def demo(out: Path, settings: Settings, say: Say, *, quick: bool = False) -> Path:
    """The whole way on GloVe 6B 50d and 3,432 of 4,200 rated tweets; returns the exported version's folder.

    Args:
        out: where the model goes.
        settings: what to train.
        say: receives each line of the report.
        quick: only the first 900 of them.
    """
    check_writable(out)
    matrix, words = datasets.glove_paths()
    if not datasets.tweets_are_cached():
        say("Fetching 4,200 rated tweets (2.5 MB, once) ...")
    rated = datasets.tweets()
    clear = rated[rated["rating"].abs() >= NEAR_ZERO]
    say(
        f"Text: {len(rated):,} tweets rated by people; {len(rated) - len(clear):,} rated nearer to zero than {NEAR_ZERO} left out"
    )
    if quick:
        clear = clear.head(QUICK_TEXTS)
    texts = labelled(clear["text"].tolist(), np.where(clear["rating"] > 0, "positive", "negative").tolist())
    return _whole_way(split(texts), matrix, words, out, settings, say, compare=True, examples=EXAMPLES)


def train(
    file: Path,
    vectors: Path,
    out: Path,
    settings: Settings,
    say: Say,
    *,
    text: str | None = None,
    label: str | None = None,
    encoding: str | None = None,
    skip_empty: bool = False,
    quotes: bool = True,
    words_file: Path | None = None,
    compare: bool = False,
) -> Path:
    """The whole way on a user's own file and vectors; returns the exported version's folder."""
    check_writable(out)
    data = read_labelled(file, text, label, encoding=encoding, skip_empty=skip_empty, quotes=quotes)
    say(f"Text: {len(data):,} texts in {len(data.class_names)} classes ({', '.join(data.class_names[:5])})")
    parts = split(data)
    return _whole_way(parts, vectors, words_file, out, settings, say, compare=compare, examples=parts.test.texts[:4])


def predict(path: Path, texts: Sequence[str]) -> pd.DataFrame:
    """Label and probability of each text from an exported model: columns `text`, `label`, `probability`."""
    return ExportedModel(path).predict(texts)


def _whole_way(
    parts: Split,
    vectors: Path,
    words_file: Path | None,
    out: Path,
    settings: Settings,
    say: Say,
    *,
    compare: bool,
    examples: Sequence[str],
) -> Path:
    prepared = prepare(parts, vectors, words_file, settings, say)
    strategies = default_strategies(settings.unfreeze_at, settings.unfrozen_learning_rate)
    say(
        f"\nTraining the {settings.architecture} classifier: table frozen, from epoch {settings.unfreeze_at} "
        f"(counted from 0) unfrozen at learning rate {settings.unfrozen_learning_rate:g}"
    )
    monitor = DriftMonitor(LAYER)
    run = _train_phased(prepared, strategies["phased"], settings, monitor)
    report = drift_report(
        monitor.before,
        run.model.get_layer(LAYER).matrix(),
        prepared.vocabulary.tokens,
        counts=prepared.vocabulary.counts,
    )
    say("\nDrift")
    for line in presentation.drift_lines(report):
        say(line)
    _show_result(prepared, run, strategies, settings, say, compare=compare)
    options = {"about": _about(prepared, run, report, settings), "with_config": settings.with_config}
    folder = _export(run.model, prepared, out, say, examples, options)
    _draw(run, report, settings, out, say)
    return folder


def _builder(prepared: Prepared, settings: Settings) -> Callable[[Strategy], keras.Model]:
    """A function that makes the compiled model of a strategy."""

    def build(strategy: Strategy) -> keras.Model:
        model = build_classifier(
            prepared.aligned if strategy.pretrained else _random_vectors(prepared),
            len(prepared.class_names),
            architecture=settings.architecture,
            units=settings.units,
            dropout=settings.dropout,
            trainable=strategy.trainable,
        )
        model.compile(RowWiseAdam(settings.learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build


def _random_vectors(prepared: Prepared) -> AlignedMatrix:
    """What a Keras Embedding without vectors starts from, drawn anew for each seed."""
    random = np.array(keras.initializers.RandomUniform()(prepared.aligned.values.shape), np.float32)
    random[prepared.vocabulary.padding_id] = 0
    return AlignedMatrix(random, prepared.vocabulary)


def _train_phased(prepared: Prepared, strategy: Strategy, settings: Settings, monitor: DriftMonitor) -> Run:
    return run_strategy(
        _builder(prepared, settings),
        prepared.data,
        "phased",
        strategy,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        layer=LAYER,
        callbacks=[monitor],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _show_result(
    prepared: Prepared, run: Run, strategies: dict[str, Strategy], settings: Settings, say: Say, *, compare: bool
) -> None:
    labels = prepared.data.test[1]
    majority = np.bincount(labels).max() / len(labels)
    if not compare:
        say(
            f"\nResult on {len(labels):,} test texts: accuracy {run.accuracy:.1%}, F1 {run.f1:.1%} "
            f"(always the largest class: {majority:.1%}); --compare sets frozen, fine-tuned and random beside it"
        )
        return
    say(f"\nComparing {len(strategies)} strategies, {settings.seeds} seed(s) each, on the same data")
    comparison = compare_strategies(
        _builder(prepared, settings),
        prepared.data,
        strategies=strategies,
        seeds=settings.seeds,
        done=[run],
        on_start=lambda name, seed: [_ProgressLine(f"{name}, seed {seed}")],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        layer=LAYER,
    )
    say(f"\nResult on {len(labels):,} test texts (always the largest class: {majority:.1%})")
    say(presentation.comparison_text(comparison.table))
    say(comparison.recommendation)


class _ProgressLine(keras.callbacks.Callback):
    """One line a training: rewritten every epoch on a terminal, written once at the end elsewhere."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Show the epoch and the accuracies."""
        last = epoch + 1 == self.params["epochs"]
        if not (last or sys.stdout.isatty()):
            return
        line = f"  {self.name}: epoch {epoch + 1}/{self.params['epochs']}, "
        line += f"accuracy {logs['accuracy']:.3f}, validation {logs['val_accuracy']:.3f}"
        start, end = ("\r", "\n" if last else "") if sys.stdout.isatty() else ("", "\n")
        print(start + line, end=end, flush=True)


def _about(prepared: Prepared, run: Run, report: DriftReport, settings: Settings) -> dict[str, Any]:
    """What the model card says of data, training and result."""
    sizes = {name: len(getattr(prepared.data, name)[1]) for name in ("train", "validation", "test")}
    return {
        "Data": {"texts": ", ".join(f"{count:,} {name}" for name, count in sizes.items())}
        | {"words with a vector": str(prepared.aligned.coverage)},
        "Training": f"A {settings.architecture} classifier over {settings.epochs} epochs of batches of {settings.batch_size}: "
        f"the table frozen, from epoch {settings.unfreeze_at} (counted from 0) unfrozen at learning rate "
        f"{settings.unfrozen_learning_rate:g}.",
        "Schedule of the table": run.phases,
        "Result on the test texts": {"accuracy": f"{run.accuracy:.3f}", "F1 (mean of the classes)": f"{run.f1:.3f}"},
        "Drift of the table": {name: f"{value:.4g}" for name, value in report.summary().items()},
    }


def _export(
    model: keras.Model, prepared: Prepared, out: Path, say: Say, examples: Sequence[str], options: dict[str, Any]
) -> Path:
    """Write the SavedModel, and ask it from another process that has TensorFlow only."""
    vocabulary = prepared.vocabulary
    folder = export_saved_model(model, out, vocabulary=vocabulary, class_names=prepared.class_names, **options)
    say(f"\nExported to {os.path.join(folder, '')}")
    requests = [vocabulary.encode(text) for text in examples]
    scores, loaded = ask_in_new_process(folder, requests)
    here = np.concatenate([model(ids[None], training=False).numpy() for ids in requests])
    present = ", ".join(name for name, there in loaded.items() if there)
    absent = ", ".join(name for name, there in loaded.items() if not there)
    # `import tensorflow` loads Keras by itself, so Keras is there though the process does not ask for it.
    say(
        f"Asked in token ids by a separate process that imports only tensorflow (loaded: {present}; not loaded: {absent});"
    )
    say(f"largest difference from the scores here: {np.abs(scores - here).max():.1e}")
    names = [prepared.class_names[index] for index in scores.argmax(axis=1)]
    say(presentation.predictions_text(examples, names, scores.max(axis=1).tolist()))
    ids = requests[0][None]
    say(f"One request of {ids.shape[1]} tokens: {ids[0].tolist()}")
    say(presentation.bytes_text(request_bytes(ids, prepared.aligned.values[ids])))
    return folder


def _draw(run: Run, report: DriftReport, settings: Settings, out: Path, say: Say) -> None:
    """Training curves and drift as one picture beside the model."""
    try:
        figure, (left, right) = new_figure(2)
    except MissingDependencyError as error:
        say(f"No picture: {error}")
        return
    plot_training(run.history, unfrozen_at=settings.unfreeze_at, ax=left)
    plot_drift(report, min_count=5, ax=right)
    picture = out / "training.png"
    with written_beside(picture) as beside:
        figure.savefig(beside, format="png", dpi=120)
    say(f"Picture: {picture}")
