"""From labelled texts to the export of a classifier on a pre-trained encoder: `train --encoder` and `demo --encoder`."""

import contextlib
import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from embkeras._checks import shown
from embkeras.app import pipeline, preparation, printed, results
from embkeras.app.callbacks import BestEpoch, TimeLeft
from embkeras.app.output import Output
from embkeras.app.preparation import Part, Say
from embkeras.app.racing import Contest
from embkeras.app.settings import ENCODER_STRATEGIES, EncoderSettings, Settings
from embkeras.drift.plots import plot_training
from embkeras.encoders.heads import build_encoder_classifier
from embkeras.encoders.prompts import pieces_of
from embkeras.encoders.reading import PretrainedEncoder, load_pretrained
from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError
from embkeras.experiments.advice import FEW
from embkeras.experiments.data import Data
from embkeras.experiments.runs import Run, run_strategy
from embkeras.experiments.strategies import Strategy, encoder_strategies
from embkeras.serving import names
from embkeras.serving.export import export_saved_model
from embkeras.text.labelled import Split
from embkeras.text.tokenizer import WORDS
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.frozen_trunk.fit import fit_on_frozen
from embkeras.training.optimizers.fine_tuning import LinearDecay
from embkeras.training.optimizers.layerwise import layerwise_rates
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW

_TABLE = "token_embedding"
_RANK, _DECAY, _FACTOR = 8, 0.01, 0.8  # of LoRA; of weights; of the rate from one block to the next below
_WHOLE, _MOST = 0.99, 128  # share of the training texts that aren't cut, tokens per text
_FILES = (".json", ".txt", ".model", ".safetensors", ".h5")  # that an encoder is read from
_LICENCE_LINES = 60  # of a README, in which its head says the licence


