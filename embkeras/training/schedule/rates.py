"""Learning rates that change with the phase: what each phase makes of the rate that stands."""

from collections.abc import Sequence
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from embkeras.errors import ScheduleError
from embkeras.keras_compat.optimizers import rate_of, set_rate, steps_of
from embkeras.training.schedule.phases import Phase

Rate = float | LearningRateSchedule


@keras.saving.register_keras_serializable("embkeras")
class CountedFrom(LearningRateSchedule):
    """A schedule that counts from an optimizer step other than 0.

    Args:
        schedule: of the steps since `start`.
        start: the optimizer step at which it begins; before it, the rate is that of its step 0.

    Example:
        >>> decay = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
        >>> [round(float(CountedFrom(decay, 100)(step)), 3) for step in (100, 102, 103)]
        [0.1, 0.1, 0.01]
    """

    def __init__(self, schedule: LearningRateSchedule, start: int):
        self.schedule, self.start = schedule, int(start)

    def __call__(self, step: Any) -> Any:
        """The rate at optimizer step `step`."""
        return self.schedule(keras.ops.maximum(keras.ops.subtract(step, self.start), 0))

    def get_config(self) -> dict[str, Any]:
        """The schedule and its start."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "start": self.start}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CountedFrom":
        """Made again from what `get_config` gave."""
        return cls(_deserialized(config["schedule"]), config["start"])


@keras.saving.register_keras_serializable("embkeras")
class Scaled(LearningRateSchedule):
    """A schedule whose rates are multiplied by a factor.

    Args:
        schedule: what is multiplied.
        factor: by which.

    Example:
        >>> decay = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
        >>> round(float(Scaled(decay, 0.5)(1)), 3)
        0.05
    """

    def __init__(self, schedule: LearningRateSchedule, factor: float):
        self.schedule, self.factor = schedule, float(factor)

    def __call__(self, step: Any) -> Any:
        """The rate at optimizer step `step`."""
        return self.schedule(step) * self.factor

    def get_config(self) -> dict[str, Any]:
        """The schedule and the factor."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Scaled":
        """Made again from what `get_config` gave."""
        return cls(_deserialized(config["schedule"]), config["factor"])


