"""A table of which only chosen rows train."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel
from embkeras.tables.builders import build_embedding
from embkeras.tables.partial_rows import RowEmbedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW
from embkeras.training.schedule.callback import unfreeze_at
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.training.test_rebuild import FEW, OPTIMIZERS
from tests.variants import variants

MASK = np.isin(np.arange(10), [1, 3, 7, 9])  # 9 is never in a batch
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(8))])


def _aligned():
    table = tiny.TABLE.copy()
    table[0] = 0
    return AlignedMatrix(table, VOCABULARY, found=~MASK & (np.arange(10) > 0))


def _layer(trainable=MASK, **arguments):
    return build_embedding(_aligned(), trainable=trainable, **arguments)


def _model(optimizer="sgd", layer=None, **compile_arguments):
    """Embedding, masked mean, a dense layer "head"."""
    keras.utils.set_random_seed(0)
    layers = [layer or _layer(), keras.layers.GlobalAveragePooling1D()]
    net = keras.Sequential([keras.Input((5,), dtype="int64"), *layers, keras.layers.Dense(3, "softmax", name="head")])
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **compile_arguments)
    return net


def _moved(net):
    """Which rows have changed by at least one bit."""
    return (tiny.table_of(net) != _aligned().values).any(axis=1)


def test_looks_up_like_any_table():
    """Calls, matrix() and `embeddings` return the given rows, whether they train or not."""
    layer = _layer()
    np.testing.assert_array_equal(layer(np.arange(10)), _aligned().values)
    np.testing.assert_array_equal(layer.matrix(), _aligned().values)
    np.testing.assert_array_equal(layer.embeddings, _aligned().values)
    np.testing.assert_array_equal(layer.trainable_mask, MASK)


def test_oov_trains_words_missing_from_the_vectors():
    """ "oov" is every row that was not found, "[UNK]" included and padding not."""
    layer = _layer("oov")
    assert np.flatnonzero(layer.trainable_mask).tolist() == [1, 3, 7, 9]


@pytest.mark.parametrize("name", variants(OPTIMIZERS, always=FEW))
def test_other_rows_stay_bit_identical_under_every_optimizer(name):
    """Exactly the chosen rows that occur in a batch move, with weight decay and averages too."""
    net = _model(OPTIMIZERS[name](), run_eagerly=True)
    tiny.fit(net)
    assert not _moved(net)[~MASK].any()
    assert _moved(net)[[1, 3, 7]].all()


def test_other_rows_stay_under_a_regularizer():
    """A penalty on the table reaches the rows that train, seen or not, and no others."""
    layer = RowEmbedding(10, 4, 4, embeddings_regularizer=keras.regularizers.L2(0.1), name="embedding")
    layer.build()
    layer.train_rows(MASK)
    layer.assign_table(_aligned().values)
    net = _model(optimizers.SGD(0.1), layer)
    tiny.fit(net)
    np.testing.assert_array_equal(_moved(net), MASK)


def test_equals_a_masked_step_in_numpy():
    """One step of SGD equals a dense one with the gradient of the other rows set to zero."""
    layer, rng = _layer(), np.random.default_rng(0)
    ids, weights = rng.integers(0, 10, (3, 5)), rng.normal(size=(3, 5, 4)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(ids) * weights)
    optimizers.SGD(0.5).apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
    gradient = np.zeros((10, 4), np.float32)
    np.add.at(gradient, ids, weights)
    np.testing.assert_allclose(layer.matrix(), _aligned().values - 0.5 * gradient * MASK[:, None], atol=1e-6)


def test_slots_cost_what_the_training_rows_cost():
    """The optimizer has moments for R + 1 rows, not for V."""
    net = _model(optimizers.Adam(0.01))
    tiny.fit(net, epochs=1)
    shapes = [tuple(variable.shape) for variable in net.optimizer.variables]
    assert shapes.count((5, 4)) == 2 and (10, 4) not in shapes


@pytest.mark.parametrize("make", [lambda: RowWiseAdam(0.01), lambda: RowWiseAdamW(0.01, weight_decay=0.1)])
def test_row_wise_optimizers_leave_unseen_rows(make):
    """A trainable row that occurs in no batch stays too, and the spare row stays zero."""
    net = _model(make())
    tiny.fit(net)
    assert np.flatnonzero(_moved(net)).tolist() == [1, 3, 7]
    assert not np.array(net.get_layer("embedding").trainable_variables[0])[-1].any()


def test_a_schedule_thaws_the_chosen_rows_only():
    """Nothing moves while the layer is frozen; then the chosen rows move."""
    net, tables = _model(optimizers.Adam(0.01)), tiny.Tables()
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding"), tables])
    np.testing.assert_array_equal(tables.kept[1], _aligned().values)
    assert not _moved(net)[~MASK].any() and _moved(net)[[1, 3, 7]].all()


@pytest.mark.parametrize(
    "arguments",
    variants(
        [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 3}], always=[{"jit_compile": True}]
    ),
    ids=str,
)
def test_in_every_mode_of_fit(arguments):
    """The weights are those of a plain fit."""
    net, plain = _model(RowWiseAdam(0.01), **arguments), _model(RowWiseAdam(0.01), jit_compile=False)
    for each in (net, plain):
        tiny.fit(each, epochs=2)
    assert tiny.apart(net, plain) <= 1e-6


def test_mixed_precision():
    """It computes in half precision and keeps float32 tables."""
    layer = _layer(dtype="mixed_float16")
    assert layer(np.array([1, 2])).dtype == "float16" and layer.trainable_variables[0].dtype == "float32"
    net = _model(optimizers.LossScaleOptimizer(optimizers.Adam(0.01), initial_scale=128), layer)
    tiny.fit(net, epochs=2)
    assert not _moved(net)[~MASK].any() and _moved(net)[[1, 3, 7]].all()


def test_mask():
    """Id 0 is masked for the layers that follow."""
    assert _layer().compute_mask(np.array([[1, 0]])).numpy().tolist() == [[True, False]]


def test_ids_outside_the_table_are_refused():
    """The error is that of PretrainedEmbedding."""
    with pytest.raises(ArgumentError, match=r"Token ids must be in \[0, 10\)\. Received: -1 at position \[0\]"):
        _layer()(np.array([-1]))


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_files(name, tmp_path):
    """A loaded model has the same table and map, and continues to train bit for bit."""
    net, path = _model(RowWiseAdam(0.01)), tmp_path / name
    tiny.fit(net, epochs=1)
    if name.endswith(".keras"):
        net.save(path)
        loaded = keras.saving.load_model(path)
    else:
        net.save_weights(path)
        loaded = _model(RowWiseAdam(0.01))
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(path)
    np.testing.assert_array_equal(loaded.get_layer("embedding").trainable_mask, MASK)
    assert tiny.apart(net, loaded) == 0
    for each in (net, loaded):
        tiny.fit(each, epochs=1)
    assert tiny.apart(net, loaded) == 0


def test_weights_of_another_layer_are_refused(tmp_path):
    """A plain table doesn't contain which rows train."""
    _model("sgd", _layer(True)).save_weights(tmp_path / "whole.weights.h5")
    with pytest.raises(
        ValueError, match=r"weights for layer 'embedding' are not those of .* expected 3 variables. Received: 0"
    ):
        _model().load_weights(tmp_path / "whole.weights.h5")


