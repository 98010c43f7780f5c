"""`embkeras compare` and `train --strategy auto`: race the strategies on prepared texts, and save what was found."""

import contextlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.app import results
from embkeras.app.callbacks import BestEpoch, ComparisonProgress
from embkeras.app.output import Output, plain
from embkeras.app.printed import duration_text
from embkeras.app.settings import EncoderSettings, Settings
from embkeras.drift.plots import plot_comparison, plot_learning_curve
from embkeras.errors import ResumeError
from embkeras.experiments.advice import Advice
from embkeras.experiments.curves import SHARES, LearningCurve, learning_curve
from embkeras.experiments.data import Data
from embkeras.experiments.page import save_report
from embkeras.experiments.profile import DataProfile
from embkeras.experiments.race import race_strategies
from embkeras.experiments.strategies import Strategy

RUNS = "runs.jsonl"
NO_TIME = 1e-9  # minutes
_SLOWER, _OF_ROUNDS = 1.5, 0.5  # a training of the others than frozen; share of the time that rounds have
_CHEAPEST, _COSTLIEST = "frozen", "fine-tuned"
_Some = TypeVar("_Some", Settings, EncoderSettings)
_NOT_OF_A_RUN = ("strategy", "seeds", "folds", "max_minutes", "with_config")  # settings that runs don't depend on


@dataclass(frozen=True, eq=False)
class Contest:
    """What races: strategies for word vectors, or for an encoder.

    Attributes:
        build: returns the compiled model of a strategy.
        data: what all train on.
        strategies: all that race.
        flags: names of strategies -> how `train --strategy` spells them.
        settings: how they train.
        source: what they start from, and a hash of it, as JSON values.
        best_epoch: the callback that keeps the best epoch of the strategy of a name.
        fitting: from a folder for outputs of frozen layers, or None, to arguments of `race_strategies`.
        fewer: those that race where there is no time for all; nothing if all shall.
    """

    build: Callable[[Strategy], keras.Model]
    data: Data
    strategies: tuple[Strategy, ...]
    flags: Mapping[str, str]
    settings: Settings | EncoderSettings
    source: Mapping[str, str]
    best_epoch: Callable[[str], BestEpoch]
    fitting: Callable[[str | None], dict[str, Any]]
    fewer: tuple[Strategy, ...] = ()


@dataclass(frozen=True)
class _Watch:
    """The callbacks of a run. Its repr is kept with each run, so that those of other settings or vectors are refused.

    Attributes:
        settings: what all runs have in common.
        source: a hash of the vectors, or of the encoder.
        best_epoch: as of a contest.
        bars: closes the bars of runs.
    """

    settings: Settings | EncoderSettings
    source: Mapping[str, str]
    best_epoch: Callable[[str], BestEpoch] = field(repr=False)
    bars: contextlib.ExitStack = field(repr=False)

    def __call__(self, name: str, seed: int) -> list[keras.callbacks.Callback]:
        bar = ComparisonProgress(f"{name}, seed {seed}", lambda line: None, self.bars)
        return [self.best_epoch(name), bar]


def race(contest: Contest, output: Output, out: Path, minutes: float | None) -> Advice:
    """Race the strategies; each run is written to a file in the folder at once, from which a killed race continues.

    Args:
        contest: what races.
        output: receives the report.
        out: the folder.
        minutes: when no further run begins.

    Raises:
        ResumeError: the folder has runs of other texts, vectors or settings.
    """
    settings = contest.settings
    with _runs(contest, out, output) as how, tempfile.TemporaryDirectory(prefix="embkeras-") as kept:
        how |= contest.fitting(None if settings.folds else kept)
        begun, racing = time.monotonic(), contest.strategies
        if minutes is not None and contest.fewer and settings.folds is None:
            racing = _in_time(contest, how, minutes, output)
            minutes = max(minutes - (time.monotonic() - begun) / 60, NO_TIME)
        runs = f"{settings.seeds * (settings.folds or 1)} trainings of each" + ", one a fold" * bool(settings.folds)
        output.say(f"\nRacing {len(racing)} strategies on the same data; in the final round at most {runs}")
        return race_strategies(
            contest.build, contest.data, strategies=racing, folds=settings.folds, max_minutes=minutes, **how
        )


def _in_time(contest: Contest, how: dict[str, Any], minutes: float, output: Output) -> tuple[Strategy, ...]:
    """All strategies, or fewer if one training of each would take more than half of the time.

    One training shows how long they take. The race finds it in the file, so nothing is trained twice.
    """
    first = [each for each in contest.strategies if each.name == _CHEAPEST]
    seed = how["seeds"]  # of the first round: the final one has those below
    timed = race_strategies(
        contest.build,
        contest.data,
        strategies=first,
        max_minutes=minutes,
        **how | {"seeds": [seed], "verbose": False},
    ).final
    seconds = timed[0].measures["seconds"] if timed else 0.0
    if _SLOWER * seconds * len(contest.strategies) <= 60 * minutes * _OF_ROUNDS:
        return contest.strategies
    names = ", ".join(each.name for each in contest.fewer)
    output.say(f"One training takes {duration_text(seconds)}, so in {minutes:g} minutes only {names} are compared")
    return contest.fewer


