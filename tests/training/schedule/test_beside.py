"""Keras' own callbacks before and after a schedule in the list: they still work, and the weights are right."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import callbacks, optimizers

from embkeras.training.schedule.callback import unfreeze_at
from tests import tiny

_ORDERS = pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])


def _fit(beside, first, optimizer=None, **arguments):
    net, schedule = tiny.model(optimizer or optimizers.Adam(0.05)), unfreeze_at(2, "embedding")
    pair = [beside, schedule] if first else [schedule, beside]
    return net, tiny.fit(net, callbacks=pair, **arguments)


def _reference(beside, optimizer=None):
    """A run whose optimizer knew every variable from the start, with the same callback beside it."""
    net = tiny.model(optimizer or optimizers.Adam(0.05), trainable=True)
    net.optimizer.build(net.trainable_variables)
    net.get_layer("embedding").trainable = False
    return net, tiny.fit(net, callbacks=[tiny.ThawByHand(2), beside])


@_ORDERS
def test_reduce_lr_on_plateau(first):
    """It lowers the rate at the same epochs."""

    def make():
        return callbacks.ReduceLROnPlateau("loss", mode="max", patience=1, factor=0.5)  # the loss falls: it reduces

    net, history = _fit(make(), first)
    expected, reference = _reference(make())
    assert history.history["learning_rate"] == reference.history["learning_rate"]
    assert history.history["learning_rate"][-1] < 0.05 and tiny.apart(net, expected) <= 1e-6


@_ORDERS
def test_learning_rate_scheduler(first):
    """It sets each epoch's rate, whichever of the two comes first."""

    def make():
        return callbacks.LearningRateScheduler(lambda epoch: 0.05 / (epoch + 1))

    net, _ = _fit(make(), first)
    assert tiny.apart(net, _reference(make())[0]) <= 1e-6
    assert float(net.optimizer.learning_rate) == pytest.approx(0.0125)


@_ORDERS
def test_model_checkpoint(first, tmp_path):
    """The file of each epoch has that epoch's weights, and training continues from it as the run did."""
    net, _ = _fit(callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"), first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras", "3.keras", "4.keras"]
    saved = keras.saving.load_model(tmp_path / "3.keras")
    tiny.fit(saved, initial_epoch=3, callbacks=[unfreeze_at(2, "embedding")])
    assert tiny.apart(net, saved) <= 1e-6


@_ORDERS
def test_early_stopping(first):
    """It stops at its epoch and restores its best weights, in frozen and unfrozen layers."""
    kept = tiny.Tables()

    class Both(callbacks.EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, {**logs, "score": [4, 3, 2, 5, 6][epoch]})
            kept.set_model(self.model)
            kept.on_epoch_end(epoch)

    stop = Both("score", mode="min", patience=1, restore_best_weights=True)
    net, history = _fit(stop, first, epochs=5)
    assert len(history.history["loss"]) == 4 and stop.best_epoch == 2
    np.testing.assert_array_equal(tiny.table_of(net), kept.kept[2])
    assert np.abs(kept.kept[3] - kept.kept[2]).max() > 0


@_ORDERS
def test_tensorboard(first, tmp_path):
    """Its steps keep counting after the optimizer is rebuilt."""
    pytest.importorskip("tensorboard", reason="Keras' TensorBoard callback writes with the tensorboard package")
    net, _ = _fit(callbacks.TensorBoard(tmp_path, write_graph=False), first)
    steps = set()
    for path in tmp_path.rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            steps |= {event.step for value in event.summary.value if value.tag == "epoch_loss"}
    assert steps == {0, 1, 2, 3} and tiny.apart(net, _reference(callbacks.Callback())[0]) <= 1e-6


@_ORDERS
def test_csv_logger(first, tmp_path):
    """One line for each epoch; after the schedule in the list, it has the phase too."""
    _fit(callbacks.CSVLogger(tmp_path / "log.csv"), first)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert first or [row["phase"] for row in rows] == ["1", "1", "2", "2"]


@_ORDERS
def test_swap_ema_weights(first):
    """It finds an average of each variable that trains, including the table once it has joined."""

    def make():
        return optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)

    net, _ = _fit(callbacks.SwapEMAWeights(swap_on_epoch=True), first, make())
    assert np.abs(tiny.table_of(net) - tiny.TABLE).max() > 1e-4


def test_terminate_on_nan():
    """The schedule's last epoch is the one that was stopped."""
    net = tiny.model(optimizers.SGD(1e30))
    schedule = unfreeze_at(2, "embedding")
    tiny.fit(net, callbacks=[schedule, callbacks.TerminateOnNaN()])
    assert schedule.history["ended"].tolist()[-1] == "training ended"
