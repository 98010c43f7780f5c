"""What the running `fit` knows and tells no callback: the other callbacks, the data, and how it is asked to run.

Keras hands a callback the model, the epochs and the number of steps. Its siblings and the data stand only in local
variables of `fit`, so they are read there, from the frame that is calling.

Private names used here: the local variables of `keras.Model.fit` in `_LOCALS`, and `data_adapter` of its
`epoch_iterator`; `Metric._direction`, where EarlyStopping's mode "auto" looks too. `tests/keras_compat/test_fit.py`
fails when one of them goes.
"""

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import keras

from embkeras.errors import ResumeError

_LOCALS = {
    "callbacks",
    "epoch_iterator",
    "epochs",
    "initial_epoch",
    "shuffle",
    "steps_per_epoch",
    "validation_data",
    "x",
}


@dataclass(frozen=True)
class FitContext:
    """One running `fit`.

    Attributes:
        callbacks: all of them, in the order in which they are called; the list that `fit` itself goes through.
        initial_epoch: as given to `fit`, counted from 0.
        epochs: as given to `fit`: the number of the last epoch, plus 1.
        data: `x`, after a validation split.
        adapter: name of the class by which Keras reads `data`, as "ArrayDataAdapter".
        batches: the batches that `data` has, None where that is not known or without end.
        steps_per_epoch: as given to `fit`.
        shuffle: as given to `fit`.
        validation_data: as given to `fit`, or split off.
    """

    callbacks: list[keras.callbacks.Callback]
    initial_epoch: int
    epochs: int
    data: Any
    adapter: str
    batches: int | None
    steps_per_epoch: int | None
    shuffle: Any
    validation_data: Any


def fit_context() -> FitContext:
    """The `fit` that is calling, from inside a callback of it.

    Raises:
        ResumeError: there is none (a custom loop), or a Keras whose `fit` is built in another way.
    """
    names = _fit_frame().f_locals
    adapter = names["epoch_iterator"].data_adapter
    return FitContext(
        callbacks=names["callbacks"].callbacks,
        initial_epoch=names["initial_epoch"],
        epochs=names["epochs"],
        data=names["x"],
        adapter=type(adapter).__name__,
        batches=adapter.num_batches,
        steps_per_epoch=names["steps_per_epoch"],
        shuffle=names["shuffle"],
        validation_data=names["validation_data"],
    )


def _fit_frame() -> FrameType:
    frame = sys._getframe(1)
    fits = 0
    while frame is not None:
        if frame.f_code.co_name == "fit":
            # A model's own `fit` may stand around Keras', and a tuner's around both.
            fits += 1
            names = frame.f_locals
            if set(names) >= _LOCALS and isinstance(names["callbacks"], keras.callbacks.CallbackList):
                return frame
        frame = frame.f_back
    raise ResumeError(
        "ResumableBackup works inside model.fit only, from which it learns the other callbacks and the data. "
        + (f"Keras {keras.__version__} has a fit that it does not know." if fits else "Received a call outside fit.")
    )


def metric_direction(model: keras.Model, name: str) -> str | None:
    """Whether a compiled metric should rise ("up") or fall ("down"), or None if no metric of that name says so.

    With several outputs the logs say "head_accuracy" where the metric is called "accuracy"; both names find it.
    """
    # Keras keeps the compiled metrics in containers.
    metrics = [inner for metric in model.metrics for inner in getattr(metric, "metrics", [metric])]
    directions = {
        getattr(metric, "_direction", None)
        for metric in metrics
        if name == metric.name or name.endswith(f"_{metric.name}")
    } & {"up", "down"}
    return directions.pop() if len(directions) == 1 else None
