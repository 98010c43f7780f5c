"""`embkeras compare` and `train --strategy auto`: race the strategies on prepared texts, and save what was found."""

import contextlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.app import results
from embkeras.app.callbacks import ComparisonProgress
from embkeras.app.output import Output, plain
from embkeras.app.pipeline import best_epoch, builder, data_of, strategies_of
from embkeras.app.preparation import Prepared
from embkeras.app.settings import STRATEGIES, Settings
from embkeras.drift.plots import plot_comparison
from embkeras.errors import ResumeError
from embkeras.experiments.advice import Advice
from embkeras.experiments.fingerprint import plain as described
from embkeras.experiments.page import save_report
from embkeras.experiments.profile import DataProfile
from embkeras.experiments.race import race_strategies

RUNS = "runs.jsonl"
_NOT_OF_A_RUN: dict[str, Any] = {"strategy": None, "seeds": 2, "max_minutes": None, "with_config": False}


@dataclass(frozen=True)
class _Watch:
    """The callbacks of a run. Its repr is kept with each run, so that those of other settings or vectors are refused.

    Attributes:
        settings: what all runs have in common.
        vectors: a hash of the table.
        bars: closes the bars of runs.
    """

    settings: Settings
    vectors: str
    bars: contextlib.ExitStack = field(repr=False)

    def __call__(self, name: str, seed: int) -> list[keras.callbacks.Callback]:
        bar = ComparisonProgress(f"{name}, seed {seed}", lambda line: None, self.bars)
        return [best_epoch(self.settings, name), bar]


def race(prepared: Prepared, settings: Settings, output: Output, out: Path, which: str | None = None) -> Advice:
    """Race the strategies; each run is written to a file in the folder at once, from which a killed race continues.

    Args:
        prepared: texts and vectors.
        settings: how to train.
        output: receives the report.
        out: the folder.
        which: a set of strategies; by default those that `train` can train.

    Raises:
        ResumeError: the folder has runs of other texts, vectors or settings.
    """
    strategies = strategies_of(settings, which or "default")
    racing = [each for name, each in strategies.items() if which or name in STRATEGIES.values()]
    output.say(
        f"\nRacing {len(racing)} strategies on the same data; in the final round {settings.seeds} trainings of each"
    )
    with contextlib.ExitStack() as bars:
        watch = _Watch(replace(settings, **_NOT_OF_A_RUN), described(prepared.aligned), bars)
        try:
            return race_strategies(
                builder(prepared, settings),
                data_of(prepared),
                strategies=racing,
                seeds=settings.seeds,
                max_minutes=settings.max_minutes,
                results=out / RUNS,
                callbacks=watch,
                verbose=not output.quiet,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
            )
        except ResumeError as error:  # the flag has another name than the argument, and callbacks hold the settings
            message = str(error).replace("other callbacks", "other settings or vectors")
            raise ResumeError(message.replace("another file", "another --out")) from error


def save(
    advice: Advice,
    profile: DataProfile,
    prepared: Prepared,
    settings: Settings,
    asked: dict[str, Any],
    out: Path,
    output: Output,
) -> None:
    """Write the page, the figure, and a JSON file with all that a rerun needs.

    Args:
        advice: what the race found.
        profile: of the texts.
        prepared: texts and vectors.
        settings: how it was trained.
        asked: the flags of the command.
        out: the folder.
        output: receives the paths and, as its `result`, the advice.
    """
    found: dict[str, Any] = {"advice": advice.to_dict(), "profile": profile.to_dict()}
    rerun = {
        "arguments": asked,
        "settings": asdict(settings),
        "vectors": described(prepared.aligned),
        "versions": {
            "embkeras": importlib.metadata.version("embkeras"),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }
    with written_beside(out / "comparison.json") as beside:
        beside.write_text(json.dumps(plain(found | {"rerun": rerun}), indent=2, allow_nan=False), "ascii")
    title = f"Comparison of training strategies: {Path(asked['file']).name}"
    report = save_report(out / "report.html", advice, profile=profile, title=title)
    figure = None
    if len(advice.table):
        figure = results.save_figure(
            lambda axes: plot_comparison(advice, ax=axes[0]), 1, out / "comparison.png", output.say
        )
    for name, path in (("Report", report), ("For a rerun", out / "comparison.json")):
        output.say(f"{name}: {path}")
    flags = {strategy: flag for flag, strategy in STRATEGIES.items()}
    if asked["command"] == "compare" and advice.recommended in flags:
        output.say(f"To train it: embkeras train with --strategy {flags[advice.recommended]}")
    output.result |= found | {"report": report, "comparison_figure": figure, "json": out / "comparison.json"}


def chosen(advice: Advice, settings: Settings, output: Output) -> Settings:
    """The settings with the strategy that the race recommends; in a tie the cheapest of the tied."""
    if advice.recommended is None:
        output.warning(f"The race recommends no strategy, so {settings.chosen} is trained, the default. {advice.text}")
        return settings
    tie = f", the cheapest of {len(advice.tied)} that can't be told apart" if len(advice.tied) > 1 else ""
    output.say(f"\nStrategy: {advice.recommended}{tie}")
    return replace(settings, strategy=advice.recommended)


def forget(out: Path) -> None:
    """Remove the runs of a race whose choice has been trained: they would refuse a later one on other texts."""
    (out / RUNS).unlink(missing_ok=True)
