"""The row-wise family: against Keras where it is right, against PyTorch, and what it leaves alone."""

from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import OptimizerError
from embkeras.keras_compat.optimizers import rebuild
from embkeras.training.optimizers.rules import RowWiseAdagrad, RowWiseAdam, RowWiseAdamW, RowWiseSGD
from embkeras.training.schedule.callback import unfreeze_at
from tests import tiny

FAMILY = {
    "Adam": (lambda **more: RowWiseAdam(0.01, **more), lambda **more: optimizers.Adam(0.01, **more)),
    "amsgrad": (
        lambda **more: RowWiseAdam(0.01, amsgrad=True, **more),
        lambda **more: optimizers.Adam(0.01, amsgrad=True, **more),
    ),
    "AdamW": (
        lambda **more: RowWiseAdamW(0.01, weight_decay=0.1, **more),
        lambda **more: optimizers.AdamW(0.01, weight_decay=0.1, **more),
    ),
    "Adagrad": (lambda **more: RowWiseAdagrad(0.05, **more), lambda **more: optimizers.Adagrad(0.05, **more)),
    "SGD": (lambda **more: RowWiseSGD(0.05, **more), lambda **more: optimizers.SGD(0.05, **more)),
    "momentum": (
        lambda **more: RowWiseSGD(0.05, momentum=0.9, **more),
        lambda **more: optimizers.SGD(0.05, momentum=0.9, **more),
    ),
    "Nesterov": (
        lambda **more: RowWiseSGD(0.05, momentum=0.9, nesterov=True, **more),
        lambda **more: optimizers.SGD(0.05, momentum=0.9, nesterov=True, **more),
    ),
}
family = pytest.mark.parametrize("name", FAMILY)


def _batches(count=10):
    """Each row once, in another order each time, and its gradient as rows and as a table."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        rows, values = rng.permutation(10), rng.normal(size=(10, 4)).astype(np.float32)
        yield tiny.slices(rows, values), tf.constant(values[np.argsort(rows)])


@family
def test_equals_keras_where_every_row_is_in_every_batch_once(name):
    """Without duplicates and unseen rows, the results are those of Keras."""
    ours, theirs = tiny.variable(), tiny.variable()
    row_wise, dense = (make() for make in FAMILY[name])
    for by_row, as_table in _batches():
        row_wise.apply([by_row], [ours])
        dense.apply([as_table], [theirs])
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1e-6
    assert np.abs(np.array(ours) - tiny.TABLE).max() > 0.01


@family
def test_rows_not_in_the_batch_stay(name):
    """Rows that are not in a batch, and their slots, stay bit-identical, also after they were once seen."""
    table, optimizer = tiny.variable(), FAMILY[name][0]()
    optimizer.apply([tiny.slices([2, 3], np.ones((2, 4)))], [table])
    held = [table, *(variable for variable in optimizer.variables if tuple(variable.shape) == (10, 4))]
    before = [np.array(each) for each in held]
    for _ in range(3):
        optimizer.apply([tiny.slices([5, 5], np.ones((2, 4)))], [table])
    others = [row for row in range(10) if row != 5]
    for was, now in zip(before, map(np.array, held), strict=True):
        np.testing.assert_array_equal(now[others], was[others])
        assert (now[5] != was[5]).all()


@family
def test_dense_gradients_are_updated_as_by_keras(name):
    """The layers behind the table train as under the Keras optimizer, bit for bit."""
    ours, theirs = (tiny.model(make()) for make in FAMILY[name])
    tiny.fit(ours)
    tiny.fit(theirs)
    assert tiny.apart(ours, theirs) == 0


@pytest.mark.parametrize("traced", ["graph", "xla"])
@family
def test_in_a_graph_and_under_xla(name, traced):
    """Traced, or compiled by XLA, it computes the same table as eagerly."""
    ours, theirs, optimizer, eager = tiny.variable(), tiny.variable(), FAMILY[name][0](), FAMILY[name][0]()
    optimizer.build([ours])

    @tf.function(jit_compile=traced == "xla")
    def step(rows, values):
        optimizer.apply([tf.IndexedSlices(values, rows, tf.constant((10, 4), tf.int64))], [ours])

    for rows, values in tiny.random_slices(5):
        step(tf.constant(rows), tf.constant(values))
        eager.apply([tiny.slices(rows, values)], [theirs])
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1e-6


@family
def test_unseen_rows_do_not_move_in_fit(name):
    """Row 9 never occurs and stays as it is, under weight decay too."""
    net = tiny.model(FAMILY[name][0](), trainable=True)
    tiny.fit(net, epochs=2)
    moved = np.abs(tiny.table_of(net) - tiny.TABLE).max(axis=1)
    assert moved[tiny.UNSEEN] == 0 and (moved[np.unique(tiny.IDS)] > 1e-4).all()


@family
def test_continuing_from_a_keras_file(name, tmp_path):
    """Training continues after loading as it would have without, to the bit."""
    net = tiny.model(FAMILY[name][0](anchor_decay=0.1, learning_rate_multipliers={"embedding": 0.5}), trainable=True)
    tiny.fit(net, epochs=2)
    loaded = tiny.fit_on_from_a_file(net, tmp_path, epochs=2)
    assert tiny.apart(net, loaded) == 0


@family
def test_config_round_trip(name):
    """A copy from the config has the same settings, and serialises under the name of the package."""
    optimizer = FAMILY[name][0](learning_rate_multipliers={"a/**": 0.5}, anchor_decay=0.1, name="rows")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is type(optimizer) and again.get_config() == optimizer.get_config()
    assert again.learning_rate_multipliers == {"a/**": 0.5} and again.anchor_decay == 0.1


def test_equals_sparse_adam_of_torch():
    """On batches with duplicates and unseen rows it is PyTorch's SparseAdam."""
    torch = pytest.importorskip("torch")
    ours, optimizer = tiny.variable(), RowWiseAdam(0.01, epsilon=1e-8)
    torch.sparse.check_sparse_tensor_invariants.disable()  # said aloud, torch does not warn of it
    theirs = torch.nn.Parameter(torch.tensor(tiny.TABLE))
    reference = torch.optim.SparseAdam([theirs], lr=0.01, eps=1e-8)
    for rows, values in tiny.random_slices():
        optimizer.apply([tiny.slices(rows, values)], [ours])
        theirs.grad = torch.sparse_coo_tensor(torch.tensor(rows[None]), torch.tensor(values), (10, 4))
        reference.step()
    assert np.abs(np.array(ours) - theirs.detach().numpy()).max() <= 1e-6
    assert np.abs(np.array(ours) - tiny.TABLE).max() > 0.05


