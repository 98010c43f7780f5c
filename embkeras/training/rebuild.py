"""Make a compiled model train the variables that are trainable now, without losing its optimizer's state."""

import keras
import numpy as np

from embkeras.keras_compat.optimizers import is_built_for, new_slots, parts, rebuild, slots_of
from embkeras.tables.addresses import walk
from embkeras.tables.row_io import read_rows, write_rows


def rebuild_training(model: keras.Model) -> None:
    """Make a compiled model train exactly its current `trainable_variables` from the next step on.

    The slots of every variable that stays, the step count and the learning rate are kept. Variables that join start as
    in a new optimizer; those that leave lose their slots.
    """
    optimizer = model.optimizer
    if optimizer is not None and optimizer.built:
        introduce(model)
        with model.distribute_strategy.scope():
            rebuild(optimizer, model.trainable_variables)
    model.make_train_function(force=True)


def renew_rows(model: keras.Model, variable: keras.Variable, rows: np.ndarray) -> None:
    """Reset the slots of some rows to those of a new optimizer, because the rows have new values.

    Moving averages, anchors and the averages of ScheduleFreeAdamW start at the value, and would pull the rows back to
    their old one.
    """
    with model.distribute_strategy.scope():
        for part in parts(model.optimizer):
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
    for part in parts(model.optimizer):
        if hasattr(part, "set_model"):
            part.set_model(model)


def knows_other_variables(model: keras.Model) -> bool:
    """Whether the optimizer was built for other variables than those that train now: a flag was set by hand."""
    return model.optimizer.built and not is_built_for(model.optimizer, model.trainable_variables)


def is_built(model: keras.Model) -> bool:
    """Whether every layer has its weights."""
    return model.built and all(layer.built for _, layer in walk(model))
