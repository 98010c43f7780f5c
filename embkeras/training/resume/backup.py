"""ResumableBackup: a training that is killed goes on when the script is run again, as if nothing had happened.

Private name used here, because Keras offers no public way to tell `fit` where to go on: `_initial_epoch` of a model.
`tests/training/test_resume.py` fails when it goes.
"""

import contextlib
import os
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._files import check_writable, remove_abandoned
from embkeras.errors import ArgumentError, EmbkerasWarning, ResumeError
from embkeras.keras_compat.fit import FitContext, fit_context
from embkeras.keras_compat.generators import random_states, set_random_states
from embkeras.keras_compat.optimizers import steps_of
from embkeras.training.resume.callbacks import check_states, restore_states, states_of, unsaved
from embkeras.training.resume.data_order import EpochOrder, doubts
from embkeras.training.resume.model import (
    check_model,
    check_training,
    other_optimizers,
    signature,
    variables_of,
)
from embkeras.training.resume.state_file import State, open_state, write_state

_FILE = "state.npz"
# Where the fits began that have not ended, so that one that was interrupted in a notebook can be run again.
_UNFINISHED: "weakref.WeakKeyDictionary[keras.Model, dict[Path, dict[str, int]]]" = weakref.WeakKeyDictionary()


class ResumableBackup(keras.callbacks.Callback):
    """Save the whole state of a training at the end of its epochs, and go on from it when the script is run again.

    However the process died (kill -9, power, out of memory), and in whichever phase of a `TrainabilitySchedule`: the
    final weights, the optimizer's state and the History equal those of the run that was never interrupted. On a CPU
    they do so bit for bit, if the script calls `keras.utils.set_random_seed` and
    `tf.config.experimental.enable_op_determinism`.

    Saved are all variables of the model (BatchNormalization's statistics and the state of Dropout's generators
    included) and of its optimizer, the History, the states of the other callbacks, and the generators that the process
    shares (Python's, NumPy's, Keras'). A callback of your own takes part if it has `state() -> dict` and
    `restore(model, state)`; one without is named in a warning. Not saved: metrics in the middle of an epoch, the hidden
    state of `tf.random.uniform` and its like, optimizers beside `model.optimizer` (named in a warning), what callbacks
    wrote to files of their own.

    The order of the data must be a function of the epoch. It is for arrays under `set_random_seed` (Keras then repeats
    one order in every epoch), for a `PyDataset` without hooks of its own, and for what `shuffle` and `batches` of this
    class give, which shuffle each epoch anew. It is not for `Dataset.shuffle`, generators, or `steps_per_epoch` that
    leaves off in the middle of the data: these are found and warned of when training begins. What Python code in the
    data does (`tf.py_function`, `Dataset.from_generator`, `PyDataset.__getitem__`) cannot be seen.

    Each save writes one file of the size of all variables beside the one before and renames it, so there must be room for
    two. When training has ended the file is removed: save the model then, or use `keep`. A model that was saved as
    `.keras` and loaded goes on equally only if it has no random layers: that format leaves out the state of their
    generators.

    Args:
        folder: where the state is kept; one folder for each `fit` of a script.
        keep: keep the state when training has ended. Running the script again then trains no further, or goes on if
            `epochs` has grown.
        every: epochs between two saves. The last epoch is always saved.

    Raises:
        ArgumentError: `every` is not an integer >= 1, or `folder` is empty.
        OutputError: when training begins, a folder that cannot be written.
        ResumeError: when training begins, a model that is not built; a state that is damaged, or of another model,
            optimizer, `fit` or list of callbacks; a call outside `fit`.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        >>> model.compile("adam", loss="mse")
        >>> backup = ResumableBackup(tempfile.mkdtemp())
        >>> batches = backup.batches((np.ones((8, 2)), np.zeros((8, 1))), batch_size=4, seed=0)
        >>> history = model.fit(batches, epochs=2, verbose=0, callbacks=[backup])
        >>> history.epoch
        [0, 1]
    """

    def __init__(self, folder: str | os.PathLike, *, keep: bool = False, every: int = 1):
        super().__init__()
        _check_count(every, "every")
        if not os.fspath(folder):
            raise ArgumentError(f"ResumableBackup needs a folder. Received: {folder!r}.")
        self.folder, self.keep, self.every = Path(folder), keep, every
        self._order = EpochOrder()

    def shuffle(self, dataset: tf.data.Dataset, buffer_size: int, *, seed: int = 0) -> tf.data.Dataset:
        """`dataset.shuffle(buffer_size)` whose order is a function of `seed` and the epoch of the fit.

        Batch, map and prefetch after it, but do not `cache` or `repeat`: both would run ahead of the epoch.

        Args:
            dataset: of single examples, or of batches; itself the same in every epoch.
            buffer_size: as for `Dataset.shuffle`.
            seed: a different one gives another order.

        Raises:
            ArgumentError: not a Dataset, a buffer size that is not an integer >= 1, or a seed that is no integer.
        """
        if not isinstance(dataset, tf.data.Dataset):
            raise ArgumentError(f"shuffle takes a tf.data.Dataset. Received: {type(dataset).__name__}.")
        return self._order.shuffle(dataset, _check_count(buffer_size, "buffer_size"), _check_seed(seed))

    def batches(self, arrays: Any, batch_size: int, *, seed: int = 0) -> tf.data.Dataset:
        """Arrays in batches, shuffled as a whole in each epoch: the order is a function of `seed` and the epoch.

        Args:
            arrays: what `fit` takes, as a tuple: (x, y) or (x, y, sample_weight), each an array or a dictionary or
                tuple of arrays, all with n rows.
            batch_size: rows a batch; the last one may be shorter.
            seed: a different one gives another order.

        Raises:
            ArgumentError: something that is no array, arrays that differ in length or hold no row, a batch size that is
                not an integer >= 1, or a seed that is no integer.
        """
        _check_arrays(tf.nest.flatten(arrays))
        return self._order.batches(arrays, _check_count(batch_size, "batch_size"), _check_seed(seed))

    def on_train_begin(self, logs: Any = None) -> None:
        """Look whether the fit can be saved, say what cannot, and take the last place among the callbacks."""
        context = fit_context()
        _check_fit(self.model, context.callbacks)
        check_writable(self.folder)
        remove_abandoned(self.folder)
        self._warn(context)
        # Only after all others' on_train_begin are their counters reset, and only after all others' on_epoch_end is
        # an epoch's state whole. Appended while Keras goes through the list, it has its turn in this round already.
        last = _Last(self, context)
        last.set_model(self.model)
        last.set_params(self.params)
        context.callbacks[:] = [each for each in context.callbacks if not isinstance(each, _Last)]
        context.callbacks.append(last)

    @property
    def _file(self) -> Path:
        return self.folder / _FILE

    def _warn(self, context: FitContext) -> None:
        others = [each for each in context.callbacks if each is not self and not isinstance(each, _Last)]
        lost = unsaved(others) + [f"the optimizer model.{name}" for name in other_optimizers(self.model)]
        if lost:
            warnings.warn(
                f"ResumableBackup does not save: {'; '.join(lost)}. That begins anew when the script is run again. A "
                f"callback that counts or keeps something takes part with state() -> dict and restore(model, state).",
                EmbkerasWarning,
                stacklevel=2,
            )
        unsure = doubts(context, self._order)
        if unsure:
            warnings.warn(
                f"A resumed run will not see the batches that the uninterrupted run sees: {'; '.join(unsure)}. Shuffle with "
                f"backup.shuffle(dataset, buffer_size) or backup.batches((x, y), batch_size), whose order is a function "
                f"of the epoch, and let each epoch go through the data once.",
                EmbkerasWarning,
                stacklevel=2,
            )

    def _remove(self) -> None:
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it was there before, with something in it
            self.folder.rmdir()


