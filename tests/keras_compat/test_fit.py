"""What the running fit knows, read from its frame, and the counters of Keras' callbacks."""

import keras
import numpy as np
import pytest
from keras import callbacks as stock

from embkeras.errors import ResumeError
from embkeras.keras_compat import fit as module
from embkeras.keras_compat.fit import (
    counters,
    fit_context,
    has_counters,
    is_stateless,
    metric_direction,
    set_counters,
    set_first_epoch,
)
from tests import tiny


class _Asks(keras.callbacks.Callback):
    """Keeps the context of the fit that begins."""

    def on_train_begin(self, logs=None):
        """Ask."""
        self.context = fit_context()


def test_siblings_and_data_of_arrays():
    """Fails when Keras renames one of fit's variables."""
    asks, other = _Asks(), keras.callbacks.TerminateOnNaN()
    history = tiny.model("sgd").fit(
        tiny.IDS, tiny.LABELS, batch_size=4, epochs=3, initial_epoch=2, verbose=0, callbacks=[other, asks]
    )
    context = asks.context
    assert context.callbacks[:3] == [other, asks, history]
    assert (context.initial_epoch, context.epochs) == (2, 3) and context.data is tiny.IDS
    assert (context.batches, context.steps_per_epoch) == (3, None)


def test_the_list_is_the_one_that_fit_goes_through():
    """A callback appended to it in on_train_begin has its turn in this round already."""
    begun = []

    class _Appends(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            late = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: begun.append("late"))
            fit_context().callbacks.append(late)

    tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[_Appends()])
    assert begun == ["late"]


def test_data_after_a_validation_split():
    """Without the rows that were split off."""
    asks = _Asks()
    tiny.model("sgd").fit(tiny.IDS, tiny.LABELS, callbacks=[asks], validation_split=0.5, verbose=0)
    assert len(asks.context.data) == 6


def test_inside_a_models_own_fit():
    """Keras' frame is found inside a fit of the model's own."""

    class Own(keras.Sequential):
        def fit(self, *arguments, **named):
            callbacks, epochs = named.pop("callbacks"), 1
            return super().fit(*arguments, callbacks=callbacks, epochs=epochs, **named)

    net = Own([keras.Input((2,)), keras.layers.Dense(1)])
    net.compile("sgd", loss="mse")
    asks = _Asks()
    net.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[asks], verbose=0)
    assert asks in asks.context.callbacks


def test_outside_fit_is_refused():
    """A custom loop has no frame to read."""
    with pytest.raises(ResumeError, match=r"works only inside model\.fit.*Received: a call outside fit"):
        fit_context()


def test_another_fit_is_refused(monkeypatch):
    """A Keras whose fit has other variables is named with its version."""
    monkeypatch.setattr(module, "_LOCALS", {"epoch_walker"})
    with pytest.raises(ResumeError, match=rf"Received: the unknown fit of Keras {keras.__version__}"):
        tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[_Asks()])


def test_first_epoch_can_be_set():
    """From inside on_train_begin; if Keras renames the attribute, a resumed run begins at 0."""
    net = tiny.model("sgd")
    assert net._initial_epoch is None
    begins = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: set_first_epoch(net, 2),
        on_epoch_begin=lambda epoch, logs: set_first_epoch(net, None),
    )
    assert tiny.fit(net, epochs=4, callbacks=[begins]).epoch == [2, 3]
    assert tiny.fit(net, epochs=1).epoch == [0]


@pytest.mark.parametrize(
    ("name", "direction"),
    [("accuracy", "up"), ("head_accuracy", "up"), ("nats", "down"), ("loss", None), ("score", None)],
)
def test_metric_direction(name, direction):
    """From the compiled metrics. Fails when `Metric._direction` goes."""
    nats = keras.metrics.SparseCategoricalCrossentropy(name="nats")
    net = tiny.model("sgd", metrics=["accuracy", nats])
    tiny.fit(net, epochs=1)
    assert metric_direction(net, name) == direction


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
    """A new one in Keras needs a line in the tables, or a warning names it as not saved."""
    known = {kind.__name__ for kind in [*module._COUNTERS, *module._STATELESS]}
    named = {"BackupAndRestore", "Callback", "CallbackList", "LambdaCallback", "OrbaxCheckpoint"}
    kinds = {name for name in dir(stock) if isinstance(getattr(stock, name), type)}
    assert kinds - known - named == set()


def test_counters_are_set():
    """On another callback of the class; subclasses and callbacks without counters are distinguished."""
    before, after = stock.EarlyStopping("loss"), stock.EarlyStopping("loss")
    before.wait = 7
    set_counters(after, counters(before))
    assert after.wait == 7

    class Mine(stock.EarlyStopping):
        pass

    assert [has_counters(each) for each in (after, Mine(), stock.TerminateOnNaN())] == [True, False, False]
    assert [is_stateless(each) for each in (after, Mine(), stock.TerminateOnNaN())] == [False, False, True]
