"""From prepared data to an export: the part of `embkeras demo` and `embkeras train` that needs TensorFlow."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from embkeras.drift.plots import new_figure, plot_drift, plot_learning_curve, plot_training
from embkeras.drift.report import DriftReport, drift_report
from embkeras.errors import MissingDependencyError
from embkeras.experiments.curves import SHARES as SHARES
from embkeras.experiments.curves import learning_curve
from embkeras.experiments.data import Data
from embkeras.experiments.runs import Comparison, Run, compare_strategies, recommendation, run_strategy
from embkeras.experiments.strategies import Strategy, default_strategies
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ask_in_new_process, request_bytes
from embkeras.tables.builders import build_classifier
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam

LAYER = "embedding"
_STOCK = "stock Keras"  # a Keras Embedding that trains from the start, with Adam
_CURVES = ("frozen", _STOCK, "shared map")
_STD = 0.1  # of the shared map's table, unless the settings say another
_F1 = "F1 (mean over classes)"
EXAMPLES = (
    "What a lovely surprise, this made my whole week :)",
    "Stuck in traffic again and the radio is broken. Worst morning ever",
    "@anonymous I can't believe how good that concert was!!!",
    "The flat smells horrible and nobody answers the phone",
)


def run(
    prepared: Prepared,
    out: Path,
    settings: Settings,
    output: Output,
    *,
    compare: bool,
    examples: Sequence[str],
    shares: Sequence[float] = (),
) -> None:
    """Train, measure the drift, compare if asked to, export, and query the export.

    Args:
        prepared: texts and vectors.
        out: model folder.
        settings: what to train.
        output: receives the report and, as its `result`, the figures.
        compare: whether to train the other strategies too.
        examples: texts to query the export with.
        shares: shares of the training texts for a learning curve; none by default.
    """
    say = output.say
    strategies = _strategies(settings)
    say(f"\nTraining the {settings.architecture} classifier: {_treatment(settings)}")
    monitor, best = DriftMonitor(LAYER), _best_epoch(settings, settings.chosen)
    more = (len(strategies) * settings.seeds - 1) * compare + len(_CURVES) * len(shares) * settings.seeds
    if compare and 1 in shares:
        more -= (len(_CURVES) - 1) * settings.seeds  # the comparison has trained them
    run = run_strategy(
        _builder(prepared, settings),
        _data(prepared),
        strategies[settings.chosen],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        callbacks=[monitor, best, TimeLeft(say, more)],
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
    comparison = _show_result(prepared, run, strategies, settings, output, compare=compare)
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
    if shares:
        _show_curve(prepared, strategies, comparison.runs if comparison else (), settings, output, out, shares)


def _strategies(settings: Settings) -> dict[str, Strategy]:
    """The default strategies; those whose table trains from the start have the rate of a table that trains."""
    rate, std = settings.unfrozen_learning_rate, settings.rescale or _STD
    found = default_strategies(settings.unfreeze_at, rate, layer=LAYER, std=std)
    at_once = ("fine-tuned", "shared map", "random")
    return found | {name: replace(found[name], learning_rate=rate) for name in at_once}


def _treatment(settings: Settings) -> str:
    """How the strategy treats the table, in words."""
    rate = f"learning rate {settings.unfrozen_learning_rate:g}"
    return {
        "shared map": f"vectors rescaled to a standard deviation of {settings.rescale or _STD:g}, a map of all rows and each row "
        f"trained from the start with {rate}",
        "phased": f"table frozen, unfrozen at epoch {settings.unfreeze_at} (counted from 0) with {rate}",
        "frozen": f"table frozen, the layers on it trained with learning rate {settings.learning_rate:g}",
        "fine-tuned": f"table trained from the start with {rate}",
    }[settings.chosen]


def _best_epoch(settings: Settings, strategy: str) -> BestEpoch:
    return BestEpoch(settings.patience, settings.unfreeze_at if strategy == "phased" else 0)


def _data(prepared: Prepared) -> Data:
    return Data(prepared.train, prepared.validation, prepared.test)


def _builder(prepared: Prepared, settings: Settings) -> Callable[[Strategy], keras.Model]:
    """A function that builds and compiles the model of a strategy."""

    def build(strategy: Strategy) -> keras.Model:
        optimizer: keras.optimizers.Optimizer = RowWiseAdam(settings.learning_rate)
        if strategy.name == _STOCK:
            values = prepared.aligned.values
            layer: Any = keras.layers.Embedding(*values.shape, weights=[values], mask_zero=True, name=LAYER)
            optimizer = keras.optimizers.Adam(settings.learning_rate)
        else:
            layer = strategy.build_embedding(prepared.aligned)
        model = build_classifier(
            layer,
            len(prepared.class_names),
            architecture=settings.architecture,
            units=settings.units,
            dropout=settings.dropout,
        )
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build


def _show_result(
    prepared: Prepared, run: Run, strategies: dict[str, Strategy], settings: Settings, output: Output, *, compare: bool
) -> Comparison | None:
    """Accuracy on the test texts, and the comparison if asked for."""
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
            f"add --compare to compare with other strategies and random vectors"
        )
        return None
    say(f"\nComparing {len(strategies)} strategies on the same data, {settings.seeds} seed(s) each")
    with contextlib.ExitStack() as bars:
        comparison = compare_strategies(
            _builder(prepared, settings),
            _data(prepared),
            strategies=strategies.values(),
            seeds=settings.seeds,
            done=[run],
            on_start=lambda name, seed: [
                _best_epoch(settings, name),
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
    return comparison


def _show_curve(
    prepared: Prepared,
    strategies: dict[str, Strategy],
    done: Sequence[Run],
    settings: Settings,
    output: Output,
    out: Path,
    shares: Sequence[float],
) -> None:
    """How accuracy grows with the number of labelled texts; and accuracy on texts with words that training did not read."""
    say = output.say
    stock = Strategy(_STOCK, embedding={"trainable": True}, learning_rate=settings.unfrozen_learning_rate)
    total = len(prepared.train[1])
    say(f"\nLearning curve: {', '.join(_CURVES)} on up to {total:,} training texts, {settings.seeds} seed(s) each")
    with contextlib.ExitStack() as bars:
        curve = learning_curve(
            _builder(prepared, settings),
            _data(prepared),
            strategies=[strategies.get(name, stock) for name in _CURVES],
            shares=shares,
            seeds=settings.seeds,
            done=done,
            on_start=lambda name, seed, texts: [
                _best_epoch(settings, name),
                ComparisonProgress(f"{name}, {texts:,} texts, seed {seed}", say, bars),
            ],
            epochs=settings.epochs,
            batch_size=settings.batch_size,
        )
    say("Test accuracy in percent, by the number of training texts:")
    say(printed.indented(str(curve)))
    unseen = _unseen(prepared)
    on_all = [run for run, texts in zip(curve.runs, curve.texts, strict=True) if texts == total]
    figures = {name: [run.correct[unseen].mean() for run in on_all if run.strategy == name] for name in _CURVES}
    found = {name: float(np.mean(values)) for name, values in figures.items() if values and unseen.any()}
    if found:
        scores = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        say(f"On the {unseen.sum():,} test texts with words that no training text has: {scores}")
    output.result |= {"learning_curve": curve.table.to_dict("records"), "unseen_words": found}
    _save_figure(lambda axes: plot_learning_curve(curve, ax=axes[0]), 1, out / "learning_curve.png", say)


def _unseen(prepared: Prepared) -> np.ndarray:
    """Which test texts have a word that has a vector and that no training text has."""
    seen = np.bincount(prepared.train[0].ravel(), minlength=len(prepared.vocabulary)) > 0
    found: np.ndarray = (prepared.aligned.found & ~seen)[prepared.test[0]].any(axis=1)
    return found


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
        "Training": f"A {settings.architecture} classifier, {best.last + 1} epochs, batches of {settings.batch_size}: "
        f"{_treatment(settings)}. {best}.",
        **({} if run.phases is None else {"Schedule of the table": run.phases}),
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

    def draw(axes: list[Any]) -> None:
        plot_training(
            run.history, unfrozen_at=settings.unfreeze_at if settings.chosen == "phased" else None, ax=axes[0]
        )
        plot_drift(report, min_count=5, ax=axes[1])

    return _save_figure(draw, 2, out / "training.png", say)


def _save_figure(draw: Callable[[list[Any]], Any], columns: int, picture: Path, say: Say) -> Path | None:
    try:
        figure, axes = new_figure(columns)
    except MissingDependencyError as error:
        say(f"No figure: {error}")
        return None
    draw(axes)
    with written_beside(picture) as beside:
        figure.savefig(beside, format="png", dpi=120)
    say(f"Figure: {picture}")
    return picture
