"""The variables of a model and its optimizer as one list, and whether two lists are of the same model."""

import re
from itertools import zip_longest
from typing import Any

import keras

from embkeras.errors import ResumeError
from embkeras.keras_compat.optimizers import parts

_NUMBERED = re.compile(r"(.*?)(?:_(\d+))?")


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """Name of an entry -> variable: the model's, seed generators' included, then the optimizer's, each once."""
    optimizer = getattr(model, "optimizer", None)
    mine = {id(variable): variable for variable in model.variables}
    others = {id(variable): variable for variable in (optimizer.variables if optimizer is not None else ())}
    named = {f"model/{place}": variable for place, variable in enumerate(mine.values())}
    return named | {f"optimizer/{place}": variable for place, variable in enumerate(others.values())}


def signature(model: keras.Model) -> dict[str, Any]:
    """What two runs of a script have in common if they train the same model in the same way."""
    optimizer = getattr(model, "optimizer", None)
    return {
        "optimizer": [type(each).__name__ for each in parts(optimizer)] if optimizer is not None else [],
        "variables": [_describe(name, variable) for name, variable in variables_of(model).items()],
        "training": [variable.path for variable in model.trainable_variables],
    }


def other_optimizers(model: keras.Model) -> list[str]:
    """Attributes of a model that hold optimizers beside `model.optimizer`."""
    main = getattr(model, "optimizer", None)
    return [
        name
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer) and value is not main
    ]


def check_model(model: keras.Model, saved: dict[str, Any], where: str) -> None:
    """Make sure that a state is of this model: the optimizer's class; number, names and shapes of the model's variables.

    Raises:
        ResumeError: it is not; the first difference is named.
    """
    now = signature(model)
    # A MultiOptimizer that maps by a function knows those inside it only when it is built.
    _compare_optimizers(saved["optimizer"][: len(now["optimizer"])], now["optimizer"], where)
    _compare(_of("model/", saved), _of("model/", now), where)


def check_training(model: keras.Model, saved: dict[str, Any], where: str) -> None:
    """Make sure, after the flags are set and the optimizer is built, that the same variables train, with the same slots.

    Raises:
        ResumeError: others do.
    """
    now = signature(model)
    _compare_optimizers(saved["optimizer"], now["optimizer"], where)
    _compare([(path, (), "") for path in saved["training"]], [(path, (), "") for path in now["training"]], where)
    # Slots are named after layers whose names Keras numbers through the process, in a form that cannot be taken apart.
    before = [(re.sub(r"_?\d+", "", path), *rest) for path, *rest in _of("optimizer/", saved)]
    after = [(re.sub(r"_?\d+", "", path), *rest) for path, *rest in _of("optimizer/", now)]
    _compare(before, after, where)


def _describe(name: str, variable: keras.Variable) -> tuple[str, str, tuple[int, ...], str]:
    return name, variable.path, tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype)


def _of(prefix: str, described: dict[str, Any]) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (path, tuple(shape), dtype) for name, path, shape, dtype in described["variables"] if name.startswith(prefix)
    ]


def _compare_optimizers(saved: list[str], now: list[str], where: str) -> None:
    if saved != now:
        raise _differs(where, f"optimizer {'/'.join(saved)}", f"optimizer {'/'.join(now)}")


def _compare(saved: list[Any], now: list[Any], where: str) -> None:
    shifts: dict[str, int] = {}
    for before, after in zip_longest(saved, now):
        same = before is not None and after is not None and tuple(before[1:]) == tuple(after[1:])
        if not (same and _same_path(before[0], after[0], shifts)):
            raise _differs(where, _text(before), _text(after))


def _same_path(before: str, after: str, shifts: dict[str, int]) -> bool:
    """Whether two paths are equal, but for the numbers that Keras counts through the process: all shifted by as much."""
    parts, others = before.split("/"), after.split("/")
    if len(parts) != len(others):
        return False
    for part, other in zip(parts, others, strict=True):
        (name, number), (name_now, number_now) = _split(part), _split(other)
        if name != name_now or shifts.setdefault(name, number_now - number) != number_now - number:
            return False
    return True


def _split(part: str) -> tuple[str, int]:
    name, number = _NUMBERED.fullmatch(part).groups()
    return name, int(number or 0)


def _text(described: Any) -> str:
    if described is None:
        return "no further variable"
    path, shape, dtype = described
    return f"variable {path}" + (f" {shape} {dtype}" if dtype else " in training")


def _differs(where: str, saved: str, now: str) -> ResumeError:
    return ResumeError(
        f"{where} is the state of another training: it has {saved} where the script has {now}. Give the script the model, "
        f"the optimizer and the schedule that it had, or delete the folder to begin anew."
    )
