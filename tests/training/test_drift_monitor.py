"""DriftMonitor: drift measured as training goes."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.drift.report import drift_report
from embkeras.errors import ArgumentError, EmbkerasWarning, UnknownLayerError
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.schedule.callback import unfreeze_at
from tests import tiny


def _stock(*inputs):
    """A Sequential around a keras Embedding, built only if it is given an Input."""
    layers = [keras.layers.Embedding(10, 4, name="words"), keras.layers.GlobalAveragePooling1D()]
    net = keras.Sequential([*inputs, *layers, keras.layers.Dense(3, activation="softmax", name="head")], name="stock")
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    return net


def test_drift_monitor_against_drift_report():
    """Rows moved, mean and largest cosine distance and mean length are those of drift_report."""
    net, monitor = tiny.model(optimizers.SGD(0.5), trainable=True), DriftMonitor("embedding")
    history = tiny.fit(net, epochs=3, callbacks=[monitor])
    report = drift_report(tiny.TABLE, tiny.table_of(net), [str(i) for i in range(10)])
    row, summary = monitor.table.iloc[-1], report.summary()
    assert monitor.table["epoch"].tolist() == [0, 1, 2]
    assert row["moved"] == summary["moved"] == len(np.unique(tiny.IDS))
    assert row["mean_cosine_distance"] == pytest.approx(summary["mean_cosine_distance"])
    assert row["max_cosine_distance"] == pytest.approx(summary["max_cosine_distance"])
    assert row["mean_l2"] == pytest.approx(report.table["l2"][report.moved].mean())
    assert history.history["embedding_drift"][-1] == row["mean_cosine_distance"] > 0
    np.testing.assert_array_equal(monitor.before, tiny.TABLE)


def test_drift_of_a_frozen_table_is_zero():
    """No row moved, and the means over none are 0 and not NaN."""
    monitor = DriftMonitor("embedding")
    tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[monitor])
    assert monitor.table.to_numpy().tolist() == [[0, 0, 0, 0, 0]]


def test_drift_every_second_epoch():
    """every=2 measures after the second and the fourth."""
    monitor = DriftMonitor("embedding", every=2)
    history = tiny.fit(tiny.model("sgd", trainable=True), callbacks=[monitor])
    assert monitor.table["epoch"].tolist() == [1, 3] and len(history.history["embedding_drift"]) == 2


def test_drift_over_two_fits_is_measured_from_the_first():
    """The baseline is the table before the first fit."""
    net, monitor = tiny.model(optimizers.SGD(0.5), trainable=True), DriftMonitor("embedding")
    tiny.fit(net, epochs=1, callbacks=[monitor])
    tiny.fit(net, epochs=2, initial_epoch=1, callbacks=[monitor])
    np.testing.assert_array_equal(monitor.before, tiny.TABLE)
    assert monitor.table["epoch"].tolist() == [0, 1]


def test_drift_of_a_stock_embedding():
    """A keras Embedding has no matrix() and is read all the same."""
    keras.utils.set_random_seed(0)
    net = _stock(keras.Input((5,), dtype="int64"))
    monitor = DriftMonitor("words")
    tiny.fit(net, epochs=1, callbacks=[monitor])
    assert monitor.table["moved"].tolist() == [len(np.unique(tiny.IDS))]


def test_drift_of_a_table_that_is_not_there_yet():
    """A model that fit will build has no table to start from; the message says what to do."""
    with pytest.raises(ArgumentError, match="layer 'words' is not built yet: give the model an Input"):
        tiny.fit(_stock(), callbacks=[DriftMonitor("words")])


def test_drift_of_a_layer_without_a_table():
    """Class and name of the layer are in the message."""
    with pytest.raises(ArgumentError, match=r"DriftMonitor needs an embedding layer\. Received: Dense 'head'"):
        tiny.fit(tiny.model("sgd"), callbacks=[DriftMonitor("head")])


def test_drift_of_an_unknown_layer():
    """The layers that exist are listed."""
    with pytest.raises(UnknownLayerError, match=r"no layer named 'words'\. Its layers: .*embedding"):
        tiny.fit(tiny.model("sgd"), callbacks=[DriftMonitor("words")])


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_drift_every_must_be_a_number_of_epochs(every):
    """No epochs, or half of one, is refused with what was received."""
    with pytest.raises(ArgumentError, match=rf"every must be .*1.*Received: {every!r}"):
        DriftMonitor("embedding", every=every)


def test_monitor_shows_a_diverged_table():
    """NaN in the table is NaN in the logs, and not a drift of zero."""
    monitor = DriftMonitor("embedding")
    net = tiny.model("sgd")
    tiny.fit(net, epochs=1, callbacks=[unfreeze_at(0, "embedding"), monitor])
    net.get_layer("embedding").embeddings.assign(np.full(monitor.before.shape, np.nan))
    tiny.fit(net, epochs=2, initial_epoch=1, callbacks=[monitor])
    assert np.isnan(monitor.table["mean_cosine_distance"].iloc[-1])
    assert monitor.table["moved"].iloc[-1] == len(monitor.before)


def test_monitor_starts_anew_on_another_model():
    """The second model's drift is measured from its own table."""
    monitor = DriftMonitor("embedding")
    for _ in range(2):
        net = tiny.model("sgd")
        net.get_layer("embedding").trainable = False
        net.get_layer("embedding").embeddings.assign(
            np.random.default_rng(_).normal(size=net.get_layer("embedding").embeddings.shape)
        )
        tiny.fit(net, epochs=1, callbacks=[monitor])
    assert monitor.table["moved"].tolist() == [0]


def test_monitor_goes_on_from_a_state():
    """Rows measured before come back; what is measured after is held against this script's own beginning."""
    first, second = DriftMonitor("embedding"), DriftMonitor("embedding")
    tiny.fit(tiny.model("sgd", trainable=True), epochs=2, callbacks=[first])
    restore = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: second.restore(second.model, first.state()) if epoch == 2 else None
    )
    tiny.fit(tiny.model("sgd", trainable=True), epochs=3, initial_epoch=2, callbacks=[second, restore])
    assert second.table["epoch"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(second.before, tiny.TABLE)
    assert first.table["epoch"].tolist() == [0, 1]


def test_monitor_of_another_table_says_so():
    """Drift from two beginnings in one table of figures would mislead."""
    first, second = DriftMonitor("embedding"), DriftMonitor("embedding")
    tiny.fit(tiny.model("sgd", trainable=True), epochs=1, callbacks=[first])
    net = tiny.model("sgd")
    net.get_layer("embedding").assign_table(tiny.TABLE + 1)
    tiny.fit(net, epochs=1, callbacks=[second])
    with pytest.warns(EmbkerasWarning, match="another table than the one that layer 'embedding' begins with now"):
        second.restore(net, first.state())
