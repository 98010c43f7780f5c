"""TrainabilitySchedule, unfreeze_at and gradual_unfreeze."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import EmbkerasWarning, ScheduleError, UnknownLayerError
from embkeras.training.schedule.callback import (
    TrainabilitySchedule,
    _check_distribution,
    _warn_of_other_rates,
    _warn_of_unreached_phases,
    gradual_unfreeze,
    unfreeze_at,
)
from embkeras.training.schedule.phases import Phase
from tests import tiny
from tests.variants import variants


class _Flags(keras.callbacks.Callback):
    """Keeps the names of the layers that train, and the learning rate, of each epoch."""

    def __init__(self):
        super().__init__()
        self.training, self.rates = {}, {}

    def on_epoch_end(self, epoch, logs=None):
        """Note them."""
        paths = [variable.path.split("/")[-2] for variable in self.model.trainable_variables]
        self.training[epoch] = sorted(set(paths))
        self.rates[epoch] = round(float(self.model.optimizer.learning_rate), 6)


def _blocks():
    """Embedding, and a block of a Dense that trains and a BatchNormalization that the user froze."""
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(name="norm", trainable=False)
    block = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="dense"), norm], name="block")
    ids = keras.Input((5,), dtype="int64")
    features = block(keras.layers.GlobalAveragePooling1D()(tiny.embedding()(ids)))
    net = keras.Model(ids, keras.layers.Dense(3, activation="softmax", name="head")(features), name="blocks")
    net.compile("sgd", loss="sparse_categorical_crossentropy")
    return net


def _stock(*inputs):
    """A Sequential around a keras Embedding, built only if it is given an Input."""
    layers = [keras.layers.Embedding(10, 4, name="words"), keras.layers.GlobalAveragePooling1D()]
    net = keras.Sequential([*inputs, *layers, keras.layers.Dense(3, activation="softmax", name="head")], name="stock")
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    return net


@pytest.mark.parametrize("epoch", [-1, True, 2.0, None])
def test_unfreeze_at_needs_an_epoch(epoch):
    """A negative number, a bool or a float is refused where it is given."""
    with pytest.raises(ScheduleError, match=rf"epoch must be an integer >= 0\. Received: {epoch!r}"):
        unfreeze_at(epoch, "embedding")


def test_unfreeze_at_needs_layers():
    """An empty list would do nothing."""
    with pytest.raises(ScheduleError, match=r"unfreeze_at needs at least one layer\. Received: \[\]"):
        unfreeze_at(2, [])


def test_unfreeze_at_takes_names_or_layers():
    """None does not name a layer."""
    with pytest.raises(ScheduleError, match=r"unfreeze_at .*Received: None"):
        unfreeze_at(2, None)


def test_unfreeze_at_checks_the_rate():
    """A rate of zero is refused where it is given."""
    with pytest.raises(ScheduleError, match=r"learning_rate must be .*Received: 0"):
        unfreeze_at(2, "embedding", learning_rate=0)


def test_unknown_layer_is_refused_when_training_begins():
    """The names that exist are listed before the first step."""
    net = tiny.model("sgd")
    with pytest.raises(
        UnknownLayerError, match=r"'tiny' has no layer named 'embeding'\. Its layers: .*embedding.*head"
    ):
        tiny.fit(net, callbacks=[unfreeze_at(3, "embeding")])
    assert int(net.optimizer.iterations) == 0


def test_apply_needs_a_compiled_model():
    """Without an optimizer there is nothing to rebuild; the model is named."""
    net = tiny.model("sgd")
    bare = keras.Model(net.inputs, net.outputs, name="bare")
    with pytest.raises(ScheduleError, match="Model 'bare' has no optimizer: compile it"):
        unfreeze_at(0, "embedding").apply(bare, 0)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: optimizers.Adam(lambda: 0.1),
            "Adam 'adam.*'.*a function. Received: <function",
        ),
        (
            lambda: tiny.since("MultiOptimizer")(tiny.since("OptimizerMap")(optimizers.SGD(0.1))),
            "MultiOptimizer '.*'.*cannot be accessed on a MultiOptimizer",
        ),
    ],
    ids=["function", "multi"],
)
def test_a_rate_that_cannot_be_set_is_refused_when_training_begins(make, reason):
    """Not at epoch 3, hours later."""
    net = tiny.model(make())
    with pytest.raises(ScheduleError, match=f"sets the learning rate, which {reason}"):
        tiny.fit(net, callbacks=[unfreeze_at(3, "embedding", learning_rate=0.01)])
    assert int(net.optimizer.iterations) == 0


def test_learning_rate_of_a_loss_scale_optimizer():
    """The rate of the optimizer inside is set."""
    net = tiny.model(optimizers.LossScaleOptimizer(optimizers.SGD(0.1)))
    tiny.fit(net, epochs=2, callbacks=[unfreeze_at(1, "embedding", learning_rate=0.02)])
    assert float(net.optimizer.inner_optimizer.learning_rate) == pytest.approx(0.02)


def test_learning_rate_changes_with_the_phase():
    """Each phase's rate is set from its epoch on; a phase without one leaves it as it is."""
    phases = [Phase(0, freeze="embedding"), Phase(1, learning_rate=0.05), Phase(2), Phase(3, learning_rate=0.01)]
    flags = _Flags()
    tiny.fit(tiny.model(optimizers.SGD(0.1)), callbacks=[TrainabilitySchedule(phases), flags])
    assert flags.rates == {0: 0.1, 1: 0.05, 2: 0.05, 3: 0.01}


