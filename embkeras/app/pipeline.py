"""From prepared data to an export: the part of `embkeras demo` and `embkeras train` that needs TensorFlow."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras.app import printed, results
from embkeras.app.callbacks import BestEpoch, ComparisonProgress, TimeLeft
from embkeras.app.output import Output
from embkeras.app.preparation import Prepared, Say
from embkeras.app.racing import Contest
from embkeras.app.settings import STRATEGIES, Settings
from embkeras.drift.plots import plot_drift, plot_learning_curve, plot_training
from embkeras.drift.report import DriftReport, drift_report
from embkeras.experiments.curves import SHARES as SHARES
from embkeras.experiments.curves import LearningCurve, learning_curve
from embkeras.experiments.data import Data
from embkeras.experiments.fingerprint import plain
from embkeras.experiments.runs import Comparison, Run, run_strategy
from embkeras.experiments.strategies import Strategy, default_strategies
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import request_bytes
from embkeras.tables.builders import build_classifier
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam

LAYER = "embedding"
_STOCK = "stock Keras"  # a Keras Embedding that trains from the start, with Adam
_OFTEN = 5  # occurrences in training of a word on the map
_CURVES = ("frozen", _STOCK, "shared map")
_STD = 0.1  # of the shared map's table, unless the settings say another
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
    advice: str = "; add --compare to compare with other strategies and random vectors",
    choice: str = "",
) -> tuple[Run, Path]:
    """Train, measure the drift, compare if asked to, export, and query the export.

    Args:
        prepared: texts and vectors.
        out: model folder.
        settings: what to train.
        output: receives the report and, as its `result`, the figures.
        compare: whether to train the other strategies too.
        examples: texts to query the export with.
        shares: shares of the training texts for a learning curve; none by default.
        advice: what the line with the result ends with where nothing is compared.
        choice: why this strategy, for the model card.

    Returns:
        The training, and the folder of the export.
    """
    say = output.say
    strategies = strategies_of(settings)
    say(f"\nTraining the {settings.architecture} classifier: {_treatment(settings)}")
    monitor, best = DriftMonitor(LAYER), best_epoch(settings, settings.chosen)
    more = (len(strategies) * settings.seeds - 1) * compare + len(_CURVES) * len(shares) * settings.seeds
    if compare and 1 in shares:
        more -= (len(_CURVES) - 1) * settings.seeds  # the comparison has trained them
    run = run_strategy(
        builder(prepared, settings),
        data_of(prepared),
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
    comparison = results.show_result(
        run,
        output,
        partial(_compared, prepared, run, strategies, settings, say) if compare else None,
        advice=advice,
    )
    folder = export_saved_model(
        run.model,
        out,
        vocabulary=vocabulary,
        class_names=prepared.class_names,
        metadata=_metadata(prepared, run, best, report, settings, choice),
        with_config=settings.with_config,
    )
    say(f"\nExported to {os.path.join(folder, '')}")
    output.result |= {"model": folder}
    results.show_answers(run.model, vocabulary, prepared.class_names, folder, examples, say)
    _show_request(prepared, examples[0], say)
    output.result |= {"figure": _draw(run, report, settings, out, say)}
    if shares:
        curve = _show_curve(prepared, strategies, comparison.runs if comparison else (), settings, output, shares)
        _draw(run, report, settings, out, say, curve)
    return run, folder


def strategies_of(settings: Settings, which: str = "default") -> dict[str, Strategy]:
    """A set of strategies; those whose table trains from the start have the rate of a table that trains."""
    rate, std = settings.unfrozen_learning_rate, settings.rescale or _STD
    found = default_strategies(
        settings.unfreeze_at, rate, layer=LAYER, std=std, which=which, architecture=settings.architecture
    )
    at_once = found.keys() - {"phased", "frozen"}
    return {name: replace(each, learning_rate=rate) if name in at_once else each for name, each in found.items()}


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


def best_epoch(settings: Settings, strategy: str) -> BestEpoch:
    """The callback that keeps the best epoch."""
    return BestEpoch(settings.patience, settings.unfreeze_at if strategy == "phased" else 0)


def data_of(prepared: Prepared) -> Data:
    """The three parts."""
    return Data(prepared.train, prepared.validation, prepared.test)


def contest(prepared: Prepared, settings: Settings, which: str | None = None, *, every: bool = False) -> Contest:
    """What races on word vectors.

    Args:
        prepared: texts and vectors.
        settings: how to train.
        which: a set of strategies; None takes the default one, or the small one where there is no time for it.
        every: whether those race too that `train` can't train.
    """
    flags = {strategy: flag for flag, strategy in STRATEGIES.items()}

    def of(which: str) -> tuple[Strategy, ...]:
        return tuple(each for name, each in strategies_of(settings, which).items() if every or name in flags)

    return Contest(
        builder(prepared, settings),
        data_of(prepared),
        of(which or "default"),
        flags,
        settings,
        {"vectors": plain(prepared.aligned)},
        partial(best_epoch, settings),
        lambda kept: {"epochs": settings.epochs, "keep": kept},
        of("small") if which is None else (),
    )


def builder(prepared: Prepared, settings: Settings) -> Callable[[Strategy], keras.Model]:
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


def _compared(
    prepared: Prepared, run: Run, strategies: dict[str, Strategy], settings: Settings, say: Say
) -> Comparison:
    """The other strategies too."""
    return results.compared(
        builder(prepared, settings),
        data_of(prepared),
        strategies.values(),
        run,
        partial(best_epoch, settings),
        say,
        seeds=settings.seeds,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )


def _show_curve(
    prepared: Prepared,
    strategies: dict[str, Strategy],
    done: Sequence[Run],
    settings: Settings,
    output: Output,
    shares: Sequence[float],
) -> LearningCurve:
    """How accuracy grows with the number of labelled texts; and accuracy on texts with words that training did not read."""
    say = output.say
    stock = Strategy(_STOCK, embedding={"trainable": True}, learning_rate=settings.unfrozen_learning_rate)
    total = len(prepared.train[1])
    say(f"\nLearning curve: {', '.join(_CURVES)} on up to {total:,} training texts, {settings.seeds} seed(s) each")
    with contextlib.ExitStack() as bars:
        curve = learning_curve(
            builder(prepared, settings),
            data_of(prepared),
            strategies=[strategies.get(name, stock) for name in _CURVES],
            shares=shares,
            seeds=settings.seeds,
            done=done,
            on_start=lambda name, seed, texts: [
                best_epoch(settings, name),
                ComparisonProgress(f"{name}, {texts:,} texts, seed {seed}", say, bars),
            ],
            epochs=settings.epochs,
            batch_size=settings.batch_size,
        )
    say("Test accuracy in percent, by the number of training texts:")
    say(printed.indented(curve.table_text))
    say(curve.text)
    unseen = _unseen(prepared)
    on_all = [run for run, texts in zip(curve.runs, curve.texts, strict=True) if texts == total]
    figures = {name: [run.correct[unseen].mean() for run in on_all if run.strategy == name] for name in _CURVES}
    found = {name: float(np.mean(values)) for name, values in figures.items() if values and unseen.any()}
    if found:
        scores = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        say(f"On the {unseen.sum():,} test texts with words that no training text has: {scores}")
    output.result |= {"learning_curve": curve.to_dict()["table"], "unseen_words": found}
    return curve


def _unseen(prepared: Prepared) -> np.ndarray:
    """Which test texts have a word that has a vector and that no training text has."""
    seen = np.bincount(prepared.train[0].ravel(), minlength=len(prepared.vocabulary)) > 0
    found: np.ndarray = (prepared.aligned.found & ~seen)[prepared.test[0]].any(axis=1)
    return found


def _metadata(
    prepared: Prepared, run: Run, best: BestEpoch, report: DriftReport, settings: Settings, choice: str
) -> dict[str, Any]:
    """The model card's sections on data, training and result."""
    return {
        "Data": {
            "texts": results.sizes(train=prepared.train, validation=prepared.validation, test=prepared.test),
            "words with a vector": str(prepared.aligned.coverage),
            "standard deviation of the vectors' entries": f"{prepared.aligned.std:.2g}",
        },
        "Training": f"A {settings.architecture} classifier, {best.last + 1} epochs, batches of {settings.batch_size}: "
        f"{_treatment(settings)}. {best}.",
        **({"Choice of the strategy": choice} if choice else {}),
        **({} if run.phases is None else {"Schedule of the table": run.phases}),
        "Result on the test texts": results.result_section(run),
        "Drift of the table": {name: f"{value:.4g}" for name, value in report.summary().items()},
    }


def _show_request(prepared: Prepared, text: str, say: Say) -> None:
    """The size of a request with one text."""
    ids = prepared.vocabulary.encode(text)[None]
    say(f"One request of {ids.shape[1]} tokens: {ids[0].tolist()}")
    say(printed.bytes_text(request_bytes(ids, prepared.aligned.values[ids])))


def _draw(
    run: Run, report: DriftReport, settings: Settings, out: Path, say: Say, curve: LearningCurve | None = None
) -> Path | None:
    """Save one figure next to the model; returns its path, None without matplotlib.

    It has the training, a map of the words that moved most, if any did, and the learning curve, if there is one.
    """
    unfrozen_at = settings.unfreeze_at if settings.chosen == "phased" else None
    plots: list[Callable[..., Any]] = [partial(plot_training, run.history, unfrozen_at=unfrozen_at)]
    if len(report.most_moved(1, min_count=_OFTEN)):
        plots.append(partial(plot_drift, report, "plane", min_count=_OFTEN))
    if curve is not None:
        plots.append(partial(plot_learning_curve, curve))

    def draw(axes: list[Any]) -> None:
        for plot, ax in zip(plots, axes, strict=True):
            plot(ax=ax)

    return results.save_figure(draw, len(plots), out / "training.png", say)
