"""Phases of training as plain data: from which epoch on, which actions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TypeVar

from keras.optimizers.schedules import LearningRateSchedule

from embkeras._checks import whole_number
from embkeras.errors import ScheduleError
from embkeras.tables.addresses import LayerRef, as_refs
from embkeras.training.schedule.actions import Action, Freeze, Rate, Train, TrainVariables

Kind = TypeVar("Kind", bound=Action)


@dataclass(frozen=True, init=False)
class Phase:
    """What happens from epoch `start` on, until the next phase begins: a list of actions.

    A schedule governs the layers that any of its phases names. With `freeze`, the layers named are frozen and the other
    governed layers train; layers that no phase names keep the flag you gave them. With `train`, only the layers named
    train, and everything else in the model is frozen, named or not. Inside a layer that trains, what you froze by
    `layer.trainable = False` stays frozen unless a phase names it; `build_embedding(trainable=False)` only says where a
    table starts.

    Layers are given as names, paths ("encoder/block_3"), globs ("block_*", "encoder/**") or layers. The whole path of a
    variable is one too: "embedding/map" and "embedding/rows" are the parts of a shared map.

    Args:
        start: the latest epoch, counted from 0, at which the phase begins; the patience of the previous phase may
            begin it sooner.
        *actions: `Freeze`, `Train`, `TrainVariables`, `Rate` and `Rows` of `embkeras.training.schedule`, or your own.
        freeze: short for `Freeze(...)`.
        train: short for `Train(...)`.
        learning_rate: short for `Rate(...)`: a number, or a `LearningRateSchedule` that counts its steps from the
            phase's first one. Without it, the rate stays as it is.
        rate_factor: short for `Rate(factor=...)`: multiplies the current rate.
        patience: epochs without improvement of the schedule's `monitor`, after which the phase ends: the weights of
            its best epoch are restored and the next phase begins; after the last phase, training stops.

    Raises:
        ScheduleError: a start that is not an epoch, a patience below 1, actions that contradict each other (with the
            phase and what they name), `train` without layers, or a rate that is not positive.

    Examples:
        >>> Phase(3, train="embedding", rate_factor=0.1, patience=2).actions
        (Train(layers=('embedding',)), Rate(learning_rate=None, factor=0.1))
    """

    start: int
    actions: tuple[Action, ...] = ()
    patience: int | None = None

    def __init__(
        self,
        start: int,
        *actions: Action,
        freeze: Sequence[LayerRef] | LayerRef = (),
        train: Sequence[LayerRef] | LayerRef | None = None,
        learning_rate: float | LearningRateSchedule | None = None,
        rate_factor: float | None = None,
        patience: int | None = None,
    ):
        for action in actions:
            if not isinstance(action, Action):
                raise ScheduleError(
                    f"A phase takes actions after its start, such as Freeze('embedding'), or the keywords freeze=, "
                    f"train=, learning_rate=, rate_factor=. Received: {action!r}."
                )
        short: list[Action] = []
        if freezes := as_refs(freeze, "freeze"):
            short.append(Freeze(freezes))
        if train is not None:
            short.append(Train(train))
        if learning_rate is not None or rate_factor is not None:
            short.append(Rate(learning_rate, rate_factor))
        if patience is not None:
            patience = whole_number(patience, "patience", least=1, error=ScheduleError)
        object.__setattr__(self, "start", check_epoch(start, "start"))
        object.__setattr__(self, "actions", (*actions, *short))
        object.__setattr__(self, "patience", patience)
        for one, other in combinations(self.actions, 2):
            if reason := one.conflict(other) or other.conflict(one):
                raise ScheduleError(
                    f"The actions of the phase from epoch {self.start} on contradict each other: {reason}. "
                    f"Received: {one!r} and {other!r}."
                )

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The actions of one kind."""
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def freeze(self) -> tuple[LayerRef, ...]:
        """The layers that this phase freezes."""
        return tuple(ref for action in self.of(Freeze) for ref in action.layers)

    @property
    def train(self) -> tuple[LayerRef, ...] | None:
        """The only layers that train, or None where the phase doesn't say "only these"."""
        if not self.of(Train) and not self.of(TrainVariables):
            return None
        return tuple(ref for action in self.of(Train) for ref in action.layers)

    @property
    def train_variables(self) -> tuple[str, ...]:
        """The only variables that train, besides the layers of `train`."""
        return tuple(address for action in self.of(TrainVariables) for address in action.variables)

    @property
    def rate(self) -> Rate | None:
        """How this phase changes the learning rate."""
        return next(iter(self.of(Rate)), None)

    @property
    def named(self) -> tuple[LayerRef, ...]:
        """The layers that this phase freezes or trains."""
        return self.freeze + (self.train or ())


def check_epoch(epoch: int, what: str) -> int:
    """The epoch as an `int` (NumPy integers can't be written as JSON).

    Raises:
        ScheduleError: not an integer of at least 0.
    """
    return whole_number(epoch, what, least=0, where="(epochs count from 0)", error=ScheduleError)


def check_phases(phases: Sequence[Phase] | Phase) -> tuple[Phase, ...]:
    """The phases as a tuple, in order.

    Raises:
        ScheduleError: no phases, something that is not a Phase, or phases that don't begin one after the other.
    """
    checked = tuple(phases) if isinstance(phases, Iterable) else (phases,)
    if not checked or not all(isinstance(phase, Phase) for phase in checked):
        raise ScheduleError(f"A schedule needs at least one Phase. Received: {checked!r}.")
    for earlier, later in pairwise(checked):
        if later.start <= earlier.start:
            raise ScheduleError(
                f"Each phase must begin after the previous one. Received: epoch {later.start} after epoch {earlier.start}."
            )
    return checked


def phase_at(phases: Sequence[Phase], epoch: int) -> int | None:
    """Index of the phase that `epoch` is in by the phases' starts, or None before the first one.

    Examples:
        >>> phase_at([Phase(0), Phase(3)], 3)
        1
    """
    begun = [index for index, phase in enumerate(phases) if phase.start <= epoch]
    return begun[-1] if begun else None