def curve(contest: Contest, advice: Advice, output: Output, out: Path, minutes: float | None) -> LearningCurve:
    """How accuracy grows with the training texts; runs on all of them are those of the race.

    Args:
        contest: what raced.
        advice: what the race found. Its best strategy and the one it recommends are trained, beside frozen and fine-tuned.
        output: receives the report.
        out: the folder.
        minutes: when no further run begins.
    """
    best = [*advice.table.index[:1], advice.recommended]
    chosen = [each for each in contest.strategies if each.name in (_CHEAPEST, _COSTLIEST, *best)]
    chosen.sort(key=lambda each: each.name != _CHEAPEST)  # what the others are compared with
    names = ", ".join(each.name for each in chosen)
    output.say(f"\nLearning curve: {names} on {_fractions(SHARES)} of the training texts")
    with _runs(contest, out, output) as how:  # each run has other texts, so that nothing is kept for the next
        return learning_curve(
            contest.build, contest.data, strategies=chosen, max_minutes=minutes, **how, **contest.fitting(None)
        )


def _fractions(shares: Sequence[float]) -> str:
    return ", ".join("all" if share == 1 else f"1/{round(1 / share)}" for share in shares)


@contextlib.contextmanager
def _runs(contest: Contest, out: Path, output: Output) -> Iterator[dict[str, Any]]:
    """Arguments that race and curve have in common: so they can share the file of runs."""
    settings = contest.settings
    defaults = {name: getattr(type(settings)(), name) for name in _NOT_OF_A_RUN}
    with contextlib.ExitStack() as bars:
        watch = _Watch(replace(settings, **defaults), contest.source, contest.best_epoch, bars)
        try:
            yield {
                "seeds": settings.seeds,
                "results": out / RUNS,
                "callbacks": watch,
                "verbose": not output.quiet,
                "batch_size": settings.batch_size,
            }
        except ResumeError as error:  # the flag has another name than the argument, and callbacks hold the settings
            message = str(error).replace("other callbacks", f"other settings or {next(iter(contest.source))}")
            raise ResumeError(message.replace("another file", "another --out")) from error


def save(
    advice: Advice,
    curve: LearningCurve | None,
    profile: DataProfile,
    contest: Contest,
    asked: dict[str, Any],
    out: Path,
    output: Output,
) -> None:
    """Write the page, the figure, and a JSON file with all that a rerun needs.

    Args:
        advice: what the race found.
        curve: the learning curve, or None.
        profile: of the texts.
        contest: what raced.
        asked: the flags of the command.
        out: the folder.
        output: receives the paths and, as its `result`, the advice.
    """
    found: dict[str, Any] = {"advice": advice.to_dict(), "profile": profile.to_dict()}
    found |= {} if curve is None else {"learning_curve": curve.to_dict()}
    rerun = {
        "arguments": asked,
        "settings": asdict(contest.settings),
        **contest.source,
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
    report = save_report(out / "report.html", advice, profile=profile, curve=curve, title=title)
    figure = None
    if len(advice.table):
        figure = results.save_figure(
            lambda axes: plot_comparison(advice, ax=axes[0]), 1, out / "comparison.png", output.say
        )
    if curve is not None and len(curve.table):
        results.save_figure(
            lambda axes: plot_learning_curve(curve, ax=axes[0]), 1, out / "learning_curve.png", output.say
        )
    for name, path in (("Report", report), ("For a rerun", out / "comparison.json")):
        output.say(f"{name}: {path}")
    flag = contest.flags.get(advice.recommended or "")
    if asked["command"] == "compare" and flag is not None:
        source = "--encoder" if "encoder" in contest.source else "--vectors"
        output.say(f"To train it: embkeras train, with the same {source}, and --strategy {flag}")
    output.result |= found | {"report": report, "comparison_figure": figure, "json": out / "comparison.json"}


def chosen(advice: Advice, settings: _Some, output: Output) -> _Some:
    """The settings with the strategy that the race recommends; in a tie the cheapest of the tied."""
    if advice.recommended is None:
        default = settings.chosen if isinstance(settings, Settings) else settings.strategy
        output.warning(f"The race recommends no strategy, so {default} is trained, the default. {advice.text}")
        return settings
    tie = f", the cheapest of {len(advice.tied)} that can't be told apart" if len(advice.tied) > 1 else ""
    output.say(f"\nStrategy: {advice.recommended}{tie}")
    return replace(settings, strategy=advice.recommended)


def forget(out: Path) -> None:
    """Remove the runs of a race whose choice has been trained: they would refuse a later one on other texts."""
    (out / RUNS).unlink(missing_ok=True)
