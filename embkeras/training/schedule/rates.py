"""Learning rates that change with the phase: what each `Rate` makes of the current one."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras.optimizers.schedules import LearningRateSchedule

from embkeras.errors import ScheduleError
from embkeras.keras_compat.optimizers import rate_of, set_rate, steps_of
from embkeras.training.schedule.phases import Phase

Value: TypeAlias = float | LearningRateSchedule


@keras.saving.register_keras_serializable("embkeras")
class CountedFrom(LearningRateSchedule):
    """A schedule that counts from an optimizer step other than 0.

    Args:
        schedule: maps the steps since `start` to rates.
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
        """The schedule of this config."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["start"])


@keras.saving.register_keras_serializable("embkeras")
class Scaled(LearningRateSchedule):
    """A schedule whose rates are multiplied by a factor.

    Args:
        schedule: the schedule to multiply.
        factor: multiplies each of its rates.

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
        """The schedule of this config."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["factor"])


class Rates:
    """The learning rate of one optimizer under the phases of a schedule.

    Attributes:
        first: the optimizer's rate when the schedule met it; None if no phase changes it.
        index: the phase whose rate is set, or None.
        applied: [phase, optimizer step at which it began] of each phase that went into the current rate.
    """

    def __init__(self, model: keras.Model, phases: Sequence[Phase]):
        self.model, self.phases = model, phases
        self.first = _settable_rate(model.optimizer) if any(phase.rate for phase in phases) else None
        self.index: int | None = None
        self.applied: list[list[int]] = []

    def begin(self, index: int, epoch: int, steps: int | None, restart: bool) -> bool:
        """Set the rate of phase `index`, which `epoch` is in.

        Args:
            index: of the phase.
            epoch: the one that begins.
            steps: optimizer steps in an epoch, if known: a phase that began earlier counts from where it began.
            restart: the phases begin again, instead of continuing from the previous epoch.

        Returns:
            Whether the train step must be traced again.
        """
        previous, self.index = self.index, index
        if self.first is None:
            return False
        now = steps_of(self.model.optimizer)
        pending, from_first = self._pending(previous, index, epoch, now, restart)
        applied = [[each, now - max(0, epoch - self.phases[each].start) * (steps or 0)] for each in pending]
        current = rate_of(self.model.optimizer)
        rate = self._fold(self.first if from_first else current, applied)
        if previous is None and epoch > self.phases[index].start and _equal_but_for_start(current, rate):
            return False  # a model loaded in mid-phase: its rate is set, and continues from where it began
        self.applied = applied if from_first or previous is None else self.applied + applied
        changes = from_first or any(self.phases[each].rate for each in pending)
        return changes and set_rate(self.model, rate)

    def restore(self, index: int | None, applied: Sequence[Sequence[int]]) -> None:
        """Set a rate of the same kind; the value of a number is restored with the optimizer's variables."""
        self.index, self.applied = index, [list(each) for each in applied]
        if self.first is not None:
            set_rate(self.model, self._fold(self.first, self.applied))

    def _pending(self, previous: int | None, index: int, epoch: int, now: int, restart: bool) -> tuple[list[int], bool]:
        """The phases whose rates must be applied, and whether to the optimizer's first rate or to the current one."""
        absolute = self._last_absolute(index)
        if previous is None and now > 0:
            # The optimizer was trained before: its rate already contains what earlier phases multiplied.
            if absolute is not None:
                return list(range(absolute, index + 1)), False
            return ([index] if epoch == self.phases[index].start else []), False
        if previous is None or index > previous:
            return list(range(0 if previous is None else previous + 1, index + 1)), False
        if index < previous:
            return list(range(index + 1)), True
        return (list(range(absolute, index + 1)) if restart and absolute is not None else []), False

    def _last_absolute(self, index: int) -> int | None:
        """The last phase up to `index` that sets the rate itself, and doesn't multiply it."""
        rates = [phase.rate for phase in self.phases[: index + 1]]
        absolute = [each for each, rate in enumerate(rates) if rate and rate.learning_rate is not None]
        return absolute[-1] if absolute else None

    def _fold(self, value: Value, applied: Sequence[Sequence[int]]) -> Value:
        for index, step in applied:
            rate = self.phases[index].rate
            if rate is None:
                continue
            if isinstance(rate.learning_rate, LearningRateSchedule):
                value = CountedFrom(rate.learning_rate, step)
            else:
                value = _scale(value, rate.factor) if rate.factor is not None else rate.learning_rate
        return value


def rate_or_none(optimizer: Any) -> float | None:
    """The learning rate at this step, or None if the optimizer has several (MultiOptimizer)."""
    try:
        return _as_float(optimizer.learning_rate)
    except AttributeError:
        return None


def _settable_rate(optimizer: Any) -> Value:
    """The current rate, after making sure that another one can be set."""
    reason = None
    try:
        _as_float(optimizer.learning_rate)
    except (TypeError, AttributeError) as error:
        reason = str(error)
    rate = rate_of(optimizer) if reason is None else None
    if reason is None and not isinstance(rate, float | LearningRateSchedule):
        reason = f"it is computed by a function. Received: {rate!r}"
    if reason is not None:
        raise ScheduleError(
            f"A phase sets the learning rate, which {type(optimizer).__name__} {optimizer.name!r} doesn't let change: "
            f"{reason}"
        )
    return rate


def _as_float(rate: Any) -> float:
    return float(keras.ops.convert_to_numpy(rate))  # float() alone can't read a variable on several replicas


def _scale(rate: Value, factor: float) -> Value:
    if isinstance(rate, Scaled):
        return Scaled(rate.schedule, rate.factor * factor)
    return Scaled(rate, factor) if isinstance(rate, LearningRateSchedule) else rate * factor


def _equal_but_for_start(first: Value, second: Value) -> bool:
    if not (isinstance(first, LearningRateSchedule) and isinstance(second, LearningRateSchedule)):
        return False
    return _without_start(first) == _without_start(second)


def _without_start(schedule: LearningRateSchedule) -> Any:
    if isinstance(schedule, Scaled):
        return ("scaled", schedule.factor, _without_start(schedule.schedule))
    if isinstance(schedule, CountedFrom):
        return ("counted", _without_start(schedule.schedule))
    return keras.optimizers.schedules.serialize(schedule)
