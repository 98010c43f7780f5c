"""DriftMonitor: drift measured during training, and what happens at a bound."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.drift.report import drift_report
from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError, UnknownLayerError
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
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
    assert history.history["drift/embedding"][-1] == row["mean_cosine_distance"] > 0
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
    assert monitor.table["epoch"].tolist() == [1, 3] and len(history.history["drift/embedding"]) == 2


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
    assert history["drift/q/embedding"][0] > 0 and history["drift/a/embedding"] == [0.0]
    assert "drift/embedding" not in history


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


def _begun(monitor):
    """The tiny model, whose training has begun as far as the monitor knows, and its layer."""
    net = tiny.model(optimizers.SGD(0.5), trainable=True)
    monitor.set_model(net)
    monitor.set_params({"verbose": 1})
    monitor.on_train_begin()
    return net, net.get_layer("embedding")


def _end(monitor, epoch, table):
    """An epoch that ends with this table; returns the logs."""
    monitor.model.get_layer("embedding").assign_table(table)
    logs = {}
    monitor.on_epoch_end(epoch, logs)
    return logs


NEAR, FAR = tiny.TABLE + np.float32(0.01), -tiny.TABLE  # a mean distance of nearly 0, and of 2


def test_training_stops_at_the_bound(capsys):
    """At the end of the first epoch whose mean distance is at the bound, with a line that says why."""
    monitor = DriftMonitor("embedding", bound=2)
    net, layer = _begun(monitor)
    assert 0 < _end(monitor, 0, NEAR)["drift/embedding"] < 0.1
    assert not net.stop_training and monitor.bound_reached is None and not capsys.readouterr().out
    assert _end(monitor, 1, FAR)["drift/embedding"] == 2
    assert net.stop_training and monitor.bound_reached == 1 and layer.trainable
    assert "'embedding' has drifted by 2, bound 2: training stops" in capsys.readouterr().out


def test_nan_is_beyond_every_bound():
    """A diverged table ends the training."""
    monitor = DriftMonitor("embedding", bound=2)
    net, layer = _begun(monitor)
    layer.embeddings.assign(np.full((10, 4), np.nan))
    monitor.on_epoch_end(0, {})
    assert net.stop_training and monitor.bound_reached == 0


def test_a_layer_freezes_at_the_bound():
    """From the next epoch on its rows stay bit for bit, and the head trains, also if a later phase would unfreeze it."""
    heads = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: heads.append(np.array(note.model.get_layer("head").kernel))
    )
    schedule = TrainabilitySchedule([Phase(0), Phase(1, learning_rate=0.5), Phase(3)], also="embedding")
    monitor = DriftMonitor("embedding", bound=1e-9, at_bound="freeze")
    net = tiny.model(optimizers.SGD(0.5))
    drift = tiny.fit(net, epochs=4, callbacks=[note, schedule, monitor]).history["drift/embedding"]
    assert drift == [drift[0]] * 4 and drift[0] > 0
    assert monitor.bound_reached == 0 and not net.get_layer("embedding").trainable
    assert all((one != other).any() for one, other in pairwise(heads))


def test_a_frozen_layer_stays_frozen_after_a_resume():
    """The state says so: the layer is frozen, and the optimizer no longer knows it."""
    first, second = (DriftMonitor("embedding", bound=1, at_bound="freeze") for _ in range(2))
    _begun(first)
    _end(first, 0, FAR)
    net, layer = _begun(second)
    second.restore(net, first.state())
    assert second.bound_reached == 0 and not layer.trainable and len(net.trainable_variables) == 2


def test_snapshots_are_files(tmp_path):
    """One for each measured epoch, with the table of that epoch."""
    monitor = DriftMonitor("embedding", every=2, snapshots=tmp_path / "drift")
    _begun(monitor)
    for epoch, table in enumerate((NEAR, FAR, FAR, NEAR)):
        _end(monitor, epoch, table)
    names = {epoch: path.name for epoch, path in monitor.snapshots.items()}
    assert names == {1: "embedding-0001.npy", 3: "embedding-0003.npy"}
    for epoch, table in ((1, FAR), (3, NEAR)):
        np.testing.assert_array_equal(np.load(monitor.snapshots[epoch])[1:], table[1:])  # without the padding row
    assert DriftMonitor("embedding").snapshots == {}


def test_snapshots_that_can_not_be_written(tmp_path):
    """Refused when training begins."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        _begun(DriftMonitor("embedding", snapshots=tmp_path / "file" / "drift"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bound": 0}, "bound must be a number > 0 and <= 2. Received: 0"),
        ({"bound": "far"}, "Received: 'far'"),
        ({"at_bound": "refuse"}, "at_bound must be one of stop, freeze. Received: 'refuse'"),
        ({"snapshots": 3}, "snapshots must be a path"),
    ],
)
def test_invalid_bounds_are_refused(arguments, message):
    """The message names the argument and the value."""
    with pytest.raises(ArgumentError, match=message):
        DriftMonitor("embedding", **arguments)
