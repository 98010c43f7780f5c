"""Rebuild a Keras optimizer in place after the set of trainable variables has changed.

Keras optimizers are built once, for a fixed list of variables: a variable that becomes trainable later is "unknown" to
them, or is left out in silence by the compiled train step. Making a new optimizer would lose the moments, the step
counter and the learning-rate schedule. So the one that is there is built again over the new list, and every slot of a
variable that stays is carried over, found by attribute and variable and not by path (paths collide in nested models).

Private names used here, because Keras offers no public way: `_variables`, `_trainable_variables`,
`_trainable_variables_indices`, `_var_key`, `_track_variable`, `_untrack_variable`, `_iterations`, `_learning_rate`,
`_model_variables_moving_average`, `_tracker`. `tests/training/test_rebuild.py` fails when one of them goes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from embkeras.tables.addresses import walk
from embkeras.tables.row_io import read_rows, write_rows

Rate = float | keras.optimizers.schedules.LearningRateSchedule

_NOT_SLOTS = {"_variables", "_trainable_variables"}


@dataclass(frozen=True)
class _State:
    """What one optimizer holds: slots by attribute and variable key, single variables by attribute, and the order."""

    optimizer: Any
    slots: dict[str, dict[Any, keras.Variable | None]]
    singles: dict[str, keras.Variable]
    tracked: list[keras.Variable]


def rebuild_training(model: keras.Model) -> None:
    """Make a compiled model train exactly its present `trainable_variables` from the next step on.

    The state of every variable that was trained before and still is, the step counter and the learning-rate schedule
    go on; variables that join start as in a new optimizer, those that leave lose their slots.
    """
    optimizer = model.optimizer
    if optimizer is not None and optimizer.built:
        states = [_state_of(part) for part in parts(optimizer)]
        with model.distribute_strategy.scope():
            for state in states:
                _take_apart(state)
            optimizer.build(list(model.trainable_variables))
            for state in states:
                _put_back(state)
                _list_anew(state.optimizer)
    model.make_train_function(force=True)


def renew_rows(model: keras.Model, variable: keras.Variable, rows: np.ndarray) -> None:
    """Give some rows of a variable the slots of a new optimizer, because their values are others than when it was built.

    Moving averages, anchors and the averages of ScheduleFreeAdamW begin at the value, and would pull toward that before.
    """
    with model.distribute_strategy.scope():
        for part in parts(model.optimizer):
            held = {name: slots.get(part._var_key(variable)) for name, slots in slots_of(part).items()}
            if all(slot is None for slot in held.values()):
                continue
            # The rate does not matter here, and a function cannot be made again from a config.
            fresh = type(part).from_config({**part.get_config(), "learning_rate": 0.0})
            fresh._iterations.assign(part._iterations)
            fresh.build([variable])
            if fresh.use_ema:
                _start_averages(fresh, known=set())
            for name, slots in slots_of(fresh).items():
                new = slots[fresh._var_key(variable)]
                if held.get(name) is not None and new is not None and tuple(new.shape[:1]) == tuple(variable.shape[:1]):
                    write_rows(held[name], rows, read_rows(new, rows))


def build_optimizer(model: keras.Model) -> None:
    """Build the optimizer for the variables that train now, if it is not built and all layers are.

    Keras does it while it traces the first step, where ScheduleFreeAdamW goes wrong and nothing can be restored into it.
    """
    optimizer, variables = model.optimizer, list(model.trainable_variables)
    if optimizer.built or not variables or not is_built(model):
        return
    with model.distribute_strategy.scope():
        optimizer.build(variables)


def knows_other_variables(model: keras.Model) -> bool:
    """Whether the optimizer was built for other variables than those that train now: somebody set a flag by hand."""
    optimizer = model.optimizer
    known = {optimizer._var_key(variable) for variable in optimizer._trainable_variables}
    return optimizer.built and known != {optimizer._var_key(variable) for variable in model.trainable_variables}


def is_built(model: keras.Model) -> bool:
    """Whether every layer has its weights."""
    return model.built and all(layer.built for _, layer in walk(model))


def steps_of(optimizer: Any) -> int:
    """The steps that a LearningRateSchedule of the optimizer counts: with gradient accumulation, every batch."""
    return int(keras.ops.convert_to_numpy(_with_rate(optimizer)._iterations))


def rate_of(optimizer: Any) -> Any:
    """The learning rate as it is held: a number, a LearningRateSchedule, or a function."""
    rate = _with_rate(optimizer)._learning_rate
    return float(keras.ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else rate


def set_rate(model: keras.Model, rate: Rate) -> bool:
    """Make the optimizer of a compiled model train at `rate` from the next step on.

    Keras takes a schedule in place of a number, but no number in place of a schedule, and a compiled step goes on with
    whatever it was traced for.

    Returns:
        Whether the train step is to be traced again: not for a number in place of a number.
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
    """The optimizer whose rate it is: a LossScaleOptimizer hands on that of the one inside."""
    return _with_rate(optimizer.inner_optimizer) if hasattr(optimizer, "inner_optimizer") else optimizer


