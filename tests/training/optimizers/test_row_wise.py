"""What the row-wise family does around its rules: sums, clipping, decay, anchors, tables, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import EmbkerasWarning, OptimizerError
from embkeras.keras_compat.optimizers import slots_of
from embkeras.keras_compat.variables import read_by_rows
from embkeras.tables import row_io
from embkeras.tables.builders import build_embedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.optimizers.row_wise import sum_by_row
from embkeras.training.optimizers.rules import RowWiseAdagrad, RowWiseAdam, RowWiseAdamW, RowWiseSGD
from embkeras.training.schedule.callback import TrainabilitySchedule
from embkeras.training.schedule.phases import Phase
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny


def _layer():
    """A layer with a marked table, and its variables."""
    layer = tiny.embedding(trainable=True)
    return layer, layer.trainable_variables


def test_sum_by_row():
    """Each row once, with the sum of its occurrences."""
    rows, summed = sum_by_row(tiny.slices([4, 2, 4, 4], [[1, 0], [5, 5], [10, 0], [100, 1]]))
    assert dict(zip(rows.numpy().tolist(), summed.numpy().tolist(), strict=True)) == {4: [111, 1], 2: [5, 5]}


def test_weight_decay_reaches_the_rows_of_the_batch():
    """A row of the batch shrinks by rate times decay, once, however often it occurs; the others stay."""
    layer, variables = _layer()
    RowWiseSGD(0.1, weight_decay=0.5).apply([tiny.slices([3, 3], np.zeros((2, 4)))], variables)
    np.testing.assert_allclose(layer.matrix()[3], tiny.TABLE[3] * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(np.delete(layer.matrix(), 3, 0), np.delete(tiny.TABLE, 3, 0))


def test_variables_excluded_from_weight_decay():
    """Keras' exclude_from_weight_decay() works here too."""
    layer, variables = _layer()
    optimizer = RowWiseSGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["embeddings"])
    optimizer.apply([tiny.slices([3], np.zeros((1, 4)))], variables)
    np.testing.assert_array_equal(layer.matrix(), tiny.TABLE)


@pytest.mark.parametrize("clip", [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.05}], ids=str)
def test_clipping_equals_that_of_the_dense_gradient(clip):
    """Norms and values are those of the summed rows, and a gradient by rows stays one."""
    layer, variables = _layer()
    head_of_ours, head_of_theirs = keras.Variable(np.zeros((1, 4))), keras.Variable(np.zeros((1, 4)))
    table = tiny.variable()
    ours, theirs = RowWiseSGD(0.1, **clip), optimizers.SGD(0.1, **clip)
    for rows, values in tiny.random_slices():
        dense = np.zeros((10, 4), np.float32)
        np.add.at(dense, rows, values)
        ours.apply([tiny.slices(rows, values), tf.ones((1, 4))], [*variables, head_of_ours])
        theirs.apply([tf.constant(dense), tf.ones((1, 4))], [table, head_of_theirs])
    assert np.abs(layer.matrix() - np.array(table))[1:].max() <= 1e-6  # row 0, padding, stays zeros in a layer
    assert np.abs(np.array(head_of_ours) - np.array(head_of_theirs)).max() <= 1e-6
    np.testing.assert_array_equal(layer.matrix()[tiny.UNSEEN], tiny.TABLE[tiny.UNSEEN])


@pytest.mark.stock_keras
def test_stock_clipnorm_counts_each_occurrence():
    """Three occurrences that cancel have no norm to clip, but Keras clips them, so what does not cancel is lost."""
    moves = []
    for optimizer in (RowWiseSGD(1.0, clipnorm=1.0), optimizers.SGD(1.0, clipnorm=1.0)):
        layer, variables = _layer()
        optimizer.apply([tiny.slices([3, 3, 3], [[9, 0, 0, 0], [-9, 0, 0, 0], [0, 1, 0, 0]])], variables)
        moves.append(float(tiny.TABLE[3, 1] - layer.matrix()[3, 1]))
    assert moves[0] == pytest.approx(1.0, abs=1e-6) and moves[1] < 0.1


