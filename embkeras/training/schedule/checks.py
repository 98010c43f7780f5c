"""What a schedule refuses, or warns of, when training begins: not in a later epoch, when hours have gone."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from embkeras.errors import EmbkerasWarning, ScheduleError
from embkeras.keras_compat.optimizers import parts
from embkeras.training.schedule.phases import Phase


def check_distribution(model: keras.Model) -> None:
    """Refuse what Keras itself cannot do on several replicas.

    Batches that do not divide by the replicas are not seen from here: Keras fails on the first one, and weighs the
    parts of a smaller last one otherwise than a single replica does.

    Raises:
        ScheduleError: accumulated gradients under such a strategy.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas == 1:
        return
    for part in parts(model.optimizer):
        if part.gradient_accumulation_steps:
            raise ScheduleError(
                f"Keras cannot accumulate gradients on several replicas: its train step fails there. Received: "
                f"{type(part).__name__}(gradient_accumulation_steps={part.gradient_accumulation_steps}) on {replicas} "
                f"replicas (model {model.name!r})."
            )


def warn_of_phases_not_reached(phases: Sequence[Phase], params: dict[str, Any]) -> None:
    """Warn of a phase that this fit cannot come to, unless the patience of one before it may begin it sooner."""
    epochs = params.get("epochs")
    for index, phase in enumerate(phases):
        if epochs is not None and phase.start >= epochs:
            if not any(earlier.patience for earlier in phases[:index]):
                warnings.warn(
                    f"This fit ends before epoch {epochs} (epochs count from 0), so the phase that begins at epoch "
                    f"{phase.start} is not reached. Train longer, or go on with fit(initial_epoch={epochs}, ...).",
                    EmbkerasWarning,
                    stacklevel=3,
                )
            return