@pytest.mark.parametrize("occurrences", [1, 100])
def test_first_step_does_not_depend_on_how_often_a_token_occurs(occurrences):
    """The first step of Adam is the learning rate, for a token that occurs once or 100 times."""
    assert _first_step(RowWiseAdam(0.01), occurrences) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.stock_keras
def test_stock_adam_squares_each_occurrence():
    """Keras sums squares where it should square the sum: 100 occurrences give a first step of 10x the rate."""
    assert _first_step(optimizers.Adam(0.01), 100) == pytest.approx(0.1, rel=1e-3)


def _first_step(optimizer, occurrences):
    layer = tiny.embedding(trainable=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.full((1, occurrences), 3)))
    optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
    return float(np.abs(layer.matrix() - tiny.TABLE)[3].max())


@pytest.mark.stock_keras
def test_stock_adamw_moves_rows_never_seen():
    """Weight decay reaches every row of the table."""
    net = tiny.model(optimizers.AdamW(0.01, weight_decay=0.1), trainable=True)
    tiny.fit(net, epochs=1)
    assert np.abs(tiny.table_of(net) - tiny.TABLE)[tiny.UNSEEN].max() > 1e-3


@pytest.mark.stock_keras
def test_stock_adam_moves_a_row_after_it_was_seen():
    """Dense moments keep moving a row that is no longer in the batch."""
    layer, optimizer = tiny.embedding(trainable=True), optimizers.Adam(0.01)
    optimizer.apply([tiny.slices([3], np.ones((1, 4)))], layer.trainable_variables)
    before = layer.matrix()[3]
    optimizer.apply([tiny.slices([5], np.ones((1, 4)))], layer.trainable_variables)
    assert np.abs(layer.matrix()[3] - before).min() > 1e-3


