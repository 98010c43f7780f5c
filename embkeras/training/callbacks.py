"""Trainability on a schedule: the callback that begins the phases, and unfreeze_at."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from embkeras.errors import EmbkerasWarning, ScheduleError
from embkeras.layers.naming import LayerRef, as_refs, find_layers, walk
from embkeras.training.rebuild import rebuild_training
from embkeras.training.schedules import Phase, check_epoch, check_phases, phase_at


class TrainabilitySchedule(keras.callbacks.Callback):
    """Freeze and unfreeze layers at chosen epochs, inside one `fit` call and under any Keras optimizer.

    Keras compiles the train step and builds the optimizer for the variables that are trainable when `fit` begins, so
    setting `layer.trainable` in a callback does nothing. This callback sets the flags and then rebuilds both; the
    optimizer state of all other variables, the step counter and a learning-rate schedule go on. The phase is a function
    of the epoch alone. Each epoch's logs get `phase`, counted from 1.

    Adam and its kin, `RowWiseAdam` included, correct the bias of their moments by the global step, so the first updates
    of a variable that joins late are larger than the learning rate (about 5x): give a smaller rate from there on.

    Args:
        phases: in the order of their `start`.
        also: further layers that the schedule governs, so that they train in phases that do not freeze them.

    Raises:
        ScheduleError: phases that contradict each other; when training begins, an optimizer whose rate cannot be
            set, or a layer that would not train in a phase that thaws it.
        UnknownLayerError: when training begins, a name that the model does not have.

    Example:
        >>> schedule = TrainabilitySchedule([Phase(0, freeze="embedding"), Phase(3, learning_rate=1e-4)])
        >>> [phase.start for phase in schedule.phases]
        [0, 3]
    """

    def __init__(self, phases: Sequence[Phase], *, also: Sequence[LayerRef] | LayerRef = ()):
        super().__init__()
        self.phases = check_phases([phases] if isinstance(phases, Phase) else phases)
        self.also = as_refs(also, "also")
        self._for: keras.Model | None = None
        self._optimizer: keras.optimizers.Optimizer | None = None
        self._current: int | None = None
        self._first_rate: float | None = None
        self._held: list[keras.layers.Layer] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse now what could not be done in a later epoch."""
        self._attach(self.model)
        self._try_phases(self.model)
        self._flags_are_due = True
        self._warn_of_phases_not_reached()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin the phase that `epoch` lies in, if it has not begun."""
        index = phase_at(self.phases, epoch)
        if index is None or (index == self._current and not self._flags_are_due):
            return
        self._flags_are_due = False
        self.apply(self.model, epoch)
        if self.params.get("verbose"):
            print(self._announcement(index, epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the number of the phase, counted from 1, into the logs."""
        if logs is not None and self._current is not None:
            logs["phase"] = self._current + 1

    def apply(self, model: keras.Model, epoch: int) -> bool:
        """Set what `epoch` asks for on a compiled model, outside `fit` (custom loops, `train_on_batch`).

        Returns:
            Whether the set of trainable variables changed; the optimizer and the train step are then rebuilt, and a
            custom loop has to trace its own step again.
        """
        self._attach(model)
        index = phase_at(self.phases, check_epoch(epoch, "epoch"))
        if index is None:
            return False
        before = _variable_ids(model)
        self._set_flags(model, self.phases[index])
        changed = before != _variable_ids(model)
        if changed:
            rebuild_training(model)
        self._set_rate(model, index)
        self._current = index
        return changed

    def _attach(self, model: keras.Model) -> None:
        """On a model or optimizer not seen before: find the layers, and note what its author had frozen inside them."""
        if model is self._for and model.optimizer is self._optimizer:
            return
        if getattr(model, "optimizer", None) is None:
            raise ScheduleError(f"Model {model.name!r} has no optimizer: compile it before training.")
        governed = find_layers(model, self._governed())
        # What stands inside a frozen layer may do so only because of it, so that its author froze it is not known.
        inside = {id(child) for layer in governed if not layer.trainable for _, child in walk(layer)}
        known = inside | {id(layer) for layer in governed}
        held = [
            child
            for layer in governed
            if layer.trainable
            for _, child in walk(layer)
            if not child.trainable and id(child) not in known
        ]
        if any(phase.learning_rate is not None for phase in self.phases):
            self._first_rate = _settable_rate(model.optimizer)
        self._for, self._optimizer, self._current, self._held = model, model.optimizer, None, held

    def _try_phases(self, model: keras.Model) -> None:
        """Set the flags of every phase, so that what cannot be done is refused, and put them back."""
        governed = find_layers(model, self._governed())
        # Parents first: setting the flag of a layer sets those of all layers inside it.
        layers = [each for layer in governed for each in (layer, *(child for _, child in walk(layer)))]
        flags = [(layer, layer.trainable) for layer in layers]
        try:
            for phase in self.phases:
                self._set_flags(model, phase)
        finally:
            for layer, flag in flags:
                layer.trainable = flag

    def _warn_of_phases_not_reached(self) -> None:
        epochs = self.params.get("epochs")
        late = [phase.start for phase in self.phases if epochs is not None and phase.start >= epochs]
        if late:
            warnings.warn(
                f"This fit ends before epoch {epochs} (epochs count from 0), so the phase that begins at epoch {late[0]} "
                f"is not reached. Train longer, or go on with fit(initial_epoch={epochs}, ...).",
                EmbkerasWarning,
                stacklevel=2,
            )

    def _governed(self) -> list[LayerRef]:
        return [ref for phase in self.phases for ref in phase.named] + list(self.also)

    def _set_flags(self, model: keras.Model, phase: Phase) -> None:
        governed = {id(layer): layer for layer in find_layers(model, self._governed())}
        if phase.train is None:
            frozen = {id(layer) for layer in find_layers(model, phase.freeze)}
        else:
            frozen = set(governed) - {id(layer) for layer in find_layers(model, phase.train)}
        for layer in governed.values():
            layer.trainable = True
        for child in self._held:
            child.trainable = False
        for key in frozen:
            governed[key].trainable = False
        self._check_thawed([layer for key, layer in governed.items() if key not in frozen], model, phase)

    def _check_thawed(self, layers: list[keras.layers.Layer], model: keras.Model, phase: Phase) -> None:
        training = _variable_ids(model)
        for layer in layers:
            variables = layer.trainable_variables
            if layer.built and (not variables or not all(id(variable) in training for variable in variables)):
                alone = layer.trainable and not variables
                reason = "it has no trainable variables" if alone else "a layer around it is frozen"
                raise ScheduleError(f"Layer {layer.name!r} cannot train from epoch {phase.start} on: {reason}.")

    def _set_rate(self, model: keras.Model, index: int) -> None:
        if index == self._current:
            return
        rate = self.phases[index].learning_rate
        if rate is None and index != (0 if self._current is None else self._current + 1):
            # Phases were left out, or begin anew in a new fit: the rate is the one that an unbroken run has here.
            earlier = [phase.learning_rate for phase in self.phases[:index] if phase.learning_rate is not None]
            rate = earlier[-1] if earlier else self._first_rate
        if rate is not None:
            model.optimizer.learning_rate = rate

    def _announcement(self, index: int, epoch: int) -> str:
        governed = {layer.name: layer for layer in find_layers(self.model, self._governed())}
        standing = ", ".join(name for name, layer in governed.items() if not layer.trainable)
        moving = ", ".join(name for name, layer in governed.items() if layer.trainable)
        parameters = sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)
        parts = [f"frozen: {standing}"] * bool(standing) + [f"unfrozen: {moving}"] * bool(moving)
        rate = _rate_or_none(self.model.optimizer)
        return (
            f"Phase {index + 1} of {len(self.phases)} begins (epoch {epoch}, counted from 0): {'; '.join(parts)}; "
            f"{parameters:,} trainable parameters" + (f"; learning rate {rate:.3g}" if rate is not None else "")
        )


