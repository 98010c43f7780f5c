"""Progress: the phases that ran, each one's best value and weights, and when patience ends it."""

import json

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ScheduleError
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.schedule.callback import TrainabilitySchedule
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.progress import COLUMNS, Monitor, Progress
from tests import tiny

PHASES = [Phase(0), Phase(4), Phase(6)]


class _Say(keras.callbacks.Callback):
    """Puts given values into the logs as "score", and keeps the weights of each epoch."""

    def __init__(self, values):
        super().__init__()
        self.values, self.weights = values, {}

    def on_epoch_end(self, epoch, logs=None):
        """Before the schedule, which comes later in the list."""
        logs["score"] = self.values[epoch]
        self.weights[epoch] = self.model.get_weights()


def _run(values, phases, net=None, **arguments):
    net = net or tiny.model(optimizers.Adam(0.02))
    say, schedule = _Say(values), TrainabilitySchedule(phases, monitor="score", mode="min")
    history = tiny.fit(net, epochs=len(values), callbacks=[say, schedule], **arguments)
    return net, schedule, say.weights, history


def _equal(net, weights):
    return all(np.array_equal(a, b) for a, b in zip(net.get_weights(), weights, strict=True))


def test_a_phase_that_stops_improving_hands_over():
    """The next begins with the next epoch; the last ends training; each has a best value of its own."""
    phases = [Phase(0, freeze="embedding", patience=2), Phase(6, patience=1)]
    net, schedule, _, history = _run([5, 4, 4.5, 4.6, 9, 8, 8.5, 1, 1], phases)
    assert history.history["phase"] == [1, 1, 1, 1, 2, 2, 2]
    table = schedule.history
    assert table[["first_epoch", "last_epoch", "best"]].to_numpy().tolist() == [[0, 3, 4], [4, 6, 8]]
    assert table["ended"].tolist() == ["patience", "patience"]
    assert table["trainable_parameters"].tolist() == [15, 55]
    assert net.stop_training


def test_the_best_weights_of_the_phase_come_back():
    """Before the next phase begins, and at the end."""
    began = []
    phases = [Phase(0, freeze="embedding", patience=2), Phase(6, patience=1)]
    net = tiny.model(optimizers.Adam(0.02))
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: began.append(net.get_weights()))
    say = _Say([5, 4, 4.5, 4.6, 9, 8, 8.5])
    schedule = TrainabilitySchedule(phases, monitor="score", mode="min")
    tiny.fit(net, epochs=7, callbacks=[say, schedule, watch])
    assert all(np.array_equal(a, b) for a, b in zip(began[4], say.weights[1], strict=True))
    assert not _equal(net, say.weights[6]) and _equal(net, say.weights[5])


def test_start_is_the_latest_epoch():
    """A phase that keeps improving ends at the next one's start, with the current weights."""
    phases = [Phase(0, freeze="embedding", patience=2), Phase(2, patience=3)]
    net, schedule, weights, _ = _run([5, 6, 3, 4], phases)
    assert schedule.history["ended"].tolist() == ["next phase", "training ended"]
    assert schedule.history["best"].tolist() == [5, 3]
    assert _equal(net, weights[3])


def test_a_phase_without_patience_waits_for_its_successor():
    """Only the phases that have patience are watched."""
    phases = [Phase(0, freeze="embedding"), Phase(3, patience=1)]
    _, schedule, _, history = _run([1, 2, 3, 4, 5, 6], phases)
    assert history.history["phase"] == [1, 1, 1, 2, 2]
    assert schedule.history["best"].isna().tolist() == [True, False]


def test_three_phases_by_patience_and_by_start():
    """After patience has ended a phase, a later one still begins at its own start at the latest."""
    phases = [Phase(0, patience=1), Phase(4, patience=9), Phase(5, freeze="embedding")]
    _, _, _, history = _run([1, 2, 1, 1, 1, 1, 1], phases)
    assert history.history["phase"] == [1, 1, 2, 2, 2, 3, 3]


def test_nan_is_no_improvement():
    """Neither first nor later; if no epoch had a number, the current weights stay."""
    phases = [Phase(0, freeze="embedding", patience=2), Phase(6, patience=2)]
    net, schedule, weights, history = _run([float("nan")] * 3 + [1, float("nan")] + [float("nan")] * 2, phases)
    assert history.history["phase"] == [1, 1, 2, 2, 2, 2]
    assert schedule.history["best"].isna().tolist() == [True, False]
    assert _equal(net, weights[3])


def test_min_delta():
    """A smaller change counts as none."""
    net = tiny.model(optimizers.SGD(0.1))
    schedule = TrainabilitySchedule(Phase(0, patience=2), monitor="score", mode="max", min_delta=0.5)
    history = tiny.fit(net, epochs=6, callbacks=[_Say([1, 1.4, 1.5, 1, 1, 1]), schedule])
    assert len(history.history["phase"]) == 3


