"""What the running fit knows, read from its frame."""

import keras
import numpy as np
import pytest

from embkeras.errors import ResumeError
from embkeras.keras_compat import fit as module
from embkeras.keras_compat.fit import fit_context, metric_direction
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
    assert (context.initial_epoch, context.epochs, context.shuffle) == (2, 3, False)
    assert context.adapter == "ArrayDataAdapter" and context.data is tiny.IDS
    assert (context.batches, context.steps_per_epoch, context.validation_data) == (3, None, None)


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
    """What trains, and what was split off."""
    asks = _Asks()
    tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[asks], validation_split=0.5)
    assert len(asks.context.data) == 6 and len(asks.context.validation_data[0]) == 6


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
    with pytest.raises(ResumeError, match=r"works inside model\.fit only.*Received a call outside fit"):
        fit_context()


def test_another_fit_is_refused(monkeypatch):
    """A Keras whose fit has other variables is named with its version."""
    monkeypatch.setattr(module, "_LOCALS", {"epoch_walker"})
    with pytest.raises(ResumeError, match=rf"Keras {keras.__version__} has a fit that it does not know"):
        tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[_Asks()])


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
