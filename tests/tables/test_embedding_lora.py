"""LoRA on a table: only rows of ids that training sees move."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import reads_rows
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW
from embkeras.training.schedule.callback import unfreeze_at
from tests import tiny
from tests.variants import variants


def _model(optimizer=None, *, rank=2, **arguments):
    net = tiny.model(optimizer or optimizers.Adam(0.05), trainable=True, **arguments)
    net.get_layer("embedding").enable_lora(rank)
    net.compile(net.optimizer, loss=net.loss)
    return net


def _layer(net):
    return net.get_layer("embedding")


def test_begins_at_the_table():
    """A is zero, B is not, and the vectors are those of the table, bit for bit."""
    layer = _layer(_model())
    assert not np.array(layer.lora_embeddings_a).any() and np.array(layer.lora_embeddings_b).all()
    np.testing.assert_array_equal(layer.matrix(), tiny.TABLE)


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.Adam(0.05), optimizers.AdamW(0.05, weight_decay=0.1), RowWiseAdam(0.05), RowWiseAdamW(0.05)],
)
def test_only_rows_that_are_seen_move(optimizer):
    """The table stays, a row in no batch stays bit-identical, and rows in batches move."""
    net = _model(optimizer)
    tiny.fit(net)
    np.testing.assert_array_equal(_layer(net).table_variable, tiny.TABLE)
    moved = (_layer(net).matrix() != tiny.TABLE).any(axis=1)
    assert moved.tolist() == [False] + [True] * 8 + [False]


@pytest.mark.stock_keras
def test_stock_lora_moves_unseen_rows():
    """A is drawn at random there, so every row moves with B."""
    ids = keras.Input((5,), dtype="int64")
    vectors = keras.layers.Embedding(10, 4, name="embedding")
    net = keras.Sequential([ids, vectors, keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    vectors.enable_lora(2)
    before = np.array(vectors(np.arange(10)))
    net.compile(optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
    tiny.fit(net)
    assert np.abs(np.array(vectors(np.arange(10))) - before)[tiny.UNSEEN].max() > 1e-3


def test_equals_a_product_in_numpy():
    """Rows are base + alpha / rank * A @ B, in the layer and in matrix()."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2, lora_alpha=3.0)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 2)).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32)
    a[0] = 0
    layer.lora_embeddings_a.assign(a)
    layer.lora_embeddings_b.assign(b)
    np.testing.assert_allclose(layer.matrix(), tiny.TABLE + 1.5 * a @ b, atol=1e-6)
    np.testing.assert_allclose(layer(tiny.IDS), (tiny.TABLE + 1.5 * a @ b)[tiny.IDS], atol=1e-6)


def test_unfreezing_leaves_the_base_frozen():
    """A schedule that thaws the layer thaws A and B alone."""
    net, schedule = _model(), unfreeze_at(2, "embedding")
    tables = tiny.Tables()
    tiny.fit(net, callbacks=[schedule, tables])
    np.testing.assert_array_equal(tables.kept[1], tiny.TABLE)
    assert (tables.kept[3] != tiny.TABLE).any()
    np.testing.assert_array_equal(_layer(net).table_variable, tiny.TABLE)


def test_slots_cost_what_a_and_b_cost():
    """The optimizer has no moments of the table, and the steps touch rows of A."""
    net = _model(RowWiseAdam(0.05))
    tiny.fit(net, epochs=1)
    shapes = [tuple(variable.shape) for variable in net.optimizer.variables]
    assert shapes.count((10, 2)) == 2 and (10, 4) not in shapes


@pytest.mark.parametrize(
    "arguments", variants([{"run_eagerly": True}, {"jit_compile": True}], always=[{"run_eagerly": True}]), ids=str
)
def test_in_other_modes_of_fit(arguments):
    """The weights are those of a plain fit."""
    trained = []
    for each in (arguments, {"jit_compile": False}):
        net = tiny.model(RowWiseAdam(0.05), trainable=True)
        _layer(net).enable_lora(2, b_initializer=keras.initializers.RandomNormal(seed=1))
        net.compile(net.optimizer, loss=net.loss, **each)
        tiny.fit(net, epochs=2)
        trained.append(net)
    assert tiny.apart(*trained) <= 1e-6


