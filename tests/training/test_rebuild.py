"""Unfreezing into a running optimizer: equal to an optimizer that knew every variable from the start."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.rebuild import build_optimizer, knows_other_variables, other_optimizers, rebuild_training
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from tests import tiny
from tests.variants import variants

OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.1),
    "SGD momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "Adam": lambda: optimizers.Adam(0.01),
    "Adam amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "Adadelta": lambda: optimizers.Adadelta(1.0),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adamax": lambda: optimizers.Adamax(0.01),
    "Adafactor": lambda: optimizers.Adafactor(0.1),
    "Nadam": lambda: optimizers.Nadam(0.01),
    "Ftrl": lambda: optimizers.Ftrl(0.1, l1_regularization_strength=0.001),
    "Lion": lambda: optimizers.Lion(0.01),
    "Lamb": lambda: optimizers.Lamb(0.01),
    "Muon": lambda: tiny.since("Muon")(0.01, exclude_embeddings=False),
    "ScheduleFreeAdamW": lambda: tiny.since("ScheduleFreeAdamW")(0.01),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01), dynamic_growth_steps=4),
    "EMA": lambda: optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "EMA overwriting": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4),
    "gradient accumulation": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=4),
    "global clipping": lambda: optimizers.Adam(0.01, global_clipnorm=0.1),
    "clipping by norm": lambda: optimizers.Adam(0.01, clipnorm=0.01),
    "clipping by value": lambda: optimizers.SGD(0.1, clipvalue=0.001),
    "weight decay": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "EMA and accumulation": lambda: optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=3),
}
# Those under which other tests run each time: of each way to keep slots, one.
FEW = ("SGD momentum", "Adam", "AdamW", "Adafactor", "LossScaleOptimizer", "EMA overwriting", "gradient accumulation")
_CLASSES_ELSEWHERE = {"Optimizer", "MultiOptimizer"}  # the parent; and one with a test of its own


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_an_optimizer_that_knew_all_variables(name):
    """unfreeze_at(1) leads to the same weights as a run whose optimizer was built over all variables first.

    Eager, which is faster here; `test_in_every_mode_of_the_train_step` has the others.
    """
    net = tiny.model(OPTIMIZERS[name](), run_eagerly=True)
    tables = tiny.Tables()
    tiny.fit(net, epochs=2, callbacks=[unfreeze_at(1, "embedding"), tables])
    expected = tiny.reference(OPTIMIZERS[name](), epoch=1, epochs=2, run_eagerly=True)
    assert tiny.apart(net, expected) <= 1e-6
    np.testing.assert_array_equal(tables.kept[0], tiny.TABLE)
    assert np.abs(tables.kept[1] - tiny.TABLE).max() > 1e-4
    assert int(net.optimizer.iterations) == int(expected.optimizer.iterations)


def test_every_optimizer_of_keras_is_compared_with_a_reference():
    """A new optimizer in Keras needs a line above."""
    classes = {
        name
        for name in dir(optimizers)
        if isinstance(getattr(optimizers, name), type) and issubclass(getattr(optimizers, name), optimizers.Optimizer)
    }
    named = {"ScheduleFreeAdamW", "Muon"}  # which older versions lack
    tested = {type(make()).__name__ for name, make in OPTIMIZERS.items() if name not in named}
    assert classes - _CLASSES_ELSEWHERE - tested - named == set()


def _multi():
    return tiny.since("MultiOptimizer")(
        tiny.since("OptimizerMap")(optimizers.SGD(0.1, momentum=0.9), {"embedding/.*": optimizers.Adam(0.01)})
    )


def test_multi_optimizer_equals_two_optimizers():
    """Each inner optimizer does what it would do alone; the one of the table starts when the table does."""
    net = tiny.model(_multi())
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding")])
    expected = tiny.model("sgd", trainable=True)
    head, table = optimizers.SGD(0.1, momentum=0.9), optimizers.Adam(0.01)
    for epoch in range(4):
        for start in (0, 4, 8):
            rows = slice(start, start + 4)
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(tiny.LABELS[rows], expected(tiny.IDS[rows]))
                loss = tf.reduce_mean(losses)
            variables = expected.trainable_variables
            gradients = tape.gradient(loss, variables)
            head.apply(gradients[1:], variables[1:])
            if epoch >= 2:
                table.apply(gradients[:1], variables[:1])
    assert tiny.apart(net, expected) <= 1e-6
    assert [int(each.iterations) for each in net.optimizer.optimizers] == [6, 12]


def test_multi_optimizer_freezing_again():
    """The inner optimizer of the table drops its slots, and gets new ones when the table joins again."""
    net, shapes = tiny.model(_multi()), []
    phases = [Phase(0, freeze="embedding"), Phase(1), Phase(2, train="head"), Phase(3, train="embedding")]
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: shapes.append([tuple(each.shape) for each in net.optimizer.variables])
    )
    tiny.fit(net, callbacks=[TrainabilitySchedule(phases), count])
    assert [each.count((10, 4)) for each in shapes] == [0, 2, 0, 2]
    assert [each.count((4, 3)) for each in shapes] == [1, 1, 1, 0]


@pytest.mark.stock_keras
def test_stock_multi_optimizer_refuses_a_frozen_table():
    """MultiOptimizer counts gradients, so even one that was built for all variables can't leave any out."""
    with pytest.raises(ValueError, match="Received 2 gradients and 3 variables"):
        tiny.reference(_multi())


