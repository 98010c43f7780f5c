"""Batches and splits are those of `fit`."""

import keras
import numpy as np
import pytest

from embkeras.errors import ArgumentError
from embkeras.keras_compat.arrays import batches_of, forget_validation, split_rows


def test_batches_are_those_of_fit():
    """In the same shuffled order, under the same seed."""
    seen = []

    class Seeing(keras.layers.Layer):
        def call(self, x):
            seen.append(np.asarray(x).ravel().tolist())
            return x

    model = keras.Sequential([keras.Input((1,)), Seeing(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.arange(10.0).reshape(10, 1)
    keras.utils.set_random_seed(3)
    model.fit(x, x, batch_size=4, verbose=0)
    keras.utils.set_random_seed(3)
    batches = [batch[0].numpy().ravel().tolist() for batch in batches_of(x, x, batch_size=4, shuffle=True)]
    assert batches == seen != [list(range(4)), list(range(4, 8)), [8, 9]]


def test_split_and_refusals():
    """The last rows are for validation; what Keras refuses is an error of embkeras."""
    x = np.arange(10)
    (train, none), (held, _) = split_rows((x, None), 0.25)
    assert train.tolist() == list(range(7)) and held.tolist() == [7, 8, 9] and none is None
    with pytest.raises(ArgumentError, match=r"validation_split=0\.999"):
        split_rows((x,), 0.999)
    with pytest.raises(ArgumentError, match="batches"):
        batches_of(x, x[:3], batch_size=2)


def test_validation_data_of_an_interrupted_fit():
    """Keras leaves them in the model; fails when it keeps them elsewhere."""

    class Stops(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            raise KeyboardInterrupt

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.ones((2, 1))
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x, validation_data=(x, x), verbose=0, callbacks=[Stops()])
    assert vars(model).get("_eval_epoch_iterator") is not None
    forget_validation(model)
    forget_validation(model)
    assert "_eval_epoch_iterator" not in vars(model)