def unfreeze_at(
    epoch: int, layers: LayerRef | Sequence[LayerRef], *, learning_rate: float | None = None
) -> TrainabilitySchedule:
    """A schedule that keeps `layers` frozen before `epoch` and trains them from it on.

    Args:
        epoch: the first epoch, counted from 0, in which the layers move.
        layers: names, paths ("encoder/block_3") or layers.
        learning_rate: the optimizer's learning rate, for all variables, from `epoch` on.

    Raises:
        ScheduleError: `epoch` is not an integer >= 0, no layers, or a rate that is not positive.

    Example:
        >>> len(unfreeze_at(3, "embedding", learning_rate=1e-4).phases)
        2
    """
    check_epoch(epoch, "epoch")
    refs = as_refs(layers, "unfreeze_at")
    if not refs:
        raise ScheduleError("unfreeze_at needs at least one layer. Received none.")
    frozen = [Phase(0, freeze=refs)] if epoch > 0 else []
    return TrainabilitySchedule([*frozen, Phase(epoch, learning_rate=learning_rate)], also=refs)


def _variable_ids(model: keras.Model) -> set[int]:
    return {id(variable) for variable in model.trainable_variables}


def _settable_rate(optimizer: Any) -> float:
    """The learning rate, after making sure that another one can be assigned."""
    try:
        rate = float(optimizer.learning_rate)
        optimizer.learning_rate = rate
    except (TypeError, AttributeError) as error:
        raise ScheduleError(
            f"A phase sets learning_rate, which {type(optimizer).__name__} {optimizer.name!r} does not let change: {error}"
        ) from error
    return rate


def _rate_or_none(optimizer: Any) -> float | None:
    try:
        return float(optimizer.learning_rate)
    except AttributeError:  # MultiOptimizer has several
        return None