def test_moments_of_missing_rows_stay():
    """Lazy Adam: the moments of a row do not decay in steps without it, as those of dense Adam do."""
    _, variables = _layer()
    lazy = RowWiseAdam(0.01)
    for rows in ([3], [5], [5], [5], [3]):
        lazy.apply([tiny.slices(rows, np.ones((1, 4)))], variables)
    assert float(np.array(lazy._momentums[0])[3, 0]) == pytest.approx(1 - 0.9**2, rel=1e-5)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "much"])
def test_anchor_decay_is_a_share(value):
    """Anything but a number from 0 to 1 is refused."""
    with pytest.raises(OptimizerError, match=rf"anchor_decay .*>= 0 and <= 1\. Received: {value!r}"):
        RowWiseAdam(anchor_decay=value)


def test_anchor_decay_pulls_rows_of_the_batch_back():
    """A row of the batch moves this share of the way back to where it joined, whatever the rate; the others stay."""
    layer, variables = _layer()
    optimizer = RowWiseSGD(0.01, anchor_decay=0.2)
    optimizer.build(variables)
    layer.assign_table(tiny.TABLE + 1)
    optimizer.apply([tiny.slices([3, 3], np.zeros((2, 4)))], variables)
    np.testing.assert_allclose(layer.matrix()[3] - tiny.TABLE[3], 0.8, rtol=1e-5)
    others = [1, 2, *range(4, 10)]
    np.testing.assert_array_equal(layer.matrix()[others], tiny.TABLE[others] + 1)


def test_anchor_decay_keeps_a_table_nearer_in_fit():
    """Trained for the same epochs, the anchored table ends nearer to the pre-trained one."""
    far, near = (tiny.model(RowWiseAdam(0.05, anchor_decay=decay), trainable=True) for decay in (0.0, 0.25))
    for net in (far, near):
        tiny.fit(net, epochs=10)
    distances = [np.linalg.norm(tiny.table_of(net) - tiny.TABLE) for net in (far, near)]
    assert 0.05 < distances[1] < 0.8 * distances[0]


def _drift_of(net):
    return np.linalg.norm(tiny.table_of(net) - tiny.TABLE, axis=1)


@pytest.mark.parametrize("max_drift", [0, -1, float("inf"), "far"])
def test_max_drift_is_positive(max_drift):
    """Anything but a number above 0 is refused."""
    with pytest.raises(OptimizerError, match=rf"max_drift .*> 0\. Received: {max_drift!r}"):
        RowWiseAdam(max_drift=max_drift)


def test_no_row_ever_leaves_its_ball():
    """After each of many large steps every row is inside; some are on the surface, and rows of no batch don't move."""
    net, inside = tiny.model(RowWiseAdam(0.5, max_drift=0.3), trainable=True), []
    norms = np.linalg.norm(tiny.TABLE, axis=1)
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: inside.append(_drift_of(net)))
    tiny.fit(net, epochs=8, callbacks=[note])
    assert len(inside) >= 24 and max((drift - 0.3 * norms).max() for drift in inside) <= 0
    seen = np.unique(tiny.IDS)
    assert (inside[-1][seen] > 0.2999 * norms[seen]).any() and (inside[-1][seen] > 0).all()
    assert inside[-1][[0, tiny.UNSEEN]].tolist() == [0, 0]


def test_a_ball_moves_a_row_to_its_surface():
    """Along the line to where it joined; a row that stays inside takes its whole step."""
    layer, variables = _layer()
    optimizer = RowWiseSGD(1.0, max_drift=0.5)
    optimizer.build(variables)
    step = np.array([3.0, 0, 4, 0], np.float32)
    optimizer.apply([tiny.slices([3, 5], np.stack([-step, -step / 1000]))], variables)
    moved = layer.matrix() - tiny.TABLE
    np.testing.assert_allclose(moved[3], step / 5 * 0.5 * np.linalg.norm(tiny.TABLE[3]), rtol=1e-5)
    np.testing.assert_allclose(moved[5], step / 1000, rtol=1e-4)