@pytest.mark.parametrize(
    "arguments",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}, {"steps_per_execution": 3}],
    ids=str,
)
def test_in_every_mode_of_the_train_step(arguments):
    """Eager, compiled by XLA, or several steps at once: the table stays, then moves as in the reference."""
    net, tables = tiny.model(optimizers.Adam(0.01), **arguments), tiny.Tables()
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding"), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert np.abs(tables.kept[2] - tables.kept[1]).max() > 1e-3
    assert tiny.apart(net, tiny.reference(optimizers.Adam(0.01), jit_compile=False)) <= 1e-6
    assert int(net.optimizer.iterations) == 12


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision(dtype):
    """Under a half-precision policy, with the loss scaled for float16, the run still equals the reference."""

    def make():
        adam = optimizers.Adam(0.01)
        return optimizers.LossScaleOptimizer(adam, initial_scale=128) if dtype == "mixed_float16" else adam

    net = tiny.model(make(), dtype=dtype)
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding")])
    assert np.abs(tiny.table_of(net) - tiny.TABLE).max() > 1e-3
    assert tiny.apart(net, tiny.reference(make(), dtype=dtype)) <= 1e-6


def test_table_is_bit_identical_before_the_epoch():
    """Weight decay and momentum do not reach a frozen table, whatever the epoch."""
    tables = tiny.Tables()
    tiny.fit(tiny.model(optimizers.AdamW(0.01)), callbacks=[unfreeze_at(3, "embedding"), tables])
    for epoch in range(3):
        np.testing.assert_array_equal(tables.kept[epoch], tiny.TABLE)
    assert (tables.kept[3] != tiny.TABLE).any()


def test_learning_rate_schedule_continues():
    """A LearningRateSchedule does not restart when the table joins."""

    def make():
        return optimizers.Adam(optimizers.schedules.ExponentialDecay(0.05, 3, 0.5))

    net = tiny.model(make())
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding")])
    assert tiny.apart(net, tiny.reference(make())) <= 1e-6
    assert float(net.optimizer.learning_rate) == pytest.approx(0.05 * 0.5**4)


def test_slots_of_other_variables_are_carried_over():
    """The moments of the head are the same bits after the rebuild; those of the table are zero."""
    net = tiny.model(optimizers.Adam(0.01))
    tiny.fit(net, epochs=2)
    before = {variable.path: np.array(variable) for variable in net.optimizer.variables}
    assert unfreeze_at(2, "embedding").apply(net, 2)
    after = {variable.path: np.array(variable) for variable in net.optimizer.variables}
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value, err_msg=path)
    joined = {path: value for path, value in after.items() if path not in before}
    assert sorted(path.rsplit("_", 1)[1] for path in joined) == ["momentum", "velocity"]
    assert not any(value.any() for value in joined.values())


@pytest.mark.filterwarnings("ignore:This fit ends before")
def test_a_frozen_table_has_no_slots():
    """The moments of the table take memory only from the epoch on in which it moves."""
    net = tiny.model(optimizers.Adam(0.01))
    tiny.fit(net, epochs=1, callbacks=[unfreeze_at(2, "embedding")])
    assert (10, 4) not in [tuple(variable.shape) for variable in net.optimizer.variables]


