"""What watches a training: the best epoch, the time left, a bar for comparisons."""

import contextlib
from types import SimpleNamespace

import pytest

from embkeras import _progress
from embkeras.app import callbacks
from embkeras.app.callbacks import BestEpoch, ComparisonProgress, TimeLeft


class Model(SimpleNamespace):
    """A model with one weight: the epoch it was trained for."""

    def get_weights(self):
        """The weight."""
        return [self.weight]

    def set_weights(self, weights):
        """Set it."""
        (self.weight,) = weights


def train(losses, *, patience=2, unfreeze_at=0):
    """A training with these validation losses: its BestEpoch, and the model after it."""
    best, model = BestEpoch(patience, unfreeze_at), Model(weight=None, stop_training=False)
    best.set_model(model)
    for epoch, loss in enumerate(losses):
        model.weight = epoch
        best.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            break
    best.on_train_end()
    return best, model


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "unfreeze_at", "best", "last"),
    [
        ([3, 2, 1], 0, 2, 2),
        ([3, 1, 2, 2, 0], 0, 1, 3),
        ([3, 1, 2, 0, 1], 0, 3, 4),
        ([1, 2, 3, 4, 5, 6], 3, 0, 4),
        ([1, 2, 3, 4, 0, 6], 3, 4, 5),
        ([NAN, 2, NAN, NAN, 1], 0, 1, 3),
    ],
)
def test_the_best_epoch_is_kept(losses, unfreeze_at, best, last):
    """By the smallest validation loss; patience doesn't count epochs in which the table is frozen."""
    found, model = train(losses, unfreeze_at=unfreeze_at)
    assert (found.epoch, found.last, model.weight) == (best, last, best)
    assert str(found).startswith(f"Best epoch: {best} of 0 to {last}, ")


def test_no_number():
    """Without any finite loss, the last weights stay, and the text says so."""
    found, model = train([NAN, NAN, NAN])
    assert found.epoch is None and model.weight == found.last == 1
    assert "epoch 1 are kept" in str(found)


def lines_of(monkeypatch, *, epochs, more, seconds=10.0):
    """What TimeLeft says about epochs of this length, whose first batch takes as long again."""
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    lines: list[str] = []
    left = TimeLeft(lines.append, more)
    left.set_params({"epochs": epochs})
    for epoch in range(epochs):
        left.on_epoch_begin(epoch)
        now[0] += seconds * (epoch == 0)
        left.on_train_batch_end(0)
        now[0] += seconds
        left.on_epoch_end(epoch)
    left.on_train_end()
    return lines


@pytest.mark.parametrize(
    ("epochs", "more", "said"),
    [
        (4, 0, ["The first epoch took about 20 seconds; still to come: 3 epochs, about 30 seconds at most"]),
        (2, 0, ["The first epoch took about 20 seconds; still to come: 1 epoch, about 10 seconds at most"]),
        (1, 3, ["The training took about 20 seconds; 3 more to compare with will take about 60 seconds"]),
    ],
)
def test_time_left(monkeypatch, epochs, more, said):
    """Once for the training, without the time to compile the step, and once for those that follow."""
    assert lines_of(monkeypatch, epochs=epochs, more=more) == said


def test_nothing_left(monkeypatch):
    """After the only epoch of the only training there is nothing to say."""
    assert lines_of(monkeypatch, epochs=1, more=0) == []


def test_a_comparison_shows_a_bar_and_a_line(monkeypatch, capsys):
    """The bar is cleared before the line is printed."""
    monkeypatch.setattr(_progress, "_AFTER", 0)
    lines: list[str] = []
    with _progress.shown(True), contextlib.ExitStack() as bars:
        callback = ComparisonProgress("frozen, seed 1", lambda line: lines.append(capsys.readouterr().err), bars)
        callback.set_params({"epochs": 2, "steps": 1})
        callback.on_train_begin()
        for epoch in range(2):
            callback.on_train_batch_end(0)
            callback.on_epoch_end(epoch, {"accuracy": 0.5, "val_accuracy": 0.25})
        callback.on_train_end()
    assert "frozen, seed 1" in lines[0] and lines[0].endswith("\x1b[2K")