def test_config_does_not_hold_the_table_or_the_map():
    """A copy from the config has as many rows to train, and is empty until weights are loaded, which warns."""
    layer = _layer()
    copy = RowEmbedding.from_config(layer.get_config())
    copy.build()
    assert copy.trainable_rows == 4 and not copy.trainable_mask.any()
    assert max(len(str(value)) for value in layer.get_config().values()) < 200
    with pytest.warns(EmbkerasWarning, match="table of layer 'embedding' is all zeros"):
        copy(np.array([1]))


def test_export(tmp_path):
    """The export returns the scores of the model."""
    net = _model(optimizers.Adam(0.05))
    tiny.fit(net)
    export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    scores = ExportedModel(tmp_path).scores(tiny.IDS)
    np.testing.assert_allclose(scores, net.predict(tiny.IDS, verbose=0), atol=1e-6)


def test_drift_counts_the_rows_that_moved():
    """DriftMonitor sees the whole table."""
    net, monitor = _model(RowWiseAdam(0.01)), DriftMonitor("embedding")
    tiny.fit(net, callbacks=[monitor])
    assert monitor.table["moved"].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.astype(int), r"mask of rows must be bool of shape \(10,\)\. Received: int64 of shape \(10,\)"),
        (MASK[:9], r"mask of rows must be bool of shape \(10,\)\. Received: bool of shape \(9,\)"),
        (np.zeros(10, bool), "trainable selects no row"),
        (np.arange(10) < 2, r"The padding row \(id 0\) never trains"),
        ("unknown", r'trainable must be True, False, "oov" or a bool array .* Received: \'unknown\''),
    ],
)
def test_masks_are_checked(mask, message):
    """Dtype, shape, an empty mask and the padding row."""
    with pytest.raises(ArgumentError, match=message):
        _layer(mask)