@pytest.mark.parametrize("trainable", ["oov", True, "rows"])
def test_words_without_a_vector_have_no_ball(trainable):
    """They begin anywhere; words with one are held, in a table that trains as a whole or in part."""
    found = np.arange(10) < 6
    aligned = AlignedMatrix(tiny.TABLE, Vocabulary(["", *"abcdefghi"], oov_ids=()), found=found)
    rows = np.isin(np.arange(10), [4, 8]) if trainable == "rows" else trainable
    layer = build_embedding(aligned, trainable=rows)
    optimizer, variables = RowWiseSGD(1.0, max_drift=0.1), layer.trainable_variables
    optimizer.build(variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[4, 8]])) * 5.0)
    optimizer.apply(tape.gradient(loss, variables), variables)
    drift = np.linalg.norm(layer.matrix() - tiny.TABLE, axis=1)
    assert drift[8] == pytest.approx(10)
    assert drift[4] == pytest.approx(0 if trainable == "oov" else 0.1 * np.linalg.norm(tiny.TABLE[4]), rel=1e-4)


def test_only_tables_are_anchored():
    """One more slot for the table, none for the layers behind it."""
    plain, anchored = (tiny.model(RowWiseAdam(0.01, anchor_decay=decay), trainable=True) for decay in (0.0, 1.0))
    for net in (plain, anchored):
        tiny.fit(net, epochs=1)
    assert len(anchored.optimizer.variables) == len(plain.optimizer.variables) + 1
    assert tuple(anchored.optimizer.variables[-1].shape) == (10, 4)


def test_anchor_is_the_table_as_it_joined():
    """A table that a schedule unfreezes is anchored at its value at that moment."""
    net = tiny.model(RowWiseAdam(0.01, anchor_decay=1.0))
    tiny.fit(net, callbacks=[TrainabilitySchedule([Phase(0, freeze="embedding"), Phase(2)])])
    np.testing.assert_array_equal(np.array(net.optimizer.variables[-1]), tiny.TABLE)
    assert (tiny.table_of(net) != tiny.TABLE).any()


def test_joining_with_a_tuned_table_warns():
    """After unfreezing, freezing and unfreezing, the anchor is no longer the pre-trained table."""
    net = tiny.model(RowWiseAdam(0.01, anchor_decay=1.0), trainable=True)
    phases = [Phase(0), Phase(1, freeze="embedding"), Phase(2)]
    with pytest.warns(EmbkerasWarning, match=r"embedding/embeddings joins again after it was trained"):
        tiny.fit(net, callbacks=[TrainabilitySchedule(phases)])


def test_an_anchor_needs_a_table():
    """The optimizer was built before anything said that the variable is a table: refused, not ignored."""
    table, optimizer = tiny.variable(), RowWiseAdam(0.01, anchor_decay=1.0)
    optimizer.build([table])
    with pytest.raises(OptimizerError, match=r"anchor_decay .* for 'table'.*set_model"):
        optimizer.apply([tiny.slices([3], np.ones((1, 4)))], [table])


def test_factors_of_lora_have_no_anchor():
    """Rows of LoRA's factor are read as those of a table, but its layer marks it as not a table."""
    factor = tiny.variable()
    read_by_rows(factor, table=False)
    with pytest.raises(OptimizerError, match=r"anchor_decay .* for 'table'"):
        RowWiseAdam(0.01, anchor_decay=1.0).apply([tiny.slices([3], np.ones((1, 4)))], [factor])


@pytest.mark.parametrize("name", ["table", "embeddings"])
@pytest.mark.parametrize("make", [keras.Variable, tf.Variable])
def test_a_gradient_by_rows_makes_a_table(name, make):
    """On the first step, whatever the variable is called, also for a variable of TensorFlow."""
    table, optimizer = make(np.ones((10, 4), np.float32), name=name), RowWiseSGD(0.1, anchor_decay=0.1)
    optimizer.apply([tiny.slices([3], np.ones((1, 4)))], [table])
    optimizer.apply([tiny.slices([3], np.zeros((1, 4)))], [table])
    np.testing.assert_allclose(np.array(table)[3], 1 - 0.1 * 0.9, rtol=1e-6)  # 0.1 of the way back to 1