def test_merge_and_unmerge():
    """A merged table alone returns the same vectors; unmerging restores table and A bit for bit."""
    net = _model()
    tiny.fit(net)
    layer = _layer(net)
    vectors, weights = layer.matrix(), layer.get_weights()
    layer.merge_lora()
    np.testing.assert_allclose(layer.table_variable, vectors, atol=1e-6)
    np.testing.assert_array_equal(np.array(layer.table_variable)[tiny.UNSEEN], tiny.TABLE[tiny.UNSEEN])
    assert not np.array(layer.lora_embeddings_a).any()
    layer.unmerge_lora()
    for before, after in zip(weights, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_training_goes_on_after_a_merge():
    """A starts again from the merged table; unmerging would lose what it learns."""
    net = _model()
    tiny.fit(net)
    layer = _layer(net)
    layer.merge_lora()
    merged = layer.matrix()
    tiny.fit(net, epochs=1)
    assert (layer.matrix() != merged).any()
    with pytest.raises(ArgumentError, match="would lose what A of layer 'embedding' has learned since the merge"):
        layer.unmerge_lora()


def test_file_keeps_table_a_and_b(tmp_path):
    """A loaded model is the same and continues to train bit for bit; stock Keras saves only the merged table."""
    net = _model(RowWiseAdam(0.05))
    tiny.fit(net, epochs=1)
    loaded = tiny.fit_on_from_a_file(net, tmp_path)
    assert tiny.apart(net, loaded) == 0
    np.testing.assert_array_equal(_layer(loaded)._embeddings, tiny.TABLE)


def test_alpha_is_in_the_config(tmp_path):
    """Keras saves it in the config, and ignores it when it builds the layer again."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2, lora_alpha=8.0)
    copy = PretrainedEmbedding.from_config(layer.get_config())
    copy.build()
    assert copy.lora_alpha == 8.0 and not np.array(copy.lora_embeddings_a).any()


def test_weights_without_lora_become_the_base(tmp_path):
    """LoRA starts from a file of the frozen model."""
    net = tiny.model("sgd")
    net.save_weights(tmp_path / "plain.weights.h5")
    lora = _model()
    _layer(lora).assign_table(2 * tiny.TABLE)
    _layer(lora).lora_embeddings_a.assign(np.ones((10, 2)))
    lora.load_weights(tmp_path / "plain.weights.h5", skip_mismatch=False)
    np.testing.assert_array_equal(_layer(lora).matrix(), tiny.TABLE)


def test_export(tmp_path):
    """The export returns the scores of the model, from one table."""
    net = _model()
    tiny.fit(net)
    vocabulary = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(8))])
    export_saved_model(net, tmp_path, vocabulary=vocabulary)
    np.testing.assert_allclose(ExportedModel(tmp_path).scores(tiny.IDS), net.predict(tiny.IDS, verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: PretrainedEmbedding(10, 4, name="embedding"), "is not built"),
        (lambda: _layer(_model()), "has LoRA already"),
        (lambda: _constrained(), "has a constraint"),
        (lambda: _quantized(), "is quantized"),
    ],
)
def test_enable_lora_is_refused(make, why):
    """Layers without a plain table are refused."""
    with pytest.raises(ArgumentError, match=f"built layer with a plain table. Layer 'embedding' {why}"):
        make().enable_lora(2)


def _constrained():
    layer = PretrainedEmbedding(10, 4, embeddings_constraint="non_neg", name="embedding")
    layer.build()
    return layer


def _quantized():
    layer = tiny.embedding()
    layer.quantize("int8")
    return layer


def test_merging_without_lora_is_refused():
    """There is nothing to merge, and nothing to unmerge."""
    with pytest.raises(ArgumentError, match="Layer 'embedding' has no LoRA: call enable_lora first"):
        tiny.embedding().merge_lora()
    with pytest.raises(ArgumentError, match="layer 'embedding' has nothing merged"):
        _layer(_model()).unmerge_lora()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"])
def test_dtypes(dtype):
    """A and B are float32; the vectors have the compute dtype."""
    layer = tiny.embedding(trainable=True, dtype=dtype)
    layer.enable_lora(2)
    layer.lora_embeddings_a.assign(np.ones((10, 2)))
    assert layer(tiny.IDS).dtype == layer.compute_dtype
    expected = tiny.TABLE + np.ones((10, 2)) @ np.array(layer.lora_embeddings_b)
    np.testing.assert_allclose(layer.matrix()[1:], expected[1:], atol=0.03)


def test_padding_stays_zeros():
    """Also with an A initialized at random, frozen or not, and after a merge."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2, a_initializer="he_uniform")
    for trainable in (True, False):
        layer.trainable = trainable
        assert not layer(np.array([0])).numpy().any() and layer(np.array([1])).numpy().any()
    layer.merge_lora()
    assert not layer.matrix()[0].any()


def test_a_filled_table_is_the_table():
    """A becomes zero, and a merge of an earlier table can't be undone."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2)
    for _ in range(2):
        layer.lora_embeddings_a.assign(np.ones((10, 2)))
        layer.merge_lora()
        layer.lora_embeddings_a.assign(np.ones((10, 2)))
        layer.assign_table(tiny.TABLE)
        np.testing.assert_array_equal(layer.matrix(), tiny.TABLE)
        with pytest.raises(ArgumentError, match="layer 'embedding' has nothing merged"):
            layer.unmerge_lora()


def test_a_second_merge_of_nothing_can_be_undone():
    """The last merge that changed something is undone."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2)
    layer.lora_embeddings_a.assign(np.ones((10, 2)))
    before = layer.matrix()
    for _ in range(2):
        layer.merge_lora()
    layer.unmerge_lora()
    np.testing.assert_array_equal(layer.matrix(), before)
    assert np.array(layer.lora_embeddings_a).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, r"rank must be an integer >= 1\. Received: 0 \(layer 'embedding'\)"),
        ({"rank": 2.0}, r"rank must be an integer >= 1\. Received: 2.0"),
        ({"rank": True}, r"rank must be an integer >= 1\. Received: True"),
        ({"rank": 2, "lora_alpha": "8"}, r"lora_alpha must be a number > 0\. Received: '8' \(layer"),
        ({"rank": 2, "lora_alpha": 0}, "lora_alpha must be a number > 0. Received: 0"),
    ],
)
def test_rank_and_alpha_are_checked(arguments, message):
    """Rank 0 would silently train nothing."""
    with pytest.raises(ArgumentError, match=message):
        tiny.embedding(trainable=True).enable_lora(**arguments)


@pytest.mark.filterwarnings("ignore:The table of layer 'words' is all zeros")
def test_a_layer_that_fit_builds():
    """Keras builds it before variables have values: the table is frozen, and both have a row that stays zeros."""

    class Net(keras.Model):
        """Builds its layer when it is called."""

        def __init__(self):
            super().__init__()
            self.words = PretrainedEmbedding(10, 4, lora_rank=2, name="words")

        def call(self, ids):
            """The mean vector."""
            return keras.ops.mean(self.words(ids), axis=1)

    net = Net()
    net.compile("sgd", loss="mse")
    net.fit(np.ones((2, 3), int), np.ones((2, 4)), verbose=0)
    table, a, b = net.words.variables
    assert not table.trainable and a.trainable and b.trainable and reads_rows(table)
    assert a.constraint is not None and table.constraint is not None and np.array(a)[1].any()
