"""Make a compiled model train the variables that are trainable now, without losing its optimizer's state."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from embkeras.keras_compat.optimizers import (
    is_built_for,
    key_of,
    new_slots,
    parts,
    rebuild,
    slots_of,
    trained_variables,
)
from embkeras.tables.addresses import walk
from embkeras.tables.row_io import read_rows, write_rows


def rebuild_training(model: keras.Model) -> None:
    """Make a compiled model train exactly its current `trainable_variables` from the next step on.

    The slots of every variable that stays, the step count and the learning rate are kept. Variables that join start as
    in a new optimizer; those that leave lose their slots. Variables join and leave the optimizers that the model holds
    beside `model.optimizer` in the same way: only its train step knows which of them updates which variables.
    """
    optimizer, after = model.optimizer, model.trainable_variables
    others = [other for other in other_optimizers(model).values() if other.built]
    introduce(model)
    with model.distribute_strategy.scope():
        for other in others:
            rebuild(other, _changed_as(optimizer, after, other))
        if optimizer is not None and optimizer.built:
            rebuild(optimizer, after)
    model.make_train_function(force=True)


def _changed_as(optimizer: Any, after: Sequence[keras.Variable], other: Any) -> list[keras.Variable]:
    """The variables of `other`, without those that leave `optimizer` and with those that join it."""
    own = trained_variables(other)
    before = trained_variables(optimizer) if optimizer is not None and optimizer.built else own
    was, known, now = ({key_of(other, each) for each in variables} for variables in (before, own, after))
    left = was - now
    kept = [each for each in own if key_of(other, each) not in left]
    return kept + [each for each in after if key_of(other, each) not in was | known]


def other_optimizers(model: keras.Model) -> dict[str, keras.optimizers.Optimizer]:
    """The optimizers that a model holds besides `model.optimizer`, by attribute: of a custom `train_step`."""
    own = {id(part) for part in parts(getattr(model, "optimizer", None))}
    found = {
        id(each): (place, each) for place, each in _optimizers_in(vars(model))
    }  # TensorFlow lists some again, first
    return {place: each for key, (place, each) in found.items() if key not in own}


def _optimizers_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, keras.optimizers.Optimizer]]:
    """The optimizers among attributes, and in lists and dictionaries that are attributes."""
    for name, value in attributes.items():
        if isinstance(value, keras.optimizers.Optimizer):
            yield name, value
        elif isinstance(value, Mapping | list | tuple):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from (
                (f"{name}[{key!r}]", each) for key, each in items if isinstance(each, keras.optimizers.Optimizer)
            )


def all_parts(model: keras.Model) -> list[Any]:
    """Every optimizer of a model, and every optimizer inside those."""
    held = [getattr(model, "optimizer", None), *other_optimizers(model).values()]
    return [part for each in held for part in parts(each)]


def renew_rows(model: keras.Model, variable: keras.Variable, rows: np.ndarray) -> None:
    """Reset the slots of some rows to those of a new optimizer, because the rows have new values.

    Moving averages, anchors and the averages of ScheduleFreeAdamW start at the value, and would pull the rows back to
    their old one.
    """
    with model.distribute_strategy.scope():
        for part in all_parts(model):
            held = slots_of(part, variable)
            for name, new in new_slots(part, variable).items() if held else ():
                if name in held and tuple(new.shape[:1]) == tuple(variable.shape[:1]):
                    write_rows(held[name], rows, read_rows(new, rows))


def build_optimizer(model: keras.Model) -> None:
    """Build the optimizer, if there is one, for the variables that train now, unless it is built or some layer isn't.

    Keras would build it while tracing the first step, where ScheduleFreeAdamW starts from wrong values and no saved
    state can be restored.
    """
    optimizer, variables = model.optimizer, list(model.trainable_variables)
    if optimizer is None or optimizer.built or not variables or not is_built(model):
        return
    introduce(model)
    with model.distribute_strategy.scope():
        optimizer.build(variables)


def introduce(model: keras.Model) -> None:
    """Tell the row-wise optimizers of a compiled model which model they train.

    Raises:
        OptimizerError: a learning rate multiplier whose address matches no layer or variable of the model.
    """
    for part in all_parts(model):
        if hasattr(part, "set_model"):
            part.set_model(model)


def knows_other_variables(model: keras.Model) -> bool:
    """Whether the optimizer was built for other variables than those that train now: a flag was set by hand."""
    return model.optimizer.built and not is_built_for(model.optimizer, model.trainable_variables)


def is_built(model: keras.Model) -> bool:
    """Whether every layer has its weights."""
    return model.built and all(layer.built for _, layer in walk(model))
