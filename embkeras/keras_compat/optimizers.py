"""The inside of a Keras optimizer: its slots, its step count, its learning rate, its hooks, and a rebuild in place.

Keras builds an optimizer once, for a fixed list of variables. A variable that becomes trainable later is "unknown" to
it, or the compiled train step silently leaves it out. A new optimizer would lose the moments, the step count and the
learning-rate schedule. So `rebuild` builds the existing one again for the new list and carries over every slot of a
variable that stays, matched by attribute and variable, not by path (paths collide in nested models).

Private names used here, because Keras offers no public way: `_variables`, `_trainable_variables`,
`_trainable_variables_indices`, `_var_key`, `_track_variable`, `_untrack_variable`, `_iterations`, `_learning_rate`,
`_model_variables_moving_average`, `_tracker`, `_get_variable_index`, `_use_weight_decay` of optimizers, their hooks
`_clip_gradients` and `_apply_weight_decay`, and the slots `_momentums`, `_velocities`, `_velocity_hats` of Adam and
`_accumulators` of Adagrad, the only ones that `.keras` files know. `tests/keras_compat/test_optimizers.py` fails when one
of them goes.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

import keras
import numpy as np

from embkeras.keras_compat.private import NAME, Private

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule

_NOT_SLOTS = {"_variables", "_trainable_variables"}


def _built(optimizer: Any) -> Any:
    optimizer.build([keras.Variable(0.0, name=NAME)])
    return optimizer


def _sample() -> Any:
    return _built(keras.optimizers.Adam(amsgrad=True, use_ema=True, name=NAME))


PRIVATE = (
    Private(
        "keras.optimizers.Optimizer",
        (
            *("_variables", "_trainable_variables", "_trainable_variables_indices", "_var_key", "_get_variable_index"),
            *("_track_variable", "_untrack_variable", "_tracker", "_iterations", "_learning_rate"),
            *("_model_variables_moving_average", "_use_weight_decay", "_clip_gradients", "_apply_weight_decay"),
        ),
        _sample,
    ),
    Private("keras.optimizers.Optimizer._tracker", ("config",), lambda: _sample()._tracker),
    Private("keras.optimizers.Adam", ("_momentums", "_velocities", "_velocity_hats"), _sample),
    Private("keras.optimizers.Adagrad", ("_accumulators",), lambda: _built(keras.optimizers.Adagrad(name=NAME))),
)


@dataclass(frozen=True)
class _State:
    """One optimizer before a rebuild: slots by attribute and variable key, single variables by attribute, the order."""

    optimizer: Any
    slots: dict[str, dict[Any, keras.Variable | None]]
    singles: dict[str, keras.Variable]
    tracked: list[keras.Variable]


class StepHooks(keras.optimizers.Optimizer):
    """Base of optimizers that clip and decay in their own way, instead of on whole variables as Keras does."""

    def clip_globally(self, gradients: Sequence[Any]) -> list[Any]:
        """All gradients of a step, clipped by their global norm; anything else is up to `update_step`."""
        return super()._clip_gradients(gradients)

    def _clip_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        return self.clip_globally(gradients)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing here: Keras would decay every row of a table. `update_step` decays what it updates."""


def parts(optimizer: Any) -> Iterator[Any]:
    """The optimizer and every optimizer inside it (LossScaleOptimizer, MultiOptimizer); nothing for None."""
    if optimizer is None:
        return
    yield optimizer
    inner = [optimizer.inner_optimizer] if hasattr(optimizer, "inner_optimizer") else []
    for part in [*inner, *getattr(optimizer, "optimizers", [])]:
        yield from parts(part)


