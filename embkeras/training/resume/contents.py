"""What a training consists of: the variables of model and optimizer, and the states of the callbacks.

A callback with a state has `state()`, which returns what `state_file.pack` takes, and `restore(model, state)`. Keras' own
callbacks have no such methods; `keras_compat.fit` knows their counters.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import keras

from embkeras.errors import ResumeError
from embkeras.keras_compat.fit import counters, has_counters, is_stateless, set_counters
from embkeras.keras_compat.optimizers import parts

_NUMBERED = re.compile(r"(.*?)(?:_(\d+))?")
_Described = tuple[str, tuple[int, ...], str]  # path, shape, dtype


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """Entry name -> variable: those of the model with its seed generators, then those of the optimizer, each once."""
    optimizer = getattr(model, "optimizer", None)
    named: dict[str, keras.Variable] = {}
    for prefix, variables in [("model", model.variables), ("optimizer", optimizer.variables if optimizer else ())]:
        once = {id(variable): variable for variable in variables}
        named |= {f"{prefix}/{place}": variable for place, variable in enumerate(once.values())}
    return named


def signature(model: keras.Model) -> dict[str, Any]:
    """What two runs of a script have in common if they train the same model in the same way."""
    return {
        "optimizer": [type(each).__name__ for each in parts(getattr(model, "optimizer", None))],
        "variables": [
            (name, variable.path, tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype))
            for name, variable in variables_of(model).items()
        ],
        "training": [variable.path for variable in model.trainable_variables],
    }


def check_model(model: keras.Model, saved: dict[str, Any], where: str) -> None:
    """Check that a signature of the state `where` is this model's: optimizer classes; names, shapes, number of variables.

    Raises:
        ResumeError: it is not; the first difference is named.
    """
    current = signature(model)
    # A MultiOptimizer that maps by a function knows its inner optimizers only once it is built.
    _compare_optimizers(saved["optimizer"][: len(current["optimizer"])], current["optimizer"], where)
    _compare(_described("model/", saved), _described("model/", current), where)


def check_training(model: keras.Model, saved: dict[str, Any], where: str) -> None:
    """Check that the same variables train, with the same slots, once flags are set and the optimizer is built.

    Raises:
        ResumeError: other variables do; the first difference is named.
    """
    current = signature(model)
    _compare_optimizers(saved["optimizer"], current["optimizer"], where)
    _compare([(path, (), "") for path in saved["training"]], [(path, (), "") for path in current["training"]], where)
    # Slots are named after layers, with the numbers that Keras counts through the process inside the names.
    before, after = (
        [(re.sub(r"_?\d+", "", path), shape, dtype) for path, shape, dtype in _described("optimizer/", each)]
        for each in (saved, current)
    )
    _compare(before, after, where)


def _described(prefix: str, signed: dict[str, Any]) -> list[_Described]:
    return [(path, tuple(shape), dtype) for name, path, shape, dtype in signed["variables"] if name.startswith(prefix)]


def _compare_optimizers(saved: list[str], current: list[str], where: str) -> None:
    if saved != current:
        raise _another(where, f"optimizer {'/'.join(saved)}", f"optimizer {'/'.join(current)}")


def _compare(saved: list[_Described], current: list[_Described], where: str) -> None:
    shifts: dict[str, int] = {}
    for before, after in zip_longest(saved, current):
        same = before is not None and after is not None and before[1:] == after[1:]
        if not (same and _same_path(before[0], after[0], shifts)):
            raise _another(where, _text(before), _text(after))


def _same_path(before: str, after: str, shifts: dict[str, int]) -> bool:
    """Whether two paths match, up to the numbers that Keras counts through the process: all must shift by the same."""
    parts_before, parts_after = before.split("/"), after.split("/")
    if len(parts_before) != len(parts_after):
        return False
    for part, other in zip(parts_before, parts_after, strict=True):
        (name, number), (name_after, number_after) = _split(part), _split(other)
        if name != name_after or shifts.setdefault(name, number_after - number) != number_after - number:
            return False
    return True


def _split(part: str) -> tuple[str, int]:
    name, number = _NUMBERED.fullmatch(part).groups()  # type: ignore[union-attr]  # it matches any text
    return name, int(number or 0)


def _text(described: _Described | None) -> str:
    if described is None:
        return "no further variable"
    path, shape, dtype = described
    return f"variable {path}" + (f" {shape} {dtype}" if dtype else " in training")


def _another(where: str, saved: str, current: str) -> ResumeError:
    return ResumeError(
        f"{where} is the state of another training: it has {saved} where the script has {current}. Use the same model, "
        f"optimizer and schedule as before, or delete the folder to start over."
    )


def callback_states(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, dict[str, Any]]:
    """The state of each callback that has one, by its class and its number within that class: "EarlyStopping 1"."""
    return {
        name: counters(callback) if has_counters(callback) else callback.state()
        for name, callback in _named(callbacks).items()
    }


def restore_callbacks(
    callbacks: Sequence[keras.callbacks.Callback], states: dict[str, dict[str, Any]], model: keras.Model, where: str
) -> None:
    """Restore what `callback_states` returned for the callbacks of the run that is resumed, from the state `where`.

    Raises:
        ResumeError: they are the states of other callbacks.
    """
    named = _named(callbacks)
    unmatched = [name for name in states if name not in named] + [name for name in named if name not in states]
    if unmatched:
        has, lacks = ("the script", where) if unmatched[0] in named else (where, "the script")
        raise ResumeError(
            f"The callbacks have changed: {has} has {unmatched[0]}, and {lacks} does not. Use the same callbacks as "
            f"before, or delete the folder to start over. Received: {', '.join(named)}."
        )
    for name, callback in named.items():
        if has_counters(callback):
            set_counters(callback, states[name])
        else:
            callback.restore(model, states[name])


def unsaved(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """What is not saved: callbacks that may have a state but no methods for it, and files that Keras overwrites."""
    found = []
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
            found.append("the file of CSVLogger, which is overwritten without append=True")
        elif not (_has_state(callback) or is_stateless(callback)):
            found.append(f"{type(callback).__name__} (it has no state() and restore())")
    return found


def _named(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, Any]:
    seen: Counter[str] = Counter()
    named = {}
    for callback in filter(_has_state, callbacks):
        name = type(callback).__name__
        seen[name] += 1
        named[f"{name} {seen[name]}"] = callback
    return named


def _has_state(callback: keras.callbacks.Callback) -> bool:
    own = callable(getattr(callback, "state", None)) and callable(getattr(callback, "restore", None))
    return own or has_counters(callback)