@pytest.mark.parametrize(("sign", "mode"), [(1, "max"), (-1, "min")])
@pytest.mark.parametrize(("change", "better"), [(1, True), (0.5, False), (0.25, False), (0, False), (-1, False)])
def test_min_delta_in_both_modes(sign, mode, change, better):
    """Only a change of more than 0.5 in the right direction beats a best value of 10."""
    assert Monitor("score", mode, min_delta=0.5).improves(10 + sign * change, 10, keras.Sequential()) is better


def test_best_weights_leave_out_what_stands_still():
    """A frozen table is not copied; statistics of a normalization that trains are."""
    net = tiny.model("sgd")
    progress = Progress()
    progress.see(1.0, 0, Monitor(mode="min"), net)
    assert {place: weight.shape for place, weight in progress.weights.items()} == {1: (4, 3), 2: (3,)}


def test_batch_normalisation_comes_back_whole():
    """Its statistics are not trainable weights, but belong to the best epoch too."""
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(name="norm", momentum=0.5)
    mean = keras.layers.GlobalAveragePooling1D()
    head = keras.layers.Dense(3, activation="softmax", name="head")
    net = keras.Sequential([keras.Input((5,), dtype="int64"), tiny.embedding(), mean, norm, head])
    net.compile(optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    net, _, weights, _ = _run([1, 2], [Phase(0, freeze="embedding", patience=1)], net)
    assert _equal(net, weights[0]) and not all(
        np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True)
    )


def test_a_layer_that_freezes_within_the_phase_comes_back_too():
    """A DriftMonitor freezes the table after the best epoch, whose weights are those of the table too."""
    net = tiny.model(optimizers.SGD(0.5), trainable=True)
    say = _Say([1, 2, 3])
    schedule = TrainabilitySchedule([Phase(0, patience=2)], monitor="score", mode="min")
    monitor = DriftMonitor("embedding", bound=1e-6, at_bound="freeze")
    tiny.fit(net, epochs=3, callbacks=[say, schedule, monitor])
    assert monitor.bound_reached == 0 and schedule.history["ended"].tolist() == ["patience"]
    assert _equal(net, say.weights[0]) and not np.array_equal(say.weights[0][1], say.weights[2][1])


def test_the_best_weights_outlast_the_moving_averages():
    """Keras writes the averages over the weights when training ends, after the last epoch."""
    net = tiny.model(optimizers.SGD(0.1, use_ema=True))
    net, _, weights, _ = _run([1, 2, 3], [Phase(0, freeze="embedding", patience=1)], net)
    assert _equal(net, weights[0])


def test_a_monitor_that_is_missing_is_refused():
    """When the first epoch ends, with the values that exist, whichever phase has patience."""
    phases = [Phase(0, freeze="embedding"), Phase(2, patience=1)]
    with pytest.raises(ScheduleError, match=r"'val_loss', .*logs of epoch 0.* Received: loss\."):
        tiny.fit(tiny.model("sgd"), callbacks=[TrainabilitySchedule(phases)])


def test_without_patience_no_monitor_is_asked_for():
    """The default monitor needs no validation data then."""
    tiny.fit(tiny.model("sgd"), epochs=1, callbacks=[TrainabilitySchedule(Phase(0))])


def test_a_direction_that_cannot_be_inferred_is_refused():
    """Not guessed from a name."""
    schedule = TrainabilitySchedule(Phase(0, patience=1), monitor="score")
    with pytest.raises(ScheduleError, match=r"'score' should rise or fall.* Received: mode='auto'"):
        tiny.fit(tiny.model("sgd"), callbacks=[_Say([1, 2, 3, 4]), schedule])


@pytest.mark.parametrize(
    ("metrics", "monitor", "up"),
    [
        (["accuracy"], "val_accuracy", True),
        ([keras.metrics.SparseCategoricalAccuracy(name="hits")], "hits", True),
        ([keras.metrics.SparseCategoricalCrossentropy(name="nats")], "val_nats", False),
        (["accuracy"], "val_loss", False),
        (["accuracy"], "head_loss", False),
        (["accuracy"], "val_head_accuracy", True),
    ],
    ids=str,
)
def test_the_direction_of_compiled_metrics(metrics, monitor, up):
    """As Keras' EarlyStopping takes it from the metric; a loss falls."""
    net = tiny.model("sgd", metrics=metrics)
    tiny.fit(net, epochs=1)
    assert Monitor(monitor).improves(2.0, 1.0, net) is up


