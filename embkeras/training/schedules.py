"""Phases of training as plain data: what is frozen from which epoch on, and at which learning rate."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from embkeras.errors import ScheduleError
from embkeras.layers.naming import LayerRef, as_refs


@dataclass(frozen=True)
class Phase:
    """From epoch `start` on, until the next phase begins, these layers are frozen.

    A schedule governs the layers that any of its phases names. In a phase, those it freezes stand still and the
    others train; layers that no phase names are left as they are.

    Args:
        start: the first epoch of the phase, counted from 0.
        freeze: layers that stand still: names, paths ("encoder/block_3") or layers.
        train: instead of `freeze`: of the layers that the schedule governs, only these train.
        learning_rate: the optimizer's learning rate from `start` on; None leaves it as it stands.

    Raises:
        ScheduleError: an epoch that is no integer >= 0, both `freeze` and `train`, or a rate that is not positive.
    """

    start: int
    freeze: Sequence[LayerRef] | LayerRef = ()
    train: Sequence[LayerRef] | LayerRef | None = None
    learning_rate: float | None = None

    def __post_init__(self):
        check_epoch(self.start, "start")
        object.__setattr__(self, "freeze", as_refs(self.freeze, "freeze"))
        if self.train is not None:
            object.__setattr__(self, "train", as_refs(self.train, "train"))
            if self.freeze:
                raise ScheduleError(f"A phase takes freeze or train, not both. Received: {self!r}.")
        rate = self.learning_rate
        number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
        if rate is not None and not (number and 0 < rate < math.inf):
            raise ScheduleError(f"learning_rate must be a positive number. Received: {rate!r}.")

    @property
    def named(self) -> tuple[LayerRef, ...]:
        """The layers that this phase names."""
        return self.freeze + (self.train or ())


def check_epoch(epoch: int, what: str) -> int:
    """The epoch, if it is an integer of at least 0.

    Raises:
        ScheduleError: it is not.
    """
    if isinstance(epoch, bool) or not isinstance(epoch, numbers.Integral) or epoch < 0:
        raise ScheduleError(f"{what} must be an epoch: an integer >= 0. Received: {epoch!r}.")
    return epoch


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
    """Index of the phase that `epoch` lies in, or None before the first one.

    Example:
        >>> phase_at([Phase(0), Phase(3)], 3)
        1
    """
    begun = [index for index, phase in enumerate(phases) if phase.start <= epoch]
    return begun[-1] if begun else None
