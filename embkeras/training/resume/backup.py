"""ResumableBackup: a training that was killed continues when its script is run again, as if nothing had happened."""

import contextlib
import os
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from embkeras import _checks
from embkeras._files import check_writable, remove_abandoned
from embkeras.errors import ArgumentError, EmbkerasWarning, ResumeError
from embkeras.keras_compat.fit import FitContext, fit_context, set_first_epoch
from embkeras.keras_compat.generators import random_states, set_random_states
from embkeras.keras_compat.optimizers import steps_of
from embkeras.keras_compat.versions import check_versions
from embkeras.training.rebuild import build_optimizer, is_built, other_optimizers
from embkeras.training.resume.contents import (
    callback_states,
    check_model,
    check_training,
    restore_callbacks,
    signature,
    unsaved,
    variables_of,
)
from embkeras.training.resume.data_order import EpochOrder, FirstBatches, order_problem
from embkeras.training.resume.state_file import State, open_state, write_state

# Where the unfinished fits of a model began, so that a fit that was interrupted in a notebook can be run again.
_UNFINISHED: "weakref.WeakKeyDictionary[keras.Model, dict[Path, dict[str, int]]]" = weakref.WeakKeyDictionary()


class ResumableBackup(keras.callbacks.Callback):
    """Save the whole state of a training at the end of its epochs, and continue from it when the script is run again.

    It does not matter how the process died (kill -9, power failure, out of memory) or in which phase of a
    `TrainabilitySchedule`: the final weights, the optimizer's state and the History equal those of a run that was never
    interrupted. On a CPU they are equal bit for bit if the script calls `keras.utils.set_random_seed` and
    `tf.config.experimental.enable_op_determinism`.

    Saved are all variables of the model (including BatchNormalization's statistics and the state of Dropout's generators)
    and of its optimizer, the History, the states of the other callbacks, and the random generators that the process
    shares (Python's, NumPy's, Keras'). A callback of your own is saved if it has `state() -> dict` and
    `restore(model, state)`; a warning names those that don't. Not saved: metrics in the middle of an epoch, the hidden
    state of `tf.random.uniform` and similar operations, optimizers besides `model.optimizer` (a warning names them), and
    what callbacks wrote to their own files.

    The order of the data must depend on the epoch alone. It does for arrays under `set_random_seed` (Keras then repeats
    one order in every epoch), for a `PyDataset` that does not change between epochs, and for the data of `shuffle` and
    `batches` below, which have a new order in each epoch. It does not for `Dataset.shuffle` and generators, or if each
    epoch continues in the middle of the data; generators and such a `steps_per_epoch` are warned of when training begins.

    The first batch of each epoch since the last save is compared with that of the run that is resumed, and a different
    one raises `ResumeError` before the model trains on it. This finds unseeded draws and data that reshuffle, of whatever
    kind. It does not find: data that differ only after the first batch of an epoch; an epoch that the killed run had not
    begun, as when `epochs` has grown; validation data; and any data on several replicas.

    Each save writes one file of the size of all variables next to the previous one and renames it, so there must be room
    for two. When training ends the file is removed: save the model then, or use `keep`. A model that was saved as
    `.keras` and loaded continues exactly only if it has no random layers: that format omits the state of their
    generators.

    Args:
        folder: where the state is kept; each `fit` of a script needs its own folder.
        keep: keep the state when training has ended. Running the script again then trains no further, or continues if
            `epochs` has grown.
        every: number of epochs from one save to the next. The last epoch is always saved.

    Raises:
        ArgumentError: `every` is not an integer >= 1, `keep` is not a bool, or `folder` is not a path.
        OutputError: when training begins, the folder can't be written.
        ResumeError: when training begins, the model is not built; the state is damaged, or belongs to another model,
            optimizer, `fit` or list of callbacks; or the callback is used outside `fit`. When an epoch begins, its data
            differ from those of the run that is resumed.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        >>> model.compile("adam", loss="mse")
        >>> backup = ResumableBackup(tempfile.mkdtemp())
        >>> batches = backup.batches((np.ones((8, 2)), np.zeros((8, 1))), batch_size=4, seed=0)
        >>> history = model.fit(batches, epochs=2, verbose=0, callbacks=[backup])
        >>> history.epoch
        [0, 1]
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: bool = False, every: int = 1):
        super().__init__()
        self.folder = _checks.path(folder, "folder")
        self.keep = _checks.flag(keep, "keep")
        self.every = _checks.whole_number(every, "every", least=1)
        self._file = self.folder / "state.npz"
        self._order = EpochOrder()
        self._first_batches = FirstBatches(self.folder / "first_batches.json")

    def shuffle(self, dataset: tf.data.Dataset, buffer_size: int, *, seed: int = 0) -> tf.data.Dataset:
        """`dataset.shuffle(buffer_size)` in an order that depends on `seed` and the epoch of the fit alone.

        Batch, map and prefetch after it, but do not `cache` or `repeat`: both would run ahead of the epoch.

        Args:
            dataset: single examples or batches, the same in every epoch.
            buffer_size: as for `Dataset.shuffle`.
            seed: each seed gives another order.

        Returns:
            The shuffled dataset.

        Raises:
            ArgumentError: `dataset` is not a Dataset, `buffer_size` is not an integer >= 1, or `seed` is not an integer.
        """
        if not isinstance(dataset, tf.data.Dataset):
            raise ArgumentError(f"shuffle takes a tf.data.Dataset. Received: {type(dataset).__name__}.")
        size = _checks.whole_number(buffer_size, "buffer_size", least=1)
        return self._order.shuffle(dataset, size, _checks.whole_number(seed, "seed"))

    def batches(self, arrays: Any, batch_size: int, *, seed: int = 0) -> tf.data.Dataset:
        """Arrays in batches, completely shuffled in an order that depends on `seed` and the epoch of the fit alone.

        Args:
            arrays: what `fit` takes, as a tuple: (x, y) or (x, y, sample_weight), each an array or a dictionary or
                tuple of arrays, all with n rows.
            batch_size: rows per batch; the last batch may be shorter.
            seed: each seed gives another order.

        Returns:
            A dataset of batches with the structure of `arrays`.

        Raises:
            ArgumentError: something is not an array, the arrays differ in length or have no rows, `batch_size` is not an
                integer >= 1, or `seed` is not an integer.
        """
        _check_arrays(tf.nest.flatten(arrays))
        size = _checks.whole_number(batch_size, "batch_size", least=1)
        return self._order.batches(arrays, size, _checks.whole_number(seed, "seed"))

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the fit can be saved, warn of what can't, and take the last place among the callbacks."""
        check_versions()
        context = fit_context()
        _check_fit(self.model, context.callbacks)
        check_writable(self.folder)
        remove_abandoned(self.folder)
        self._warn(context)
        # The counters of the others are reset only after all their on_train_begin, and the state of an epoch is complete
        # only after all their on_epoch_end. Keras is going through this list, so what is appended begins in this round.
        last = _Last(self, context)
        last.set_model(self.model)
        last.set_params(self.params)
        context.callbacks[:] = [each for each in context.callbacks if not isinstance(each, _Last)]
        context.callbacks.append(last)

    def _warn(self, context: FitContext) -> None:
        others = [each for each in context.callbacks if each is not self and not isinstance(each, _Last)]
        lost = unsaved(others) + [f"the optimizer model.{name}" for name in other_optimizers(self.model)]
        if lost:
            warnings.warn(
                f"ResumableBackup does not save {'; '.join(lost)}. These start over when the script is run again. Give a "
                f"callback with a state the methods state() -> dict and restore(model, state).",
                EmbkerasWarning,
                stacklevel=2,
            )
        if problem := order_problem(context):
            warnings.warn(
                f"A resumed run won't see the same batches as an uninterrupted one: {problem}. Shuffle with "
                f"backup.shuffle(dataset, buffer_size) or backup.batches((x, y), batch_size), whose order depends on the "
                f"epoch alone, and make each epoch one pass over the data.",
                EmbkerasWarning,
                stacklevel=2,
            )

    def _remove(self) -> None:
        self._file.unlink(missing_ok=True)
        self._first_batches.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the user keeps something else in it
            self.folder.rmdir()


