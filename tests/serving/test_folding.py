"""Exports of embedding layers made of several variables."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.encoders.lora import enable_lora
from embkeras.errors import SavedModelError
from embkeras.serving import folding
from embkeras.serving.export import export_saved_model
from embkeras.serving.folding import embeddings_of, fold
from embkeras.serving.local import ExportedModel
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.projection import EXCLUDED
from embkeras.tables.storage import scores_stored
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix
from tests.variants import variants

SIZE, WIDTH = 4000, 32
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(SIZE - 2))])
ALIGNED = AlignedMatrix(np.random.default_rng(0).normal(size=(SIZE, WIDTH)).astype(np.float32), VOCABULARY)
IDS = np.random.default_rng(1).integers(0, SIZE, (4, 7))


def _lora():
    layer = build_embedding(ALIGNED, trainable=True)
    layer.enable_lora(4)
    layer.lora_embeddings_a.assign(np.random.default_rng(2).normal(size=(SIZE, 4)))
    return layer


def _two(**arguments):
    layers = [build_embedding(ALIGNED, name="static"), build_embedding(ALIGNED, trainable=True, name="tuned")]
    return combine_embeddings(layers, **arguments)


# what is built, and the width of the table that the export holds; None: the layer's own variables
FORMS = {
    "plain": (lambda: build_embedding(ALIGNED), None),
    "rows": (lambda: build_embedding(ALIGNED, trainable=np.arange(SIZE) > 3000), WIDTH),
    "LoRA": (_lora, WIDTH),
    "mean": (lambda: _two(combine="mean"), WIDTH),
    "projection": (lambda: combine_embeddings([build_embedding(ALIGNED, name="wide")], output_dim=8), 8),
    "side by side": (_two, None),
    "int8": (lambda: build_embedding(ALIGNED, stored="int8"), None),
}


def _model(layer):
    keras.utils.set_random_seed(0)
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((None,), dtype="int64"), layer, *head])


@pytest.mark.parametrize("form", FORMS)
def test_scores_and_size(form, tmp_path):
    """The export has the model's scores, and stores one table where that is smaller."""
    make, width = FORMS[form]
    layer = make()
    net = _model(layer)
    folder = export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    np.testing.assert_allclose(ExportedModel(tmp_path).scores(IDS), net.predict(IDS, verbose=0), atol=1e-5)
    own = sum(np.array(variable).nbytes for variable in layer.variables)
    table = own if width is None else 4 * SIZE * width
    stored = sum(file.stat().st_size for file in (folder / "variables").glob("*.data*"))
    assert table <= stored < 1.02 * table


@pytest.mark.parametrize("form", variants(["plain", "LoRA", "mean"], always=["LoRA"]))
def test_other_threads_use_the_live_model(form, tmp_path):
    """During an int8 export another thread gets the same answers as before, and no layer's `call` changes."""
    layer = FORMS[form][0]()
    net = _model(layer)
    before = net.predict(IDS, verbose=0)
    changed, done = [], threading.Event()

    def ask():
        while not done.is_set():
            changed.extend(each for each in (layer(IDS).numpy(),) if not np.array_equal(each, rows))
            changed.extend(each for each in (net.predict(IDS, verbose=0),) if not np.array_equal(each, before))
            changed.extend(each for each in [net, *net.layers] if "call" in vars(each))

    rows = layer(IDS).numpy()
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(3):
            export_saved_model(net, tmp_path, vocabulary=VOCABULARY, dtype="int8", check=False)
    finally:
        done.set()
        thread.join()
    assert not changed
    assert np.abs(ExportedModel(tmp_path).ask("embed", token_ids=IDS)["vectors"] - rows).max() > 1e-3  # int8 it is


def test_kernels_have_their_lora_in_them(tmp_path):
    """Those of an attention and a head: the model's scores, one kernel each, no A and no B; the model keeps them."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int64")
    x = build_embedding(ALIGNED)(ids)
    x = keras.layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    head = keras.layers.Dense(2, name="head")
    net = keras.Model(ids, head(keras.layers.GlobalAveragePooling1D()(x)))
    plain = sum(map(keras.ops.size, net.weights))
    enable_lora(net, 2, ["attention", "head"])
    for weight in net.trainable_variables:
        weight.assign(np.random.default_rng(3).normal(size=weight.shape) / 4)
    before, ids = net.predict(IDS[:, :6], verbose=0), IDS[:, :6]
    folded = fold(net)
    held = folded.variables(net)
    assert sum(np.prod(each.shape) for each in held) == plain and len(folded.kernels) == 5
    export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    np.testing.assert_allclose(ExportedModel(tmp_path).scores(ids), before, atol=1e-4)
    np.testing.assert_array_equal(net.predict(ids, verbose=0), before)
    assert len(net.trainable_variables) == 10


def test_what_is_stored_as_it_is_is_shared():
    """A plain table and a classifier's weights are the model's own variables, not copies."""
    net = _model(build_embedding(ALIGNED))
    held = fold(net).variables(net)
    assert len(held) == len(net.variables) and all(a is b.value for a, b in zip(held, net.variables, strict=True))
    small = fold(net, "int8").variables(net)
    assert small[:-2] == [each.value for each in net.layers[-1].variables]
    assert [tuple(each.shape) for each in small[-2:]] == [(SIZE, WIDTH), (SIZE,)]


def test_after_a_failure_the_layer_reads_its_own_variables():
    """Stand-ins end with their block, even if it fails."""
    layer = _lora()
    rows = layer(IDS).numpy()
    with pytest.raises(KeyError, match="stop"), fold(_model(layer), "int8").reading():
        assert not np.array_equal(layer(IDS), rows)
        raise KeyError("stop")
    np.testing.assert_array_equal(layer(IDS), rows)


def test_outermost_only():
    """The tables inside a combination aren't folded on their own."""
    inner = build_embedding(ALIGNED, trainable=np.arange(SIZE) > 3000, name="rows")
    net = _model(combine_embeddings([inner, build_embedding(ALIGNED, name="static")], combine="mean"))
    assert [tuple(each.shape) for each in fold(net).variables(net)] == [(WIDTH, 2), (2,), (SIZE, WIDTH)]


