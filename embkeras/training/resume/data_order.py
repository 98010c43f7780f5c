"""The order of the data: as a function of the epoch, and compared between a run and the run that it resumes.

A resumed run starts in the middle, and sees the batches of the uninterrupted run only if those of an epoch do not depend
on the epochs before. `EpochOrder` makes such data. `FirstBatches` compares any data by the first batch of an epoch.
"""

import functools
import hashlib
import itertools
import json
import types
import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.errors import EmbkerasWarning, ResumeError
from embkeras.keras_compat.fit import FitContext, fit_context


class EpochOrder:
    """Datasets with a new order in each epoch, which depends on a seed and the number of the epoch alone."""

    @functools.cached_property
    def _epoch(self) -> tf.Variable:
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")

    def begin(self, epoch: int) -> None:
        """Make iterators that yield their first element from now on yield the order of `epoch`."""
        self._epoch.assign(epoch)

    def shuffle(self, dataset: tf.data.Dataset, buffer_size: int, seed: int) -> tf.data.Dataset:
        """`dataset.shuffle(buffer_size)`, by seed and epoch."""
        epoch = self._epoch

        def shuffled(_: Any) -> tf.data.Dataset:
            if not tf.executing_eagerly():  # of this function only: else the order would change with the global seed
                tf.compat.v1.set_random_seed(1)
            drawn = tf.random.stateless_uniform([], _seeds(seed, epoch), 1, 2**31 - 1, tf.int64)
            return dataset.shuffle(buffer_size, drawn, reshuffle_each_iteration=False)

        return _with_cardinality(tf.data.Dataset.range(1).flat_map(shuffled), int(dataset.cardinality()))

    def batches(self, arrays: Any, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches of rows of arrays of the same length, by seed and epoch."""
        epoch = self._epoch
        arrays = tf.nest.map_structure(tf.convert_to_tensor, arrays)
        count = int(tf.nest.flatten(arrays)[0].shape[0])

        def order(_: Any) -> tf.data.Dataset:
            rows = tf.random.experimental.stateless_shuffle(tf.range(count), _seeds(seed, epoch))
            return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)

        def pick(rows: Any) -> Any:
            return tf.nest.map_structure(lambda array: tf.gather(array, rows), arrays)

        picked = tf.data.Dataset.range(1).flat_map(order).map(pick, num_parallel_calls=tf.data.AUTOTUNE)
        return _with_cardinality(picked.prefetch(tf.data.AUTOTUNE), -(-count // batch_size))


def _seeds(seed: int, epoch: tf.Variable) -> tf.Tensor:
    return tf.stack([tf.constant(seed, tf.int64), epoch.read_value()])


def _with_cardinality(dataset: tf.data.Dataset, cardinality: int) -> tf.data.Dataset:
    """The dataset with a known length: `flat_map` loses it, and Keras shows it."""
    if cardinality == tf.data.UNKNOWN_CARDINALITY:
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(cardinality))


class FirstBatches:
    """Fingerprints of the first batch of each epoch since the last saved state, in a file beside the state.

    The file is written in the first step of an epoch, so it also knows the epoch in which a run is killed. The batch is
    the one that `fit` trains on: nothing else is drawn from the data.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[int, str] = {}
        self._resumes = False
        self._drawn: list[Any] = []
        self._drawn_again: tf.data.Dataset | None = None

    def load(self) -> None:
        """Read the fingerprints of the run that is resumed; there are none if it was killed before it wrote any.

        Raises:
            ResumeError: the file is damaged.
        """
        self._resumes = True
        try:
            self._known = {int(epoch): str(value) for epoch, value in json.loads(self.path.read_text("utf-8")).items()}
        except FileNotFoundError:
            self._known = {}
        except (OSError, ValueError, AttributeError) as error:
            raise ResumeError(
                f"Cannot read the fingerprints of batches in {str(self.path)!r}: {error}. Delete this file to resume "
                f"without comparing the data."
            ) from error

    def clear(self) -> None:
        """Start over: there is no run to resume."""
        self._known, self._resumes = {}, False

    def forget_before(self, epoch: int) -> None:
        """Drop the epochs that a resumed run will not repeat."""
        self._known = {number: value for number, value in self._known.items() if number >= epoch}

    def watch(self, model: keras.Model, epoch: int, callback: keras.callbacks.Callback) -> None:
        """Compare or record the first batch of an epoch, counted from 0, in the running `fit` of this callback."""
        train = model.train_function

        def first_step(iterator: Any) -> Any:
            model.train_function = train
            # A fit that was interrupted at the wrong moment leaves this function to the next one.
            if callback not in fit_context().callbacks:
                return train(iterator)
            if not isinstance(iterator, tf.data.Iterator):  # on several replicas, batches can't be put back
                self._warn_that_nothing_is_compared()
                return train(iterator)
            batches = list(itertools.islice(iterator, model.steps_per_execution))
            if batches:
                self._compare(epoch, fingerprint(batches[0]))
            try:
                return train(self._put_back(batches, iterator.element_spec))
            finally:
                self._drawn = []

        model.train_function = first_step

    def _put_back(self, batches: list[Any], element_spec: Any) -> Any:
        """An iterator over the batches, of the same element_spec, so that the compiled step is not traced again."""
        self._drawn = batches
        if self._drawn_again is None or self._drawn_again.element_spec != element_spec:
            self._drawn_again = tf.data.Dataset.from_generator(lambda: iter(self._drawn), output_signature=element_spec)
        return iter(self._drawn_again)

    def _compare(self, epoch: int, found: str) -> None:
        known = self._known.get(epoch, found)
        if known != found:
            raise ResumeError(
                f"Epoch {epoch} (counted from 0) starts with another batch than in the run that is resumed: its "
                f"fingerprint is {found}, not {known} as in {str(self.path)!r}. The order of the data must depend on the "
                f"epoch alone: use backup.batches((x, y), batch_size) or backup.shuffle(dataset, buffer_size), or set a "
                f"seed. To continue with other batches, delete this file."
            )
        if epoch not in self._known:
            self._known[epoch] = found
            with written_beside(self.path) as beside:
                beside.write_text(json.dumps(self._known), "utf-8")

    def _warn_that_nothing_is_compared(self) -> None:
        if self._resumes:
            self._resumes = False
            warnings.warn(
                "A resumed run on several replicas does not compare its batches with those of the run that it resumes. "
                "Shuffle with backup.shuffle or backup.batches, whose order depends on the epoch alone.",
                EmbkerasWarning,
                stacklevel=2,
            )


def fingerprint(batch: Any) -> str:
    """A hash of all tensors of a batch: their dtypes, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tf.nest.flatten(batch, expand_composites=True):
        if tensor is not None:
            digest.update(tf.io.serialize_tensor(tensor).numpy())
    return digest.hexdigest()


def order_problem(context: FitContext) -> str | None:
    """What makes epochs depend on previous ones, as far as the arguments of `fit` show it."""
    if isinstance(context.data, types.GeneratorType):
        return "a generator starts from its beginning"
    steps, batches = context.steps_per_epoch, context.batches
    if steps is None or steps == batches:
        return None
    length = "an unknown number of" if batches is None else batches
    return f"with steps_per_epoch={steps} and {length} batches, each epoch continues where the previous one stopped"