@dataclass(frozen=True)
class Prepared:
    """An encoder and the ids of the texts, ready for training."""

    read: PretrainedEncoder
    name: str
    train: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The pieces of the ids."""
        return self.read.tokenizer

    @functools.cached_property
    def start(self) -> list[str] | None:
        """The class names as whose pieces prompts begin: those that the tokenizer knows; None, for random pieces, if none."""
        known = [name for name in self.class_names if pieces_of(self.vocabulary, name)]
        unknown = [name for name in self.class_names if name not in known]
        if unknown:
            warnings.warn(
                f"Prompts begin as {f'the pieces of {shown(known)}' if known else 'pieces drawn at random'}: of the class names "
                f"{shown(unknown)} the tokenizer of {self.name} knows no piece. Name these classes in words that it knows to "
                f"begin with them too.",
                EmbkerasWarning,
                stacklevel=2,
            )
        return known or None


def prepare(parts: Split, folder: Path, name: str, settings: EncoderSettings, say: Say) -> Prepared:
    """Read the encoder and encode the texts.

    The table keeps all pieces, and not only those of the training texts: new words would be spelled in smaller ones, which
    costs a point of accuracy on the tweets (a frozen encoder, 91.6% and 90.6% on average over 5 seeds).

    Args:
        parts: the texts.
        folder: of the encoder.
        name: what the encoder is called.
        settings: what to train.
        say: receives each line of the report.
    """
    read = load_pretrained(folder)
    kind, width, pieces = read.config["model_type"], read.width, len(read.tokenizer)
    say(f"Encoder: {name}, {kind} of {_count(len(read.blocks))}, width {width}, {pieces:,} pieces of words, all kept")
    lengths = np.array([len(read.tokenizer.encode(text)) for text in parts.train.texts])
    most = settings.max_length or min(_MOST, int(np.quantile(lengths, _WHOLE, method="higher")))
    length = min(most, read.max_length, int(lengths.max()))
    cut = (lengths > length).mean()
    say(
        f"Split: {len(parts.train):,} training, {len(parts.validation):,} validation, {len(parts.test):,} test; "
        f"{length} tokens per text (the longest has {lengths.max()}; {cut:.1%} of the training texts lose their end)"
    )
    train, validation, test = (
        (read.tokenizer.encode_batch(part.texts, length), part.labels)
        for part in (parts.train, parts.validation, parts.test)
    )
    return Prepared(read, name, train, validation, test, parts.train.class_names)


def run(
    prepared: Prepared,
    out: Path,
    settings: EncoderSettings,
    output: Output,
    *,
    compare: bool,
    examples: Sequence[str],
    advice: str = "; add --compare to compare with other strategies",
    choice: str = "",
) -> tuple[Run, Path]:
    """Train, compare if asked to, export, and query the export.

    Args:
        prepared: encoder and texts.
        out: model folder.
        settings: what to train.
        output: receives the report and, as its `result`, the figures.
        compare: whether to train the other strategies too.
        examples: texts to query the export with.
        advice: what the line with the result ends with where nothing is compared.
        choice: why this strategy, for the model card.

    Returns:
        The training, and the folder of the export.
    """
    say, read = output.say, prepared.read
    strategies = _without_rates(read, settings)
    treatment = _treatment(read, settings)
    say(f"\nTraining the classifier on {prepared.name}: {treatment}")
    best = BestEpoch(settings.patience, 0)
    with tempfile.TemporaryDirectory(prefix="embkeras-") as kept:
        how: dict[str, Any] = {"batch_size": settings.batch_size, "fit": _Fit(read.tokenizer.padding_id or 0, kept)}
        build, data = _builder(prepared, settings), Data(prepared.train, prepared.validation, prepared.test)
        run = run_strategy(
            build,
            data,
            strategies[settings.strategy],
            callbacks=[best, TimeLeft(say, 0)],
            verbose=output.verbosity,
            **how,
        )
        say(str(best))
        trained, total = (
            sum(int(np.prod(each.shape)) for each in weights)
            for weights in (run.model.trainable_variables, run.model.weights)
        )
        say(f"Trained: {trained:,} of {total:,} parameters")
        output.result |= {
            "encoder": prepared.name,
            "strategy": settings.strategy,
            "best_epoch": best.epoch,
            "epochs": best.last + 1,
            "validation_loss": best.loss,
            "trained": trained,
            "parameters": total,
            "seconds": run.seconds,
        }

        def compared() -> Any:
            others = strategies.values()
            best_epoch = functools.partial(_best_epoch, settings)
            return results.compared(build, data, others, run, best_epoch, say, seeds=settings.seeds, **how)

        results.show_result(run, output, compared if compare else None, advice=advice)
    metadata = {
        "Encoder": _encoder_section(prepared),
        "Data": {"texts": results.sizes(train=prepared.train, validation=prepared.validation, test=prepared.test)},
        "Training": f"{treatment[0].upper()}{treatment[1:]}: {trained:,} of {total:,} parameters trained, "
        f"{best.last + 1} epochs, batches of {settings.batch_size}, up to {prepared.train[0].shape[1]} tokens per text. {best}.",
        **({"Choice of the strategy": choice} if choice else {}),
        "Result on the test texts": results.result_section(run),
    }
    with _quiet():
        folder = export_saved_model(
            run.model,
            out,
            vocabulary=prepared.vocabulary,
            class_names=prepared.class_names,
            metadata=metadata,
            with_config=settings.with_config,
        )
    say(f"\nExported to {os.path.join(folder, '')}")
    output.result |= {"model": folder}
    results.show_answers(run.model, prepared.vocabulary, prepared.class_names, folder, examples, say)

    def draw(axes: list[Any]) -> None:
        plot_training(run.history, ax=axes[0])

    output.result |= {"figure": results.save_figure(draw, 1, out / "training.png", say)}
    return run, folder


def run_beside(
    words: preparation.Prepared,
    parts: Split,
    settings: Settings,
    encoder: tuple[Path, str, EncoderSettings],
    out: tuple[Path, Path],
    output: Output,
    *,
    examples: Sequence[str],
) -> None:
    """Train word vectors and an encoder on the same texts, export both, and set them side by side.

    Args:
        words: texts and vectors.
        parts: the same texts.
        settings: how word vectors are trained.
        encoder: its folder, its name, and how it is trained.
        out: the model folders of both.
        output: receives the report and, as its `result`, the figures.
        examples: texts to query the exports with.
    """
    whole, found = output.result, {}
    output.result = whole["word_vectors"] = {}
    trained = pipeline.run(words, out[0], settings, output, compare=False, examples=examples, advice="")
    found[f"word vectors, {settings.architecture}, {settings.chosen}"] = trained
    folder, name, how = encoder
    output.say("\nThe same with an encoder")
    output.result = whole["encoder"] = {}
    prepared = prepare(parts, folder, name, how, output.say)
    trained = run(prepared, out[1], how, output, compare=False, examples=examples, advice="")
    found[f"{name}, {how.strategy}"] = trained
    output.result = whole
    table = pd.DataFrame({model: _figures(*each) for model, each in found.items()}).T
    output.say("\nSide by side")
    output.say(printed.models_text(table))
    output.say(
        "Each was trained once, on the same texts; without --encoder, demo compares strategies over several seeds."
    )
    output.result |= {"side_by_side": table.rename_axis("model").reset_index().to_dict("records")}


def _figures(run: Run, folder: Path) -> dict[str, float]:
    """What a model does and costs; its bytes as it was exported, and with int8 and a scale for each row of its table."""
    found = results.scores(run)
    served = sum(file.stat().st_size for file in (folder / "variables").iterdir())
    tables = names.read_card(folder / "assets")["tables"].values()
    saved = sum(table["rows"] * (3 * table["width"] - 4) for table in tables)
    scores = {"accuracy": run.accuracy, "f1": found.get(results.F1, np.nan)}
    return {**scores, "seconds": run.seconds, "bytes": served, "bytes_int8": served - saved}


def _strategies(read: PretrainedEncoder, settings: EncoderSettings) -> dict[str, Strategy]:
    """What can be trained, with the epochs and the peak of the rate."""
    return {
        name: replace(
            each,
            epochs=settings.epochs or each.epochs,
            learning_rate=settings.learning_rate or each.learning_rate,
        )
        for name, each in encoder_strategies(read.layer_groups, rank=_RANK, which="all").items()
    }


def _without_rates(read: PretrainedEncoder, settings: EncoderSettings) -> dict[str, Strategy]:
    """The same, with the builder's rate: a LinearDecay can't be set to a number."""
    return {name: replace(each, learning_rate=None) for name, each in _strategies(read, settings).items()}


def contest(prepared: Prepared, parts: Split, settings: EncoderSettings) -> Contest:
    """What races on an encoder.

    Args:
        prepared: encoder and texts.
        parts: the same texts.
        settings: how to train.
    """
    read = prepared.read
    known = {word for text in parts.train.texts for word in WORDS(text)}
    racing = encoder_strategies(read.layer_groups, which="all" if len(parts.train) < FEW else "default")
    unseen = np.array([not known.issuperset(WORDS(text)) for text in parts.test.texts])
    return Contest(
        _builder(prepared, settings),
        Data(prepared.train, prepared.validation, prepared.test, unseen),
        tuple(each for name, each in _without_rates(read, settings).items() if name in racing),
        {strategy: flag for flag, strategy in ENCODER_STRATEGIES.items()},
        settings,
        {"encoder": _fingerprint(read.folder)},
        functools.partial(_best_epoch, settings),
        lambda kept: {"fit": _Fit(read.tokenizer.padding_id or 0, kept)},
    )


def _fingerprint(folder: Path) -> str:
    """A hash of the files of an encoder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _FILES):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'blake2b').hexdigest()}".encode())
    return f"{folder.resolve().name} {digest.hexdigest()}"


