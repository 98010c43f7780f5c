"""What `train` and `demo` train, and how: defaults, and what the flags make of them."""

import argparse
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from embkeras._checks import number, one_of, whole_number
from embkeras.errors import ArgumentError

ARCHITECTURES = ("cnn", "lstm", "mean")
STRATEGIES = {
    "shared-map": "shared map",
    "phased": "phased",
    "frozen": "frozen",
    "fine-tuned": "fine-tuned",
}  # --strategy: name
AUTO = "auto"  # --strategy: the one that a race recommends
SETS = ("small", "default", "all")  # --set: strategies that race
_RACE_SEEDS = 5
ENCODER_STRATEGIES = {
    "frozen": "frozen",
    "top": "top block",
    "lora": "LoRA",
    "fine-tuned": "fine-tuned",
    "class-means": "class means",
    "prompts": "prompts",
}
ALSO_CALLED = {"full": "fine-tuned"}  # spellings of --strategy
# Flags that say nothing about an encoder, and why.
_OF_VECTORS = {
    "architecture": "an encoder has its own layers",
    "unfreeze_at": "an encoder's strategies are frozen, top, lora and fine-tuned",
    "rescale": "an encoder's table is used as it was trained",
    **dict.fromkeys(("words_file", "separator", "width", "header"), "it says how to read a file of vectors"),
}
_Some = TypeVar("_Some", "Settings", "EncoderSettings")


@dataclass(frozen=True)
class Settings:
    """What to train and how; epochs count from 0.

    Attributes:
        architecture: "cnn", "lstm" or "mean".
        strategy: how the table is treated, a name of `default_strategies`. None takes what `benchmarks/results/recipe.md` shows
            to help: the shared map for "cnn" and "mean", "phased" for "lstm".
        epochs, batch_size, units, dropout: as in Keras.
        unfreeze_at: first epoch in which the table of "phased" trains.
        patience: epochs without a smaller validation loss after which training ends; those of "phased" before `unfreeze_at`
            don't count.
        learning_rate: learning rate while the table is frozen.
        unfrozen_learning_rate: learning rate once it trains.
        seeds: trainings per strategy in the comparison; of a race, in its final round.
        folds: how many parts of all texts test in turn in a race; None leaves the parts as they are.
        max_minutes: when no further run of a race begins.
        max_length: maximum number of tokens per text.
        extra_words: number of words from the head of the vector file that get a row although training doesn't see them.
        rescale: standard deviation that the entries of the vectors are brought to. None leaves them as they are, except for
            the shared map, which has 0.1.
        with_config: write settings for TensorFlow Serving next to the export.
    """

    architecture: str = "cnn"
    strategy: str | None = None
    epochs: int = 40
    batch_size: int = 32
    units: int = 64
    dropout: float = 0.4
    unfreeze_at: int = 3
    patience: int = 5
    learning_rate: float = 2e-3
    unfrozen_learning_rate: float = 1e-3
    seeds: int = 3
    folds: int | None = None
    max_minutes: float | None = None
    max_length: int = 64
    extra_words: int = 20_000
    rescale: float | None = None
    with_config: bool = False

    def __post_init__(self) -> None:
        one_of(self.architecture, "architecture", ARCHITECTURES)
        if self.strategy is not None:
            one_of(self.strategy, "strategy", tuple(STRATEGIES.values()))
        for name in ("epochs", "batch_size", "units", "patience", "seeds", "max_length"):
            whole_number(getattr(self, name), name, least=1)
        number(self.dropout, "dropout", least=0, below=1)
        for name in ("learning_rate", "unfrozen_learning_rate"):
            number(getattr(self, name), name, above=0)
        for name in ("rescale", "max_minutes"):
            if getattr(self, name) is not None:
                number(getattr(self, name), name, above=0)
        _check_folds(self.folds)
        if not 0 <= self.unfreeze_at < self.epochs:
            raise ArgumentError(
                f"unfreeze_at must be one of the epochs 0 to {self.epochs - 1} (counted from 0). "
                f"Received: {self.unfreeze_at}."
            )

    @property
    def chosen(self) -> str:
        """The strategy, or the one that the architecture is trained with by default."""
        return self.strategy or ("phased" if self.architecture == "lstm" else "shared map")


def _check_folds(folds: int | None) -> None:
    if folds is not None:
        whole_number(folds, "folds", least=3)


QUICK = Settings(epochs=10, unfreeze_at=2, seeds=1, units=16, extra_words=5_000)