def model_of(optimizer: Any) -> keras.Model | None:
    """The model that is calling the optimizer in its train step or while it is loaded; None in a custom loop.

    Keras does not tell an optimizer which model it trains, so the model is looked for among the callers.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.Model) and any(
            part is optimizer
            for value in list(vars(caller).values())
            if isinstance(value, keras.optimizers.Optimizer)
            for part in parts(value)
        ):
            return caller
        frame = frame.f_back
    return None


def key_of(optimizer: Any, variable: Any) -> str:
    """What an optimizer knows a variable by, the same for all its replicas."""
    return optimizer._var_key(variable)


def index_of(optimizer: Any, variable: Any) -> int:
    """The place of a variable among those that the optimizer was built for."""
    return optimizer._get_variable_index(variable)


def trained_variables(optimizer: Any) -> list[keras.Variable]:
    """The variables that the optimizer was built for."""
    return optimizer._trainable_variables


def weight_decay_of(optimizer: Any, variable: Any) -> float | None:
    """The weight decay of a variable; None without, and if `exclude_from_weight_decay` names it."""
    return optimizer.weight_decay if optimizer._use_weight_decay(variable) else None


def adam_slots(optimizer: keras.optimizers.Adam) -> list[list[keras.Variable]]:
    """The slot lists of an Adam: both moments and, with amsgrad, the largest second moment."""
    return [optimizer._momentums, optimizer._velocities] + ([optimizer._velocity_hats] if optimizer.amsgrad else [])


def adagrad_slots(optimizer: keras.optimizers.Adagrad) -> list[list[keras.Variable]]:
    """The slot list of an Adagrad: the sums of squared gradients."""
    return [optimizer._accumulators]


def slots_of(optimizer: Any, variable: Any) -> dict[str, keras.Variable]:
    """The slots that one optimizer holds for a variable, by attribute; none if it was not built for the variable."""
    key, keys = optimizer._var_key(variable), _keys(optimizer)
    if key not in keys:
        return {}
    held = {name: slots[keys.index(key)] for name, slots in _slot_lists(optimizer).items()}
    return {name: slot for name, slot in held.items() if slot is not None}


def new_slots(optimizer: Any, variable: keras.Variable) -> dict[str, keras.Variable]:
    """The slots that one optimizer would hold for a variable that joins now, by attribute; it is not changed itself."""
    # The rate does not matter here, and a function can't be restored from a config.
    fresh = type(optimizer).from_config({**optimizer.get_config(), "learning_rate": 0.0})
    fresh._iterations.assign(optimizer._iterations)
    fresh.build([variable])
    if fresh.use_ema:
        _start_averages(fresh, known=set())
    return slots_of(fresh, variable)


def is_built_for(optimizer: Any, variables: Iterable[Any]) -> bool:
    """Whether the optimizer is built, and for exactly these variables."""
    return optimizer.built and set(_keys(optimizer)) == {optimizer._var_key(variable) for variable in variables}


def rebuild(optimizer: Any, variables: Iterable[keras.Variable]) -> None:
    """Build an optimizer again, for other variables than before.

    The slots of every variable that stays, the step count and the learning rate are kept. Variables that join start as
    in a new optimizer; those that leave lose their slots. Call it in the scope of the model's distribution strategy.
    """
    states = [_state_of(part) for part in parts(optimizer)]
    for state in states:
        _take_apart(state)
    optimizer.build(list(variables))
    for state in states:
        _put_back(state)
        _renew_list(state.optimizer)


def steps_of(optimizer: Any) -> int:
    """The steps that a LearningRateSchedule of the optimizer counts: with gradient accumulation, every batch."""
    return int(keras.ops.convert_to_numpy(_with_rate(optimizer)._iterations))


def rate_of(optimizer: Any) -> Any:
    """The learning rate as the optimizer holds it: a number, a LearningRateSchedule, or a function."""
    rate = _with_rate(optimizer)._learning_rate
    return float(keras.ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else rate


def set_rate(model: keras.Model, rate: Rate) -> bool:
    """Make the optimizer of a compiled model train at `rate` from the next step on.

    Keras accepts a schedule in place of a number, but not a number in place of a schedule, and a compiled train step
    keeps the kind of rate that it was traced with.

    Returns:
        Whether the train step has to be traced again: not for a number in place of a number.
    """
    optimizer = _with_rate(model.optimizer)
    number = not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    if number and isinstance(optimizer._learning_rate, keras.Variable):
        optimizer.learning_rate = rate
        return False
    if optimizer._learning_rate is rate:
        return False
    if number:
        with model.distribute_strategy.scope():
            _hold_a_number(optimizer, rate)
    else:
        optimizer.learning_rate = rate
    model.make_train_function(force=True)
    return True


def _with_rate(optimizer: Any) -> Any:
    """The optimizer that holds the rate: for a LossScaleOptimizer, the one inside it."""
    return _with_rate(optimizer.inner_optimizer) if hasattr(optimizer, "inner_optimizer") else optimizer


def _hold_a_number(optimizer: Any, rate: Any) -> None:
    """Put a variable where the schedule was, tracked where a new optimizer has it: .keras files go by position."""
    with keras.name_scope(optimizer.name):
        variable = keras.Variable(
            rate,
            name="learning_rate",
            dtype=keras.backend.floatx(),
            trainable=False,
            aggregation="only_first_replica",
        )
    later = [each for each in optimizer._variables if each is not optimizer._iterations]
    optimizer._learning_rate = variable  # which may track it, after the others
    _track_last(optimizer, [variable, *later])


def _keys(optimizer: Any) -> list[Any]:
    """The keys of the variables that one optimizer was built for."""
    return [optimizer._var_key(variable) for variable in optimizer._trainable_variables]


def _slot_lists(optimizer: Any) -> dict[str, list[keras.Variable | None]]:
    """The attributes that hold one variable, or None, for each trained variable."""
    length = len(optimizer._trainable_variables)
    return {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and name not in _NOT_SLOTS
        and 0 < len(value) == length
        and all(slot is None or isinstance(slot, keras.Variable) for slot in value)
    }


def _state_of(optimizer: Any) -> _State:
    keys = _keys(optimizer)
    slots = {name: dict(zip(keys, held, strict=True)) for name, held in _slot_lists(optimizer).items()}
    singles = {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, keras.Variable) and not _is_lasting(optimizer, value)
    }
    return _State(optimizer, slots, singles, list(optimizer._variables))


def _is_lasting(optimizer: Any, variable: keras.Variable) -> bool:
    """Whether it is the step count or the learning rate, which no rebuild touches."""
    return variable is optimizer._iterations or variable is optimizer._learning_rate


def _take_apart(state: _State) -> None:
    optimizer = state.optimizer
    for variable in state.tracked:
        if not _is_lasting(optimizer, variable):
            optimizer._untrack_variable(variable)
    optimizer._trainable_variables = []
    optimizer._trainable_variables_indices = {}
    optimizer.built = False


def _put_back(state: _State) -> None:
    optimizer, kept = state.optimizer, set()
    for name, previous in state.singles.items():
        current = getattr(optimizer, name)
        if current is previous:  # created in __init__, so build() did not replace it
            kept.add(id(current))
        else:
            _copy(previous, current)
    built = [variable for variable in optimizer._variables if not any(variable is one for one in state.tracked)]
    _track_last(optimizer, [variable for variable in state.tracked if id(variable) in kept] + built)
    keys = _keys(optimizer)
    for name, slots in state.slots.items():
        for key, slot in zip(keys, getattr(optimizer, name), strict=optimizer.built):
            old = slots.get(key)
            if slot is not None and old is not None:
                _copy(old, slot)
    if optimizer.use_ema and optimizer.built:
        _start_averages(optimizer, known=set(state.slots.get("_model_variables_moving_average", ())))


def _track_last(optimizer: Any, variables: Sequence[keras.Variable]) -> None:
    """Track variables after all others, in this order: `.keras` files know them by position."""
    for variable in variables:
        optimizer._untrack_variable(variable)
    for variable in variables:
        optimizer._track_variable(variable)


def _renew_list(optimizer: Any) -> None:
    """Hold the variables in a new list: after a removal TensorFlow keeps a copy of the old one, and refuses to save it.

    The slots that are gone would stay in memory, and neither `model.export` nor a checkpoint could be written.
    """
    tracker = vars(optimizer).pop("_tracker")  # so that Keras does not track again what is tracked already
    is_variable, before = tracker.config["variables"]
    optimizer._variables = list(before)
    tracker.config["variables"] = (is_variable, optimizer._variables)
    vars(optimizer)["_tracker"] = tracker


def _start_averages(optimizer: Any, known: set[Any]) -> None:
    """Start the moving average of a variable that joins at its value; from zero it would drag it to the origin."""
    averages = optimizer._model_variables_moving_average
    for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
        if average is not None and optimizer._var_key(variable) not in known:
            _copy(variable, average)


def _copy(source: keras.Variable, target: keras.Variable) -> None:
    if target is not source:
        target.assign(np.asarray(keras.ops.convert_to_numpy(source)))
