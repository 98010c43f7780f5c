"""The counters of Keras' own callbacks, which have no methods to save and restore them.

Private names used here: attributes of `ModelCheckpoint`, `SwapEMAWeights` and `TensorBoard`, in `_COUNTERS`.
`tests/keras_compat/test_callbacks.py` fails when one of them goes.
"""

from typing import Any

from keras import callbacks as stock

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
