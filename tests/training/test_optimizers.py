"""RowWiseAdam: against dense Adam, against PyTorch, and what it leaves alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import OptimizerError
from embkeras.training.optimizers import RowWiseAdam, sum_by_row
from tests import tiny


def _slices(rows, values):
    values = np.asarray(values, np.float32)
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(rows, tf.int64), tf.constant((10, values.shape[1]), tf.int64)
    )


def _variable(width=4):
    return keras.Variable(tiny.TABLE[:, :width], name="table")


def _random_batches(count=20):
    rng = np.random.default_rng(5)
    for _ in range(count):
        rows = rng.integers(0, 9, 12)
        yield rows, rng.normal(size=(12, 4)).astype(np.float32)


def test_sum_by_row():
    """Each row once, with the sum of its occurrences."""
    rows, summed = sum_by_row(_slices([4, 2, 4, 4], [[1, 0], [5, 5], [10, 0], [100, 1]]))
    assert dict(zip(rows.numpy().tolist(), summed.numpy().tolist(), strict=True)) == {4: [111, 1], 2: [5, 5]}


def test_equals_dense_adam_where_every_row_is_in_every_batch_once():
    """Without duplicates and without unseen rows, row-wise Adam is Adam."""
    ours, theirs = _variable(), _variable()
    row_wise, dense = RowWiseAdam(0.01), optimizers.Adam(0.01)
    rng = np.random.default_rng(5)
    for _ in range(10):
        rows, values = rng.permutation(10), rng.normal(size=(10, 4)).astype(np.float32)
        row_wise.apply([_slices(rows, values)], [ours])
        dense.apply([tf.constant(values[np.argsort(rows)])], [theirs])
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1e-6
    assert np.abs(np.array(ours) - tiny.TABLE).max() > 0.01


def test_equals_sparse_adam_of_torch():
    """On batches with duplicates and unseen rows it is PyTorch's SparseAdam."""
    torch = pytest.importorskip("torch")
    ours, optimizer = _variable(), RowWiseAdam(0.01, epsilon=1e-8)
    torch.sparse.check_sparse_tensor_invariants.disable()  # said aloud, torch does not warn of it
    theirs = torch.nn.Parameter(torch.tensor(tiny.TABLE))
    reference = torch.optim.SparseAdam([theirs], lr=0.01, eps=1e-8)
    for rows, values in _random_batches():
        optimizer.apply([_slices(rows, values)], [ours])
        theirs.grad = torch.sparse_coo_tensor(torch.tensor(rows[None]), torch.tensor(values), (10, 4))
        reference.step()
    assert np.abs(np.array(ours) - theirs.detach().numpy()).max() <= 1e-6
    assert np.abs(np.array(ours) - tiny.TABLE).max() > 0.05


@pytest.mark.parametrize("traced", ["eager", "graph", "xla"])
def test_in_every_mode(traced):
    """Eager, in a graph and compiled by XLA, it gives the same table."""
    ours, theirs, optimizer, eager = _variable(), _variable(), RowWiseAdam(0.01), RowWiseAdam(0.01)
    optimizer.build([ours])

    def step(rows, values):
        optimizer.apply([tf.IndexedSlices(values, rows, tf.constant((10, 4), tf.int64))], [ours])

    run = step if traced == "eager" else tf.function(step, jit_compile=traced == "xla")
    for rows, values in _random_batches(5):
        run(tf.constant(rows), tf.constant(values))
        eager.apply([_slices(rows, values)], [theirs])
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1e-6


def test_rows_not_in_the_batch_stand_still():
    """Rows and both moments of what a batch does not name stay bit-identical, also after they were once seen."""
    table, optimizer = _variable(), RowWiseAdam(0.01)
    optimizer.apply([_slices([2, 3], np.ones((2, 4)))], [table])
    before = [np.array(each) for each in (table, optimizer._momentums[0], optimizer._velocities[0])]
    for _ in range(3):
        optimizer.apply([_slices([5, 5], np.ones((2, 4)))], [table])
    after = [np.array(each) for each in (table, optimizer._momentums[0], optimizer._velocities[0])]
    others = [row for row in range(10) if row != 5]
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(now[others], was[others])
        assert (now[5] != was[5]).all()


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
    """Dense moments go on moving a row that is no longer in the batch."""
    layer, optimizer = tiny.embedding(trainable=True), optimizers.Adam(0.01)
    optimizer.apply([_slices([3], np.ones((1, 4)))], layer.trainable_variables)
    before = layer.matrix()[3]
    optimizer.apply([_slices([5], np.ones((1, 4)))], layer.trainable_variables)
    assert np.abs(layer.matrix()[3] - before).min() > 1e-3


def _loss_scaled():
    return optimizers.LossScaleOptimizer(RowWiseAdam(0.01), initial_scale=128)


@pytest.mark.parametrize("make", [lambda: RowWiseAdam(0.01), _loss_scaled], ids=["plain", "LossScaleOptimizer"])
@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_unseen_rows_do_not_move_in_fit(make, arguments):
    """Row 9 never occurs and stays as it is, whatever wraps the optimizer."""
    net = tiny.model(make(), trainable=True, **arguments)
    tiny.fit(net, epochs=2)
    moved = np.abs(tiny.table_of(net) - tiny.TABLE).max(axis=1)
    assert moved[tiny.UNSEEN] == 0 and (moved[np.unique(tiny.IDS)] > 1e-4).all()