class _Last(keras.callbacks.Callback):
    """Restores when all other callbacks have begun, and saves when all others have ended the epoch."""

    def __init__(self, backup: ResumableBackup, context: FitContext):
        super().__init__()
        self._backup, self._context = backup, context

    def on_train_begin(self, logs: Any = None) -> None:
        folder = self._backup.folder.resolve()
        self._began = {"initial_epoch": self._context.initial_epoch, "step": _steps(self.model)}
        if _UNFINISHED.get(self.model, {}).get(folder, {}).get("initial_epoch") == self._context.initial_epoch:
            self._began = _UNFINISHED[self.model][folder]
        if self._backup._file.exists():
            with open_state(self._backup._file) as state:
                self._restore(state)
        _UNFINISHED.setdefault(self.model, {})[folder] = self._began

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model._initial_epoch = None  # fit has read it; a later fit must not
        self._backup._order.begin(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        stopped = bool(self.model.stop_training)
        if (epoch + 1) % self._backup.every and epoch + 1 < self._context.epochs and not stopped:
            return
        description = {
            "epoch": epoch + 1,
            "stopped": stopped,
            "began": self._began,
            "model": signature(self.model),
            "callbacks": states_of(self._others()),
            "random": random_states(),
        }
        write_state(self._backup._file, description, variables_of(self.model))

    def on_train_end(self, logs: Any = None) -> None:
        self.model._initial_epoch = None
        _UNFINISHED.get(self.model, {}).pop(self._backup.folder.resolve(), None)
        self._context.callbacks.remove(self)
        if not self._backup.keep:
            self._backup._remove()

    def _restore(self, state: State) -> None:
        where, content = repr(str(state.path)), state.content
        if content["began"] != self._began:
            raise ResumeError(
                f"{where} is the state of another fit: that one began at epoch {content['began']['initial_epoch']} and "
                f"optimizer step {content['began']['step']}. Give each fit a folder of its own, or delete the folder to "
                f"begin anew. Received: a fit that begins at epoch {self._began['initial_epoch']} and optimizer step "
                f"{self._began['step']}."
            )
        others = self._others()
        check_model(self.model, content["model"], where)
        check_states(others, content["callbacks"], where)
        # Callbacks first: a schedule decides what trains, and so which variables the optimizer has.
        restore_states(others, content["callbacks"], self.model)
        _build_optimizer(self.model)
        check_training(self.model, content["model"], where)
        for name, variable in variables_of(self.model).items():
            state.fill(name, variable)
        set_random_states(content["random"])
        # fit takes 0 for "not said"; no state is of epoch 0. What stopped early has nothing left to do.
        self.model._initial_epoch = max(content["epoch"], self._context.epochs if content["stopped"] else 0)
        self.model.stop_training = content["stopped"]

    def _others(self) -> list[keras.callbacks.Callback]:
        return [each for each in self._context.callbacks if each is not self and each is not self._backup]


def _check_fit(model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    if not model.built:
        raise ResumeError(
            f"ResumableBackup needs a model whose variables are there before fit, and model {model.name!r} is not built: "
            f"give it an Input, or call it once."
        )
    backups = [each for each in callbacks if isinstance(each, ResumableBackup | keras.callbacks.BackupAndRestore)]
    if len(backups) > 1:
        raise ResumeError(f"One fit takes one backup. Received: {', '.join(type(each).__name__ for each in backups)}.")


def _build_optimizer(model: keras.Model) -> None:
    """Make the variables of an optimizer that no schedule has built, for what trains now."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        with model.distribute_strategy.scope():
            optimizer.build(list(model.trainable_variables))


def _steps(model: keras.Model) -> int:
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else steps_of(optimizer)


def _check_arrays(arrays: Sequence[Any]) -> None:
    for each in arrays:
        if not len(getattr(each, "shape", ())):
            raise ArgumentError(
                f"batches takes arrays, and looks for them inside lists too: make an array of a list with np.asarray. "
                f"Received: {each!r}."
            )
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ArgumentError(
            f"batches takes arrays with the same number of rows, at least one. Received: {sorted(lengths)} rows."
        )


def _check_count(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ArgumentError(f"{what} must be an integer >= 1. Received: {value!r}.")
    return int(value)


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ArgumentError(f"seed must be an integer. Received: {seed!r}.")
    return int(seed)