@pytest.mark.parametrize(("begin", "rate"), [(0, 0.1), (1, 0.05), (2, 0.05), (3, 0.01)])
def test_learning_rate_of_a_run_that_begins_late(begin, rate):
    """Beginning at any epoch gives the rate that an uninterrupted run has there."""
    phases = [Phase(0, freeze="embedding"), Phase(1, learning_rate=0.05), Phase(2), Phase(3, learning_rate=0.01)]
    flags = _Flags()
    net = tiny.model(optimizers.SGD(0.1))
    tiny.fit(net, initial_epoch=begin, callbacks=[TrainabilitySchedule(phases), flags])
    assert flags.rates[begin] == rate


@pytest.mark.parametrize(("begin", "rate"), [(0, 0.1), (1, 0.05), (2, 0.05), (3, 0.01)])
def test_a_second_fit_with_the_same_schedule_begins_anew(begin, rate):
    """Going back to an earlier epoch restores its flags and its rate; before the first rate, the compiled one."""
    phases = [Phase(0, freeze="embedding"), Phase(1, learning_rate=0.05), Phase(2), Phase(3, learning_rate=0.01)]
    net, schedule, flags = tiny.model(optimizers.SGD(0.1)), TrainabilitySchedule(phases), _Flags()
    tiny.fit(net, callbacks=[schedule])
    tiny.fit(net, initial_epoch=begin, callbacks=[schedule, flags])
    assert flags.rates[begin] == rate
    assert flags.training[begin] == (["head"] if begin == 0 else ["embedding", "head"])


def test_a_rate_lowered_in_between_stays():
    """A phase without a rate does not undo what another callback did to it."""

    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2

    phases, flags = [Phase(0, freeze="embedding", learning_rate=0.4), Phase(2)], _Flags()
    tiny.fit(tiny.model(optimizers.SGD(0.1)), callbacks=[TrainabilitySchedule(phases), flags, Halve()])
    assert flags.rates == {0: 0.4, 1: 0.2, 2: 0.1, 3: 0.05}


def test_phases_freeze_and_thaw():
    """Layers that a phase freezes are frozen, others that the schedule governs train, the rest stays as it is."""
    phases = [
        Phase(0, freeze=["embedding", "block"]),
        Phase(1, freeze="embedding"),
        Phase(2, train="embedding"),
        Phase(3),
    ]
    flags = _Flags()
    tiny.fit(_blocks(), callbacks=[TrainabilitySchedule(phases), flags])
    expected = {0: ["head"], 1: ["dense", "head"], 2: ["embedding"], 3: ["dense", "embedding", "head"]}
    assert flags.training == expected


def test_nothing_happens_before_the_first_phase():
    """Before the first phase nothing is changed, and the logs have no phase."""
    flags = _Flags()
    net = tiny.model("sgd", trainable=True)
    history = tiny.fit(net, callbacks=[TrainabilitySchedule([Phase(2, freeze="embedding")]), flags])
    assert flags.training[1] == ["embedding", "head"] and flags.training[2] == ["head"]
    assert history.history["phase"] == [1, 1]