def test_train_rows_takes_as_many_as_there_is_room_for():
    """Room for the rows is made at build."""
    layer = RowEmbedding(10, 4, 3, name="embedding")
    layer.build()
    with pytest.raises(ArgumentError, match=r"has room for 3 rows that train\. Received: a mask of 4"):
        layer.train_rows(MASK)


@pytest.mark.parametrize("rows", [-1, 11, 2.0, True])
def test_number_of_rows(rows):
    """Whole numbers from 0 to all rows."""
    with pytest.raises(ArgumentError, match=rf"trainable_rows must be an integer from 0 to 10\. .*: {rows}"):
        RowEmbedding(10, 4, rows)


def test_lora_is_refused():
    """LoRA would move rows that must not move."""
    with pytest.raises(ArgumentError, match="enable_lora moves every row, but of layer 'embedding' only some"):
        _layer().enable_lora(2)
    with pytest.raises(ArgumentError, match="only some rows train takes no lora_rank"):
        RowEmbedding(10, 4, 4, lora_rank=2)


def test_train_rows_after_the_table_is_filled():
    """The rows start from their current values; rows that train already are not added again."""
    layer = RowEmbedding(10, 4, 4, name="embedding")
    layer.build()
    layer.assign_table(_aligned().values)
    layer.train_rows(MASK)
    np.testing.assert_array_equal(layer.matrix(), _aligned().values)
    layer.trainable_variables[0].assign_add(np.ones((5, 4)))
    learned = layer.matrix()
    assert layer.train_rows(MASK) == 0
    np.testing.assert_array_equal(layer.matrix(), learned)


def test_no_rows_to_add():
    """An empty mask changes nothing, in a layer without rows that train too."""
    layer = RowEmbedding(10, 4, name="embedding")
    layer.build()
    assert layer.train_rows(np.zeros(10, bool)) == 0


def test_a_frozen_layer_that_was_quantized_trains_when_it_is_thawed():
    """The same rows train."""
    layer = _layer()
    layer.trainable = False
    layer.quantize("int8")
    layer.trainable = True
    net = _model(optimizers.Adam(0.01), layer)
    before = layer.matrix()
    tiny.fit(net, epochs=1)
    np.testing.assert_array_equal((layer.matrix() != before).any(axis=1), MASK & (np.arange(10) != tiny.UNSEEN))


def test_the_whole_table_in_a_graph():
    """As weights of an output, it is always the current table, and gradients reach the rows that train."""
    layer = _layer()

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer.embeddings**2)
        return tape.gradient(loss, layer.trainable_variables[0])

    expected = 2 * _aligned().values[MASK]
    np.testing.assert_allclose(tf.convert_to_tensor(gradient())[:-1], expected, rtol=1e-6)
    layer.assign_table(2 * _aligned().values)
    np.testing.assert_allclose(tf.convert_to_tensor(gradient())[:-1], 2 * expected, rtol=1e-6)