def _largest_late_update(optimizer):
    """The largest move in one step, over the rate, of a table unfrozen after many steps with gradients of one size."""
    head, late = keras.Variable(np.zeros((1, 4), np.float32)), tiny.variable()
    optimizer.build([head])
    for _ in range(1000):
        optimizer.apply([tf.ones((1, 4))], [head])
    rebuild(optimizer, [head, late])
    largest = 0.0
    for _ in range(10):
        before = np.array(late)
        optimizer.apply([tf.ones((1, 4)), tiny.slices([3], np.ones((1, 4)))], [head, late])
        largest = max(largest, float(np.abs(np.array(late) - before).max()))
    return largest / 0.01


@pytest.mark.parametrize("make", [lambda: RowWiseAdam(0.01), lambda: RowWiseAdamW(0.01, weight_decay=1e-4)])
def test_a_late_variable_does_not_overshoot(make):
    """Joined at step 1000, its first updates stay within 1.1 times the rate."""
    assert 0.5 < _largest_late_update(make()) <= 1.1


@pytest.mark.stock_keras
def test_stock_adam_overshoots_for_a_late_variable():
    """Bias corrected by the steps of the whole training: several times the rate."""
    assert _largest_late_update(optimizers.Adam(0.01)) > 3


def test_a_late_table_in_fit_does_not_overshoot():
    """The same in a fit with unfreeze_at: no component moves further in its first step than 1.1 times the rate."""
    net, moves = tiny.model(RowWiseAdam(1e-3)), []

    class Moves(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            moves.append(tiny.table_of(net))

    tiny.fit(net, epochs=40, callbacks=[unfreeze_at(38, "embedding"), Moves()])
    steps = [float(np.abs(after - before).max()) for before, after in pairwise(moves)]
    assert steps[-7] == 0 and 0.5e-3 < max(steps[-6:]) <= 1.1e-3


def _loss_scaled():
    return optimizers.LossScaleOptimizer(RowWiseAdam(0.01), initial_scale=128)


@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_loss_scale_does_not_change_the_steps(arguments):
    """Scaled up and down again, the gradient is the same, and still one by rows."""
    plain = tiny.model(RowWiseAdam(0.01), trainable=True, **arguments)
    scaled = tiny.model(_loss_scaled(), trainable=True, **arguments)
    tiny.fit(plain, epochs=2)
    tiny.fit(scaled, epochs=2)
    assert tiny.apart(plain, scaled) <= 1e-6
    np.testing.assert_array_equal(tiny.table_of(scaled)[tiny.UNSEEN], tiny.TABLE[tiny.UNSEEN])


def test_loss_scaled_from_a_keras_file(tmp_path):
    """Saved inside a LossScaleOptimizer, training continues to the bit."""
    net = tiny.model(_loss_scaled(), trainable=True)
    tiny.fit(net, epochs=2)
    loaded = tiny.fit_on_from_a_file(net, tmp_path, epochs=2)
    assert tiny.apart(net, loaded) == 0


@pytest.mark.stock_keras
def test_stock_loss_scale_factor_fails_for_an_embedding():
    """Keras divides each gradient by the factor, which slices of rows do not support."""
    net = tiny.model(optimizers.Adam(0.01, loss_scale_factor=8.0), trainable=True)
    with pytest.raises(TypeError, match=r"unsupported operand .* 'IndexedSlices' and 'float'"):
        tiny.fit(net, epochs=1)


def test_inside_a_multi_optimizer():
    """As the optimizer of the table alone it leaves unseen rows as they are."""
    rates = tiny.since("OptimizerMap")(optimizers.SGD(0.1), {"embedding/.*": RowWiseAdam(0.01)})
    net = tiny.model(tiny.since("MultiOptimizer")(rates), trainable=True)
    tiny.fit(net, epochs=2)
    moved = np.abs(tiny.table_of(net) - tiny.TABLE).max(axis=1)
    assert moved[tiny.UNSEEN] == 0 and (moved[np.unique(tiny.IDS)] > 1e-4).all()


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("gradient_accumulation_steps", 2, "passes on a dense gradient"),
        ("loss_scale_factor", 8.0, "wrap the optimizer in a LossScaleOptimizer"),
        ("use_ema", True, "average the whole table"),
    ],
)
@pytest.mark.parametrize("make", [RowWiseAdam, RowWiseAdamW, RowWiseAdagrad, RowWiseSGD])
def test_refused_settings(make, setting, value, reason):
    """What Keras applies to the whole table is refused, with its value and the reason."""
    with pytest.raises(OptimizerError, match=rf"{make.__name__} doesn't support {setting}={value}: .*{reason}"):
        make(**{setting: value})