def test_unfreeze_at_zero():
    """Epoch 0 is the beginning: one phase, and the table moves from the first step."""
    net, schedule = tiny.model(optimizers.SGD(0.5)), unfreeze_at(0, "embedding")
    history = tiny.fit(net, epochs=1, callbacks=[schedule])
    assert history.history["phase"] == [1] and (tiny.table_of(net) != tiny.TABLE).any()


def test_unfreeze_at_freezes_a_table_that_came_thawed():
    """Before the epoch the layer is frozen, whatever its flag was."""
    net, tables = tiny.model(optimizers.SGD(0.5), trainable=True), tiny.Tables()
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding"), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert (tables.kept[2] != tiny.TABLE).any()


def test_several_layers_thaw_at_once():
    """Names and layer objects in one list."""
    net, flags = _blocks(), _Flags()
    tiny.fit(net, epochs=2, callbacks=[unfreeze_at(1, ["embedding", net.get_layer("block")]), flags])
    assert flags.training == {0: ["head"], 1: ["dense", "embedding", "head"]}


def test_a_child_frozen_by_the_user_stays_frozen():
    """Unfreezing a parent sets the flag of every child in Keras; here the normalization stays as it was."""
    net, flags = _blocks(), _Flags()
    tiny.fit(net, epochs=2, callbacks=[unfreeze_at(1, "block"), flags])
    assert flags.training == {0: ["head"], 1: ["dense", "head"]}
    dense, norm = net.get_layer("block").layers
    assert (dense.trainable, norm.trainable) == (True, False)


@pytest.mark.stock_keras
def test_stock_thawing_a_parent_thaws_its_children():
    """Keras forgets what the user froze inside."""
    block = _blocks().get_layer("block")
    block.trainable = False
    block.trainable = True
    assert block.layers[1].trainable


