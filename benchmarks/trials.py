"""One training of a text classifier on GloVe 50d, and what it answers: what recipe.py and drift.py have in common.

A set's texts are divided anew for each seed: 30% are the test, a number of the others train (200, 1,000 or all), and a
quarter of that number, at least 100, chooses the epoch. All ways get the same texts. Training has up to 40 epochs of batches
of 32 and ends 5 epochs after the smallest validation loss, whose weights are kept. The table has a row for each word of the
set, as if all of GloVe were in it: words that training does not read keep their vectors. A word that has no vector and
that training does not read is "[UNK]"; with random vectors, every word that training does not read is.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rated_texts import texts_of
from records import BATCH, EPOCHS, PATIENCE, RATE, STDS, UNFREEZE_AT

import embkeras as ek
from embkeras.app import material
from embkeras.app.callbacks import BestEpoch
from embkeras.drift.carry import CarriedDrift, propagate_drift
from embkeras.text.tokenizer import TWEETS
from embkeras.vectors.fallbacks import FOR_TEXTS
from embkeras.vectors.postprocess import rescale

LENGTHS = {"news": 128}  # tokens of a text; the others are sentences
LENGTH = 64
TEST, VALIDATION, LEAST_VALIDATION = 0.3, 0.25, 100


@dataclass(frozen=True)
class Words:
    """A set of texts as ids, with a table."""

    name: str
    aligned: ek.AlignedMatrix
    ids: np.ndarray  # (texts, time)
    labels: np.ndarray
    classes: int


@dataclass(frozen=True)
class Parts:
    """The texts of one seed and size, as ids that the model may see."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    counts: np.ndarray  # of each id in the training texts
    unseen: np.ndarray  # test texts with a word that has a vector and that training did not read


def words_of(name: str, more_words: Iterable[str] = ()) -> Words:
    """Read a set, and the vectors of its words and of `more_words`."""
    data = texts_of(name)
    vocabulary = ek.Vocabulary.from_texts(data.texts, tokenizer=TWEETS)
    vocabulary = vocabulary.extended(word for word in dict.fromkeys(more_words) if word not in vocabulary)
    matrix, words = material.glove_paths()
    vectors = ek.load_vectors(matrix, words_file=words, words=vocabulary, fallbacks=FOR_TEXTS)
    aligned = ek.align(vectors, vocabulary, fallbacks=FOR_TEXTS)
    ids = vocabulary.encode_batch(data.texts, LENGTHS.get(name, LENGTH))
    return Words(name, aligned, ids[:, : int((ids != 0).sum(axis=1).max())], data.labels, len(data.class_names))