def test_a_loss_scale_factor_from_outside_is_refused():
    """MultiOptimizer sets it on the optimizers inside it after they were created."""
    inner = tiny.since("OptimizerMap")(optimizers.SGD(0.1), {"embedding/.*": RowWiseAdam(0.01)})
    net = tiny.model(tiny.since("MultiOptimizer")(inner, loss_scale_factor=2.0), trainable=True)
    with pytest.raises(OptimizerError, match=r"RowWiseAdam doesn't support loss_scale_factor=2\.0: Keras can't divide"):
        tiny.fit(net, epochs=1)


def test_settings_at_their_neutral_value_pass():
    """A config contains None, False and no decay."""
    assert RowWiseAdam(weight_decay=None, use_ema=False, amsgrad=False, clipnorm=None).weight_decay is None


def test_learning_rate_schedule():
    """A LearningRateSchedule sets the rate of each step."""
    table = keras.Variable(np.zeros((10, 1), np.float32))
    optimizer = RowWiseAdam(optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.001]))
    steps = []
    for row in (2, 3, 4):
        before = np.array(table)
        optimizer.apply([tiny.slices([row], [[1.0]])], [table])
        steps.append(float(np.abs(np.array(table) - before).max()))
    assert steps[0] == pytest.approx(0.1, rel=1e-4) and steps[2] < 0.001


@family
def test_half_precision_gradients(name):
    """Slices in float16 update a float32 table as those in float32 do."""
    half, full = tiny.variable(), tiny.variable()
    for table, dtype in ((half, tf.float16), (full, tf.float32)):
        gradient = tf.IndexedSlices(tf.ones((2, 4), dtype), tf.constant([3, 3]), tf.constant((10, 4)))
        FAMILY[name][0]().apply([gradient], [table])
    np.testing.assert_array_equal(np.array(half), np.array(full))
    assert (np.array(half)[3] != tiny.TABLE[3]).all()


@family
def test_no_rows(name):
    """A batch without ids changes nothing and fails nothing."""
    table = tiny.variable()
    FAMILY[name][0]().apply([tiny.slices(np.zeros(0, int), np.zeros((0, 4)))], [table])
    np.testing.assert_array_equal(np.array(table), tiny.TABLE)


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_in_a_custom_loop(traced):
    """A GradientTape loop with apply_gradients leads to the weights of fit."""
    net, fitted = (tiny.model(RowWiseAdam(0.01), trainable=True) for _ in range(2))
    tiny.fit(fitted, epochs=2)

    def step(ids, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, net(ids, training=True)))
        variables = net.trainable_variables
        net.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    run = tf.function(step) if traced else step
    for start in (0, 4, 8) * 2:
        run(tf.constant(tiny.IDS[start : start + 4]), tf.constant(tiny.LABELS[start : start + 4]))
    assert tiny.apart(net, fitted) <= 1e-6


def test_decay_biases_false_leaves_biases_and_normalisations():
    """Kernels decay; biases (an attention's have two axes), scales and shifts don't; the setting is in the config."""
    x = keras.Input((3, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    normalised = keras.layers.LayerNormalization(name="norm")(attention)
    model = keras.Model(x, keras.layers.Dense(2, name="head")(normalised))
    for variable in model.variables:
        variable.assign(np.ones(variable.shape))
    optimizer = RowWiseAdamW(0.1, weight_decay=0.5, decay_biases=False)
    optimizer = RowWiseAdamW.from_config(optimizer.get_config())
    optimizer.apply([tf.zeros(variable.shape) for variable in model.variables], model.variables)
    moved = {variable.path.rpartition("/")[2] for variable in model.variables if np.any(np.array(variable) != 1)}
    assert moved == {"kernel"}
    assert [np.unique(variable) for variable in model.get_layer("head").weights] == [[np.float32(0.95)], [1.0]]


def test_decay_biases_is_a_flag():
    """Other values are refused."""
    with pytest.raises(OptimizerError, match=r"decay_biases .*'no'"):
        RowWiseAdamW(decay_biases="no")
