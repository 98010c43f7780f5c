"""From prepared data to an export: the part of `embkeras demo` and `embkeras train` that needs TensorFlow."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras._files import written_beside
from embkeras.app import printed
from embkeras.app.callbacks import BestEpoch, ComparisonProgress, TimeLeft
from embkeras.app.output import Output
from embkeras.app.preparation import Prepared, Say
from embkeras.app.settings import Settings
from embkeras.drift.plots import new_figure, plot_drift, plot_training
from embkeras.drift.report import DriftReport, drift_report
from embkeras.errors import MissingDependencyError
from embkeras.experiments.data import Data
from embkeras.experiments.runs import Run, compare_strategies, recommendation, run_strategy
from embkeras.experiments.strategies import Strategy, default_strategies
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ask_in_new_process, request_bytes
from embkeras.tables.builders import build_classifier
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam

LAYER = "embedding"
_F1 = "F1 (mean over classes)"
EXAMPLES = (
    "What a lovely surprise, this made my whole week :)",
    "Stuck in traffic again and the radio is broken. Worst morning ever",
    "@anonymous I can't believe how good that concert was!!!",
    "The flat smells horrible and nobody answers the phone",
)


def run(
    prepared: Prepared, out: Path, settings: Settings, output: Output, *, compare: bool, examples: Sequence[str]
) -> None:
    """Train, measure the drift, compare if asked to, export, and query the export.

    Args:
        prepared: texts and vectors.
        out: model folder.
        settings: what to train.
        output: receives the report and, as its `result`, the figures.
        compare: whether to train the other strategies too.
        examples: texts to query the export with.
    """
    say = output.say
    strategies = default_strategies(settings.unfreeze_at, settings.unfrozen_learning_rate)
    say(
        f"\nTraining the {settings.architecture} classifier: table frozen, unfrozen at epoch {settings.unfreeze_at} "
        f"(counted from 0) with learning rate {settings.unfrozen_learning_rate:g}"
    )
    monitor, best = DriftMonitor(LAYER), BestEpoch(settings.patience, settings.unfreeze_at)
    run = run_strategy(
        _builder(prepared, settings),
        _data(prepared),
        strategies["phased"],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        callbacks=[monitor, best, TimeLeft(say, (len(strategies) * settings.seeds - 1) * compare)],
        verbose=output.verbosity,
    )
    say(str(best))
    vocabulary = prepared.vocabulary
    after = run.model.get_layer(LAYER).matrix()
    report = drift_report(monitor.before, after, vocabulary.tokens, counts=vocabulary.counts)
    say("\nDrift")
    for line in printed.drift_lines(report):
        say(line)
    output.result |= {
        "best_epoch": best.epoch,
        "epochs": best.last + 1,
        "validation_loss": best.loss,
        "coverage": vars(prepared.aligned.coverage),
        "drift": report.summary().to_dict(),
    }
    _show_result(prepared, run, strategies, settings, output, compare=compare)
    folder = export_saved_model(
        run.model,
        out,
        vocabulary=vocabulary,
        class_names=prepared.class_names,
        metadata=_metadata(prepared, run, best, report, settings),
        with_config=settings.with_config,
    )
    say(f"\nExported to {os.path.join(folder, '')}")
    output.result |= {"model": folder}
    _show_answers(run.model, prepared, folder, examples, say)
    output.result |= {"figure": _draw(run, report, settings, out, say)}


def _data(prepared: Prepared) -> Data:
    return Data(prepared.train, prepared.validation, prepared.test)


def _builder(prepared: Prepared, settings: Settings) -> Callable[[Strategy], keras.Model]:
    """A function that builds and compiles the model of a strategy."""

    def build(strategy: Strategy) -> keras.Model:
        model = build_classifier(
            strategy.build_embedding(prepared.aligned),
            len(prepared.class_names),
            architecture=settings.architecture,
            units=settings.units,
            dropout=settings.dropout,
        )
        model.compile(RowWiseAdam(settings.learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build


def _show_result(
    prepared: Prepared, run: Run, strategies: dict[str, Strategy], settings: Settings, output: Output, *, compare: bool
) -> None:
    say, labels = output.say, prepared.test[1]
    largest = np.bincount(labels).max() / len(labels)
    majority = f"always predicting the largest class: {largest:.1%}"
    found = _scores(run)
    figures = {"texts": len(labels), "largest_class": largest, "accuracy": run.accuracy, "f1": found.get(_F1)}
    output.result["test"] = figures
    if not compare:
        scores = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        say(
            f"\nResult on {len(labels):,} test texts: {scores} ({majority}); "
            f"add --compare to compare with frozen, fine-tuned and random vectors"
        )
        return
    say(f"\nComparing {len(strategies)} strategies on the same data, {settings.seeds} seed(s) each")
    with contextlib.ExitStack() as bars:
        comparison = compare_strategies(
            _builder(prepared, settings),
            _data(prepared),
            strategies=strategies.values(),
            seeds=settings.seeds,
            done=[run],
            on_start=lambda name, seed: [
                BestEpoch(settings.patience, settings.unfreeze_at),
                ComparisonProgress(f"{name}, seed {seed}", say, bars),
            ],
            epochs=settings.epochs,
            batch_size=settings.batch_size,
        )
    say(f"\nResult on {len(labels):,} test texts ({majority})")
    say(printed.comparison_text(comparison.table))
    say(recommendation(comparison))
    table = comparison.table.rename_axis("strategy").reset_index()
    output.result |= {"comparison": table.to_dict("records"), "recommendation": recommendation(comparison)}


def _scores(run: Run) -> dict[str, float]:
    """Accuracy, and F1 where scikit-learn is installed."""
    try:
        return {"accuracy": run.accuracy, _F1: run.f1}
    except MissingDependencyError:
        return {"accuracy": run.accuracy}


def _metadata(prepared: Prepared, run: Run, best: BestEpoch, report: DriftReport, settings: Settings) -> dict[str, Any]:
    """The model card's sections on data, training and result."""
    sizes = {name: len(getattr(prepared, name)[1]) for name in ("train", "validation", "test")}
    return {
        "Data": {
            "texts": ", ".join(f"{count:,} {name}" for name, count in sizes.items()),
            "words with a vector": str(prepared.aligned.coverage),
            "standard deviation of the vectors' entries": f"{prepared.aligned.std:.2g}",
        },
        "Training": f"A {settings.architecture} classifier, {best.last + 1} epochs, batches of {settings.batch_size}: the "
        f"table was frozen and from epoch {settings.unfreeze_at} (counted from 0) trained with learning rate "
        f"{settings.unfrozen_learning_rate:g}. {best}.",
        "Schedule of the table": run.phases,
        "Result on the test texts": {name: f"{value:.3f}" for name, value in _scores(run).items()},
        "Drift of the table": {name: f"{value:.4g}" for name, value in report.summary().items()},
    }


