"""What the running fit knows, read from its frame."""

import keras
import numpy as np
import pytest

from embkeras.errors import ResumeError
from embkeras.keras_compat import fit as module
from embkeras.keras_compat.fit import fit_context, metric_direction, set_first_epoch
from tests import tiny


class _Asks(keras.callbacks.Callback):
    """Keeps what it is told when training begins."""

    def on_train_begin(self, logs=None):
        """Ask."""
        self.context = fit_context()


def test_siblings_and_data_of_arrays():
    """Fails the day that Keras renames one of fit's variables."""
    asks, other = _Asks(), keras.callbacks.TerminateOnNaN()
    history = tiny.fit(tiny.model("sgd"), epochs=3, initial_epoch=2, callbacks=[other, asks])
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
    tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[asks], validation_split=0.5)
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
    """From inside on_train_begin; the day that Keras renames the attribute, a resumed run would begin at 0."""
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