@pytest.mark.parametrize(("mode", "up"), [("max", True), ("min", False)])
def test_the_direction_may_be_given(mode, up):
    """Then no metric is looked up."""
    assert Monitor("score", mode).improves(2.0, 1.0, tiny.model("sgd")) is up


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": ""}, r"monitor must be the name of a value in the logs\. Received: ''"),
        ({"monitor": None}, r"monitor must be the name .* Received: None"),
        ({"mode": "up"}, r"mode must be one of auto, min, max\. Received: 'up'"),
        ({"min_delta": -1}, r"min_delta must be a number >= 0\. Received: -1"),
        ({"min_delta": float("nan")}, r"min_delta must be a number >= 0\. Received: nan"),
        ({"min_delta": True}, r"min_delta must be a number >= 0\. Received: True"),
    ],
    ids=str,
)
def test_the_monitor_is_checked(arguments, message):
    """When the schedule is made."""
    with pytest.raises(ScheduleError, match=message):
        TrainabilitySchedule(Phase(0), **arguments)


def test_announcement_of_a_hand_over(capsys):
    """One line with the best value and its epoch, before the line of the next phase."""
    phases = [Phase(0, freeze="embedding", patience=1), Phase(6)]
    net, say = tiny.model(optimizers.SGD(0.1)), _Say([0.5, 1, 1])
    schedule = TrainabilitySchedule(phases, monitor="score", mode="min")
    net.fit(tiny.IDS, tiny.LABELS, epochs=3, verbose=2, callbacks=[say, schedule])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Phase")]
    assert lines[1] == (
        "Phase 1 of 2 ends with epoch 1: score has not improved on 0.5 of epoch 0, whose weights are restored"
    )
    assert lines[2].startswith("Phase 2 of 2 begins (epoch 2, counted from 0): unfrozen: embedding; 55 ")


def test_why_a_phase_without_a_number_ends():
    """There is no best epoch to name."""
    assert Progress(wait=2).why_patience_ran_out(Monitor("score")) == "score was not a number in 2 epochs"


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_early_stopping_beside_it(first):
    """It still stops training; its best value is that of the whole run."""
    stop = keras.callbacks.EarlyStopping("score", mode="min", patience=2)
    schedule = TrainabilitySchedule([Phase(0, patience=1), Phase(5)], monitor="score", mode="min")
    pair = [stop, schedule] if first else [schedule, stop]
    history = tiny.fit(tiny.model("sgd"), epochs=9, callbacks=[_Say([1, 2, 3, 4, 5, 6, 7, 8, 9]), *pair])
    assert history.history["phase"] == [1, 1, 2]


@pytest.mark.parametrize(
    ("index", "handed_over", "epoch", "expected"),
    [
        (None, False, 0, 0),
        (None, False, 5, 1),
        (0, False, 3, 0),
        (0, True, 2, 1),
        (1, False, 2, 1),
        (1, False, 6, 2),
        (0, True, 6, 2),
        (2, True, 3, 2),
    ],
)
def test_phase_of_an_epoch(index, handed_over, epoch, expected):
    """The current one, the next one after patience has run out, and a later one when its start has come."""
    assert Progress(phase=index, handed_over=handed_over).phase_at(epoch, PHASES) == expected


def test_before_the_first_start_there_is_none():
    """No phase runs yet."""
    assert Progress().phase_at(1, [Phase(2)]) is None


def test_a_table_of_nothing_has_its_columns():
    """Before training."""
    table = Progress().table()
    assert list(table.columns) == COLUMNS and len(table) == 0


def test_rows():
    """A phase that continues in another fit keeps its row, and the first reason why it ended stays."""
    progress = Progress()
    progress.begin(0, 0, 15, 0.1)
    progress.end_epoch(0, 15)
    progress.end("training ended")
    progress.begin(0, 1, 15, 0.1)
    assert progress.table()["ended"].tolist() == [""]
    progress.end_epoch(1, 20)
    progress.end("patience")
    progress.begin(1, 2, 55, None)
    table = progress.table()
    assert table[["phase", "first_epoch", "last_epoch"]].to_numpy().tolist() == [[1, 0, 1], [2, 2, 2]]
    assert table["trainable_parameters"].tolist() == [20, 55]  # as the last epoch found them
    assert table["ended"].tolist() == ["patience", ""] and table["learning_rate"].isna().tolist() == [False, True]


def test_state_goes_through_json():
    """All but the weights, which are arrays at the top level; the next progress is the same."""
    progress = Progress()
    progress.begin(0, 0, 15, None)
    progress.best, progress.best_epoch, progress.wait = 0.5, 1, 2
    progress.weights = {0: np.arange(3.0), 12: np.ones((2, 2), np.float32)}
    state = progress.state()
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    plain = {key: value for key, value in state.items() if key not in arrays}
    again = Progress.from_state(json.loads(json.dumps(plain)) | arrays)
    assert sorted(arrays) == ["best_weights/0", "best_weights/12"]
    assert again.table().equals(progress.table())
    assert (again.best, again.best_epoch, again.wait, again.phase) == (0.5, 1, 2, 0)
    for place, before in progress.weights.items():
        np.testing.assert_array_equal(again.weights[place], before)