class Subclassed(keras.Model):
    """A model without a graph of layers; `inner` wraps the lookup."""

    def __init__(self, layer, inner=None):
        super().__init__()
        self.table, self.pool, self.head = layer, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)
        self.look_up = layer if inner is None else inner(lambda ids: layer(ids))

    def call(self, inputs):
        """Scores of ids."""
        return self.head(self.pool(self.look_up(inputs), mask=inputs != 0))

    def build(self, input_shape):
        """Build without calling the table."""
        self.pool.build((None, None, WIDTH))
        self.head.build((None, WIDTH))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_subclassed_models_are_folded_too(dtype, tmp_path):
    """It doesn't matter what calls the layer."""
    net = Subclassed(_lora())
    wanted = net(IDS)
    folder = export_saved_model(net, tmp_path, vocabulary=VOCABULARY, dtype=dtype)
    np.testing.assert_allclose(ExportedModel(folder).scores(IDS), wanted, atol={"int8": 0.05}.get(dtype, 2e-3))
    stored = sum(file.stat().st_size for file in (folder / "variables").glob("*.data*"))
    assert stored < 1.1 * SIZE * (WIDTH * {"float32": 4, "float16": 2, "int8": 1}[dtype] + 4)


@pytest.mark.parametrize("called", [False, True])
def test_a_tf_function_inside_the_model(called, tmp_path):
    """Refused: it would keep the small table for later calls of the model, or give the export the large one."""
    net = Subclassed(build_embedding(ALIGNED), tf.function)
    net.build((None, None))
    wanted = net(IDS).numpy() if called else None
    with pytest.raises(SavedModelError, match=r"tf\.function"):
        export_saved_model(net, tmp_path, vocabulary=VOCABULARY, dtype="int8")
    assert not list(tmp_path.iterdir())
    if called:
        np.testing.assert_array_equal(net(IDS), wanted)
    folder = export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    np.testing.assert_allclose(ExportedModel(folder).scores(IDS), net(IDS), atol=1e-5)


class _Tied(keras.layers.Layer):
    """Scores every token by the table of an embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.embedding.embeddings))


def test_tied_weights(tmp_path):
    """A plain table is shared; one that would be stored in another form is refused by name."""
    layer = build_embedding(ALIGNED)
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, _Tied(layer)(keras.layers.GlobalAveragePooling1D()(layer(ids))))
    folder = export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    np.testing.assert_allclose(ExportedModel(folder).scores(IDS), model(IDS), atol=1e-4)
    with pytest.raises(SavedModelError, match=r"Missing: embedding.*/embeddings.*dtype='float16'.*tied weights"):
        export_saved_model(model, tmp_path, vocabulary=VOCABULARY, dtype="float16")


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("plain", "float32"), ("LoRA", "float32"), ("rows", "float32"), ("plain", "int8"), ("int8", "int8")],
)
def test_projected_scores_read_the_one_table(form, dtype, tmp_path):
    """`layer.project` reads the stored table, which is there once; the padding keeps its score."""
    layer = FORMS[form][0]()
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, layer.project(keras.layers.GlobalAveragePooling1D()(layer(ids))))
    folder = export_saved_model(model, tmp_path, vocabulary=VOCABULARY, dtype=dtype)
    scores, wanted = ExportedModel(folder).scores(IDS), model.predict(IDS, verbose=0)
    np.testing.assert_allclose(scores, wanted, atol=1e-4 if dtype == "float32" or form == "int8" else 0.2)
    assert (scores[:, 0] == EXCLUDED).all()
    table = SIZE * (4 * WIDTH if dtype == "float32" else WIDTH + 4)
    stored = sum(file.stat().st_size for file in (folder / "variables").glob("*.data*"))
    assert table <= stored < 1.02 * table


def test_a_wrong_export_of_projected_scores_is_noticed(tmp_path, monkeypatch):
    """The padding's score of -30000 doesn't make the check generous."""
    layer = _lora()
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, layer.project(keras.layers.GlobalAveragePooling1D()(layer(ids))))
    monkeypatch.setattr(folding, "scores_stored", lambda vectors, *table: scores_stored(vectors, *table) + 0.1)
    with pytest.raises(SavedModelError, match=r"'scores' differs by 0\.1 "):
        export_saved_model(model, tmp_path, vocabulary=VOCABULARY)


def test_tables_that_share_a_path_are_all_found():
    """Keras numbers no layers inside a layer: both of these are "two/table"."""

    class Two(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="two")
            self.one, self.other = (build_embedding(ALIGNED, name="table") for _ in range(2))

        def call(self, ids):
            return self.one(ids) + self.other(ids)

    layer = Two()
    found = embeddings_of(_model(layer))
    assert list(found) == ["two/table", "two/table 2"]
    assert list(found.values()) == [layer.one, layer.other]
