"""Exports of layers that are made of several variables."""

import keras
import numpy as np
import pytest

from embkeras.errors import SavedModelError
from embkeras.serving.export import export_saved_model
from embkeras.serving.folding import folded
from embkeras.serving.local import ExportedModel
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import AlignedMatrix

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
    """The export gives the model's scores, and holds one table where that is smaller."""
    make, width = FORMS[form]
    layer = make()
    net = _model(layer)
    folder = export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    np.testing.assert_allclose(ExportedModel(tmp_path).scores(IDS), net.predict(IDS, verbose=0), atol=1e-5)
    own = sum(np.array(variable).nbytes for variable in layer.variables)
    table = own if width is None else 4 * SIZE * width
    stored = sum(file.stat().st_size for file in (folder / "variables").glob("*.data*"))
    assert table <= stored < 1.02 * table


def test_the_model_is_what_it_was():
    """After an export, and after one that failed, the layer reads its own variables."""
    layer = _lora()
    net = _model(layer)
    before = net.predict(IDS, verbose=0)
    with pytest.raises(KeyError, match="stop"), folded(net):
        assert "call" in vars(layer)
        raise KeyError("stop")
    layer.lora_embeddings_a.assign(np.zeros((SIZE, 4)))
    assert "call" not in vars(layer) and (net.predict(IDS, verbose=0) != before).any()


def test_outermost_only():
    """Of a combination, the tables inside are not folded by themselves."""
    inner = build_embedding(ALIGNED, trainable=np.arange(SIZE) > 3000, name="rows")
    net = _model(combine_embeddings([inner, build_embedding(ALIGNED, name="static")], combine="mean"))
    with folded(net) as stored:
        assert [tuple(variable.shape) for variable in stored.variables] == [(WIDTH, 2), (2,), (SIZE, WIDTH)]


class _Tied(keras.layers.Layer):
    """Scores every token by the table of an embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.embedding.embeddings))


def test_tied_weights(tmp_path):
    """A plain table is shared as it is; one that would be stored in another form is refused, by name."""
    layer = build_embedding(ALIGNED)
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, _Tied(layer)(keras.layers.GlobalAveragePooling1D()(layer(ids))))
    folder = export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    np.testing.assert_allclose(ExportedModel(folder).scores(IDS), model(IDS), atol=1e-4)
    with pytest.raises(SavedModelError, match=r"Missing: embedding.*/embeddings.*dtype='float16'.*tied weights"):
        export_saved_model(model, tmp_path, vocabulary=VOCABULARY, dtype="float16")