class _Last(keras.callbacks.Callback):
    """Restores when all other callbacks have begun, and saves when all others have ended the epoch."""

    def __init__(self, backup: ResumableBackup, context: FitContext):
        super().__init__()
        self._backup, self._context = backup, context

    def on_train_begin(self, logs: Any = None) -> None:
        backup, folder = self._backup, self._backup.folder.resolve()
        steps = steps_of(self.model.optimizer) if self.model.optimizer else 0
        self._began = {"initial_epoch": self._context.initial_epoch, "step": steps}
        unfinished = _UNFINISHED.setdefault(self.model, {})
        if folder in unfinished and unfinished[folder]["initial_epoch"] == self._context.initial_epoch:
            self._began = unfinished[folder]
        if backup._file.exists():
            with open_state(backup._file) as state:
                self._restore(state)
            backup._first_batches.load()
        else:
            backup._first_batches.clear()
        unfinished[folder] = self._began

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        set_first_epoch(self.model, None)  # fit has read it, and a later fit must not
        self._backup._order.begin(epoch)
        self._backup._first_batches.watch(self.model, epoch, self)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        stopped = bool(self.model.stop_training)
        if (epoch + 1) % self._backup.every and epoch + 1 < self._context.epochs and not stopped:
            return
        description = {
            "epoch": epoch + 1,
            "stopped": stopped,
            "began": self._began,
            "model": signature(self.model),
            "callbacks": callback_states(self._others()),
            "random": random_states(),
        }
        write_state(self._backup._file, description, variables_of(self.model))
        self._backup._first_batches.forget_before(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        set_first_epoch(self.model, None)
        _UNFINISHED[self.model].pop(self._backup.folder.resolve(), None)
        self._context.callbacks.remove(self)
        if not self._backup.keep:
            self._backup._remove()

    def _restore(self, state: State) -> None:
        where, content = repr(str(state.path)), state.content
        if content["began"] != self._began:
            raise ResumeError(
                f"{where} is the state of another fit, which began at epoch {content['began']['initial_epoch']} and "
                f"optimizer step {content['began']['step']}. Give each fit its own folder, or delete the folder to start "
                f"over. Received: a fit that begins at epoch {self._began['initial_epoch']} and optimizer step "
                f"{self._began['step']}."
            )
        others = self._others()
        check_model(self.model, content["model"], where)
        # Callbacks first: a schedule decides what trains, and so which variables the optimizer has.
        restore_callbacks(others, content["callbacks"], self.model, where)
        build_optimizer(self.model)
        check_training(self.model, content["model"], where)
        for name, variable in variables_of(self.model).items():
            state.fill(name, variable)
        set_random_states(content["random"])
        # A state is never of epoch 0, which Keras would ignore. What stopped early has nothing left to do.
        set_first_epoch(self.model, max(content["epoch"], self._context.epochs if content["stopped"] else 0))
        self.model.stop_training = content["stopped"]

    def _others(self) -> list[keras.callbacks.Callback]:
        return [each for each in self._context.callbacks if each is not self and each is not self._backup]


def _check_fit(model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    if not is_built(model):
        raise ResumeError(
            f"ResumableBackup needs a model that has its variables before fit. Give it an Input, or call it once. "
            f"Received: model {model.name!r}, which is not built."
        )
    backups = [each for each in callbacks if isinstance(each, ResumableBackup | keras.callbacks.BackupAndRestore)]
    if len(backups) > 1:
        raise ResumeError(
            f"A fit takes only one backup. Received: {', '.join(type(each).__name__ for each in backups)}."
        )


def _check_arrays(arrays: Sequence[Any]) -> None:
    for each in arrays:
        if not len(getattr(each, "shape", ())):
            raise ArgumentError(
                f"batches takes arrays, and also looks for them inside lists. Convert a list with np.asarray. "
                f"Received: {_checks.shown(each)}."
            )
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ArgumentError(
            f"batches takes arrays with the same number of rows, at least one. Received: {sorted(lengths)} rows."
        )
