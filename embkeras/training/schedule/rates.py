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
class PhaseRate(LearningRateSchedule):
    """A schedule that counts from the optimizer step at which a phase began, times a factor.

    Args:
        schedule: maps the steps since `start` to rates.
        start: the optimizer step at which it begins; before it, the rate is that of its step 0.
        factor: multiplies each rate.

    Examples:
        >>> decay = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
        >>> [round(float(PhaseRate(decay, 100, 0.5)(step)), 3) for step in (100, 102, 103)]
        [0.05, 0.05, 0.005]
    """

    def __init__(self, schedule: LearningRateSchedule, start: int = 0, factor: float = 1.0):
        self.schedule, self.start, self.factor = schedule, int(start), float(factor)

    def __call__(self, step: Any) -> Any:
        """The rate at optimizer step `step`."""
        since = keras.ops.maximum(keras.ops.subtract(step, self.start), 0)
        return self.schedule(since) * self.factor

    def get_config(self) -> dict[str, Any]:
        """The schedule, its start and its factor."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "start": self.start, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PhaseRate":
        """The schedule of this config."""
        return cls(**{**config, "schedule": keras.optimizers.schedules.deserialize(config["schedule"])})


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
        from_first = previous is not None and index < previous
        pending = self._pending(previous, index, epoch, now, restart)
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

    def _pending(self, previous: int | None, index: int, epoch: int, now: int, restart: bool) -> Sequence[int]:
        """The phases whose rates must be applied."""
        if previous is not None and index > previous:
            return range(previous + 1, index + 1)
        if index != previous and (previous is not None or now == 0):
            return range(index + 1)
        # The optimizer was trained before: its rate already contains what earlier phases multiplied.
        rates = [phase.rate for phase in self.phases[: index + 1]]
        absolute = [each for each, rate in enumerate(rates) if rate and rate.learning_rate is not None]
        if absolute and (restart or previous is None):
            return range(absolute[-1], index + 1)
        return [index] if previous is None and epoch == self.phases[index].start else []

    def _fold(self, value: Value, applied: Sequence[Sequence[int]]) -> Value:
        for index, step in applied:
            rate = self.phases[index].rate
            if rate is None:
                continue
            if isinstance(rate.learning_rate, LearningRateSchedule):
                value = PhaseRate(rate.learning_rate, step)
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
    try:
        _as_float(optimizer.learning_rate)
        rate = rate_of(optimizer)
        if isinstance(rate, float | LearningRateSchedule):
            return rate
        reason = f"it is computed by a function. Received: {rate!r}"
    except (TypeError, AttributeError) as error:
        reason = str(error)
    raise ScheduleError(
        f"A phase sets the learning rate, which {type(optimizer).__name__} {optimizer.name!r} doesn't let change: {reason}"
    )


def _as_float(rate: Any) -> float:
    return float(keras.ops.convert_to_numpy(rate))  # float() alone can't read a variable on several replicas


def _scale(rate: Value, factor: float) -> Value:
    if not isinstance(rate, LearningRateSchedule):
        return rate * factor
    if isinstance(rate, PhaseRate):
        return PhaseRate(rate.schedule, rate.start, rate.factor * factor)
    return PhaseRate(rate, factor=factor)


def _equal_but_for_start(first: Value, second: Value) -> bool:
    if not (isinstance(first, PhaseRate) and isinstance(second, PhaseRate)):
        return False
    return first.get_config() | {"start": 0} == second.get_config() | {"start": 0}