def test_freezing_again_drops_the_slots_and_keeps_the_others():
    """A table that leaves loses its slots, and the head continues to train."""
    net = tiny.model(optimizers.Adam(0.01), trainable=True)
    phases = [Phase(0), Phase(2, freeze="embedding")]
    tables = tiny.Tables()
    tiny.fit(net, callbacks=[TrainabilitySchedule(phases), tables])
    np.testing.assert_array_equal(tables.kept[1], tables.kept[3])
    assert (10, 4) not in [tuple(variable.shape) for variable in net.optimizer.variables]
    by_hand = tiny.model(optimizers.Adam(0.01), trainable=True)
    tiny.fit(by_hand, epochs=2)
    by_hand.get_layer("embedding").trainable = False
    by_hand.make_train_function(force=True)
    tiny.fit(by_hand, initial_epoch=2)
    assert tiny.apart(net, by_hand) <= 1e-6


@pytest.mark.filterwarnings("ignore:This fit ends before")
@pytest.mark.parametrize("again", ["same schedule", "new schedule"])
@pytest.mark.parametrize("stop", variants([1, 2, 3], always=[2]))
def test_two_fit_calls_equal_one(stop, again):
    """Stopping at an epoch and continuing with initial_epoch changes nothing."""
    whole, halves = (tiny.model(optimizers.Adam(0.01)) for _ in range(2))
    tiny.fit(whole, callbacks=[unfreeze_at(2, "embedding", learning_rate=0.003)])
    schedule = unfreeze_at(2, "embedding", learning_rate=0.003)
    tiny.fit(halves, epochs=stop, callbacks=[schedule])
    if again == "new schedule":
        schedule = unfreeze_at(2, "embedding", learning_rate=0.003)
    tiny.fit(halves, initial_epoch=stop, callbacks=[schedule])
    assert tiny.apart(whole, halves) == 0


@pytest.mark.filterwarnings("ignore:This fit ends before")
@pytest.mark.parametrize("stop", [2, 3])
def test_resume_from_a_keras_file_equals_one_run(stop, tmp_path):
    """Training from a .keras file saved before or after the unfreeze equals one run."""
    whole, first = (tiny.model(RowWiseAdam(0.01)) for _ in range(2))
    tiny.fit(whole, callbacks=[unfreeze_at(2, "embedding", learning_rate=0.003)])
    tiny.fit(first, epochs=stop, callbacks=[unfreeze_at(2, "embedding", learning_rate=0.003)])
    first.save(tmp_path / "model.keras")
    second = keras.saving.load_model(tmp_path / "model.keras")
    tiny.fit(second, initial_epoch=stop, callbacks=[unfreeze_at(2, "embedding", learning_rate=0.003)])
    assert tiny.apart(whole, second) <= 1e-7


@pytest.mark.parametrize("name", ["Adam", "Nadam", "LossScaleOptimizer", "EMA", "Adafactor"])
def test_optimizer_state_of_a_file_saved_after_the_unfreeze(name, tmp_path):
    """The rebuilt optimizer has its variables in the order that a newly loaded one expects."""
    net = tiny.model(OPTIMIZERS[name]())
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding")])
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tiny.fit(net, initial_epoch=4, epochs=6)
    tiny.fit(loaded, initial_epoch=4, epochs=6)
    assert tiny.apart(net, loaded) <= 1e-6


@pytest.mark.parametrize("initial_epoch", [0, 1, 2, 3])
def test_initial_epoch(initial_epoch):
    """A fit that starts at or after the epoch trains the table from its first step."""
    net, tables = tiny.model(optimizers.SGD(0.1)), tiny.Tables()
    tiny.fit(net, initial_epoch=initial_epoch, callbacks=[unfreeze_at(2, "embedding"), tables])
    moved = [epoch for epoch, table in tables.kept.items() if (table != tiny.TABLE).any()]
    assert moved == [epoch for epoch in range(initial_epoch, 4) if epoch >= 2]