def _hold_a_number(optimizer: Any, rate: float) -> None:
    """Put a variable where the schedule was, tracked where a new optimizer has it: .keras files name by position."""
    with keras.name_scope(optimizer.name):
        variable = keras.Variable(
            rate,
            name="learning_rate",
            dtype=keras.backend.floatx(),
            trainable=False,
            aggregation="only_first_replica",
        )
    later = [each for each in optimizer._variables if each is not optimizer._iterations]
    optimizer._learning_rate = variable  # which may track it, behind the others
    for each in [variable, *later]:
        optimizer._untrack_variable(each)
    for each in [variable, *later]:
        optimizer._track_variable(each)


def parts(optimizer: Any) -> Iterator[Any]:
    """The optimizer and every optimizer inside it (LossScaleOptimizer, MultiOptimizer)."""
    yield optimizer
    inner = [optimizer.inner_optimizer] if hasattr(optimizer, "inner_optimizer") else []
    for part in [*inner, *getattr(optimizer, "optimizers", [])]:
        yield from parts(part)


def slots_of(optimizer: Any) -> dict[str, dict[Any, keras.Variable | None]]:
    """The slots that one optimizer holds, by attribute and by key of the variable that they belong to."""
    return _state_of(optimizer).slots


def _state_of(optimizer: Any) -> _State:
    variables = list(optimizer._trainable_variables)
    keys = [optimizer._var_key(variable) for variable in variables]
    lasting = (optimizer._iterations, optimizer._learning_rate)
    slots, singles = {}, {}
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable) and not any(value is one for one in lasting):
            singles[name] = value
        elif name not in _NOT_SLOTS and variables and _is_slot_list(value, len(variables)):
            slots[name] = dict(zip(keys, value, strict=True))
    return _State(optimizer, slots, singles, list(optimizer._variables))


def _is_slot_list(value: Any, length: int) -> bool:
    """One variable, or None, for each trained variable."""
    return (
        isinstance(value, list)
        and len(value) == length
        and all(slot is None or isinstance(slot, keras.Variable) for slot in value)
    )


def _take_apart(state: _State) -> None:
    optimizer = state.optimizer
    lasting = (optimizer._iterations, optimizer._learning_rate)
    for variable in state.tracked:
        if not any(variable is one for one in lasting):
            optimizer._untrack_variable(variable)
    optimizer._trainable_variables = []
    optimizer._trainable_variables_indices = {}
    optimizer.built = False


def _put_back(state: _State) -> None:
    optimizer = state.optimizer
    kept = []
    for name, before in state.singles.items():
        now = getattr(optimizer, name)
        if now is before:  # made in __init__, so not made again: it still belongs to the optimizer
            kept.append(now)
        else:
            _copy(before, now)
    _track_first(optimizer, kept, state.tracked)
    keys = [optimizer._var_key(variable) for variable in optimizer._trainable_variables]
    for name, before in state.slots.items():
        for key, slot in zip(keys, getattr(optimizer, name), strict=optimizer.built):
            if slot is not None and before.get(key) is not None:
                _copy(before[key], slot)
    if optimizer.use_ema and optimizer.built:
        _start_averages(optimizer, known=set(state.slots.get("_model_variables_moving_average", ())))


def _track_first(optimizer: Any, kept: list[keras.Variable], tracked: list[keras.Variable]) -> None:
    """Track variables from __init__ again, before those of build: .keras files name them by position."""
    if not kept:
        return
    built = [variable for variable in optimizer._variables if not any(variable is one for one in tracked)]
    for variable in built:
        optimizer._untrack_variable(variable)
    position = {id(variable): place for place, variable in enumerate(tracked)}
    for variable in sorted(kept, key=lambda variable: position.get(id(variable), len(tracked))) + built:
        optimizer._track_variable(variable)


def _list_anew(optimizer: Any) -> None:
    """Hold the variables in a fresh list: of one that was taken from, TensorFlow keeps a copy, and refuses to save it.

    Slots that are gone would stay in memory, and neither `model.export` nor a checkpoint could be written.
    """
    tracker = vars(optimizer).pop("_tracker")  # so that Keras does not track again what is tracked already
    is_variable, before = tracker.config["variables"]
    optimizer._variables = list(before)
    tracker.config["variables"] = (is_variable, optimizer._variables)
    vars(optimizer)["_tracker"] = tracker


def _start_averages(optimizer: Any, known: set[Any]) -> None:
    """The moving average of a variable that joins starts at its value; zero would drag it to the origin."""
    averages = optimizer._model_variables_moving_average
    for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
        if average is not None and optimizer._var_key(variable) not in known:
            _copy(variable, average)


def _copy(source: keras.Variable, target: keras.Variable) -> None:
    if target is not source:
        target.assign(np.asarray(keras.ops.convert_to_numpy(source)))
