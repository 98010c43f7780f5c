"""Further rows of a table begin to train: the action Rows, and unfreeze_rows as a callback by itself."""

from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

from embkeras._checks import whole_number
from embkeras.errors import ScheduleError
from embkeras.tables.addresses import LayerRef, as_refs, match_layer
from embkeras.tables.partial_rows import RowEmbedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import has_other_vocabulary, swap_rows
from embkeras.training.rebuild import renew_rows
from embkeras.training.schedule.actions import Action
from embkeras.training.schedule.phases import check_epoch


class Rows(Action):
    """Train further rows of a partly trainable table; they keep training in later phases.

    A word that occurs once or twice is moved by the noise of its few texts, away from words that mean the same; one
    that occurs often can be moved safely.

    Room for the rows is made before training begins, in the layer and in the optimizer's slots. When they join, only
    the map from ids to rows changes, so the train step is not traced again.

    Args:
        layer: a layer of `build_embedding(trainable="oov")`, "map" or a mask: its name or path, or the layer.
        rows: bool array of shape (input_dim,): the rows that join.
        vocabulary: instead of `rows`: its tokens with their counts in the training text.
        min_count: with `vocabulary`, occurrences that a word needs.

    Raises:
        ScheduleError: both or neither of `rows` and `vocabulary`, an array that is not bool or has no row to train, a
            count below 1, a vocabulary without counts or without such a word; when training begins, a layer of another
            kind or size, or one that is frozen in this phase.

    Examples:
        >>> vocabulary = Vocabulary.from_texts(["a cat", "a dog", "a cow"])
        >>> Rows("embedding", vocabulary=vocabulary, min_count=3)
        Rows('embedding', 1 row)
    """

    lasts = True

    def __init__(self, layer: LayerRef, rows: Any = None, *, vocabulary: Vocabulary | None = None, min_count: int = 5):
        refs = as_refs(layer, "layer")
        if len(refs) != 1:
            raise ScheduleError(f"Rows takes one layer. Received: {layer!r}.")
        if (rows is None) == (vocabulary is None):
            raise ScheduleError(f"Rows takes rows or a vocabulary, one of the two. Received: {rows!r}, {vocabulary!r}.")
        self.layer, self.vocabulary = refs[0], vocabulary
        self.rows = np.array(rows) if vocabulary is None else _frequent_rows(vocabulary, min_count)
        if self.rows.dtype != bool or self.rows.ndim != 1 or not self.rows.any():
            raise ScheduleError(f"rows must be a bool array with at least one True. Received: {rows!r}.")

    @classmethod
    def prepare(cls, actions: Sequence[Self], model: keras.Model) -> None:
        """Make room in each layer for all rows that will join it, before another callback sees its variables."""
        joining: dict[int, tuple[RowEmbedding, np.ndarray]] = {}
        for action in actions:
            layer = action._find(model)
            before = joining.get(id(layer), (layer, layer.trainable_mask))[1]
            joining[id(layer)] = (layer, before | action.rows)
        for layer, rows in joining.values():
            more = int(rows.sum() - layer.trainable_mask.sum())
            if rows.sum() > layer.trainable_rows:
                with model.distribute_strategy.scope():
                    swap_rows(model, layer, layer.resized(np.arange(layer.input_dim), room=more))

    def check(self, model: keras.Model, epoch: int) -> None:
        """Refuse a layer that is frozen in this phase: its rows would not train."""
        layer = self._find(model)
        if not layer.trainable:
            raise ScheduleError(
                f"Rows of layer {layer.name!r} can't train from epoch {epoch} on: the layer is frozen in that phase."
            )

    def begin(self, model: keras.Model) -> None:
        """Let the rows join; those that train already continue."""
        layer = self._find(model)
        added = layer.train_rows(self.rows)
        if added and model.optimizer.built:
            last = int(layer.trainable_mask.sum())
            renew_rows(model, layer.moving_rows, np.arange(last - added, last))

    def describe(self) -> str:
        """How many rows of which layer."""
        name = self.layer if isinstance(self.layer, str) else self.layer.name
        return f"rows of {name} that train from here on: {int(self.rows.sum()):,}"

    def _find(self, model: keras.Model) -> RowEmbedding:
        layer = match_layer(model, self.layer)
        if not isinstance(layer, RowEmbedding) or not layer.takes_rows or layer.input_dim != len(self.rows):
            raise ScheduleError(
                f'Further rows can only join a layer in which some rows train, from build_embedding(trainable="oov"), "map" or '
                f"a mask, with {len(self.rows):,} rows. Received: {type(layer).__name__} {layer.name!r}."
            )
        if self.vocabulary is not None and has_other_vocabulary(layer, self.vocabulary):
            raise ScheduleError(
                f"change_vocabulary gave layer {layer.name!r} another vocabulary than the one whose words should train. "
                f"Choose the rows with the new one. Received: {self.vocabulary!r}."
            )
        return layer

    def __repr__(self) -> str:
        """The layer and the number of rows."""
        count = int(self.rows.sum())
        return f"Rows({self.layer!r}, {count:,} row{'' if count == 1 else 's'})"


def _frequent_rows(vocabulary: Any, min_count: int) -> np.ndarray:
    whole_number(min_count, "min_count", least=1, error=ScheduleError)
    if not isinstance(vocabulary, Vocabulary) or vocabulary.counts is None:
        raise ScheduleError(
            f"Rows are chosen from a Vocabulary with counts, as Vocabulary.from_texts makes it. Received: {vocabulary!r}."
        )
    rows = vocabulary.counts >= min_count
    rows[sorted(vocabulary.special_ids)] = False
    if not rows.any():
        raise ScheduleError(f"No word occurs min_count={min_count} times or more. Received: {vocabulary!r}.")
    return rows


def unfreeze_rows(epoch: int, layer: LayerRef, *, vocabulary: Vocabulary, min_count: int = 5) -> "RowSchedule":
    """Also train the words that occur often enough in the training text, from an epoch on.

    The same as the action `Rows` in a phase, as a callback that can run beside any schedule.

    Args:
        epoch: the epoch, counted from 0, from which these rows train.
        layer: as for `Rows`.
        vocabulary: its tokens with their counts in the training text.
        min_count: occurrences that a word needs.

    Returns:
        A callback for `fit`.

    Raises:
        ScheduleError: an epoch below 0, or what `Rows` refuses.

    Examples:
        >>> vocabulary = Vocabulary.from_texts(["a cat", "a dog", "a cow"])
        >>> unfreeze_rows(2, "embedding", vocabulary=vocabulary, min_count=3).action
        Rows('embedding', 1 row)
    """
    return RowSchedule(epoch, Rows(layer, vocabulary=vocabulary, min_count=min_count))


class RowSchedule(keras.callbacks.Callback):
    """Rows join at an epoch, whatever other schedules do.

    Args:
        epoch: the epoch, counted from 0, from which the rows train.
        action: the rows.
    """

    def __init__(self, epoch: int, action: Rows):
        super().__init__()
        self.epoch, self.action = check_epoch(epoch, "epoch"), action

    def set_model(self, model: keras.Model) -> None:
        """Make room, before another callback sees the layer's variables."""
        super().set_model(model)
        Rows.prepare([self.action], model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Let the rows join, if it is time."""
        if epoch >= self.epoch:
            self.action.begin(self.model)

    def state(self) -> dict[str, Any]:
        """Nothing: the layer holds which rows train."""
        return {}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Nothing to restore."""
