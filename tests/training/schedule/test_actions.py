"""Actions: what a phase can change, and kinds of your own."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ScheduleError, UnknownLayerError
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule import Action, Freeze, Phase, Rate, Rows, Train, TrainabilitySchedule, TrainVariables
from tests import tiny
from tests.training.resume.test_backup import Dies, Dying
from tests.training.schedule.test_rows import FIRST, FREQUENT, SEEN, VOCABULARY, _model


def _paths(net):
    return [variable.path for variable in net.trainable_variables]


class _Kept(keras.callbacks.Callback):
    """For each epoch, the variables that train."""

    def __init__(self):
        super().__init__()
        self.paths = {}

    def on_epoch_end(self, epoch, logs=None):
        """Note them."""
        self.paths[epoch] = _paths(self.model)


@pytest.mark.parametrize(
    ("short", "actions"),
    [
        (Phase(1, freeze="a"), [Freeze("a")]),
        (Phase(1, train=["a", "b"]), [Train(["a", "b"])]),
        (Phase(1, freeze="a", learning_rate=0.1), [Freeze("a"), Rate(0.1)]),
        (Phase(1, rate_factor=0.5), [Rate(factor=0.5)]),
        (Phase(1), []),
    ],
    ids=str,
)
def test_keywords_are_short_for_actions(short, actions):
    """The phases are equal."""
    assert short == Phase(1, *actions) and short.actions == tuple(actions)


def test_several_actions_of_a_kind():
    """Their layers are joined."""
    assert Phase(0, Freeze("a"), Freeze(["b", "c"])).freeze == ("a", "b", "c")
    assert Phase(0, Train("a"), train="b").train == ("a", "b")


@pytest.mark.parametrize(
    ("actions", "named"),
    [
        ((Freeze("a"), Train("b")), ["Freeze", "'a'", "Train", "'b'"]),
        ((TrainVariables("**/bias"), Freeze("a")), ["Freeze", "'a'", "TrainVariables", "bias"]),
        ((Rate(0.1), Rate(factor=0.5)), ["0.1", "0.5"]),
    ],
    ids=str,
)
def test_contradictions(actions, named):
    """The phase and both actions are named, in either order."""
    for order in (actions, actions[::-1]):
        with pytest.raises(ScheduleError, match=r"phase from epoch 3 on") as error:
            Phase(3, *order)
        assert all(each in str(error.value) for each in named)


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: Phase(0, "embedding"), "'embedding'"),
        (lambda: Phase(0, ["embedding"]), r"\['embedding'\]"),
        (lambda: Freeze([]), r"\[\]"),
        (lambda: Train(3), "3"),
        (lambda: TrainVariables([]), r"\[\]"),
        (lambda: TrainVariables(["a", 3]), r"\['a', 3\]"),
        (lambda: Rate(), r"Rate\(learning_rate=None, factor=None\)"),
        (lambda: Rate(True), "True"),
        (lambda: Rows("a"), "None, None"),
        (lambda: Rows(["a", "b"], FIRST), r"\['a', 'b'\]"),
        (lambda: Rows("a", np.zeros(3, bool)), "array"),
    ],
)
def test_arguments_are_checked(make, received):
    """When the action is made."""
    with pytest.raises(ScheduleError, match=f"Received: {received}"):
        make()


def test_only_some_variables_train():
    """First only the biases train, and other weights keep their bits; then everything trains again."""
    net, kept, tables = tiny.model(optimizers.Adam(0.05), trainable=True), _Kept(), tiny.Tables()
    kernel = np.array(net.get_layer("head").kernel)
    phases = [Phase(0, TrainVariables("**/bias")), Phase(2)]
    tiny.fit(net, epochs=2, callbacks=[TrainabilitySchedule(phases[0]), kept, tables])
    np.testing.assert_array_equal(np.array(net.get_layer("head").kernel), kernel)
    tiny.fit(net, epochs=4, initial_epoch=2, callbacks=[TrainabilitySchedule(phases), kept, tables])
    whole = ["embedding/embeddings", "head/kernel", "head/bias"]
    assert kept.paths == {0: ["head/bias"], 1: ["head/bias"], 2: whole, 3: whole}
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert np.abs(net.get_layer("head").kernel - kernel).max() > 0


def test_variables_beside_whole_layers():
    """The table of one layer, and all of another."""
    net, kept = tiny.model("sgd"), _Kept()
    phases = [Phase(0, Train("embedding"), TrainVariables("head/bias")), Phase(1, Train("head"))]
    tiny.fit(net, epochs=2, callbacks=[TrainabilitySchedule(phases), kept])
    assert kept.paths == {0: ["embedding/embeddings", "head/bias"], 1: ["head/kernel", "head/bias"]}


def test_looking_ahead_leaves_variables_as_they_were():
    """Checking a later phase of single variables does not change the first phase."""
    net, kept = tiny.model("sgd"), _Kept()
    phases = [Phase(0, freeze="embedding"), Phase(1, TrainVariables("head/bias")), Phase(2, freeze="embedding")]
    tiny.fit(net, epochs=3, callbacks=[TrainabilitySchedule(phases), kept])
    head = ["head/kernel", "head/bias"]
    assert kept.paths == {0: head, 1: ["head/bias"], 2: head}


def test_two_towers_and_their_variables():
    """The table of one tower trains; Keras calls both "embedding/embeddings"."""
    ids, towers = keras.Input((5,), dtype="int64"), []
    for name in ("q", "a"):
        inner = keras.Input((5,), dtype="int64")
        towers.append(keras.Model(inner, tiny.embedding(trainable=True)(inner), name=name)(ids))
    mean = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()(towers))
    net = keras.Model(ids, keras.layers.Dense(3, "softmax", name="head")(mean))
    net.compile("sgd", loss="sparse_categorical_crossentropy")
    tiny.fit(net, epochs=1, callbacks=[TrainabilitySchedule(Phase(0, TrainVariables("q/embedding/embeddings")))])
    assert (tiny.table_of(net, "q/embedding") != tiny.TABLE).any()
    np.testing.assert_array_equal(tiny.table_of(net, "a/embedding"), tiny.TABLE)


def test_variables_that_cannot_train():
    """Unknown ones, statistics, and those of a model that is not built are refused when training begins."""
    norm = keras.layers.BatchNormalization(name="norm")
    net = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    net.compile("sgd", loss="mse")
    with pytest.raises(UnknownLayerError, match=r"'norm/mean'.*norm/moving_mean"):
        TrainabilitySchedule(Phase(2, TrainVariables("norm/mean"))).apply(net, 2)
    with pytest.raises(ScheduleError, match=r"norm/moving_mean can train from epoch 2"):
        TrainabilitySchedule(Phase(2, TrainVariables("norm/moving_mean"))).apply(net, 2)
    bare = keras.Sequential([keras.layers.Dense(1)], name="bare")
    bare.compile("sgd", loss="mse")
    with pytest.raises(ScheduleError, match=r"'bare', which is not built yet.* Received: \*\*/bias"):
        TrainabilitySchedule(Phase(0, TrainVariables("**/bias"))).apply(bare, 0)


def test_variables_are_announced(capsys):
    """By their address."""
    net = tiny.model("sgd")
    schedule = TrainabilitySchedule(Phase(0, TrainVariables("**/bias")))
    net.fit(tiny.IDS, tiny.LABELS, verbose=2, callbacks=[schedule])
    out = capsys.readouterr().out
    assert "frozen: everything else; unfrozen variables: **/bias; 3 trainable parameters" in out


def _rows(mask=FREQUENT):
    return Rows("embedding", mask)


def test_rows_in_a_phase():
    """They join when the phase begins, sooner if patience runs out, and keep training in later phases."""
    phases = [Phase(0, freeze="embedding", patience=1), Phase(9, _rows(), patience=1), Phase(20)]
    net, tables = _model(optimizers.Adam(0.05)), tiny.Tables()
    schedule = TrainabilitySchedule(phases, monitor="loss", mode="max")  # the loss falls: each phase has two epochs
    tiny.fit(net, epochs=6, callbacks=[schedule, tables])
    assert schedule.history["first_epoch"].tolist() == [0, 2, 4]
    moved = {epoch: (table != tiny.TABLE).any(axis=1) for epoch, table in tables.kept.items()}
    assert not moved[1].any()
    np.testing.assert_array_equal(moved[5], FIRST | SEEN)
    assert (tables.kept[4] != tables.kept[5])[SEEN].any()


def test_rows_equal_unfreeze_rows():
    """The action and the callback do the same, from a vocabulary as well."""
    from embkeras.training.schedule import unfreeze_rows

    nets = [_model(optimizers.Adam(0.05)) for _ in range(2)]
    rows = Rows("embedding", vocabulary=VOCABULARY, min_count=5)
    tiny.fit(nets[0], callbacks=[TrainabilitySchedule(Phase(2, rows))])
    tiny.fit(nets[1], callbacks=[unfreeze_rows(2, "embedding", vocabulary=VOCABULARY, min_count=5)])
    assert tiny.apart(*nets) == 0


def test_rows_of_two_phases_find_room():
    """Room is made for all of them, once; a fit that begins late has the rows of earlier phases too."""
    first, second = (np.isin(np.arange(10), ids) for ids in ([3, 4], [6, 8]))
    phases = [Phase(1, _rows(first)), Phase(2, _rows(second))]
    for begin in (0, 3):
        net = _model("sgd")
        tiny.fit(net, initial_epoch=begin, callbacks=[TrainabilitySchedule(phases)])
        np.testing.assert_array_equal(net.layers[0].trainable_mask, FIRST | first | second)
        assert net.layers[0].trainable_rows == 6


@pytest.mark.parametrize("beside", [Freeze("embedding"), Train("head"), Freeze("emb*")], ids=str)
def test_rows_of_a_frozen_layer_are_refused(beside):
    """When training begins, with the phase and the layer."""
    schedule = TrainabilitySchedule([Phase(0), Phase(3, _rows(), beside)])
    with pytest.raises(ScheduleError, match="Rows of layer 'embedding' can't train from epoch 3 on"):
        tiny.fit(_model("sgd"), callbacks=[schedule])


@pytest.mark.parametrize("batches", [4, 8])
def test_resumed_equals_uninterrupted(tmp_path, batches):
    """Interrupted in a phase of single variables, or after further rows joined, the run ends with the same bits."""

    def run(folder, step=None):
        net = _model(optimizers.Adam(0.05))
        phases = [Phase(0, TrainVariables("**/bias")), Phase(2, _rows(), learning_rate=0.02)]
        tiny.fit(net, callbacks=[ResumableBackup(folder), TrainabilitySchedule(phases), Dying(step)])
        return net

    with pytest.raises(Dies):
        run(tmp_path / "state", batches)
    assert tiny.apart(run(tmp_path / "state"), run(tmp_path / "whole")) == 0


def test_a_keras_file_of_a_phase_of_single_variables(tmp_path):
    """It keeps the weights, and loads without the optimizer's state, as Keras warns."""
    net = tiny.model(optimizers.Adam(0.05), trainable=True)
    tiny.fit(net, epochs=1, callbacks=[TrainabilitySchedule(Phase(0, TrainVariables("**/bias")))])
    net.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert tiny.apart(net, loaded) == 0


class _Noted(Action):
    """Notes what the schedule asks of it."""

    def __init__(self, name, lasts=False):
        self.name, self.lasts, self.calls = name, lasts, []

    def begin(self, model):
        """Begun."""
        self.calls.append("begin")

    def undo(self, model):
        """Undone."""
        self.calls.append("undo")

    def describe(self):
        """Its name."""
        return self.name


def test_an_action_of_your_own(capsys):
    """It begins with its phase, is announced, and is undone with the next one, unless it lasts."""
    short, lasting = _Noted("short"), _Noted("lasting", lasts=True)
    schedule = TrainabilitySchedule([Phase(0), Phase(1, short, lasting), Phase(2), Phase(3)])
    net = tiny.model("sgd")
    net.fit(tiny.IDS, tiny.LABELS, epochs=4, verbose=2, callbacks=[schedule])
    assert short.calls == ["begin", "undo"] and lasting.calls == ["begin", "begin", "begin"]
    assert "(epoch 1, counted from 0): short; lasting;" in capsys.readouterr().out
