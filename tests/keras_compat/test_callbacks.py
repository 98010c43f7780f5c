"""The counters of Keras' own callbacks."""

import keras
import pytest
from keras import callbacks as stock

from embkeras.keras_compat import callbacks as module
from embkeras.keras_compat.callbacks import counters, has_counters, is_stateless, set_counters
from tests import tiny

_MAKERS = {
    stock.CSVLogger: lambda folder: stock.CSVLogger(folder / "m.csv"),
    stock.EarlyStopping: lambda folder: stock.EarlyStopping("loss", restore_best_weights=True),
    stock.ModelCheckpoint: lambda folder: stock.ModelCheckpoint(folder / "m.keras", monitor="loss"),
    stock.ReduceLROnPlateau: lambda folder: stock.ReduceLROnPlateau("loss"),
    stock.SwapEMAWeights: lambda folder: stock.SwapEMAWeights(swap_on_epoch=True),
    stock.TensorBoard: lambda folder: stock.TensorBoard(folder),
    stock.History: lambda folder: stock.History(),
}


@pytest.mark.parametrize("kind", module._COUNTERS, ids=lambda kind: kind.__name__)
def test_counters_are_there(kind, tmp_path):
    """Fails when Keras renames a counter: every name is an attribute once training has begun."""
    callback = _MAKERS[kind](tmp_path)
    if kind is not stock.TensorBoard:  # it cannot write where tensorboard is not installed
        tiny.fit(tiny.model(keras.optimizers.SGD(0.1, use_ema=True)), epochs=1, callbacks=[callback])
    assert set(counters(callback)) == set(module._COUNTERS[kind])


def test_every_callback_of_keras_is_known():
    """A new one in Keras asks for a line in the tables, or stays among those that are named as not saved."""
    known = {kind.__name__ for kind in [*module._COUNTERS, *module._STATELESS]}
    named = {"BackupAndRestore", "Callback", "CallbackList", "LambdaCallback", "OrbaxCheckpoint"}
    kinds = {name for name in dir(stock) if isinstance(getattr(stock, name), type)}
    assert kinds - known - named == set()


def test_counters_are_set():
    """On another callback of the class; subclasses and callbacks without counters are told apart."""
    before, after = stock.EarlyStopping("loss"), stock.EarlyStopping("loss")
    before.wait = 7
    set_counters(after, counters(before))
    assert after.wait == 7

    class Mine(stock.EarlyStopping):
        pass

    assert [has_counters(each) for each in (after, Mine(), stock.TerminateOnNaN())] == [True, False, False]
    assert [is_stateless(each) for each in (after, Mine(), stock.TerminateOnNaN())] == [False, False, True]
