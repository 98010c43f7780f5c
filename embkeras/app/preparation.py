"""From labelled texts and a vector file to what training takes: settings, vocabulary, aligned matrix, ids."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embkeras.app import printed as presentation
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.experiments.runs import Data
from embkeras.text.labelled import Split
from embkeras.text.tokenizer import TWEETS
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import AlignedMatrix, align
from embkeras.vectors.fallbacks import FOR_TEXTS
from embkeras.vectors.io.registry import load_vectors

Say = Callable[[str], None]
FALLBACKS = FOR_TEXTS


@dataclass(frozen=True)
class Settings:
    """What to train and how; epochs count from 0.

    Attributes:
        architecture: "lstm", "cnn" or "mean".
        epochs, batch_size, units, dropout: as in Keras.
        unfreeze_at: first epoch in which the table moves.
        learning_rate: before that epoch.
        unfrozen_learning_rate: from that epoch on.
        seeds: trainings of each strategy in the comparison.
        max_length: tokens of a text that are read.
        extra_words: so many words from the head of the vector file get a row, though training does not see them.
        with_config: write settings for TensorFlow Serving beside the export.
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

    def __post_init__(self):
        for name in ("epochs", "batch_size", "units", "seeds", "max_length"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1. Received: {getattr(self, name)}.")
        if not 0 <= self.unfreeze_at < self.epochs:
            raise ArgumentError(
                f"unfreeze_at must be one of the epochs 0 to {self.epochs - 1} (counted from 0). "
                f"Received: {self.unfreeze_at}."
            )


# The same way, shorter.
QUICK = Settings(epochs=3, unfreeze_at=1, seeds=1, units=16, extra_words=5_000)


@dataclass(frozen=True)
class Prepared:
    """Texts and vectors, ready for training."""

    aligned: AlignedMatrix
    data: Data
    class_names: tuple[str, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """What the ids mean."""
        return self.aligned.vocabulary


def prepare(parts: Split, vectors: Path, words_file: Path | None, settings: Settings, say: Say) -> Prepared:
    """Vocabulary from the training texts, vectors for it, and the texts as ids."""
    vocabulary = Vocabulary.from_texts(parts.train.texts, tokenizer=TWEETS)
    if settings.extra_words:
        # Words that training does not see keep their vectors, so that a served text with them is understood.
        head = load_vectors(vectors, words_file=words_file, limit=settings.extra_words)
        vocabulary = vocabulary.extended(word for word in head if TWEETS(word) == [word])
    loaded = load_vectors(vectors, words=vocabulary, fallbacks=FALLBACKS, words_file=words_file)
    aligned = align(loaded, vocabulary, fallbacks=FALLBACKS)
    if not aligned.coverage.types:
        raise AlignmentError(
            f"None of the words of the training texts is in {str(vectors)!r}: the frequent words there are such as "
            f"{loaded.words[:3]}, those of the texts such as {list(vocabulary.token_to_id)[:3]}."
        )
    say(
        f"Vectors: {len(loaded):,} rows of {loaded.provenance.rows:,} read, width {loaded.vector_size}; "
        f"table {aligned.values.shape[0]:,} x {aligned.output_dim}"
    )
    for line in presentation.coverage_lines(aligned):
        say(line)
    longest = max(len(TWEETS(text)) for text in parts.train.texts)
    length = max(1, min(settings.max_length, longest))
    say(
        f"Split: {len(parts.train):,} training, {len(parts.validation):,} validation, {len(parts.test):,} test; "
        f"{length} tokens a text (the longest has {longest})"
    )
    data = Data(
        *[
            (vocabulary.encode_batch(part.texts, length), part.labels)
            for part in (parts.train, parts.validation, parts.test)
        ]
    )
    return Prepared(aligned, data, parts.train.class_names)
