"""What `train` and `demo` train, and how."""

from dataclasses import dataclass

from embkeras._checks import number, one_of, whole_number
from embkeras.errors import ArgumentError

ARCHITECTURES = ("cnn", "lstm", "mean")
STRATEGIES = {
    "shared-map": "shared map",
    "phased": "phased",
    "frozen": "frozen",
    "fine-tuned": "fine-tuned",
}  # --strategy: name


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
        seeds: trainings per strategy in the comparison.
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
        if self.rescale is not None:
            number(self.rescale, "rescale", above=0)
        if not 0 <= self.unfreeze_at < self.epochs:
            raise ArgumentError(
                f"unfreeze_at must be one of the epochs 0 to {self.epochs - 1} (counted from 0). "
                f"Received: {self.unfreeze_at}."
            )

    @property
    def chosen(self) -> str:
        """The strategy, or the one that the architecture is trained with by default."""
        return self.strategy or ("phased" if self.architecture == "lstm" else "shared map")


QUICK = Settings(epochs=10, unfreeze_at=2, seeds=1, units=16, extra_words=5_000)
