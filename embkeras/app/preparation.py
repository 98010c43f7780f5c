"""From texts and a file of vectors to ids and an aligned matrix: what `demo` and `train` do before TensorFlow starts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embkeras.app import material, printed
from embkeras.app.output import Output
from embkeras.app.settings import Settings
from embkeras.errors import AlignmentError
from embkeras.experiments.profile import DataProfile, data_profile
from embkeras.text.labelled import LabelledTexts, Split, labelled, split
from embkeras.text.tokenizer import TWEETS
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import align
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.fallbacks import FOR_TEXTS
from embkeras.vectors.io.registry import load_vectors
from embkeras.vectors.postprocess import rescale

Say = Callable[[str], None]  # receives each line of the report
Part = tuple[np.ndarray, np.ndarray]  # ids of shape (texts, time), labels of shape (texts,)
QUICK_TEXTS = 900
NEAR_ZERO = 0.5  # tweets with a mean rating closer to zero are neither positive nor negative


@dataclass(frozen=True)
class Prepared:
    """Texts and vectors, ready for training."""

    aligned: AlignedMatrix
    train: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the ids."""
        return self.aligned.vocabulary


def rated_tweets(say: Say, *, quick: bool) -> Split:
    """3,432 of 4,200 tweets rated by people, as positive or negative; with `quick` the first 900 of them."""
    if not material.tweets_are_cached():
        say("Downloading 4,200 rated tweets (2.5 MB, once) ...")
    rated = material.tweets()
    clear = rated[rated["rating"].abs() >= NEAR_ZERO]
    left_out = len(rated) - len(clear)
    say(f"Text: {len(rated):,} tweets rated by people; {left_out:,} left out (mean rating within {NEAR_ZERO} of zero)")
    if quick:
        clear = clear.head(QUICK_TEXTS)
    return split(labelled(clear["text"].tolist(), np.where(clear["rating"] > 0, "positive", "negative").tolist()))


def prepare(parts: Split, vectors: Path | str, settings: Settings, say: Say, **reading: Any) -> Prepared:
    """Build the vocabulary from the training texts, load and align its vectors, and encode the texts.

    Args:
        parts: the texts.
        vectors: the file of vectors.
        settings: what to train.
        say: receives each line of the report.
        **reading: as for `load_vectors`: `words_file`, `separator`, `width`, `header`.
    """
    vocabulary = Vocabulary.from_texts(parts.train.texts, tokenizer=TWEETS)
    if settings.extra_words:
        # Words unseen in training keep their vectors, so the served model understands texts that contain them.
        head = load_vectors(vectors, limit=settings.extra_words, **reading)
        vocabulary = vocabulary.extended(word for word in head if TWEETS(word) == [word])
    loaded = load_vectors(vectors, words=vocabulary, fallbacks=FOR_TEXTS, **reading)
    aligned = align(loaded, vocabulary, fallbacks=FOR_TEXTS)
    if not aligned.coverage.types:
        raise AlignmentError(
            f"{str(vectors)!r} contains none of the words of the training texts. Frequent words in the file: "
            f"{loaded.words[:3]}; in the texts: {list(vocabulary.token_to_id)[:3]}. Use vectors of the same language."
        )
    rows = f"{loaded.provenance.rows:,}" if loaded.provenance else "unknown"
    say(
        f"Vectors: {len(loaded):,} of {rows} rows read, width {loaded.vector_size}; "
        f"table {aligned.values.shape[0]:,} x {aligned.output_dim}, entries of standard deviation {aligned.std:.2g}"
    )
    if settings.rescale is not None:
        aligned = aligned.transformed(partial(rescale, std=settings.rescale))
        say(f"Rescaled: entries of standard deviation {settings.rescale:g}, directions unchanged")
    for line in printed.coverage_lines(aligned, "the training texts"):
        say(line)
    longest = max(len(TWEETS(text)) for text in parts.train.texts)
    length = max(1, min(settings.max_length, longest))
    say(
        f"Split: {len(parts.train):,} training, {len(parts.validation):,} validation, {len(parts.test):,} test; "
        f"{length} tokens per text (the longest has {longest})"
    )
    train, validation, test = (
        (vocabulary.encode_batch(part.texts, length), part.labels)
        for part in (parts.train, parts.validation, parts.test)
    )
    return Prepared(aligned, train, validation, test, parts.train.class_names)


def profile_of(parts: Split, aligned: AlignedMatrix | None, output: Output) -> DataProfile:
    """Look at the texts, and at their words' vectors if there are any, before strategies are compared; and print it."""

    def pair(part: LabelledTexts) -> tuple[tuple[str, ...], list[str]]:
        return part.texts, [part.class_names[label] for label in part.labels]

    texts, labels = pair(parts.train)
    profile = data_profile(texts, labels, aligned, validation=pair(parts.validation), test=pair(parts.test))
    output.say("\nData")
    for line in str(profile).splitlines():
        output.say(line)
    return profile
