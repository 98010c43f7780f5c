"""The whole pipeline as functions: what `embkeras demo` and `embkeras train` do."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras._checks import whole_number
from embkeras._files import check_writable, written_beside
from embkeras.app import material, printed
from embkeras.drift.plots import new_figure, plot_drift, plot_training
from embkeras.drift.report import DriftReport, drift_report
from embkeras.errors import AlignmentError, ArgumentError, MissingDependencyError
from embkeras.experiments.runs import Data, Run, compare_strategies, recommendation, run_strategy
from embkeras.experiments.statistics import check_statistics
from embkeras.experiments.strategies import Strategy, default_strategies
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ask_in_new_process, request_bytes
from embkeras.tables.builders import build_classifier
from embkeras.text.labelled import Split, labelled, read_labelled, split
from embkeras.text.tokenizer import TWEETS
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.vectors.align import align
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.fallbacks import FOR_TEXTS
from embkeras.vectors.io.registry import load_vectors

Say = Callable[[str], None]  # receives each line of the report
LAYER = "embedding"
QUICK_TEXTS = 900
NEAR_ZERO = 0.5  # tweets with a mean rating closer to zero are neither positive nor negative
EXAMPLES = (
    "What a lovely surprise, this made my whole week :)",
    "Stuck in traffic again and the radio is broken. Worst morning ever",
    "@anonymous I can't believe how good that concert was!!!",
    "The flat smells horrible and nobody answers the phone",
)


@dataclass(frozen=True)
class Settings:
    """What to train and how; epochs count from 0.

    Attributes:
        architecture: "lstm", "cnn" or "mean".
        epochs, batch_size, units, dropout: as in Keras.
        unfreeze_at: first epoch in which the table trains.
        learning_rate: learning rate before that epoch.
        unfrozen_learning_rate: learning rate from that epoch on.
        seeds: trainings per strategy in the comparison.
        max_length: maximum number of tokens per text.
        extra_words: number of words from the head of the vector file that get a row although training doesn't see them.
        with_config: write settings for TensorFlow Serving next to the export.
    """

    architecture: str = "lstm"
    epochs: int = 8
    batch_size: int = 32
    units: int = 64
    dropout: float = 0.4
    unfreeze_at: int = 3
    learning_rate: float = 2e-3
    unfrozen_learning_rate: float = 1e-3
    seeds: int = 3
    max_length: int = 64
    extra_words: int = 20_000
    with_config: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "units", "seeds", "max_length"):
            whole_number(getattr(self, name), name, least=1)
        if not 0 <= self.unfreeze_at < self.epochs:
            raise ArgumentError(
                f"unfreeze_at must be one of the epochs 0 to {self.epochs - 1} (counted from 0). "
                f"Received: {self.unfreeze_at}."
            )


QUICK = Settings(epochs=3, unfreeze_at=1, seeds=1, units=16, extra_words=5_000)


@dataclass(frozen=True)
class Prepared:
    """Texts and vectors, ready for training."""

    aligned: AlignedMatrix
    data: Data
    class_names: tuple[str, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens behind the ids."""
        return self.aligned.vocabulary


def demo(out: Path, settings: Settings, say: Say, *, quick: bool = False) -> Path:
    """Run the pipeline on GloVe 6B 50d and 3,432 of 4,200 rated tweets; returns the folder of the exported version.

    Args:
        out: model folder.
        settings: what to train.
        say: receives each line of the report.
        quick: use only the first 900 tweets.
    """
    check_writable(out)
    matrix, words = material.glove_paths()
    if not material.tweets_are_cached():
        say("Downloading 4,200 rated tweets (2.5 MB, once) ...")
    rated = material.tweets()
    clear = rated[rated["rating"].abs() >= NEAR_ZERO]
    left_out = len(rated) - len(clear)
    say(f"Text: {len(rated):,} tweets rated by people; {left_out:,} left out (mean rating within {NEAR_ZERO} of zero)")
    if quick:
        clear = clear.head(QUICK_TEXTS)
    texts = labelled(clear["text"].tolist(), np.where(clear["rating"] > 0, "positive", "negative").tolist())
    return _run_pipeline(split(texts), matrix, words, out, settings, say, compare=True, examples=EXAMPLES)


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
    """Run the pipeline on the user's own texts and vectors; returns the folder of the exported version."""
    check_writable(out)
    data = read_labelled(file, text, label, encoding=encoding, skip_empty=skip_empty, quotes=quotes)
    say(f"Text: {len(data):,} texts in {len(data.class_names)} classes ({', '.join(data.class_names[:5])})")
    parts = split(data)
    return _run_pipeline(parts, vectors, words_file, out, settings, say, compare=compare, examples=parts.test.texts[:4])


