"""Phases of training as plain data: what is frozen from which epoch on, and at which learning rate."""

import math
import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from keras.layers import Layer
from keras.optimizers.schedules import LearningRateSchedule

from embkeras.errors import ScheduleError
from embkeras.tables.addresses import LayerRef, as_refs


@dataclass(frozen=True)
class Phase:
    """From epoch `start` on, until the next phase begins, these layers are frozen, or only these train.

    A schedule governs the layers that any of its phases names. With `freeze`, those it names stand still and the other
    governed ones train; layers that no phase names are left as their author set them. With `train`, only the layers it
    names train, and everything else in the model stands still, named or not.

    Layers are given as names, paths ("encoder/block_3"), globs ("block_*", "encoder/**") or layers.

    Args:
        start: the latest epoch, counted from 0, at which the phase begins; the patience of the phase before it may
            begin it sooner.
        freeze: layers that stand still, with all that is inside them.
        train: instead of `freeze`: the only layers that train.
        learning_rate: the optimizer's learning rate from the phase's first step on: a number, or a
            `LearningRateSchedule` that counts its steps from there (as Keras counts: with gradient accumulation,
            batches; ReduceLROnPlateau cannot lower it). None leaves the rate as it stands.
        rate_factor: instead of `learning_rate`: the rate that stands, number or schedule, is multiplied by it.
        patience: epochs without improvement of the schedule's `monitor`, after which the phase ends: the weights of
            its best epoch come back and the next phase begins; after the last phase, training stops.

    Raises:
        ScheduleError: an epoch or a patience that is none, both `freeze` and `train`, `train` without layers, both
            `learning_rate` and `rate_factor`, or one of them not positive.

    Example:
        >>> Phase(3, train="embedding", rate_factor=0.1, patience=2).named
        ('embedding',)
    """

    start: int
    freeze: Sequence[LayerRef] | LayerRef = ()
    train: Sequence[LayerRef] | LayerRef | None = None
    learning_rate: float | LearningRateSchedule | None = None
    rate_factor: float | None = None
    patience: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "start", check_epoch(self.start, "start"))
        object.__setattr__(self, "freeze", as_refs(self.freeze, "freeze"))
        if self.train is not None:
            object.__setattr__(self, "train", as_refs(self.train, "train"))
            if self.freeze:
                raise ScheduleError(f"A phase takes freeze or train, not both. Received: {self!r}.")
            if not self.train:
                raise ScheduleError("train needs at least one layer: training has to train something. Received none.")
        self._check_rate()
        patience = self.patience
        if patience is not None and not (_is_integer(patience) and patience >= 1):
            raise ScheduleError(f"patience must be a number of epochs: an integer >= 1. Received: {patience!r}.")
        if patience is not None:
            object.__setattr__(self, "patience", int(patience))

    def _check_rate(self) -> None:
        if self.learning_rate is not None and self.rate_factor is not None:
            raise ScheduleError(f"A phase takes learning_rate or rate_factor, not both. Received: {self!r}.")
        if not isinstance(self.learning_rate, LearningRateSchedule):
            _check_positive(self.learning_rate, "learning_rate")
        _check_positive(self.rate_factor, "rate_factor")

    @property
    def named(self) -> tuple[LayerRef, ...]:
        """The layers that this phase names."""
        return self.freeze + (self.train or ())

    @property
    def sets_rate(self) -> bool:
        """Whether the phase changes the learning rate."""
        return self.learning_rate is not None or self.rate_factor is not None


def check_epoch(epoch: int, what: str) -> int:
    """The epoch as an `int` (NumPy's are not written as JSON), if it is an integer of at least 0.

    Raises:
        ScheduleError: it is not.
    """
    if not _is_integer(epoch) or epoch < 0:
        raise ScheduleError(f"{what} must be an epoch: an integer >= 0. Received: {epoch!r}.")
    return int(epoch)


def check_phases(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases as a tuple, in order.

    Raises:
        ScheduleError: no phases, something that is not a Phase, or phases that do not begin one after the other.
    """
    phases = tuple(phases)
    if not phases or not all(isinstance(phase, Phase) for phase in phases):
        raise ScheduleError(f"A schedule needs at least one Phase. Received: {phases!r}.")
    for earlier, later in pairwise(phases):
        if later.start <= earlier.start:
            raise ScheduleError(
                f"Each phase must begin after the one before. Received: epoch {later.start} after epoch {earlier.start}."
            )
    return phases


def phase_at(phases: Sequence[Phase], epoch: int) -> int | None:
    """Index of the phase that `epoch` lies in by the phases' starts, or None before the first one.

    Example:
        >>> phase_at([Phase(0), Phase(3)], 3)
        1
    """
    begun = [index for index, phase in enumerate(phases) if phase.start <= epoch]
    return begun[-1] if begun else None


def as_groups(layers: Sequence[LayerRef | Sequence[LayerRef]] | LayerRef, what: str) -> list[tuple[LayerRef, ...]]:
    """Groups of layers, each given as one layer or several.

    Raises:
        ScheduleError: no groups, an empty one, something that is neither a name nor a layer, or one layer given twice.
    """
    one = isinstance(layers, str | Layer) or not isinstance(layers, Iterable)
    groups = [as_refs(group, what) for group in ([layers] if one else layers)]
    if not groups or not all(groups):
        raise ScheduleError(f"{what} needs groups of at least one layer. Received: {layers!r}.")
    counts = Counter(_joined(groups))
    if len(counts) < sum(counts.values()):
        raise ScheduleError(
            f"{what} takes each layer once, in one group. Received {counts.most_common(1)[0][0]!r} twice."
        )
    return groups


def top_down_phases(groups: Sequence[tuple[LayerRef, ...]], start: int, every: int, decay: float) -> list[Phase]:
    """Phases that thaw the last group at epoch `start`, and one more every `every` epochs, at falling rates.

    Raises:
        ScheduleError: an epoch or a number of epochs that is none, or a decay that is not positive.
    """
    check_epoch(start, "start")
    if not _is_integer(every) or every < 1:
        raise ScheduleError(f"every must be a number of epochs: an integer >= 1. Received: {every!r}.")
    if decay is None:
        raise ScheduleError("decay must be a positive number; 1 leaves the rate. Received: None.")
    _check_positive(decay, "decay")
    phases = [Phase(0, freeze=_joined(groups))] if start > 0 else []
    for thawed in range(1, len(groups) + 1):
        begin = start + (thawed - 1) * every
        factor = 1 / decay if begin > 0 and decay != 1 else None
        phases.append(Phase(begin, freeze=_joined(groups[: len(groups) - thawed]), rate_factor=factor))
    return phases


def _joined(groups: Sequence[tuple[LayerRef, ...]]) -> tuple[LayerRef, ...]:
    return tuple(ref for group in groups for ref in group)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_positive(value: Any, what: str) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise ScheduleError(f"{what} must be a positive number. Received: {value!r}.")
