"""unfreeze_rows: further rows of a table begin to train at an epoch."""

from typing import Any

import keras
import numpy as np

from embkeras.errors import ScheduleError
from embkeras.tables.addresses import LayerRef, as_refs, find_layers
from embkeras.tables.partial_rows import RowEmbedding
from embkeras.tables.resizing import resized
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import swap_rows
from embkeras.training.rebuild import renew_rows
from embkeras.training.schedule.phases import check_epoch


def unfreeze_rows(epoch: int, layer: LayerRef, *, vocabulary: Vocabulary, min_count: int = 5) -> "RowSchedule":
    """Let the words that training sees often enough move too, from an epoch on.

    A word that occurs once or twice is moved by the noise of its few texts, away from words that mean the same; one
    that occurs often can be moved safely.

    Args:
        epoch: the epoch, counted from 0, from which these rows train.
        layer: a layer of `build_embedding(trainable="oov")` or of a mask: its name or path, or the layer.
        vocabulary: its tokens with their counts in the training text.
        min_count: occurrences that a word needs.

    Raises:
        ScheduleError: an epoch or count that is no such number, a vocabulary without counts, or without a word that
            occurs so often; when training begins, a layer of another kind or size.

    Example:
        >>> vocabulary = Vocabulary.from_texts(["a cat", "a dog", "a cow"])
        >>> int(unfreeze_rows(2, "embedding", vocabulary=vocabulary, min_count=3).rows.sum())
        1
    """
    if isinstance(min_count, bool) or not isinstance(min_count, int | np.integer) or min_count < 1:
        raise ScheduleError(f"min_count must be an integer >= 1. Received: {min_count!r}.")
    if not isinstance(vocabulary, Vocabulary) or vocabulary.counts is None:
        raise ScheduleError(f"unfreeze_rows needs a Vocabulary with counts. Received: {vocabulary!r}.")
    rows = vocabulary.counts >= min_count
    rows[sorted(vocabulary.special_ids)] = False
    if not rows.any():
        raise ScheduleError(f"No word of {vocabulary!r} occurs {min_count} times or more.")
    return RowSchedule(epoch, layer, rows)


class RowSchedule(keras.callbacks.Callback):
    """From an epoch on, further rows of a `RowEmbedding` train; `unfreeze_rows` makes one from counts.

    Room for the rows is made when training begins, in the layer and in the optimizer's slots; at the epoch only the map
    from ids to rows changes, so that the train step is not traced again. What is trained when is a function of the
    epoch, which a resumed training comes to alike.

    Args:
        epoch: the epoch, counted from 0, from which the rows train.
        layer: name or path of the layer, or the layer.
        rows: bool array, shape (input_dim,).
    """

    def __init__(self, epoch: int, layer: LayerRef, rows: np.ndarray):
        super().__init__()
        self.epoch, self.layer = check_epoch(epoch, "epoch"), layer
        as_refs(layer, "layer")
        self.rows = np.asarray(rows)
        if self.rows.dtype != bool or self.rows.ndim != 1 or not self.rows.any():
            raise ScheduleError(f"rows must be a bool array that names some row. Received: {rows!r}.")

    def set_model(self, model: keras.Model) -> None:
        """Find the layer, and make room in it: before another callback looks at its variables."""
        super().set_model(model)
        layer = self._find()
        training = layer.trainable_mask
        more = int((self.rows & ~training).sum())
        if training.sum() + more > layer.trainable_rows:
            with model.distribute_strategy.scope():
                swap_rows(model, layer, resized(layer, np.arange(layer.input_dim), room=more))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin, if it is time; rows that train already go on."""
        if epoch < self.epoch:
            return
        layer = self._find()
        added = layer.train_rows(self.rows)
        if added and self.model.optimizer.built:
            last = int(layer.trainable_mask.sum())
            renew_rows(self.model, layer._moving, np.arange(last - added, last))

    def state(self) -> dict[str, Any]:
        """Nothing: the layer holds which rows train."""
        return {}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def _find(self) -> RowEmbedding:
        layer = find_layers(self.model, [self.layer])[0]
        if not isinstance(layer, RowEmbedding) or not layer.trainable_rows or layer.input_dim != len(self.rows):
            raise ScheduleError(
                f'unfreeze_rows takes a layer of which some rows train, from build_embedding(trainable="oov") or a mask, '
                f"with {len(self.rows)} rows. Received: {type(layer).__name__} {layer.name!r}."
            )
        return layer
