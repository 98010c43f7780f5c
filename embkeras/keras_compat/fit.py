"""The running `fit`: its callbacks and data, the counters of Keras' callbacks, its first epoch, a metric's direction.

Keras passes a callback the model and the number of epochs and steps. The other callbacks and the data are only in local
variables of `fit`, so they are read from the caller's frame. Keras' callbacks have no methods to save their counters.

Private names used here: the local variables of `keras.Model.fit` in `_LOCALS`, and `data_adapter` of the iterator among
them; attributes of `ModelCheckpoint`,
`SwapEMAWeights` and `TensorBoard` in `_COUNTERS`; `_initial_epoch` of models; `_direction` of metrics, which
EarlyStopping's mode "auto" reads too. `tests/keras_compat/test_fit.py` fails when one of them goes.
"""

import inspect
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import keras
from keras import callbacks as stock

from embkeras.errors import ResumeError
from embkeras.keras_compat.private import NAME, Private, in_code, private_module

_LOCALS = {"callbacks", "epoch_iterator", "epochs", "initial_epoch", "shuffle", "steps_per_epoch", "x"}
_COUNTERS: dict[type, tuple[str, ...]] = {
    # The columns: without them, the rows of the resumed run may not match the header that is already in the file.
    stock.CSVLogger: ("keys",),
    stock.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    stock.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    stock.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    stock.SwapEMAWeights: ("_ema_weights_in_model",),
    stock.TensorBoard: ("_global_train_batch", "_global_test_batch"),
    stock.History: ("epoch", "history"),
}
_STATELESS = (stock.LearningRateScheduler, stock.ProgbarLogger, stock.RemoteMonitor, stock.TerminateOnNaN)


_ITERATOR = "keras.src.trainers.epoch_iterator"
PRIVATE = (
    Private("local variables of keras.Model.fit", sorted(_LOCALS), lambda: in_code(inspect.unwrap(keras.Model.fit))),
    Private(
        f"{_ITERATOR}.EpochIterator",
        ("data_adapter",),
        lambda: in_code(private_module(_ITERATOR).EpochIterator.__init__),
    ),
    Private("keras.Model", ("_initial_epoch",), lambda: keras.Model(name=NAME)),
    Private("keras.metrics.Accuracy", ("_direction",), lambda: keras.metrics.Accuracy(name=NAME)),
    Private(
        "keras.callbacks.ModelCheckpoint",
        ("_batches_seen_since_last_saving", "_last_batch_seen"),
        lambda: stock.ModelCheckpoint(f"{NAME}.keras"),
    ),
    Private("keras.callbacks.SwapEMAWeights", ("_ema_weights_in_model",), lambda: stock.SwapEMAWeights(True)),
    Private(
        "keras.callbacks.TensorBoard", ("_global_train_batch", "_global_test_batch"), lambda: stock.TensorBoard(NAME)
    ),
)


@dataclass(frozen=True)
class FitContext:
    """One running `fit`.

    Attributes:
        callbacks: all of them, in the order of their calls; the list that `fit` itself goes through.
        initial_epoch: as passed to `fit`, counted from 0.
        epochs: as passed to `fit`: the number of the last epoch, plus 1.
        data: `x`, after a validation split.
        batches: the number of batches in `data`; None if it is unknown or infinite.
        steps_per_epoch: as passed to `fit`.
        shuffle: as passed to `fit`.
    """

    callbacks: list[keras.callbacks.Callback]
    initial_epoch: int
    epochs: int
    data: Any
    batches: int | None
    steps_per_epoch: int | None
    shuffle: Any


def fit_context() -> FitContext:
    """The `fit` that is calling; for use inside a callback.

    Raises:
        ResumeError: there is none (a custom loop), or a Keras version with a different `fit`.
    """
    frame: FrameType | None = sys._getframe(1)
    found = "a call outside fit"
    while frame is not None:
        if frame.f_code.co_name == "fit":
            # A model may have its own `fit` around that of Keras, and a tuner another one around both.
            names = frame.f_locals
            if set(names) >= _LOCALS and isinstance(names["callbacks"], keras.callbacks.CallbackList):
                return FitContext(
                    callbacks=names["callbacks"].callbacks,
                    initial_epoch=names["initial_epoch"],
                    epochs=names["epochs"],
                    data=names["x"],
                    batches=names["epoch_iterator"].data_adapter.num_batches,
                    steps_per_epoch=names["steps_per_epoch"],
                    shuffle=names["shuffle"],
                )
            found = f"the unknown fit of Keras {keras.__version__}"
        frame = frame.f_back
    raise ResumeError(
        "ResumableBackup works only inside model.fit, where it finds the other callbacks and the data. "
        f"Call model.fit with it, on a tested version of Keras. Received: {found}."
    )


def set_first_epoch(model: keras.Model, epoch: int | None) -> None:
    """Make the `fit` that has just begun start at an epoch; None for the epoch that it was given.

    Keras reads this once, after `on_train_begin`, and in every later `fit` of the model: set it to None after that. It
    takes 0 for None.
    """
    model._initial_epoch = epoch


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


def has_counters(callback: stock.Callback) -> bool:
    """Whether it is one of Keras' callbacks with counters. A subclass may have more of them, and is not."""
    return type(callback) in _COUNTERS


def is_stateless(callback: stock.Callback) -> bool:
    """Whether it is one of Keras' callbacks that have nothing to save."""
    return type(callback) in _STATELESS


def counters(callback: stock.Callback) -> dict[str, Any]:
    """The counters by attribute; EarlyStopping creates some of them only when training begins."""
    return {name: getattr(callback, name) for name in _COUNTERS[type(callback)] if hasattr(callback, name)}


def set_counters(callback: stock.Callback, values: dict[str, Any]) -> None:
    """Set what `counters` returned."""
    vars(callback).update(values)