def parts_of(words: Words, size: int, seed: int, *, random: bool = False, never: Iterable[int] = ()) -> Parts:
    """Divide the texts; texts with an id of `never` are not trained on."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(words.labels))
    tested, others = np.split(order, [round(TEST * len(order))])
    others = others[~np.isin(words.ids[others], list(never)).any(axis=1)]
    size = min(size or len(others), round(len(others) / (1 + VALIDATION)))
    checked = max(LEAST_VALIDATION, round(VALIDATION * size))
    train, validation = others[:size], others[size : size + checked]
    counts = np.bincount(words.ids[train].ravel(), minlength=len(words.aligned.vocabulary))
    counts[0] = 0
    seen = counts > 0
    known = seen.copy() if random else seen | words.aligned.found
    known[0] = True
    ids = np.where(known[words.ids], words.ids, words.aligned.vocabulary.oov_id)
    unseen = (words.aligned.found & ~seen)[words.ids[tested]].any(axis=1)
    train, validation, tested = ((ids[rows], words.labels[rows]) for rows in (train, validation, tested))
    return Parts(train, validation, tested, counts, unseen)


def aligned_for(way: str, aligned: ek.AlignedMatrix) -> ek.AlignedMatrix:
    """The table as it enters the layer."""
    return aligned.transformed(partial(rescale, std=STDS[way])) if way in STDS else aligned


def build(way: str, architecture: str, words: Words) -> tuple[keras.Model, list[keras.callbacks.Callback]]:
    """A compiled model, and the schedule of its way."""
    optimizer: Any = ek.RowWiseAdam(RATE)
    callbacks: list[keras.callbacks.Callback] = []
    aligned = aligned_for(way, words.aligned)
    if way in ("stock", "random"):
        values = {} if way == "random" else {"weights": [aligned.values]}
        layer = keras.layers.Embedding(*aligned.values.shape, mask_zero=True, name="embedding", **values)
        optimizer = keras.optimizers.Adam(RATE)
    else:
        trainable = {"static": False, "phased": False, "map": "map", "map+rows": "map+rows"}.get(way, True)
        layer = ek.build_embedding(aligned, trainable=trainable)
        if way == "phased":
            callbacks = [ek.unfreeze_at(UNFREEZE_AT, "embedding")]
    model = ek.build_classifier(layer, words.classes, architecture=architecture)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model, callbacks


class Trial:
    """One model of a way, trained again from its first weights for each size: it is compiled once."""

    def __init__(self, way: str, architecture: str, words: Words, seed: int):
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        self.way, self.words, self.seed = way, words, seed
        self.model, self._callbacks = build(way, architecture, words)
        self.model.optimizer.build(self.model.trainable_variables)
        self._first = [(each, each.numpy()) for each in (*self.model.variables, *self.model.optimizer.variables)]

    @property
    def can_train_again(self) -> bool:
        """Whether it starts anew as it was: a schedule has thawed the table."""
        return not self._callbacks

    def train(self, parts: Parts) -> int:
        """Train from the first weights; returns how many epochs."""
        for variable, value in self._first:
            variable.assign(value)
        keras.utils.set_random_seed(self.seed)
        best = BestEpoch(PATIENCE, UNFREEZE_AT if self._callbacks else 0)
        self.model.fit(
            *parts.train,
            validation_data=parts.validation,
            validation_batch_size=256,
            epochs=EPOCHS,
            batch_size=BATCH,
            callbacks=[*self._callbacks, best],
            verbose=0,
        )
        return best.last + 1

    def right(self, parts: Parts) -> np.ndarray:
        """Whether each test text is classified correctly."""
        ids, labels = parts.test
        return self.model.predict_on_batch(ids).argmax(axis=1) == labels

    @property
    def _layer(self) -> Any:
        return self.model.get_layer("embedding")

    def table(self) -> np.ndarray:
        """The table as it is now."""
        layer = self._layer
        return layer.matrix() if hasattr(layer, "matrix") else np.array(layer.get_weights()[0])

    def start(self) -> np.ndarray:
        """The table before training; with a map, what the map alone makes of it, so that the rest is each row's own."""
        before = np.array(aligned_for(self.way, self.words.aligned).values)
        return before + before @ self._layer.map_matrix if self.way == "map+rows" else before

    def install(self, table: np.ndarray) -> None:
        """Use another table."""
        layer = self._layer
        if hasattr(layer, "assign_table"):
            layer.assign_table(table)
        else:
            layer.set_weights([table])

    def carry(self, parts: Parts) -> CarriedDrift:
        """Carry the drift to the words that training did not read, and use that table."""
        before, after, seen = self.start(), self.table(), parts.counts > 0
        seen[[0, self.words.aligned.vocabulary.oov_id]] = True
        before[~seen] = after[~seen]  # equal but for rounding
        ids, labels = parts.validation

        def loss(table: np.ndarray) -> float:
            self.install(table)
            scores = np.take_along_axis(self.model.predict_on_batch(ids), labels[:, None], axis=1)
            return float(-np.log(np.maximum(scores, 1e-7)).mean())

        carried = propagate_drift(before, after, seen, counts=parts.counts, loss=loss)
        self.install(carried.table)
        return carried


def one_thread() -> None:
    """TensorFlow with one thread, and quiet: several processes side by side are faster than one with several."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # it warns of the models that are built one after the other