def _show_answers(model: keras.Model, prepared: Prepared, folder: Path, examples: Sequence[str], say: Say) -> None:
    """Query the export from another process that has only TensorFlow, and compare with the scores of the model here."""
    requests = [prepared.vocabulary.encode(text) for text in examples]
    scores, loaded = ask_in_new_process(folder, [ids.tolist() for ids in requests])
    here = np.concatenate([model(ids[None], training=False).numpy() for ids in requests])
    present = ", ".join(name for name, there in loaded.items() if there)
    absent = ", ".join(name for name, there in loaded.items() if not there)
    # `import tensorflow` loads Keras by itself, so Keras is there although the process does not import it.
    say(
        f"Queried with token ids by a separate process that imports only tensorflow (loaded: {present}; not loaded: {absent});"
    )
    say(f"largest difference from the scores of the trained model: {np.abs(scores - here).max():.1e}")
    names = [prepared.class_names[index] for index in scores.argmax(axis=1)]
    say(printed.predictions_text(examples, names, scores.max(axis=1).tolist()))
    ids = requests[0][None]
    say(f"One request of {ids.shape[1]} tokens: {ids[0].tolist()}")
    say(printed.bytes_text(request_bytes(ids, prepared.aligned.values[ids])))


def _draw(run: Run, report: DriftReport, settings: Settings, out: Path, say: Say) -> Path | None:
    """Save training curves and drift as one figure next to the model; returns its path, None without matplotlib."""
    try:
        figure, (left, right) = new_figure(2)
    except MissingDependencyError as error:
        say(f"No figure: {error}")
        return None
    plot_training(run.history, unfrozen_at=settings.unfreeze_at, ax=left)
    plot_drift(report, min_count=5, ax=right)
    picture = out / "training.png"
    with written_beside(picture) as beside:
        figure.savefig(beside, format="png", dpi=120)
    say(f"Figure: {picture}")
    return picture