@pytest.mark.parametrize("path", ["encoder/embedding", "embedding"])
def test_nested_model(path):
    """A table inside an inner model is found by path or by its bare name, and trains as in a flat one."""
    net, tables = tiny.nested(optimizers.Nadam(0.01)), tiny.Tables("encoder/embedding")
    tiny.fit(net, callbacks=[unfreeze_at(2, path), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert tiny.apart(net, tiny.reference(optimizers.Nadam(0.01))) <= 1e-6


def test_subclassed_model():
    """A model with its own call(), built in fit, is unfrozen like any other."""

    class Small(keras.Model):
        def __init__(self):
            super().__init__(name="small")
            self.embedding = tiny.embedding()
            self.head = keras.layers.Dense(3, activation="softmax", name="head")

        def call(self, ids):
            return self.head(keras.ops.mean(self.embedding(ids), axis=1))

    keras.utils.set_random_seed(0)
    net, tables = Small(), tiny.Tables()
    net.compile(optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding"), tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert np.abs(tables.kept[3] - tiny.TABLE).max() > 1e-3


def test_with_train_on_batch():
    """apply() before each epoch does for train_on_batch what the callback does for fit."""
    net, schedule = tiny.model(optimizers.Adam(0.01)), unfreeze_at(2, "embedding")
    changed = []
    for epoch in range(4):
        changed.append(schedule.apply(net, epoch))
        for start in (0, 4, 8):
            net.train_on_batch(tiny.IDS[start : start + 4], tiny.LABELS[start : start + 4])
    assert changed == [False, False, True, False]
    assert tiny.apart(net, tiny.reference(optimizers.Adam(0.01))) <= 1e-6


@pytest.mark.parametrize("traced", [False, True])
def test_with_a_custom_loop(traced):
    """A GradientTape loop that traces its step again when apply() returns True equals fit."""
    net, schedule = tiny.model(optimizers.Adam(0.01)), unfreeze_at(2, "embedding")

    def step(ids, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, net(ids, training=True)))
        variables = net.trainable_variables
        net.optimizer.apply(tape.gradient(loss, variables), variables)

    run = step
    for epoch in range(4):
        if (schedule.apply(net, epoch) or epoch == 0) and traced:
            run = tf.function(step)
        for start in (0, 4, 8):
            run(tf.constant(tiny.IDS[start : start + 4]), tf.constant(tiny.LABELS[start : start + 4]))
    assert tiny.apart(net, tiny.reference(optimizers.Adam(0.01))) <= 1e-6


def test_the_optimizer_is_built_before_the_first_step():
    """At the start of the first epoch, even if no phase has started; not while the first step is traced."""
    built = []
    net = tiny.model(optimizers.Adam(0.01))
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: built.append(net.optimizer.built))
    tiny.fit(net, epochs=1, callbacks=[TrainabilitySchedule(Phase(0), also="head"), watch])
    other = tiny.model(optimizers.Adam(0.01))
    late = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: built.append(other.optimizer.built))
    tiny.fit(other, epochs=3, callbacks=[TrainabilitySchedule(Phase(2, freeze="embedding")), late])
    assert built == [True] * 4


def test_an_optimizer_is_not_built_for_half_a_model():
    """It would not know layers that have no weights yet, so Keras builds it in the first step."""
    net = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    net.compile("sgd", loss="mse")
    net.layers[0].build((None, 3))
    build_optimizer(net)
    assert not net.optimizer.built


@pytest.mark.parametrize("make", [lambda: optimizers.Adam(0.01), lambda: _multi()], ids=["Adam", "multi"])
def test_knows_other_variables(make):
    """True after a flag was set by hand, and false again after rebuilding."""
    net = tiny.model(make())
    build_optimizer(net)
    before = knows_other_variables(net)
    net.get_layer("embedding").trainable = True
    changed = knows_other_variables(net)
    rebuild_training(net)
    assert [before, changed, knows_other_variables(net)] == [False, True, False]


