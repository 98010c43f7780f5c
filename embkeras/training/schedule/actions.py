"""What a phase can change: one class for each kind of action.

A new kind is a subclass of `Action` in a file of its own, like `rows.Rows`: the schedule calls its methods. `Freeze`,
`Train`, `TrainVariables` and `Rate` are data only: their effect depends on all phases of a schedule, so `flags` and
`rates` work it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import keras
from keras.optimizers.schedules import LearningRateSchedule

from embkeras._checks import number
from embkeras.errors import ScheduleError
from embkeras.tables.addresses import LayerRef, as_refs


class Action:
    """One change that a phase makes when it begins.

    Attributes:
        lasts: the change stays in later phases; otherwise the schedule calls `undo` when the next phase begins.
    """

    lasts = False

    def conflict(self, other: "Action") -> str | None:
        """Why this action and another one can't be in the same phase, or None."""
        return None

    @classmethod
    def prepare(cls, actions: Sequence[Self], model: keras.Model) -> None:
        """Make room in the model for all actions of this kind in a schedule, before training begins."""

    def check(self, model: keras.Model, epoch: int) -> None:
        """Raise a ScheduleError if the action can't work under the flags of its phase, which are set now."""

    def begin(self, model: keras.Model) -> None:
        """Make the change. Called when the phase begins and when a fit resumes in it: the second call changes nothing."""

    def undo(self, model: keras.Model) -> None:
        """Take the change back, unless it `lasts`."""

    def describe(self) -> str:
        """The change in a few words for the line printed when the phase begins, or nothing."""
        return ""


@dataclass(frozen=True)
class Freeze(Action):
    """Freeze these layers and everything inside them; undone in the next phase that doesn't freeze them.

    Args:
        layers: names, paths ("encoder/block_3"), globs ("block_*", "encoder/**") or layers.

    Raises:
        ScheduleError: no layers, or something that doesn't name a layer.
    """

    layers: Sequence[LayerRef] | LayerRef

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", some_refs(self.layers, "freeze"))

    def conflict(self, other: Action) -> str | None:
        """Beside Train and TrainVariables everything else is frozen already."""
        return "take Freeze or Train, not both" if isinstance(other, Train | TrainVariables) else None


@dataclass(frozen=True)
class Train(Action):
    """Train only these layers and everything inside them; undone in the next phase without `Train`.

    Args:
        layers: names, paths, globs or layers, as in `Freeze`.

    Raises:
        ScheduleError: no layers, or something that doesn't name a layer.
    """

    layers: Sequence[LayerRef] | LayerRef

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", some_refs(self.layers, "train"))


@dataclass(frozen=True)
class TrainVariables(Action):
    """Train only these variables, and the layers of a `Train` in the same phase; undone in the next phase.

    Keras has one flag a layer, and a layer with a variable that trains counts as trainable: a BatchNormalization whose
    "beta" trains updates its statistics too. A `.keras` file keeps the flags of layers only, so one saved in such a
    phase loads without the optimizer's state; `ResumableBackup` keeps it.

    Args:
        variables: paths ("head/bias") or globs ("**/bias") of variables: the layer's path, then the variable's name.

    Raises:
        ScheduleError: no address, or something that isn't a string.

    Examples:
        >>> from embkeras.training.schedule import Phase, Train
        >>> Phase(0, TrainVariables("**/bias"), Train("head")).train
        ('head',)
    """

    variables: Sequence[str] | str

    def __post_init__(self) -> None:
        addresses = (self.variables,) if isinstance(self.variables, str) else self.variables
        if not isinstance(addresses, Sequence) or not addresses or not all(isinstance(a, str) and a for a in addresses):
            raise ScheduleError(
                f"TrainVariables takes paths or globs of variables, such as '**/bias'. Received: {self.variables!r}."
            )
        object.__setattr__(self, "variables", tuple(addresses))

    def describe(self) -> str:
        """The addresses."""
        return f"unfrozen variables: {', '.join(self.variables)}"


@dataclass(frozen=True)
class Rate(Action):
    """Set the optimizer's learning rate, or multiply it; it stays until another phase changes it.

    Args:
        learning_rate: a number, or a `LearningRateSchedule` that counts its steps from the phase's first one (as Keras
            counts: with gradient accumulation, batches; ReduceLROnPlateau can't lower it).
        factor: instead, multiplies the current rate, number or schedule.

    Raises:
        ScheduleError: neither or both, or a number that is not positive.
    """

    lasts = True

    learning_rate: float | LearningRateSchedule | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if (self.learning_rate is None) == (self.factor is None):
            raise ScheduleError(f"Rate takes learning_rate or a factor, and exactly one of them. Received: {self!r}.")
        for name in ("learning_rate", "factor"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, LearningRateSchedule):
                object.__setattr__(self, name, number(value, name, above=0, error=ScheduleError))

    def conflict(self, other: Action) -> str | None:
        """A phase has one rate."""
        return "give one learning rate" if isinstance(other, Rate) else None


def some_refs(layers: Sequence[LayerRef] | LayerRef, what: str) -> tuple[LayerRef, ...]:
    """One or several names or layers as a tuple.

    Args:
        layers: names, paths, globs or layers; one of them needs no list.
        what: what messages call the argument.

    Returns:
        At least one, in their order.

    Raises:
        ScheduleError: no layers, or something that doesn't name a layer.
    """
    refs = as_refs(layers, what)
    if not refs:
        raise ScheduleError(f"{what} needs at least one layer. Received: {layers!r}.")
    return refs