def _run_pipeline(
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
    if compare:
        check_statistics()  # before the training, not after it
    prepared = prepare(parts, vectors, words_file, settings, say)
    strategies = default_strategies(settings.unfreeze_at, settings.unfrozen_learning_rate)
    say(
        f"\nTraining the {settings.architecture} classifier: table frozen, unfrozen at epoch {settings.unfreeze_at} "
        f"(counted from 0) with learning rate {settings.unfrozen_learning_rate:g}"
    )
    monitor = DriftMonitor(LAYER)
    run = run_strategy(
        _builder(prepared, settings),
        prepared.data,
        strategies["phased"],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        callbacks=[monitor],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    vocabulary = prepared.vocabulary
    after = run.model.get_layer(LAYER).matrix()
    report = drift_report(monitor.before, after, vocabulary.tokens, counts=vocabulary.counts)
    say("\nDrift")
    for line in printed.drift_lines(report):
        say(line)
    _show_result(prepared, run, strategies, settings, say, compare=compare)
    folder = export_saved_model(
        run.model,
        out,
        vocabulary=vocabulary,
        class_names=prepared.class_names,
        metadata=_metadata(prepared, run, report, settings),
        with_config=settings.with_config,
    )
    say(f"\nExported to {os.path.join(folder, '')}")
    _show_answers(run.model, prepared, folder, examples, say)
    _draw(run, report, settings, out, say)
    return folder


def prepare(parts: Split, vectors: Path, words_file: Path | None, settings: Settings, say: Say) -> Prepared:
    """Build the vocabulary from the training texts, load and align its vectors, and encode the texts."""
    vocabulary = Vocabulary.from_texts(parts.train.texts, tokenizer=TWEETS)
    if settings.extra_words:
        # Words unseen in training keep their vectors, so the served model understands texts that contain them.
        head = load_vectors(vectors, words_file=words_file, limit=settings.extra_words)
        vocabulary = vocabulary.extended(word for word in head if TWEETS(word) == [word])
    loaded = load_vectors(vectors, words=vocabulary, fallbacks=FOR_TEXTS, words_file=words_file)
    aligned = align(loaded, vocabulary, fallbacks=FOR_TEXTS)
    if not aligned.coverage.types:
        raise AlignmentError(
            f"{str(vectors)!r} contains none of the words of the training texts. Frequent words in the file: "
            f"{loaded.words[:3]}; in the texts: {list(vocabulary.token_to_id)[:3]}. Use vectors of the same language."
        )
    rows = f"{loaded.provenance.rows:,}" if loaded.provenance else "unknown"
    say(
        f"Vectors: {len(loaded):,} of {rows} rows read, width {loaded.vector_size}; "
        f"table {aligned.values.shape[0]:,} x {aligned.output_dim}"
    )
    for line in printed.coverage_lines(aligned, "the training texts"):
        say(line)
    longest = max(len(TWEETS(text)) for text in parts.train.texts)
    length = max(1, min(settings.max_length, longest))
    say(
        f"Split: {len(parts.train):,} training, {len(parts.validation):,} validation, {len(parts.test):,} test; "
        f"{length} tokens per text (the longest has {longest})"
    )
    encoded = [
        (vocabulary.encode_batch(part.texts, length), part.labels)
        for part in (parts.train, parts.validation, parts.test)
    ]
    return Prepared(aligned, Data(*encoded), parts.train.class_names)


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
    prepared: Prepared, run: Run, strategies: dict[str, Strategy], settings: Settings, say: Say, *, compare: bool
) -> None:
    labels = prepared.data.test[1]
    majority = f"always predicting the largest class: {np.bincount(labels).max() / len(labels):.1%}"
    if not compare:
        scores = ", ".join(f"{name} {value:.1%}" for name, value in _scores(run).items())
        say(
            f"\nResult on {len(labels):,} test texts: {scores} ({majority}); "
            f"add --compare to compare with frozen, fine-tuned and random vectors"
        )
        return
    say(f"\nComparing {len(strategies)} strategies on the same data, {settings.seeds} seed(s) each")
    comparison = compare_strategies(
        _builder(prepared, settings),
        prepared.data,
        strategies=strategies.values(),
        seeds=settings.seeds,
        done=[run],
        on_start=lambda name, seed: [_ProgressLine(f"{name}, seed {seed}")],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    say(f"\nResult on {len(labels):,} test texts ({majority})")
    say(printed.comparison_text(comparison.table))
    say(recommendation(comparison))


def _scores(run: Run) -> dict[str, float]:
    """Accuracy, and F1 where scikit-learn is installed."""
    try:
        return {"accuracy": run.accuracy, "F1 (mean over classes)": run.f1}
    except MissingDependencyError:
        return {"accuracy": run.accuracy}


class _ProgressLine(keras.callbacks.Callback):
    """One line per training: updated every epoch on a terminal, otherwise printed once at the end."""

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


def _metadata(prepared: Prepared, run: Run, report: DriftReport, settings: Settings) -> dict[str, Any]:
    """The model card's sections on data, training and result."""
    sizes = {name: len(getattr(prepared.data, name)[1]) for name in ("train", "validation", "test")}
    return {
        "Data": {
            "texts": ", ".join(f"{count:,} {name}" for name, count in sizes.items()),
            "words with a vector": str(prepared.aligned.coverage),
        },
        "Training": f"A {settings.architecture} classifier, {settings.epochs} epochs, batches of {settings.batch_size}: the "
        f"table was frozen and from epoch {settings.unfreeze_at} (counted from 0) trained with learning rate "
        f"{settings.unfrozen_learning_rate:g}.",
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


def _draw(run: Run, report: DriftReport, settings: Settings, out: Path, say: Say) -> None:
    """Save training curves and drift as one figure next to the model."""
    try:
        figure, (left, right) = new_figure(2)
    except MissingDependencyError as error:
        say(f"No figure: {error}")
        return
    plot_training(run.history, unfrozen_at=settings.unfreeze_at, ax=left)
    plot_drift(report, min_count=5, ax=right)
    picture = out / "training.png"
    with written_beside(picture) as beside:
        figure.savefig(beside, format="png", dpi=120)
    say(f"Figure: {picture}")
