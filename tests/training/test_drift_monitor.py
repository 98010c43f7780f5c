"""DriftMonitor: drift measured during training."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.drift.report import drift_report
from embkeras.errors import ArgumentError, EmbkerasWarning, UnknownLayerError
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.schedule.callback import unfreeze_at
from embkeras.vectors.aligned import AlignedMatrix
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
    """No row moved, and the means are 0 and not NaN."""
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
    """A keras Embedding has no matrix(), but can be read too."""
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
    with pytest.raises(ArgumentError, match=rf"every must be an integer >= 1\. Received: {every!r}"):
        DriftMonitor("embedding", every=every)


def test_monitor_shows_a_diverged_table():
    """NaN in the table is NaN in the logs, and not a drift of zero."""
    monitor = DriftMonitor("embedding")
    net = tiny.model("sgd")
    tiny.fit(net, epochs=1, callbacks=[unfreeze_at(0, "embedding"), monitor])
    net.get_layer("embedding").embeddings.assign(np.full(monitor.before.shape, np.nan))
    tiny.fit(net, epochs=2, initial_epoch=1, callbacks=[monitor])
    assert np.isnan(monitor.table["mean_cosine_distance"].iloc[-1])
    assert monitor.table["moved"].iloc[-1] == len(monitor.before) - 1  # the padding row stays zeros


def test_monitor_starts_again_on_another_model():
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


def test_monitor_continues_from_a_state():
    """Earlier measurements come back; later ones compare with this script's own beginning."""
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
    """Drift from two different beginnings in one table would mislead."""
    first, second = DriftMonitor("embedding"), DriftMonitor("embedding")
    tiny.fit(tiny.model("sgd", trainable=True), epochs=1, callbacks=[first])
    net = tiny.model("sgd")
    net.get_layer("embedding").assign_table(tiny.TABLE + 1)
    tiny.fit(net, epochs=1, callbacks=[second])
    with pytest.warns(EmbkerasWarning, match="layer 'embedding' from another table"):
        second.restore(net, first.state())


@pytest.mark.parametrize("layer", [3, None, ["embedding", "head"]], ids=str)
def test_drift_of_something_that_is_not_a_layer(layer):
    """Refused when the monitor is made."""
    with pytest.raises(ArgumentError, match=r"layer must name layers.* Received: "):
        DriftMonitor(layer)


def _towers():
    ids, towers = keras.Input((5,), dtype="int64"), []
    for name in ("q", "a"):
        inner = keras.Input((5,), dtype="int64")
        towers.append(keras.Model(inner, tiny.embedding(trainable=name == "q")(inner), name=name)(ids))
    mean = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()(towers))
    net = keras.Model(ids, keras.layers.Dense(3, "softmax", name="head")(mean), name="towers")
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    return net


def test_two_towers_have_two_keys():
    """Both layers are called `embedding`; none of the two measurements is lost."""
    monitors = [DriftMonitor("q/embedding"), DriftMonitor("a/*")]
    history = tiny.fit(_towers(), epochs=1, callbacks=monitors).history
    assert history["q/embedding_drift"][0] > 0 and history["a/embedding_drift"] == [0.0]
    assert "embedding_drift" not in history


def test_drift_of_a_name_that_is_not_unique():
    """A bare name or glob of two layers is refused with both paths."""
    for several in ("embedding", "*/embedding"):
        with pytest.raises(UnknownLayerError, match="q/embedding, a/embedding"):
            tiny.fit(_towers(), callbacks=[DriftMonitor(several)])


WORDS = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))])


@pytest.mark.parametrize(
    "tokens",
    [
        ["", "[UNK]", *(f"w{place}" for place in range(9, 1, -1))],
        ["", "[UNK]", "w9", "new", *(f"w{place}" for place in range(2, 9)), "newer"],
        ["", "[UNK]", "w5", "w3"],
    ],
    ids=["other ids", "more", "fewer"],
)
def test_drift_continues_after_a_change_of_the_vocabulary(tokens):
    """Each token is compared with its own row at the beginning, a new one with the row it came with."""
    net, monitor = tiny.model(optimizers.SGD(0.5), trainable=True), DriftMonitor("embedding")
    tiny.fit(net, epochs=1, callbacks=[monitor])
    trained = tiny.table_of(net)
    words = Vocabulary(tokens)
    aligned = AlignedMatrix(np.full((len(words), 4), 7, np.float32), words)
    change_vocabulary(net, "embedding", before=WORDS, after=aligned)
    net.get_layer("embedding").trainable = False
    net.fit(np.zeros((4, 5)), np.zeros(4), verbose=0, callbacks=[monitor])
    sources = [0, 1, *(WORDS.token_to_id.get(token, -1) for token in tokens[2:])]
    expected = [tiny.TABLE[source] if source >= 0 else np.full(4, 7) for source in sources]
    np.testing.assert_array_equal(monitor.before, np.array(expected, np.float32))
    known = [source for source in sources if source >= 0]
    assert monitor.table["moved"].iloc[-1] == (trained != tiny.TABLE).any(axis=1)[known].sum() > 0
    assert monitor.table["epoch"].tolist() == [0, 0]


def test_drift_follows_several_changes():
    """After a change and back, all rows are those of the beginning."""
    net, monitor = tiny.model("sgd"), DriftMonitor("embedding")
    tiny.fit(net, epochs=1, callbacks=[monitor])
    turned = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(9, 1, -1))])
    for before, after in ((WORDS, turned), (turned, WORDS)):
        change_vocabulary(net, "embedding", before=before, after=AlignedMatrix(np.ones((10, 4)), after))
    tiny.fit(net, epochs=1, callbacks=[monitor])
    np.testing.assert_array_equal(monitor.before, tiny.TABLE)
    assert monitor.table["moved"].tolist() == [0, 0]


def test_drift_of_a_table_of_another_shape():
    """Changed in another way, it is refused when training begins, with both shapes."""
    net, monitor = tiny.model("sgd"), DriftMonitor("embedding")
    tiny.fit(net, epochs=1, callbacks=[monitor])
    monitor.before = monitor.before[:8]
    with pytest.raises(ArgumentError, match=r"table of 8 x 4 in layer 'embedding', which is now 10 x 4"):
        tiny.fit(net, epochs=1, callbacks=[monitor])
