"""The states of the other callbacks of a fit: asked for, matched between two runs of a script, and given back.

A callback that has a state says so itself: `state()` gives a dictionary (numbers, text, None, arrays, and lists, tuples
and dictionaries of them) and `restore(model, state)` takes it. Keras' own callbacks have no such methods; their
counters are listed here.

Private names used here: attributes of `ModelCheckpoint`, `SwapEMAWeights` and `TensorBoard`, in `_COUNTERS`.
`tests/training/state/test_callbacks.py` fails when one goes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
from keras import callbacks as stock

from embkeras.errors import ResumeError

_COUNTERS: dict[type, tuple[str, ...]] = {
    # The columns; else a row of the resumed run may have others than the header, which stands in the file already.
    stock.CSVLogger: ("keys",),
    stock.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    stock.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    stock.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    stock.SwapEMAWeights: ("_ema_weights_in_model",),
    stock.TensorBoard: ("_global_train_batch", "_global_test_batch"),
    stock.History: ("epoch", "history"),
}
_STATELESS = (
    stock.LearningRateScheduler,
    stock.ProgbarLogger,
    stock.RemoteMonitor,
    stock.TerminateOnNaN,
)


def states_of(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, dict[str, Any]]:
    """The state of each callback that has one, by class and place among those of its class: "EarlyStopping 1"."""
    return {name: _state_of(callback) for name, callback in _named(callbacks).items()}


def check_states(callbacks: Sequence[keras.callbacks.Callback], states: dict[str, Any], where: str) -> None:
    """Make sure that the states are those of these callbacks.

    Raises:
        ResumeError: the states of other callbacks.
    """
    named = _named(callbacks)
    lost = [name for name in states if name not in named] + [name for name in named if name not in states]
    if lost:
        has, lacks = ("the script", where) if lost[0] in named else (where, "the script")
        raise ResumeError(
            f"The callbacks have changed: {has} has {lost[0]}, and {lacks} has not. Give the script the callbacks that it "
            f"had, or delete the folder to begin anew. Received: {', '.join(named)}."
        )


def restore_states(
    callbacks: Sequence[keras.callbacks.Callback], states: dict[str, dict[str, Any]], model: keras.Model
) -> None:
    """Give each callback its state back."""
    for name, callback in _named(callbacks).items():
        if type(callback) in _COUNTERS:
            vars(callback).update(states[name])
        else:
            callback.restore(model, states[name])


def unsaved(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """What is not saved: callbacks that may have a state and do not say so, and files that would be begun anew."""
    return [said for said in map(_unsaved, callbacks) if said]


def _named(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, keras.callbacks.Callback]:
    seen: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        if _has_state(callback):
            name = type(callback).__name__
            seen[name] += 1
            named[f"{name} {seen[name]}"] = callback
    return named


def _has_state(callback: keras.callbacks.Callback) -> bool:
    own = callable(getattr(callback, "state", None)) and callable(getattr(callback, "restore", None))
    return own or type(callback) in _COUNTERS


def _state_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    if type(callback) in _COUNTERS:
        # EarlyStopping makes some of its counters only when training begins.
        return {name: getattr(callback, name) for name in _COUNTERS[type(callback)] if hasattr(callback, name)}
    return callback.state()


def _unsaved(callback: keras.callbacks.Callback) -> str:
    if isinstance(callback, stock.CSVLogger) and not callback.append:
        return "the file of CSVLogger, which begins anew without append=True"
    known = _has_state(callback) or type(callback) in _STATELESS
    return "" if known else f"{type(callback).__name__} (it has no state() and restore())"