def _builder(prepared: Prepared, settings: EncoderSettings) -> Callable[[Strategy], keras.Model]:
    """A function that builds and compiles the model of a strategy."""
    rates = {name: each.learning_rate or 0.0 for name, each in _strategies(prepared.read, settings).items()}

    def build(strategy: Strategy) -> keras.Model:
        read, classes = prepared.read, len(prepared.class_names)
        if strategy.prompts is not None:
            read = strategy.encoder(read, start=prepared.start)
            if (length := prepared.train[0].shape[1]) > read.max_length:
                raise ArgumentError(
                    f"{strategy.prompts} prompts leave {read.max_length} tokens for a text. Pass --max-length {read.max_length}, "
                    f"or take another --strategy. Received: texts of {length} tokens."
                )
        model = strategy.apply(build_encoder_classifier(read, classes, dropout=settings.dropout))
        rate = rates[strategy.name] or 1e-3  # class means are computed without one
        optimizer: keras.optimizers.Optimizer = RowWiseAdam(rate)
        if strategy.name not in ("frozen", "class means"):
            steps = (strategy.epochs or 1) * -(-len(prepared.train[1]) // settings.batch_size)
            factors = layerwise_rates(model, _FACTOR, read.layer_groups) if strategy.name == "fine-tuned" else None
            optimizer = RowWiseAdamW(
                LinearDecay(rate, steps), weight_decay=_DECAY, decay_biases=False, learning_rate_multipliers=factors
            )
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build


def _treatment(read: PretrainedEncoder, settings: EncoderSettings) -> str:
    """What the strategy trains, in words."""
    strategies = _strategies(read, settings)
    rate, blocks = f"learning rate {strategies[settings.strategy].learning_rate or 0:g}", len(read.blocks)
    upper = len(strategies["LoRA"].lora_layers)
    once = "what is frozen runs once, without dropout"
    return {
        "frozen": f"the head trained with {rate}; {once}",
        "class means": "the head set so that the nearest class mean wins; nothing is trained by gradients",
        "prompts": f"{strategies['prompts'].prompts} prompts and the head trained with {rate} at its peak",
        "top block": f"the last of {_count(blocks)} and the head trained with {rate} at its peak; {once}",
        "LoRA": f"LoRA of rank {_RANK} in the upper {upper} of {_count(blocks)}, their norms and the head trained with {rate} "
        f"at its peak; {once}",
        "fine-tuned": f"all layers trained with {rate} at its peak, {_FACTOR:g} times that for each block further down",
    }[settings.strategy]


def _count(blocks: int) -> str:
    return f"{blocks} block{'s' * (blocks != 1)}"


def _best_epoch(settings: EncoderSettings, strategy: str) -> BestEpoch:
    return BestEpoch(settings.patience, 0)


@dataclass(frozen=True)
class _Fit:
    """`fit` on batches as long as their longest text; where the lower layers are frozen, they run once.

    Attributes:
        padding_id: of the tokenizer.
        keep: the folder for what frozen layers put out; None for one of each training alone, where each has other texts.
    """

    padding_id: int
    keep: str | None = field(repr=False)

    def __call__(
        self, model: keras.Model, *, x: Any, y: Any, batch_size: int, validation_data: Any, **more: Any
    ) -> keras.callbacks.History:
        model.optimizer = _falling(model.optimizer, more["epochs"] * -(-len(y) // batch_size))
        if model.get_layer(_TABLE).trainable:
            train, validation = (
                _batches(ids, labels, batch_size, self.padding_id, shuffle=shuffle)
                for ids, labels, shuffle in ((x, y, True), (*validation_data, False))
            )
            return model.fit(train, validation_data=validation, shuffle=False, **more)
        with _room():
            arguments: dict[str, Any] = {"batch_size": batch_size, "validation_data": validation_data, **more}
            return fit_on_frozen(model, x, y, keep=self.keep, dtype="float16", **arguments)


def _falling(optimizer: keras.optimizers.Optimizer, steps: int) -> keras.optimizers.Optimizer:
    """The same optimizer, with a LinearDecay that ends with this training: folds and shares have other numbers of texts."""
    config = optimizer.get_config()
    rate = config["learning_rate"]
    if not isinstance(rate, dict) or rate["config"]["steps"] == steps:
        return optimizer
    changed = rate | {"config": rate["config"] | {"steps": steps}}
    return type(optimizer).from_config(config | {"learning_rate": changed})


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Say what to do where there is no room for what frozen layers put out."""
    try:
        with _quiet():
            yield
    except OutputError as error:
        raise OutputError(
            f"What frozen blocks put out is kept in the temporary folder {tempfile.gettempdir()!r}. Set TMPDIR to another "
            f"folder, or take --strategy frozen or fine-tuned. {error}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings about what the report says, or what isn't so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Frozen layers of model", EmbkerasWarning)
        warnings.filterwarnings(
            "ignore", "You are using a softmax over axis", UserWarning
        )  # attention of a single token
        yield


def _batches(ids: np.ndarray, labels: np.ndarray, size: int, padding_id: int, *, shuffle: bool) -> tf.data.Dataset:
    """Batches without the columns that only hold padding."""
    rows = tf.data.Dataset.from_tensor_slices((ids, labels))
    rows = rows.shuffle(len(labels)) if shuffle else rows

    def cut(ids: Any, labels: Any) -> Any:
        return tf.boolean_mask(ids, tf.reduce_any(ids != padding_id, axis=0), axis=1), labels

    return rows.batch(size).map(cut).prefetch(2)


def _encoder_section(prepared: Prepared) -> dict[str, str]:
    """The model card's section on the encoder."""
    read = prepared.read
    found = {
        "name": prepared.name,
        "model_type": read.config["model_type"],
        "size": f"{_count(len(read.blocks))}, width {read.width}",
        "licence": _licence(read.folder),
    }
    return {name: value for name, value in found.items() if value}


def _licence(folder: Path) -> str:
    """The licence in the head of the folder's README.md, as Hugging Face writes it; "" if it says none."""
    try:
        lines = (folder / "README.md").read_text("utf-8").splitlines()[:_LICENCE_LINES]
    except (OSError, UnicodeDecodeError):
        return ""
    if not lines or lines[0].strip() != "---":
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("license:"))
    return next(named, "")