def test_loss_scale_does_not_change_the_steps():
    """Scaled up and down again, the gradient is the same."""
    plain, scaled = tiny.model(RowWiseAdam(0.01), trainable=True), tiny.model(_loss_scaled(), trainable=True)
    tiny.fit(plain, epochs=2)
    tiny.fit(scaled, epochs=2)
    assert tiny.apart(plain, scaled) <= 1e-6


@pytest.mark.stock_keras
def test_stock_loss_scale_factor_fails_for_an_embedding():
    """Keras divides each gradient by the factor, which slices of rows do not know."""
    net = tiny.model(optimizers.Adam(0.01, loss_scale_factor=8.0), trainable=True)
    with pytest.raises(TypeError, match=r"unsupported operand .* 'IndexedSlices' and 'float'"):
        tiny.fit(net, epochs=1)


def test_inside_a_multi_optimizer():
    """As the optimizer of the table alone it leaves unseen rows as they are."""
    rates = optimizers.OptimizerMap(optimizers.SGD(0.1), {"embedding/.*": RowWiseAdam(0.01)})
    net = tiny.model(optimizers.MultiOptimizer(rates), trainable=True)
    tiny.fit(net, epochs=2)
    moved = np.abs(tiny.table_of(net) - tiny.TABLE).max(axis=1)
    assert moved[tiny.UNSEEN] == 0 and (moved[np.unique(tiny.IDS)] > 1e-4).all()


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("weight_decay", 0.01, "move every row in each step"),
        ("clipnorm", 1.0, "each occurrence of a row counted by itself"),
        ("clipvalue", 0.5, "clips each occurrence of a row"),
        ("global_clipnorm", 1.0, "hands over a dense gradient"),
        ("gradient_accumulation_steps", 2, "hands over a dense gradient"),
        ("loss_scale_factor", 8.0, "wrap the optimizer in a LossScaleOptimizer"),
        ("use_ema", True, "average the whole table"),
        ("amsgrad", True, "third slot is not kept by rows"),
    ],
)
def test_refused_settings(setting, value, reason):
    """What Keras applies to the whole table is refused, with its value and the reason."""
    with pytest.raises(OptimizerError, match=rf"RowWiseAdam does not take {setting}={value}: .*{reason}"):
        RowWiseAdam(**{setting: value})


def test_settings_at_their_neutral_value_pass():
    """None, False and no decay are what a config holds."""
    assert RowWiseAdam(weight_decay=None, use_ema=False, amsgrad=False, clipnorm=None).weight_decay is None


def test_dense_gradients_are_updated_as_by_adam():
    """The layers behind the table train as under keras Adam, bit for bit."""
    ours, theirs = tiny.model(RowWiseAdam(0.01)), tiny.model(optimizers.Adam(0.01))
    tiny.fit(ours)
    tiny.fit(theirs)
    assert tiny.apart(ours, theirs) == 0


def test_config_round_trip():
    """A copy from the config has the same settings, and serialises under the name of the package."""
    optimizer = RowWiseAdam(0.02, beta_1=0.8, beta_2=0.99, epsilon=1e-5, name="rows")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is RowWiseAdam and again.get_config() == optimizer.get_config()
    assert RowWiseAdam.from_config(optimizer.get_config()).get_config() == optimizer.get_config()


def test_learning_rate_schedule():
    """A LearningRateSchedule gives each step its rate."""
    table = keras.Variable(np.zeros((10, 1), np.float32))
    optimizer = RowWiseAdam(optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.001]))
    steps = []
    for row in (2, 3, 4):
        before = np.array(table)
        optimizer.apply([_slices([row], [[1.0]])], [table])
        steps.append(float(np.abs(np.array(table) - before).max()))
    assert steps[0] == pytest.approx(0.1, rel=1e-4) and steps[2] < 0.001


@pytest.mark.parametrize("make", [lambda: RowWiseAdam(0.01), _loss_scaled], ids=["plain", "LossScaleOptimizer"])
def test_going_on_from_a_keras_file(make, tmp_path):
    """Saved, loaded and trained on equals trained on without."""
    net = tiny.model(make(), trainable=True)
    tiny.fit(net, epochs=2)
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (net, loaded):
        tiny.fit(each, epochs=2)
    assert tiny.apart(net, loaded) <= 1e-7


def test_half_precision_gradients():
    """Slices in float16 update a float32 table."""
    table, optimizer = _variable(), RowWiseAdam(0.01)
    gradient = tf.IndexedSlices(tf.ones((2, 4), tf.float16), tf.constant([3, 3]), tf.constant((10, 4)))
    optimizer.apply([gradient], [table])
    np.testing.assert_allclose((tiny.TABLE - np.array(table))[3], 0.01, rtol=1e-3)


def test_no_rows():
    """A batch without ids changes nothing and fails nothing."""
    table, optimizer = _variable(), RowWiseAdam(0.01)
    optimizer.apply([_slices(np.zeros(0, int), np.zeros((0, 4)))], [table])
    np.testing.assert_array_equal(np.array(table), tiny.TABLE)