@dataclass(frozen=True)
class EncoderSettings:
    """How to train a classifier on a pre-trained encoder.

    Attributes:
        strategy: what trains, a name of ENCODER_STRATEGIES: the head alone; the last block and the head; LoRA in the upper
            half of the blocks, and the head; all; or, for few labels, the head by the nearest class mean, or prompts and
            the head.
        epochs: as in Keras. None takes what the strategy needs.
        learning_rate: of the head, and of the last block where it trains. None takes what suits the strategy.
        batch_size, dropout: as in Keras; the dropout is that before the last layer, blocks have what config.json says.
        patience: epochs without a smaller validation loss after which training ends.
        seeds: trainings per strategy in the comparison; of a race, in its final round.
        folds: how many parts of all texts test in turn in a race; None leaves the parts as they are.
        max_minutes: when no further run of a race begins.
        max_length: maximum number of tokens per text. None takes one under which 99% of the training texts stay whole, at
            most 128.
        with_config: write settings for TensorFlow Serving next to the export.
    """

    strategy: str = "fine-tuned"
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 32
    dropout: float = 0.1
    patience: int = 5
    seeds: int = 3
    folds: int | None = None
    max_minutes: float | None = None
    max_length: int | None = None
    with_config: bool = False

    def __post_init__(self) -> None:
        one_of(self.strategy, "strategy", tuple(ENCODER_STRATEGIES.values()))
        for name in ("epochs", "batch_size", "patience", "seeds", "max_length"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name, least=1)
        number(self.dropout, "dropout", least=0, below=1)
        for name in ("learning_rate", "max_minutes"):
            if getattr(self, name) is not None:
                number(getattr(self, name), name, above=0)
        _check_folds(self.folds)


QUICK_ENCODER = EncoderSettings(strategy="frozen", epochs=10)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of word vectors: the flags that were given, and the defaults of the command.

    Raises:
        ArgumentError: a value out of range, or a strategy of encoders.
    """
    base = QUICK if getattr(options, "quick", False) else Settings()
    given = _given(options, Settings)
    auto, racing = _races(options)
    if racing:
        given = {"seeds": 1 if "folds" in given else _RACE_SEEDS} | given
    if auto or getattr(options, "encoder", None) is not None:
        given.pop("strategy", None)  # the encoder's, or not known yet
    if "strategy" in given:
        given["strategy"] = _strategy(given["strategy"], STRATEGIES, "With word vectors")
    elif "unfreeze_at" in given and not auto:
        given["strategy"] = "phased"
    if "epochs" in given and "unfreeze_at" not in given:
        given["unfreeze_at"] = max(0, min(base.unfreeze_at, given["epochs"] - 1))
    if "learning_rate" in given:
        given["unfrozen_learning_rate"] = given["learning_rate"] * base.unfrozen_learning_rate / base.learning_rate
    return _checked(_replaced(base, given), racing)


def encoder_settings_of(options: argparse.Namespace) -> EncoderSettings:
    """The same of an encoder.

    Raises:
        ArgumentError: a value out of range, a strategy of word vectors, or, where no word vectors are trained beside the
            encoder, a flag that belongs to them.
    """
    base = QUICK_ENCODER if getattr(options, "quick", False) else EncoderSettings()
    given = _given(options, EncoderSettings)
    auto, racing = _races(options)
    if auto:
        given.pop("strategy")  # not known yet
    if racing:
        given = {"seeds": 1 if "folds" in given else _RACE_SEEDS} | given
    if "strategy" in given:
        given["strategy"] = _strategy(given["strategy"], ENCODER_STRATEGIES, "With --encoder")
    if options.command != "demo":
        for name, why in _OF_VECTORS.items():
            if getattr(options, name) is not None:
                raise ArgumentError(f"--{name.replace('_', '-')} goes with --vectors, not with --encoder: {why}.")
    if options.command == "train" and given.get("strategy") == "class means" and not options.compare:
        for name in ("epochs", "learning_rate", "patience", "dropout"):
            if name in given:
                raise ArgumentError(
                    f"--{name.replace('_', '-')} goes with training in steps, and class-means computes the head at once: leave "
                    f"it out. Received: {given[name]}."
                )
    return _checked(_replaced(base, given), racing)


def _races(options: argparse.Namespace) -> tuple[bool, bool]:
    """Whether `train` takes what a race recommends, and whether strategies race at all."""
    auto = options.command == "train" and options.strategy == AUTO
    return auto, auto or options.command == "compare"


def _checked(settings: _Some, racing: bool) -> _Some:
    """Refuse a race whose noise would be unknown."""
    if racing and settings.seeds < 2 and settings.folds is None:
        raise ArgumentError("--seeds must be at least 2: with one training of each the noise is unknown. Received: 1.")
    return settings


def _given(options: argparse.Namespace, kind: type[Any]) -> dict[str, Any]:
    """The settings whose flags were given."""
    values = {each.name: getattr(options, each.name, None) for each in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _strategy(flag: str, known: dict[str, str], where: str) -> str:
    """The name of a strategy, of those that are known."""
    if flag not in known:
        raise ArgumentError(f"{where}, --strategy must be one of {', '.join(known)}. Received: {flag}.")
    return known[flag]


def _replaced(base: _Some, given: dict[str, Any]) -> _Some:
    try:
        return replace(base, **given)
    except ArgumentError as error:  # it begins with the name of a setting, which has a flag here
        name, rest = str(error).split(" ", 1)
        raise ArgumentError(f"--{name.replace('_', '-')} {rest}") from None
