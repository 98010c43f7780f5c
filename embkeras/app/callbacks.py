"""What watches the trainings of `demo` and `train`: which epoch is best, how long it will take, how far a comparison is."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import keras

from embkeras._progress import Report, progress
from embkeras.app.printed import duration_text


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the smallest validation loss, and ends a training that no longer improves.

    Args:
        patience: epochs without a smaller validation loss after which training ends.
        unfreeze_at: patience counts from this epoch on, so that the table gets its turn.

    Attributes:
        epoch: the best epoch, from 0; None if no validation loss was a number.
        loss: its validation loss.
        last: the last epoch that was trained.
    """

    def __init__(self, patience: int, unfreeze_at: int):
        super().__init__()
        self._patience, self._unfreeze_at = patience, unfreeze_at
        self._weights: list[Any] = []
        self.epoch: int | None = None
        self.loss, self.last = math.inf, 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Copy the weights if they are the best so far."""
        self.last = epoch
        if logs["val_loss"] < self.loss:
            self.epoch, self.loss = epoch, float(logs["val_loss"])
            self._weights = self.model.get_weights()
            return
        best = -1 if self.epoch is None else self.epoch
        if epoch - max(best, self._unfreeze_at - 1) >= self._patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Write the best weights back."""
        if self.epoch is not None:
            self.model.set_weights(self._weights)
        self._weights = []

    def __str__(self) -> str:
        if self.epoch is None:
            return f"No epoch has a validation loss that is a number: the weights of epoch {self.last} are kept"
        return (
            f"Best epoch: {self.epoch} of 0 to {self.last}, with validation loss {self.loss:.4f}; its weights are kept"
        )


class TimeLeft(keras.callbacks.Callback):
    """Says after the first epoch how long the training will take at most, and at its end how long those that follow will.

    Args:
        say: receives the lines.
        more_trainings: trainings that follow.
    """

    def __init__(self, say: Callable[[str], None], more_trainings: int):
        super().__init__()
        self._say, self._more = say, more_trainings
        self._start = self._traced = self._end = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Say it before the second epoch, where no bar of Keras is on the line."""
        if epoch == 0:
            self._start = time.perf_counter()
        elif epoch == 1:
            left = self.params["epochs"] - 1
            self._say(
                f"The first epoch took {duration_text(self._end - self._start)}; still to come: {left} epoch{'s' * (left > 1)}, "
                f"{duration_text(left * (self._end - self._traced))} at most"
            )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The first batch takes longer: TensorFlow compiles the step."""
        self._traced = self._traced or time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note when the first epoch ended."""
        self._end = self._end or time.perf_counter()

    def on_train_end(self, logs: Any = None) -> None:
        """How long the trainings that follow will take if they are as long as this one."""
        if self._more:
            taken = time.perf_counter() - self._start
            self._say(
                f"The training took {duration_text(taken)}; {self._more} more to compare with will take "
                f"{duration_text(self._more * taken)}"
            )


class ComparisonProgress(keras.callbacks.Callback):
    """One training of a comparison: a bar while it runs, and a line at its end.

    Args:
        name: of the training.
        say: receives the line.
        bars: closes the bar at the end of the training, or when the training fails.
    """

    def __init__(self, name: str, say: Callable[[str], None], bars: contextlib.ExitStack):
        super().__init__()
        self._name, self._say, self._bars = name, say, bars
        self._report: Report
        self._done, self._line = 0, ""

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin the bar."""
        self._report = self._bars.enter_context(progress(self._name))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the bar."""
        self._done += 1
        self._report(self._done, self.params["epochs"] * self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the accuracies."""
        self._line = f"  {self._name}: epoch {epoch + 1}/{self.params['epochs']}, "
        self._line += f"accuracy {logs['accuracy']:.3f}, validation {logs['val_accuracy']:.3f}"

    def on_train_end(self, logs: Any = None) -> None:
        """Clear the bar and print the line."""
        self._bars.close()
        self._say(self._line)