def test_the_name_embeddings_makes_no_table():
    """A matrix of that name with a dense gradient is trained like any other, without an anchor or a warning."""
    matrix, optimizer = keras.Variable(np.ones((10, 4)), name="embeddings"), RowWiseSGD(0.1, anchor_decay=1.0)
    optimizer.build([matrix])
    variables = len(optimizer.variables)
    optimizer.apply([tf.ones((10, 4))], [matrix])
    assert variables == len(RowWiseSGD(0.1).variables) + 1  # its birth step
    np.testing.assert_allclose(np.array(matrix), 0.9)


def _stock_model(optimizer):
    keras.utils.set_random_seed(0)
    table = keras.layers.Embedding(10, 4, name="words", weights=[tiny.TABLE])
    layers = [table, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, activation="softmax")]
    net = keras.Sequential([keras.Input((5,), dtype="int64"), *layers])
    net.compile(optimizer, loss="sparse_categorical_crossentropy")
    return net


def test_a_stock_embedding_is_right_and_warns_once():
    """The table trains as that of our layer does; one warning says what it costs."""
    net = _stock_model(RowWiseAdam(0.01))
    with pytest.warns(
        EmbkerasWarning, match="words/embeddings belongs to a stock Embedding layer, which copies"
    ) as seen:
        tiny.fit(net, epochs=2)
        net.optimizer.built = False
        net.optimizer.build(net.trainable_variables)
    assert len([each for each in seen if each.category is EmbkerasWarning]) == 1
    ours = tiny.model(RowWiseAdam(0.01), trainable=True)
    ours.layers[-1].set_weights(_stock_model("sgd").layers[-1].get_weights())
    tiny.fit(ours, epochs=2)
    assert np.abs(tiny.table_of(ours) - np.array(net.layers[0].embeddings)).max() <= 1e-6


def test_a_dense_gradient_of_a_table_warns():
    """A regularizer on the table makes its gradient dense, and each step costs the whole table."""
    keras.utils.set_random_seed(0)
    net = tiny.model(RowWiseAdam(0.01), trainable=True)
    net.get_layer("embedding").embeddings_regularizer = keras.regularizers.L2(0.1)
    net.get_layer("embedding")._embeddings.regularizer = keras.regularizers.L2(0.1)
    with pytest.warns(EmbkerasWarning, match="embedding/embeddings gets a dense gradient, so each step costs"):
        tiny.fit(net, epochs=1)


def test_a_constraint_on_a_table_warns():
    """Keras applies it to every row, even to rows that are in no batch."""
    net = tiny.model(RowWiseAdam(0.01), trainable=True)
    net.get_layer("embedding")._embeddings.constraint = keras.constraints.MaxNorm(0.5)
    with pytest.warns(
        EmbkerasWarning, match="embedding/embeddings has a constraint, which Keras applies to all its rows"
    ):
        tiny.fit(net, epochs=1)
    assert (tiny.table_of(net)[tiny.UNSEEN] != tiny.TABLE[tiny.UNSEEN]).any()


@pytest.mark.filterwarnings("ignore:words/embeddings belongs to a stock Embedding layer")
@pytest.mark.parametrize("how", ["fit", "schedule", "LossScaleOptimizer", "build"])
def test_a_stock_embedding_is_anchored(how):
    """Its layer marks nothing, so the optimizer finds the table in the model that trains it."""
    inner = RowWiseAdam(0.01, anchor_decay=1.0)
    net = _stock_model(optimizers.LossScaleOptimizer(inner, initial_scale=8) if how == "LossScaleOptimizer" else inner)
    if how == "build":
        inner.set_model(net)
        inner.build(net.trainable_variables)
    tiny.fit(net, epochs=1, callbacks=[TrainabilitySchedule(Phase(0))] if how == "schedule" else ())
    np.testing.assert_array_equal(np.array(slots_of(inner, net.layers[0].embeddings)["_anchors"]), tiny.TABLE)