def test_rebuild_without_a_change_changes_nothing():
    """Rebuilding for the same variables is invisible to the run."""

    class Rebuild(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rebuild_training(self.model)

    for name in ("Nadam", "LossScaleOptimizer", "EMA", "gradient accumulation"):
        eager = name != "LossScaleOptimizer"  # which has most to lose when it is traced again
        plain, rebuilt = (tiny.model(OPTIMIZERS[name](), trainable=True, run_eagerly=eager) for _ in range(2))
        tiny.fit(plain, epochs=2)
        tiny.fit(rebuilt, epochs=2, callbacks=[Rebuild()])
        assert tiny.apart(plain, rebuilt) == 0, name


def test_slots_that_are_gone_are_let_go(tmp_path):
    """Frozen again, a table has no slots in memory either, and Keras can export and save the model."""
    net = tiny.model(optimizers.Adam(0.01), trainable=True)
    tiny.fit(net, epochs=1)
    slot = weakref.ref(net.optimizer._momentums[0])
    schedule = TrainabilitySchedule([Phase(0, freeze="embedding"), Phase(1), Phase(2, freeze="embedding")])
    tiny.fit(net, epochs=3, callbacks=[schedule])
    gc.collect()
    assert slot() is None
    net.export(tmp_path / "export", verbose=False)
    tf.train.Checkpoint(net, optimizer=net.optimizer).save(tmp_path / "checkpoint")
    assert len(net.optimizer.variables) == 2 + 4  # step and rate, and two moments of the head's kernel and bias


@pytest.mark.stock_keras
def test_stock_schedule_free_adamw_depends_on_when_it_is_built():
    """fit builds it while tracing, with wrong values: 0.9 apart after two epochs. So build it before fit."""
    before, inside = (tiny.model(tiny.since("ScheduleFreeAdamW")(0.01)) for _ in range(2))
    before.optimizer.build(before.trainable_variables)
    tiny.fit(before, epochs=2)
    inside.fit(tiny.batches(), epochs=2, shuffle=False, verbose=0)
    assert tiny.apart(before, inside) > 0.1


class _AtEpoch(keras.callbacks.Callback):
    """Do something to the model when an epoch begins."""

    def __init__(self, epoch, action):
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        """Do it."""
        if epoch == self.epoch:
            self.action(self.model)


def _thaw(net):
    net.get_layer("embedding").trainable = True


def _thaw_and_retrace(net):
    _thaw(net)
    net.make_train_function(force=True)


def _thaw_and_compile(net):
    _thaw(net)
    net.compile(optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")


@pytest.mark.stock_keras
def test_stock_setting_the_flag_does_nothing():
    """The train step was traced for the frozen table: a silent no-op."""
    net = tiny.model(optimizers.Adam(0.01))
    tiny.fit(net, callbacks=[_AtEpoch(1, _thaw)])
    np.testing.assert_array_equal(tiny.table_of(net), tiny.TABLE)


@pytest.mark.stock_keras
@pytest.mark.parametrize(
    ("action", "eager"), [(_thaw, True), (_thaw_and_retrace, False)], ids=["eager flag", "flag and new step"]
)
def test_stock_optimizer_does_not_know_the_table(action, eager):
    """With a step that sees the flag, the optimizer refuses the variable; Keras 3.10 fails while it words the refusal."""
    net = tiny.model(optimizers.Adam(0.01), run_eagerly=eager)
    failing = tiny.KERAS < (3, 13) and not eager
    error, message = (
        (NotImplementedError, r"numpy\(\)") if failing else (ValueError, "Unknown variable: <Variable path=emb")
    )
    with pytest.raises(error, match=message):
        tiny.fit(net, callbacks=[_AtEpoch(1, action)])


@pytest.mark.stock_keras
def test_stock_compile_inside_fit_fails():
    """compile() takes away the train step that fit is about to call."""
    net = tiny.model(optimizers.Adam(0.01))
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        tiny.fit(net, callbacks=[_AtEpoch(1, _thaw_and_compile)])


@pytest.mark.parametrize(
    ("hold", "optimizer_of"),
    [
        (lambda optimizer: optimizer, lambda net: net.held),
        (lambda optimizer: [None, optimizer], lambda net: net.held[1]),
        (lambda optimizer: {"table": optimizer}, lambda net: net.held["table"]),
    ],
    ids=["attribute", "list", "dict"],
)
def test_an_optimizer_of_a_custom_step_gets_what_joins(hold, optimizer_of):
    """It trains on as an optimizer that knew every variable from the start, wherever the model holds it."""
    net = tiny.own_step(hold(optimizers.Adam(0.01)), optimizer_of)
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding")])
    assert tiny.apart(net, tiny.reference(optimizers.Adam(0.01))) <= 1e-6
    assert int(optimizer_of(net).iterations) == 12


def test_an_optimizer_of_some_variables_keeps_to_them():
    """It gets what joins and loses what leaves; a variable that was always another's stays out."""
    net = tiny.own_step(optimizers.SGD(0.1, momentum=0.9), None)
    bias = net.get_layer("head").bias
    net.held.build([bias])
    net.optimizer.build(net.trainable_variables)
    embedding = net.get_layer("embedding")
    for trainable, shapes in ((True, [(3,), (10, 4)]), (False, [(3,)])):
        embedding.trainable = trainable
        rebuild_training(net)
        assert [tuple(slot.shape) for slot in net.held.momentums] == shapes


def test_other_optimizers_are_found():
    """Those beside `model.optimizer` and its parts, by attribute, in lists and dictionaries."""
    inner, critic = optimizers.SGD(), optimizers.Adam()
    net = tiny.model(optimizers.LossScaleOptimizer(inner))
    net.critic, net.inner, net.several, net.words = critic, inner, {"a": [1], "b": optimizers.Lion()}, ["adam"]
    assert list(other_optimizers(net)) == ["critic", "several['b']"]
    assert other_optimizers(net)["critic"] is critic
