"""What the trainings of word vectors and of encoders share: result, comparison, the answers of the export, the figure."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras._files import written_beside
from embkeras.app import printed
from embkeras.app.callbacks import BestEpoch, ComparisonProgress
from embkeras.app.output import Output
from embkeras.app.preparation import Part, Say
from embkeras.drift.plots import new_figure
from embkeras.errors import MissingDependencyError
from embkeras.experiments.data import Data
from embkeras.experiments.runs import Comparison, Run, compare_strategies, recommendation
from embkeras.experiments.strategies import Strategy
from embkeras.serving.local import ask_in_new_process
from embkeras.text.vocabulary import Vocabulary

F1 = "F1 (mean over classes)"


def scores(run: Run) -> dict[str, float]:
    """Accuracy, and F1 where scikit-learn is installed."""
    try:
        return {"accuracy": run.accuracy, F1: run.f1}
    except MissingDependencyError:
        return {"accuracy": run.accuracy}


def show_result(
    run: Run, output: Output, compare: Callable[[], Comparison] | None = None, *, advice: str = ""
) -> Comparison | None:
    """Accuracy on the test texts, and the comparison if asked for.

    Args:
        run: the training.
        output: receives them.
        compare: makes the comparison.
        advice: what the line ends with where nothing is compared.
    """
    say, labels = output.say, run.labels
    largest = np.bincount(labels).max() / len(labels)
    majority = f"always predicting the largest class: {largest:.1%}"
    found = scores(run)
    output.result["test"] = {
        "texts": len(labels),
        "largest_class": largest,
        "accuracy": run.accuracy,
        "f1": found.get(F1),
    }
    if compare is None:
        figures = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        say(f"\nResult on {len(labels):,} test texts: {figures} ({majority}){advice}")
        return None
    comparison = compare()
    say(f"\nResult on {len(labels):,} test texts ({majority})")
    say(printed.comparison_text(comparison.table))
    say(recommendation(comparison))
    table = comparison.table.rename_axis("strategy").reset_index()
    output.result |= {"comparison": table.to_dict("records"), "recommendation": recommendation(comparison)}
    return comparison


def compared(
    build: Callable[[Strategy], keras.Model],
    data: Data,
    strategies: Iterable[Strategy],
    run: Run,
    best_epoch: Callable[[str], BestEpoch],
    say: Say,
    *,
    seeds: int,
    **fit_arguments: Any,
) -> Comparison:
    """Train the other strategies and seeds too, each with a bar while it runs and a line at its end.

    Args:
        build: returns the compiled model of a strategy.
        data: what all train on.
        strategies: all that are compared.
        run: what was trained already.
        best_epoch: the callback that keeps the best epoch of the strategy of a name.
        say: receives the lines.
        seeds: how many.
        **fit_arguments: as for `compare_strategies`.
    """
    strategies = list(strategies)
    say(f"\nComparing {len(strategies)} strategies on the same data, {seeds} seed(s) each")
    with contextlib.ExitStack() as bars:
        return compare_strategies(
            build,
            data,
            strategies=strategies,
            seeds=seeds,
            done=[run],
            on_start=lambda name, seed: [best_epoch(name), ComparisonProgress(f"{name}, seed {seed}", say, bars)],
            **fit_arguments,
        )


def sizes(**parts: Part) -> str:
    """How many texts each part has."""
    return ", ".join(f"{len(labels):,} {name}" for name, (_, labels) in parts.items())


def result_section(run: Run) -> dict[str, str]:
    """The model card's section on the test texts."""
    return {name: f"{value:.3f}" for name, value in scores(run).items()}


def show_answers(
    model: keras.Model,
    vocabulary: Vocabulary,
    class_names: Sequence[str],
    folder: Path,
    examples: Sequence[str],
    say: Say,
) -> None:
    """Query the export from another process that has only TensorFlow, and compare with the scores of the model here."""
    requests = [vocabulary.encode(text) for text in examples]
    answers, loaded = ask_in_new_process(folder, [ids.tolist() for ids in requests])
    here = np.concatenate([model(ids[None], training=False).numpy() for ids in requests])
    present = ", ".join(name for name, there in loaded.items() if there)
    absent = ", ".join(name for name, there in loaded.items() if not there)
    # `import tensorflow` loads Keras by itself, so Keras is there although the process does not import it.
    say(
        f"Queried with token ids by a separate process that imports only tensorflow (loaded: {present}; not loaded: {absent});"
    )
    say(f"largest difference from the scores of the trained model: {np.abs(answers - here).max():.1e}")
    names = [class_names[index] for index in answers.argmax(axis=1)]
    say(printed.predictions_text(examples, names, answers.max(axis=1).tolist()))


def save_figure(draw: Callable[[list[Any]], Any], columns: int, picture: Path, say: Say) -> Path | None:
    """Save what `draw` draws into so many axes side by side; returns the path, None without matplotlib."""
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
