"""Tables in SavedModels: our exports, Keras' own, TensorFlow's."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras import Vocabulary, build_classifier, build_embedding, export_saved_model, load_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.tables.saved import table_of_saved_model
from embkeras.vectors.aligned import AlignedMatrix


@pytest.fixture(scope="module")
def words():
    """64 tokens, so that a table stored as int8 is smaller than one of floats."""
    return Vocabulary(["", "[UNK]", *(f"w{number}" for number in range(62))])


@pytest.fixture(scope="module")
def large(words):
    """A table for them."""
    return AlignedMatrix(np.random.default_rng(0).normal(size=(64, 32)).astype("float32"), words)


@pytest.mark.parametrize("form", ["plain", "folded", "int8"])
def test_own_exports(tmp_path, words, large, form):
    """With the vocabulary that is in them, whatever form the table was exported in."""
    mask = np.arange(64) == 5
    settings = {"plain": {}, "folded": {"trainable": mask}, "int8": {"trainable": mask, "stored": "int8"}}[form]
    layer = build_embedding(large, **settings)
    if form != "plain":
        layer.trainable_variables[0].assign_add(np.ones((2, 32)))
    model = build_classifier(layer, 2, architecture="mean")
    loaded = table_of_saved_model(export_saved_model(model, tmp_path / "m", vocabulary=words))
    assert tuple(loaded.words) == words.tokens
    np.testing.assert_array_equal(loaded.matrix, layer.matrix())


@pytest.fixture(scope="module")
def stock():
    """A model of Keras' own layers with two tables."""
    ids = keras.Input((4,), dtype="int64")
    tables = [keras.layers.Embedding(10, width, name=name)(ids) for width, name in ((4, "one"), (3, "two"))]
    model = keras.Model(ids, keras.layers.Concatenate()(tables), name="stock")
    model.compile("adam", "mse")
    return model


@pytest.fixture
def listed(tmp_path):
    """A list of ten words."""
    path = tmp_path / "words.json"
    path.write_text(json.dumps([f"w{number}" for number in range(10)]))
    return path


@pytest.mark.parametrize("write", ["export", "save"])
def test_written_by_others(tmp_path, stock, listed, write):
    """model.export stores each variable twice, tf.saved_model.save the slots of the optimizer too."""
    if write == "export":
        stock.export(tmp_path / "m", verbose=False)
    else:
        stock.optimizer.build(stock.trainable_variables)
        tf.saved_model.save(stock, str(tmp_path / "m"))
    with pytest.raises(
        ArgumentError, match=r"holds 2 tables.*Received: None; there are '.*one/embeddings', '.*two/emb"
    ):
        table_of_saved_model(tmp_path / "m", words_file=listed)
    name = next(each.path for each in stock.variables if "two" in each.path)
    loaded = table_of_saved_model(tmp_path / "m", name, words_file=listed)
    np.testing.assert_array_equal(loaded.matrix, np.array(stock.get_layer("two").embeddings))


def test_quantized(tmp_path, listed):
    """Keras' int8 is divided by its scales."""
    layer = keras.layers.Embedding(10, 4)
    layer.build()
    layer.quantize("int8")
    model = keras.Sequential([keras.Input((3,), dtype="int64"), layer])
    model.export(tmp_path / "m", verbose=False)
    loaded = table_of_saved_model(tmp_path / "m", words_file=listed)
    np.testing.assert_allclose(loaded.matrix, np.array(layer(np.arange(10)[None]))[0], rtol=1e-6)


def test_lora_is_refused(tmp_path, listed):
    """Its scale is in no SavedModel, so the base alone would be returned as if it were the table."""
    layer = keras.layers.Embedding(10, 4)
    layer.build()
    layer.enable_lora(2)
    keras.Sequential([keras.Input((3,), dtype="int64"), layer]).export(tmp_path / "m", verbose=False)
    with pytest.raises(VectorFileError, match="has LoRA beside it"):
        table_of_saved_model(tmp_path / "m", words_file=listed)


def test_words_must_be_there_and_fit(tmp_path, stock, listed):
    """Without our vocabulary they are given, one a row."""
    stock.export(tmp_path / "m", verbose=False)
    name = next(each.path for each in stock.variables if "two" in each.path)
    with pytest.raises(VectorFileError, match=r"does not say what its ids mean.* Give words_file="):
        table_of_saved_model(tmp_path / "m", name)
    listed.write_text('["one"]')
    with pytest.raises(VectorFileError, match="has 10 rows, but there are 1 words"):
        table_of_saved_model(tmp_path / "m", name, words_file=listed)


def test_folder_is_no_saved_model(tmp_path):
    """Another folder is refused; load_vectors says which function reads a SavedModel."""
    with pytest.raises(VectorFileError, match=r"is no SavedModel: there is no saved_model\.pb"):
        table_of_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(VectorFileError, match=r"it is a SavedModel, whose table .*table_of_saved_model reads"):
        load_vectors(tmp_path)


def test_model_without_a_table(tmp_path):
    """It says so."""
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).export(tmp_path / "m", verbose=False)
    with pytest.raises(VectorFileError, match="none of its variables is an embedding table"):
        table_of_saved_model(tmp_path / "m")


@pytest.mark.parametrize("damage", ["index", "data", "gone", "vocabulary"])
def test_damaged(tmp_path, words, large, damage):
    """One line, with the folder."""
    folder = export_saved_model(build_classifier(large, 2, architecture="mean"), tmp_path / "m", vocabulary=words)
    if damage == "gone":
        shutil.rmtree(folder / "variables")
    else:
        name = {"index": "variables/variables.index", "data": "variables/variables.data-00000-of-00001"}
        path = folder / name.get(damage, "assets/vocabulary.json")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(VectorFileError, match=str(tmp_path)):
        table_of_saved_model(folder)


def test_several_oov_ids_have_one_name(tmp_path, stock):
    """The first is kept, and the others are counted."""
    vocabulary = Vocabulary(["", "[UNK]", "[UNK]", *"abcdefg"], oov_ids=(1, 2))
    vocabulary.save(tmp_path / "v.json")
    stock.export(tmp_path / "m", verbose=False)
    name = next(each.path for each in stock.variables if "one" in each.path)
    with pytest.warns(EmbkerasWarning, match="holds 1 rows whose word had come before"):
        loaded = table_of_saved_model(tmp_path / "m", name, words_file=tmp_path / "v.json")
    assert (len(loaded), loaded.provenance.duplicates) == (9, 1)