@pytest.mark.parametrize("order", [["encoder", "encoder/embedding"], ["encoder/embedding", "encoder"]], ids=str)
def test_parent_and_child_may_both_be_named(order):
    """A child that is named itself is unfrozen with its parent, whichever is given first."""
    net, tables = tiny.nested(optimizers.SGD(0.5)), tiny.Tables("encoder/embedding")
    tiny.fit(net, callbacks=[unfreeze_at(2, order), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert (tables.kept[2] != tiny.TABLE).any()


def test_a_frozen_model_around_a_thawed_layer_is_refused_when_training_begins():
    """In a frozen model nothing trains; layer, epoch and reason are named before the first step."""
    net = tiny.model("sgd")
    net.trainable = False
    with pytest.raises(
        ScheduleError, match=r"Layer 'embedding' can't train from epoch 3 on: a layer around it is frozen"
    ):
        tiny.fit(net, callbacks=[unfreeze_at(3, "embedding")])
    assert int(net.optimizer.iterations) == 0


def test_a_frozen_model_in_between_does_not_hold_a_thawed_layer():
    """Keras looks at the outermost model and the variables themselves, so the layer does train."""
    net, tables = tiny.nested(optimizers.SGD(0.5)), tiny.Tables("encoder/embedding")
    net.get_layer("encoder").trainable = False
    tiny.fit(net, callbacks=[unfreeze_at(2, "encoder/embedding"), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert (tables.kept[2] != tiny.TABLE).any()


def test_a_phase_that_freezes_the_parent_of_what_it_trains_is_refused():
    """The contradiction lies in the phases themselves, and is found when training begins."""
    phases = [Phase(0, freeze=["encoder", "encoder/embedding"]), Phase(2, freeze="encoder")]
    net = tiny.nested("sgd", embedding_trainable=True)
    with pytest.raises(
        ScheduleError, match="Layer 'embedding' can't train from epoch 2 on: a layer around it is frozen"
    ):
        tiny.fit(net, callbacks=[TrainabilitySchedule(phases)])
    assert int(net.optimizer.iterations) == 0


def test_a_layer_without_weights_is_refused_when_training_begins():
    """Unfreezing a pooling layer would do nothing."""
    net = tiny.model("sgd")
    with pytest.raises(
        ScheduleError, match=r"Layer 'global.*' can't train from epoch 2 on: it has no trainable variables"
    ):
        tiny.fit(net, callbacks=[unfreeze_at(2, net.layers[2])])
    assert int(net.optimizer.iterations) == 0


def test_refusing_leaves_the_flags_as_they_were():
    """Looking ahead at all phases does not change the model."""
    net = tiny.nested("sgd")
    pooling = next(layer for layer in net.layers if isinstance(layer, keras.layers.GlobalAveragePooling1D))
    schedule = TrainabilitySchedule([Phase(0, freeze="head"), Phase(1, freeze="head"), Phase(3, freeze=pooling)])
    with pytest.raises(
        ScheduleError, match=r"Layer 'global.*' can't train from epoch 0 on: it has no trainable variables"
    ):
        tiny.fit(net, callbacks=[schedule])
    assert net.get_layer("head").trainable


def test_phase_is_in_the_history():
    """Counted from 1, one for each epoch."""
    history = tiny.fit(tiny.model("sgd"), callbacks=[unfreeze_at(2, "embedding")])
    assert history.history["phase"] == [1, 1, 2, 2]


def test_announcement_with_verbose(capsys):
    """Each phase is announced with its epoch, layers, parameters and rate."""
    net = tiny.model(optimizers.SGD(0.1))
    net.fit(tiny.IDS, tiny.LABELS, epochs=2, verbose=2, callbacks=[unfreeze_at(1, "embedding", learning_rate=0.01)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Phase")]
    assert lines == [
        "Phase 1 of 2 begins (epoch 0, counted from 0): frozen: embedding; 15 trainable parameters; learning rate 0.1",
        "Phase 2 of 2 begins (epoch 1, counted from 0): unfrozen: embedding; 55 trainable parameters; learning rate 0.01",
    ]


def test_silent_without_verbose(capsys):
    """verbose=0 prints nothing."""
    tiny.fit(tiny.model("sgd"), callbacks=[unfreeze_at(1, "embedding")])
    assert capsys.readouterr().out == ""


def test_announcement_under_a_multi_optimizer(capsys):
    """An optimizer with several rates is announced without one."""
    net = tiny.model(tiny.since("MultiOptimizer")(tiny.since("OptimizerMap")(optimizers.SGD(0.1))))
    net.fit(tiny.IDS, tiny.LABELS, verbose=2, callbacks=[unfreeze_at(0, "embedding")])
    assert "unfrozen: embedding; 55 trainable parameters\n" in capsys.readouterr().out


def test_one_schedule_for_two_models():
    """A schedule that is used for another model starts again."""
    schedule = unfreeze_at(1, "embedding", learning_rate=0.05)
    for _ in range(2):
        net, flags = tiny.model(optimizers.SGD(0.1)), _Flags()
        tiny.fit(net, epochs=2, callbacks=[schedule, flags])
        assert flags.training == {0: ["head"], 1: ["embedding", "head"]} and flags.rates == {0: 0.1, 1: 0.05}


@pytest.mark.parametrize("epoch", [-1, 1.0])
def test_apply_needs_an_epoch(epoch):
    """As in a phase."""
    with pytest.raises(ScheduleError, match=rf"epoch must be .* Received: {epoch}"):
        unfreeze_at(1, "embedding").apply(tiny.model("sgd"), epoch)


@pytest.mark.parametrize("epoch", [0, 2])
def test_unfreeze_in_a_model_that_fit_builds(epoch):
    """A Sequential without an Input has no variables when training begins; it is still unfrozen."""
    net, flags = _stock(), _Flags()
    tiny.fit(net, callbacks=[unfreeze_at(epoch, "words"), flags])
    assert flags.training == {each: ["head", "words"] if each >= epoch else ["head"] for each in range(4)}


def test_parameters_of_a_model_that_fit_builds(capsys):
    """They are counted once they exist, and not announced as 0."""
    schedule = unfreeze_at(1, "words")
    net = _stock()
    net.fit(tiny.IDS, tiny.LABELS, epochs=2, verbose=2, callbacks=[schedule])
    head = net.layers[-1].count_params()
    assert schedule.history["trainable_parameters"].tolist() == [head, net.count_params()]
    assert "frozen: words; learning rate" in capsys.readouterr().out


def test_phase_beyond_the_last_epoch_warns():
    """A phase that this fit can't reach is reported when it begins."""
    net = tiny.model("sgd")
    with pytest.warns(EmbkerasWarning, match=r"ends before epoch 3 .* begins at epoch 3 is not reached"):
        tiny.fit(net, epochs=3, callbacks=[unfreeze_at(3, "embedding")])


def test_schedule_on_a_recompiled_model_takes_the_new_rate():
    """The rate of the previous optimizer is not written into the new one."""
    schedule = unfreeze_at(1, "embedding", learning_rate=1e-4)
    net = tiny.model(optimizers.SGD(1e-3))
    tiny.fit(net, epochs=2, callbacks=[schedule])
    net.compile(optimizers.SGD(5e-2), "sparse_categorical_crossentropy")
    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(float(net.optimizer.learning_rate))
    )
    tiny.fit(net, epochs=2, callbacks=[schedule, watch])
    assert rates == pytest.approx([5e-2, 1e-4])


def test_one_phase_may_be_given_by_itself():
    """A Phase without a list around it is a schedule of one."""
    assert TrainabilitySchedule(Phase(0)).phases == (Phase(0),)


def _deep():
    """embedding -> dense "low" -> dense "top" -> head."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, activation="tanh", name=name) for name in ("low", "top")]
    head = keras.layers.Dense(3, activation="softmax", name="head")
    mean = keras.layers.GlobalAveragePooling1D()
    net = keras.Sequential([keras.Input((5,), dtype="int64"), tiny.embedding(), mean, *layers, head], name="deep")
    net.compile(optimizers.SGD(0.26), loss="sparse_categorical_crossentropy")
    return net


def test_gradual_unfreeze():
    """From the top down, one group every two epochs, at rates that fall by 2.6."""
    flags = _Flags()
    schedule = gradual_unfreeze(["embedding", ["low", "top"]], start=1, every=2)
    tiny.fit(_deep(), callbacks=[schedule, flags])
    assert flags.training == {
        0: ["head"],
        1: ["head", "low", "top"],
        2: ["head", "low", "top"],
        3: ["embedding", "head", "low", "top"],
    }
    assert list(flags.rates.values()) == pytest.approx([0.26, 0.1, 0.1, 0.1 / 2.6], abs=1e-6)


def test_gradual_unfreeze_from_the_first_epoch():
    """The top group trains at once, at the current rate; groups may be globs and layers."""
    flags, net = _Flags(), _deep()
    tiny.fit(net, epochs=2, callbacks=[gradual_unfreeze(["emb*", net.get_layer("top")], start=0, decay=2), flags])
    assert flags.training == {0: ["head", "low", "top"], 1: ["embedding", "head", "low", "top"]}
    assert flags.rates == {0: 0.26, 1: 0.13}


def _phases(layers, **arguments):
    phases = gradual_unfreeze(layers, **arguments).phases
    return [(phase.start, phase.freeze, phase.rate and phase.rate.factor) for phase in phases]


@pytest.mark.parametrize(
    ("given", "frozen"),
    [("ab", [()]), (["a", "b"], [("a",), ()]), (["a", ["b", "c"]], [("a",), ()])],
)
def test_groups(given, frozen):
    """Each element is a group; one name is one group, and not a sequence of letters."""
    assert [freeze for _, freeze, _ in _phases(given, start=0)] == frozen


def test_phases_of_gradual_unfreeze():
    """All frozen, then the last group trains, then the previous one; the rate is divided each time."""
    assert _phases(["a", ["b", "c"], "d"], start=2, every=3, decay=2.0) == [
        (0, ("a", "b", "c", "d"), None),
        (2, ("a", "b", "c"), 0.5),
        (5, ("a",), 0.5),
        (8, (), 0.5),
    ]


def test_gradual_unfreeze_keeps_the_rate_at_epoch_0():
    """The top group trains from epoch 0 on at the current rate; a decay of 1 never changes it."""
    assert _phases(["a", "b"], start=0, decay=2.0) == [(0, ("a",), None), (1, (), 0.5)]
    assert _phases(["a", "b"], decay=1) == [(0, ("a", "b"), None), (1, ("a",), None), (2, (), None)]


@pytest.mark.parametrize(
    ("layers", "arguments", "message"),
    [
        ([], {}, r"groups of at least one layer\. Received: \[\]"),
        (["a", []], {}, r"groups of at least one layer\. Received: \['a', \[\]\]"),
        (3, {}, r"gradual_unfreeze .*Received: 3"),
        (["a", ["b", "a"]], {}, r"in one group\. Received: 'a' twice"),
        ([["a", "a"]], {}, r"in one group\. Received: 'a' twice"),
        ("a", {"start": -1}, r"start must be .* Received: -1"),
        ("a", {"every": 0}, r"every must be an integer >= 1\. Received: 0"),
        ("a", {"every": True}, r"every must be .* Received: True"),
        ("a", {"decay": 0}, r"decay must be a number > 0\. Received: 0"),
        ("a", {"decay": None}, r"decay must be .* Received: None"),
    ],
    ids=str,
)
def test_gradual_unfreeze_checks_its_arguments(layers, arguments, message):
    """A layer in two groups would be unfrozen with the last of them, and the other phase would do nothing."""
    with pytest.raises(ScheduleError, match=message):
        gradual_unfreeze(layers, **arguments)


def test_history():
    """One row for each phase that ran, with what it began with and why it ended."""
    net = tiny.model(optimizers.SGD(0.1))
    schedule = unfreeze_at(3, "embedding", learning_rate=0.05)
    tiny.fit(net, callbacks=[schedule])
    rows = schedule.history.drop(columns="best").to_dict("records")
    assert [list(row.values()) for row in rows] == [
        [1, 0, 2, 15, pytest.approx(0.1), "next phase"],
        [2, 3, 3, 55, pytest.approx(0.05), "training ended"],
    ]
    assert schedule.history["best"].isna().all()


def test_history_under_a_multi_optimizer():
    """An optimizer with several rates has no single one to show."""
    net = tiny.model(tiny.since("MultiOptimizer")(tiny.since("OptimizerMap")(optimizers.SGD(0.1))))
    schedule = unfreeze_at(2, "embedding")
    tiny.fit(net, callbacks=[schedule])
    assert schedule.history["learning_rate"].isna().all()


def test_history_of_a_custom_loop():
    """apply() notes its epochs."""
    net, schedule = tiny.model("sgd"), unfreeze_at(2, "embedding")
    for epoch in range(4):
        schedule.apply(net, epoch)
    assert schedule.history[["first_epoch", "last_epoch"]].to_numpy().tolist() == [[0, 1], [2, 3]]


@pytest.mark.filterwarnings("ignore:This fit ends before")
def test_a_second_fit_that_goes_on_keeps_the_history():
    """If initial_epoch is the next epoch; from another epoch the table starts again."""
    net, schedule = tiny.model("sgd"), unfreeze_at(3, "embedding")
    tiny.fit(net, epochs=2, callbacks=[schedule])
    tiny.fit(net, epochs=4, initial_epoch=2, callbacks=[schedule])
    assert schedule.history["first_epoch"].tolist() == [0, 3]
    tiny.fit(net, epochs=4, callbacks=[schedule], initial_epoch=1)
    assert schedule.history["first_epoch"].tolist() == [1, 3]


class _Score(keras.callbacks.Callback):
    """Puts these into the logs as "score"; ends the fit at an epoch."""

    VALUES = (5, 4, 4.5, 4.6, 3, 2, 2.5, 1, 1.1, 1.2)

    def __init__(self, last=99):
        super().__init__()
        self.last = last

    def on_epoch_end(self, epoch, logs=None):
        """The schedule comes after this callback."""
        logs["score"] = self.VALUES[epoch]
        self.model.stop_training = epoch == self.last


def _patient():
    decay = optimizers.schedules.CosineDecay(0.1, 20)
    phases = [
        Phase(0, freeze="embedding", patience=2),
        Phase(6, rate_factor=0.5, patience=1),
        Phase(9, learning_rate=decay, patience=2),
    ]
    return TrainabilitySchedule(phases, monitor="score", mode="min")


def _patient_run(last=99):
    net, schedule = tiny.model(optimizers.Adam(0.02)), _patient()
    tiny.fit(net, epochs=10, callbacks=[_Score(last), schedule])
    return net, schedule


@functools.cache
def _whole_patient_run():
    return _patient_run()


@pytest.mark.parametrize(
    ("order", "last"),
    variants(
        [*(("before", last) for last in (0, 2, 3, 4, 6, 7, 8)), ("behind", 3), ("behind", 7)],
        always=[("before", 2), ("before", 6), ("behind", 3)],
    ),
)
def test_restore_goes_on_as_one_run(last, order):
    """In any epoch, before or after the schedule's own on_train_begin: flags, slots, kind of rate, best and wait."""
    whole, expected = _whole_patient_run()
    first, schedule = _patient_run(last)
    state = schedule.state()
    plain = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
    state.update(json.loads(json.dumps(plain)))
    second, again = tiny.model(optimizers.Adam(0.02)), _patient()

    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            again.restore(second, state)
            second.set_weights(first.get_weights())
            for after, before in zip(second.optimizer.variables, first.optimizer.variables, strict=True):
                after.assign(before)

    pair = [Restore(), again] if order == "before" else [again, Restore()]
    tiny.fit(second, epochs=10, initial_epoch=last + 1, callbacks=[_Score(), *pair])
    assert tiny.apart(whole, second) == 0
    assert again.history.equals(expected.history)


def test_state_says_that_patience_has_stopped_the_training():
    """Continuing would train too long."""
    assert [_patient_run()[1].state()["stopped"], _patient_run(3)[1].state()["stopped"]] == [True, False]


def test_what_was_restored_is_for_one_fit():
    """The next fit from epoch 0 begins with the first phase."""
    _, schedule = _patient_run(6)
    net, again, flags = tiny.model(optimizers.Adam(0.02)), _patient(), _Flags()
    again.restore(net, schedule.state())
    tiny.fit(net, epochs=8, initial_epoch=7, callbacks=[_Score(), again])
    tiny.fit(net, epochs=1, callbacks=[_Score(), again, flags])
    assert flags.training == {0: ["head"]} and flags.rates == {0: 0.02}


def test_state_before_training_can_be_restored():
    """No phase has begun, before and after restoring."""
    net, schedule = tiny.model("sgd"), unfreeze_at(2, "embedding")
    schedule.restore(net, unfreeze_at(2, "embedding").state())
    history = tiny.fit(net, callbacks=[schedule])
    assert history.history["phase"] == [1, 1, 2, 2]


def test_state_of_other_phases_is_refused():
    """The script has changed."""
    state = unfreeze_at(2, "embedding").state()
    with pytest.raises(ScheduleError, match=r"\[0, 2\]\..* Received: \[0, 3\]"):
        unfreeze_at(3, "embedding").restore(tiny.model("sgd"), state)


def test_train_in_a_phase_is_announced(capsys):
    """Everything else is frozen, whatever its name."""
    net = tiny.model(optimizers.SGD(0.1))
    net.fit(tiny.IDS, tiny.LABELS, verbose=2, callbacks=[TrainabilitySchedule(Phase(0, train="embedding"))])
    assert "frozen: everything else; unfrozen: embedding; 40 trainable parameters" in capsys.readouterr().out


def test_a_shared_embedding():
    """One table for two inputs: it is frozen, then moved by the gradients of both."""
    keras.utils.set_random_seed(0)
    shared, inputs = tiny.embedding(), [keras.Input((5,), dtype="int64") for _ in range(2)]
    means = [keras.layers.GlobalAveragePooling1D()(shared(ids)) for ids in inputs]
    out = keras.layers.Dense(3, activation="softmax", name="head")(keras.layers.Concatenate()(means))
    net, tables = keras.Model(inputs, out), tiny.Tables()
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    ids = [np.full((4, 5), 1), np.full((4, 5), 2)]
    net.fit(ids, tiny.LABELS[:4], epochs=2, verbose=0, callbacks=[unfreeze_at(1, "embedding"), tables])
    np.testing.assert_array_equal(tables.kept[0], tiny.TABLE)
    assert sorted(set(np.nonzero(tables.kept[1] != tiny.TABLE)[0])) == [1, 2]


def test_a_subclassed_model_with_train():
    """Layers that are attributes, and a weight of its own: only the embedding moves."""

    class Small(keras.Model):
        def __init__(self):
            super().__init__(name="small")
            self.embedding, self.head = tiny.embedding(), keras.layers.Dense(3, activation="softmax", name="head")
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

        def call(self, ids):
            return self.head(keras.ops.mean(self.embedding(ids), axis=1) * self.scale)

    keras.utils.set_random_seed(0)
    net = Small()
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    net(tiny.IDS)
    before = [np.array(each) for each in (net.scale, *net.head.weights)]
    tiny.fit(net, epochs=1, callbacks=[TrainabilitySchedule(Phase(0, train="embedding"))])
    assert (net.embedding.matrix() != tiny.TABLE).any()
    for after, value in zip((net.scale, *net.head.weights), before, strict=True):
        np.testing.assert_array_equal(np.array(after), value)


def test_accumulated_gradients_on_one_replica_are_fine():
    """Keras supports that."""
    _check_distribution(tiny.model(optimizers.SGD(0.1, gradient_accumulation_steps=2)))


def test_a_phase_that_is_not_reached_warns():
    """The first one that is not reached is named."""
    with pytest.warns(EmbkerasWarning, match="phase that begins at epoch 4 is not reached"):
        _warn_of_unreached_phases([Phase(0), Phase(4), Phase(9)], {"epochs": 4})


def test_a_phase_that_patience_may_begin_sooner_does_not_warn():
    """It may be reached."""
    _warn_of_unreached_phases([Phase(0, patience=1), Phase(4)], {"epochs": 4})


def test_an_unknown_number_of_epochs_does_not_warn():
    """Outside fit it is unknown."""
    _warn_of_unreached_phases([Phase(0), Phase(4)], {})


def test_a_layer_that_a_custom_step_leaves_out_warns():
    """A step that keeps its first list of variables trains no row of the thawed table, without an error."""

    class Kept:
        variables = None

    def chosen(net):
        Kept.variables = Kept.variables or list(net.trainable_variables)
        return Kept.variables

    net = tiny.own_step(None, lambda net: net.optimizer, chosen=chosen)
    with pytest.warns(EmbkerasWarning, match="Layer 'embedding' was unfrozen at epoch 1, but none of its weights"):
        tiny.fit(net, epochs=3, callbacks=[unfreeze_at(1, "embedding")])
    np.testing.assert_array_equal(tiny.table_of(net), tiny.TABLE)


@pytest.mark.filterwarnings("error::embkeras.errors.EmbkerasWarning")
def test_a_layer_that_moves_does_not_warn():
    """Neither in its first epoch nor in later ones."""
    tiny.fit(tiny.model(optimizers.SGD(0.5)), epochs=3, callbacks=[unfreeze_at(1, "embedding")])


def test_rates_that_no_phase_sets_warn():
    """A custom step's own optimizer keeps its rate; without a rate in the phases there is nothing to say."""
    net = tiny.model("sgd")
    net.critic = optimizers.Adam()
    with pytest.warns(EmbkerasWarning, match=r"Model 'tiny' also holds model\.critic"):
        _warn_of_other_rates([Phase(0), Phase(1, learning_rate=1e-4)], net)
    _warn_of_other_rates([Phase(0, freeze="embedding"), Phase(1)], net)


class _Lazy(keras.Model):
    """A model that makes its layers when it is built."""

    def build(self, shape):
        self.embedding, self.head = tiny.embedding(), keras.layers.Dense(3, activation="softmax", name="head")

    def call(self, ids):
        return self.head(keras.ops.mean(self.embedding(ids), axis=1))


def test_a_model_whose_layers_are_made_in_build():
    """Before its first call the message says what to do; after it the model trains."""
    net = _Lazy(name="lazy")
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    with pytest.raises(
        UnknownLayerError, match=r"'lazy' has no layer named 'embedding'.* call the model once on a batch"
    ):
        tiny.fit(net, callbacks=[unfreeze_at(1, "embedding")])
    net(tiny.IDS[:1])
    tiny.fit(net, epochs=2, callbacks=[unfreeze_at(1, "embedding")])
    assert (net.embedding.matrix() != tiny.TABLE).any()