class Rates:
    """The learning rate of one optimizer under the phases of a schedule.

    Attributes:
        first: what the optimizer held when the schedule met it.
        index: the phase whose rate stands, or None.
        applied: [phase, optimizer step at which it began], of each phase that made the rate that stands what it is.
    """

    def __init__(self, model: keras.Model, phases: Sequence[Phase]):
        self.model, self.phases = model, phases
        self.first = _settable_rate(model.optimizer) if any(phase.sets_rate for phase in phases) else None
        self.index: int | None = None
        self.applied: list[list[int]] = []

    def begin(self, index: int, epoch: int, steps: int | None, anew: bool) -> bool:
        """Make the rate that of phase `index`, which `epoch` lies in.

        Args:
            index: of the phase.
            epoch: the one that begins.
            steps: optimizer steps an epoch, where known: a phase that began earlier counts from where it began.
            anew: the phases begin again, and do not go on from the epoch before.

        Returns:
            Whether the train step is to be traced again.
        """
        before, self.index = self.index, index
        if self.first is None:
            return False
        now = steps_of(self.model.optimizer)
        over, again = self._phases_to_apply(before, index, epoch, now, anew)
        applied = [[each, now - max(0, epoch - self.phases[each].start) * (steps or 0)] for each in over]
        rate = rate_of(self.model.optimizer)
        after = self._fold(self.first if again else rate, applied)
        if before is None and epoch > self.phases[index].start and _equal_but_for_start(rate, after):
            return False  # a loaded model in mid-phase: it stands already, and goes on from where it began
        self.applied = applied if again or before is None else self.applied + applied
        due = again or any(self.phases[each].sets_rate for each in over)
        return due and set_rate(self.model, after)

    def restore(self, index: int | None, applied: Sequence[Sequence[int]]) -> None:
        """Make the rate of the kind that it was; a number's value comes back with the optimizer's variables."""
        self.index, self.applied = index, [list(each) for each in applied]
        if self.first is not None:
            set_rate(self.model, self._fold(self.first, self.applied))

    def _phases_to_apply(
        self, before: int | None, index: int, epoch: int, now: int, anew: bool
    ) -> tuple[list[int], bool]:
        """The phases that make the rate, and whether they begin with the optimizer's first rate again."""
        if before is None and now > 0:
            return self._not_standing_yet(index, epoch), False
        if before is None or index > before:
            return list(range(0 if before is None else before + 1, index + 1)), False
        if index < before:
            return list(range(index + 1)), True
        absolute = self._last_absolute(index)
        return (list(range(absolute, index + 1)) if anew and absolute is not None else []), False

    def _not_standing_yet(self, index: int, epoch: int) -> list[int]:
        """For an optimizer that has taken steps before: what earlier phases multiplied stands in its rate already."""
        absolute = self._last_absolute(index)
        if absolute is not None:
            return list(range(absolute, index + 1))
        return [index] if epoch == self.phases[index].start else []

    def _last_absolute(self, index: int) -> int | None:
        """The last phase up to `index` that says itself what the rate is."""
        absolute = [each for each in range(index + 1) if self.phases[each].learning_rate is not None]
        return absolute[-1] if absolute else None

    def _fold(self, rate: Rate, applied: Sequence[Sequence[int]]) -> Rate:
        for index, step in applied:
            phase = self.phases[index]
            if isinstance(phase.learning_rate, LearningRateSchedule):
                rate = CountedFrom(phase.learning_rate, step)
            elif phase.learning_rate is not None:
                rate = float(phase.learning_rate)
            elif phase.rate_factor is not None:
                rate = _scale(rate, float(phase.rate_factor))
        return rate


def rate_or_none(optimizer: Any) -> float | None:
    """The learning rate at this step, or None where the optimizer has several (MultiOptimizer)."""
    try:
        return _as_float(optimizer.learning_rate)
    except AttributeError:
        return None


def _settable_rate(optimizer: Any) -> Rate:
    """The rate that stands, after making sure that another one can be set."""
    try:
        _as_float(optimizer.learning_rate)
    except (TypeError, AttributeError) as error:
        raise _not_settable(optimizer, str(error)) from error
    rate = rate_of(optimizer)
    if not isinstance(rate, float | LearningRateSchedule):
        raise _not_settable(optimizer, f"it is worked out by a function. Received: {rate!r}")
    return rate


def _as_float(rate: Any) -> float:
    return float(keras.ops.convert_to_numpy(rate))  # float() alone does not read a variable of several replicas


def _not_settable(optimizer: Any, reason: str) -> ScheduleError:
    return ScheduleError(
        f"A phase sets learning_rate, which {type(optimizer).__name__} {optimizer.name!r} does not let change: {reason}"
    )


def _scale(rate: Rate, factor: float) -> Rate:
    if isinstance(rate, Scaled):
        return Scaled(rate.schedule, rate.factor * factor)
    return Scaled(rate, factor) if isinstance(rate, LearningRateSchedule) else rate * factor


def _equal_but_for_start(first: Rate, second: Rate) -> bool:
    if not (isinstance(first, LearningRateSchedule) and isinstance(second, LearningRateSchedule)):
        return False
    return _without_start(first) == _without_start(second)


def _without_start(schedule: LearningRateSchedule) -> Any:
    if isinstance(schedule, Scaled):
        return ("scaled", schedule.factor, _without_start(schedule.schedule))
    if isinstance(schedule, CountedFrom):
        return ("counted", _without_start(schedule.schedule))
    return keras.optimizers.schedules.serialize(schedule)


def _deserialized(schedule: Any) -> LearningRateSchedule:
    return keras.optimizers.schedules.deserialize(schedule)