@pytest.mark.filterwarnings("ignore:words/embeddings belongs to a stock Embedding layer")
def test_an_anchored_stock_embedding_from_a_keras_file(tmp_path):
    """The anchor is created when the model is loaded, and comes from the file."""
    net = _stock_model(RowWiseAdam(0.01, anchor_decay=1.0))
    tiny.fit(net, epochs=2)
    assert tiny.apart(net, tiny.fit_on_from_a_file(net, tmp_path, epochs=2)) == 0


@pytest.mark.parametrize("arguments", [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}])
def test_all_of_it_in_every_mode_of_fit(arguments):
    """Decay, anchor, ball, clipping and a multiplier together: the same weights in each mode."""

    def train(**mode):
        bounds = {"anchor_decay": 0.2, "max_drift": 0.005, "global_clipnorm": 0.1}
        make = RowWiseAdamW(0.01, weight_decay=0.1, **bounds, learning_rate_multipliers={"embedding": 0.5})
        net = tiny.model(make, trainable=True, **mode)
        tiny.fit(net, epochs=2)
        return net

    assert tiny.apart(train(**arguments), train(jit_compile=False)) <= 1e-6


class Distinct(keras.Model):
    """Looks up each distinct id of the batch once, so that the number of ids depends on the data."""

    def __init__(self):
        super().__init__()
        self.table, self.head = tiny.embedding(trainable=True), keras.layers.Dense(3, activation="softmax")

    def call(self, ids):
        """Scores."""
        distinct, place = tf.unique(tf.reshape(ids, [-1]))
        return self.head(tf.reduce_mean(tf.reshape(tf.gather(self.table(distinct), place), (-1, 5, 4)), 1))


def test_a_number_of_ids_that_depends_on_the_data_under_xla():
    """XLA pads what has no fixed size: the padding is no row."""
    settings, trained = {"anchor_decay": 0.2, "max_drift": 0.005, "global_clipnorm": 0.1}, []
    for compiled in (False, True):
        keras.utils.set_random_seed(0)
        net = Distinct()
        net.compile(RowWiseAdam(0.01, **settings), "sparse_categorical_crossentropy", jit_compile=compiled)
        tiny.fit(net, epochs=2)
        trained.append(net)
    assert tiny.apart(*trained) <= 1e-6


def test_gradients_by_rows_in_half_precision():
    """Under mixed_float16 with its loss scaling the unseen row stays and the others move."""
    optimizer = optimizers.LossScaleOptimizer(RowWiseAdagrad(0.05), initial_scale=128)
    net = tiny.model(optimizer, trainable=True, dtype="mixed_float16")
    tiny.fit(net, epochs=2)
    moved = np.abs(tiny.table_of(net) - tiny.TABLE).max(axis=1)
    assert moved[tiny.UNSEEN] == 0 and (moved[np.unique(tiny.IDS)] > 1e-4).all()


@pytest.mark.parametrize("name", ["row_blocks", "fill_table"])
def test_slots_of_tables_are_saved_and_loaded_in_blocks(name, monkeypatch, tmp_path):
    """The table with its two moments and its anchor, and the two moments of the kernel."""
    in_blocks, shapes = getattr(row_io, name), []

    def noted(variable, *source):
        shapes.append(tuple(variable.shape))
        return in_blocks(variable, *source)

    monkeypatch.setattr(row_io, name, noted)
    net = tiny.model(RowWiseAdam(0.01, anchor_decay=0.1), trainable=True)
    tiny.fit(net, epochs=1)
    net.save(tmp_path / "model.keras")
    keras.saving.load_model(tmp_path / "model.keras")
    assert sorted(shapes) == [(4, 3)] * 2 + [(10, 4)] * 4
