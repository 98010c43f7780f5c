"""Tables of saved models: every form, the words beside them, damage, and models whose classes are missing."""

import textwrap
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras import Vocabulary, build_classifier, build_embedding, combine_embeddings, export_saved_model
from embkeras.errors import ArgumentError, VectorFileError
from embkeras.tables.saved import load_table
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.processes import run_python

WORDS = ["cat", "sat", "mat", "dog", "ran", "far", "sun", "sky"]
VOCABULARY = Vocabulary(["", "[UNK]", *WORDS])
ALIGNED = AlignedMatrix(tiny.TABLE, VOCABULARY)
MASK = np.arange(10) % 3 == 1


def save(path, *layers, before=()):
    """A model of these embedding layers, after layers that map words to ids, saved."""
    given = keras.Input((4,), dtype="string" if before else "int64", name="given")
    ids = given
    for layer in before:
        ids = layer(ids)
    keras.Model(given, [layer(ids) for layer in layers]).save(path)
    return path


def lookup(**settings):
    """Ids of WORDS, with "" and "[UNK]" in front of them."""
    return keras.layers.StringLookup(**{"vocabulary": WORDS, "mask_token": "", **settings})


@pytest.mark.parametrize("form", ["stock", "bfloat16", "frozen", "rows", "int8", "lora", "quantized"])
def test_every_form_of_table(tmp_path, form):
    """The rows are those that the layer returns, however they are stored."""
    if form in ("stock", "bfloat16"):
        layer = keras.layers.Embedding(10, 4, dtype="float32" if form == "stock" else form)
    else:
        settings = {"rows": {"trainable": MASK}, "int8": {"trainable": MASK, "stored": "int8"}}.get(form, {})
        layer = build_embedding(ALIGNED, **settings)
    if form == "lora":
        layer.enable_lora(2, lora_alpha=3, a_initializer="normal")
    layer(np.arange(10)[None])
    if form in ("rows", "int8"):  # rows that trained are no longer those of the base
        layer.trainable_variables[0].assign_add(np.ones((4, 4)))
    if form == "quantized":
        layer.quantize("int8")
    loaded = load_table(save(tmp_path / "m.keras", layer, before=[lookup()]))
    assert list(loaded.words) == ["", "[UNK]", *WORDS] and loaded.provenance.rows == 10
    expected = keras.ops.convert_to_numpy(keras.ops.cast(layer(np.arange(10)[None]), "float32"))[0]
    np.testing.assert_allclose(loaded.matrix, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["static", "encoder/deep", "both", "both/left", "both/right"])
def test_layers_by_their_path(tmp_path, name):
    """At the top, in an inner model, a combination, and the sources of one."""
    layers = {"static": keras.layers.Embedding(10, 2, name="static")}
    ids = keras.Input((4,), dtype="int64")
    layers["encoder/deep"] = keras.layers.Embedding(10, 5, name="deep")
    encoder = keras.Model(ids, layers["encoder/deep"](ids), name="encoder")
    layers["both/left"], layers["both/right"] = (build_embedding(ALIGNED, name=each) for each in ("left", "right"))
    layers["both/right"].assign_table(2 * tiny.TABLE)
    layers["both"] = combine_embeddings([layers["both/left"], layers["both/right"]], name="both")
    path = save(tmp_path / "m.keras", layers["static"], encoder, layers["both"])
    expected = keras.ops.convert_to_numpy(layers[name](np.arange(10)))
    np.testing.assert_allclose(load_table(path, name, words=VOCABULARY).matrix, expected, rtol=1e-6)


@pytest.mark.parametrize("layer", [None, "third"])
def test_several_tables_need_a_path(tmp_path, layer):
    """The message names them."""
    path = save(tmp_path / "m.keras", *(keras.layers.Embedding(10, 4, name=name) for name in ("one", "two")))
    with pytest.raises(ArgumentError, match=rf"\['one', 'two'\] of '.*m\.keras'\. Received: {layer!r}"):
        load_table(path, layer)


@pytest.mark.parametrize(
    "settings", [{}, {"vocabulary": ["x", *WORDS], "mask_token": None}, {"mask_token": None, "num_oov_indices": 2}]
)
def test_words_of_a_lookup(tmp_path, settings):
    """With its special tokens; of several OOV ids, the first row is kept."""
    layer = lookup(**settings)
    loaded = load_table(save(tmp_path / "m.keras", keras.layers.Embedding(10, 4), before=[layer]))
    words = [str(word) for word in layer.get_vocabulary()]
    assert list(loaded.words) == list(dict.fromkeys(words))
    assert loaded.provenance.duplicates == 10 - len(set(words)) == len(words) - len(loaded.matrix)


def test_words_of_a_text_vectorization(tmp_path):
    """Adapted. Newer Keras splits a word with a line separator when it loads the model: then the words don't match."""
    for first, name in (("york", "whole.keras"), ("new\u2028york", "split.keras")):
        layer = keras.layers.TextVectorization(standardize=None, split=None, output_mode="int")
        layer.adapt(np.array([[word] for word in [first, *WORDS[:7]]]))
        given = keras.Input((1,), dtype="string")
        keras.Model(given, keras.layers.Embedding(10, 4)(layer(given))).save(tmp_path / name)
    assert list(load_table(tmp_path / "whole.keras").words) == [
        "",
        "[UNK]",
        *sorted([*WORDS[:7], "york"], reverse=True),
    ]
    if tiny.KERAS < (3, 14):
        assert "new\u2028york" in load_table(tmp_path / "split.keras").words
        return
    with pytest.raises(ArgumentError, match="has 10 rows"):
        load_table(tmp_path / "split.keras")


@pytest.mark.parametrize(
    ("before", "words", "received"),
    [
        ([], None, "0 words from the model"),
        ([lookup(vocabulary=WORDS[:3])], None, "0 words"),
        ([], ["a", "b"], "2 words"),
    ],
)
def test_words_must_match_the_rows(tmp_path, before, words, received):
    """The message says how many there must be and how to pass them."""
    path = save(tmp_path / "m.keras", keras.layers.Embedding(10, 4), before=before)
    with pytest.raises(ArgumentError, match=rf"has 10 rows: pass words= .*Received: {received}"):
        load_table(path, words=words)


@pytest.mark.parametrize("form", ["plain", "folded", "int8"])
def test_exports(tmp_path, form):
    """With the export's own vocabulary, for each form of table."""
    words = Vocabulary(["", "[UNK]", *(f"w{number}" for number in range(62))])
    aligned = AlignedMatrix(np.random.default_rng(0).normal(size=(64, 32)).astype("float32"), words)
    settings = {"plain": {}, "folded": {"trainable": np.arange(64) == 5}, "int8": {"stored": "int8"}}[form]
    layer = build_embedding(aligned, **settings)
    if form == "folded":
        layer.trainable_variables[0].assign_add(np.ones((2, 32)))
    folder = export_saved_model(build_classifier(layer, 2, architecture="mean"), tmp_path / "m", vocabulary=words)
    loaded = load_table(folder)
    assert tuple(loaded.words) == words.tokens
    np.testing.assert_array_equal(loaded.matrix, layer.matrix())
    (folder / "variables" / "variables.index").write_bytes(b"x")
    with pytest.raises(VectorFileError, match=str(folder)):
        load_table(folder)


@pytest.mark.parametrize("write", ["export", "save"])
def test_saved_models_of_others(tmp_path, write):
    """model.export stores each variable twice, tf.saved_model.save the optimizer's slots too; no graph is loaded."""
    ids = keras.Input((4,), dtype="int64")
    tables = [keras.layers.Embedding(10, width, name=name)(ids) for width, name in ((4, "one"), (3, "two"))]
    stock = keras.Model(ids, keras.layers.Concatenate()(tables))
    stock.compile("adam", "mse")
    stock.optimizer.build(stock.trainable_variables)
    stock.export(tmp_path / "m", verbose=False) if write == "export" else tf.saved_model.save(
        stock, str(tmp_path / "m")
    )
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"")
    loaded = load_table(tmp_path / "m", "two", words=VOCABULARY)
    np.testing.assert_array_equal(loaded.matrix, np.array(stock.get_layer("two").embeddings))
    with pytest.raises(ArgumentError, match=r"one of \[.*one/embeddings.*two/embeddings.*Received: None"):
        load_table(tmp_path / "m", words=VOCABULARY)
    with pytest.raises(ArgumentError, match="has 10 rows: pass words="):
        load_table(tmp_path / "m", "two")


def test_saved_model_with_lora_is_refused(tmp_path):
    """The base alone is not the table, and the scale of LoRA is in no SavedModel."""
    layer = keras.layers.Embedding(10, 4)
    layer.build()
    layer.enable_lora(2)
    keras.Sequential([keras.Input((3,), dtype="int64"), layer]).export(tmp_path / "m", verbose=False)
    with pytest.raises(VectorFileError, match=f"{tmp_path}.*no plain embedding table"):
        load_table(tmp_path / "m", words=VOCABULARY)


def _with_a_foreign_class(path):
    """Two tables and a layer whose class the reading process does not know; returns the deep table."""
    ids = keras.Input((4,), dtype="int64")
    deep = keras.layers.Embedding(10, 5, name="deep")
    encoder = keras.Model(ids, deep(ids), name="encoder")

    @keras.saving.register_keras_serializable("tests")
    class Foreign(keras.layers.Layer):
        """Passes its input on."""

        def call(self, inputs):
            """Nothing happens."""
            return inputs

    tables = [encoder(ids), Foreign()(keras.layers.Embedding(10, 3, name="top")(ids)), tiny.embedding(name="lora")(ids)]
    keras.Model(ids, tables).save(path)
    return np.array(deep.embeddings)


def test_classes_that_are_missing(tmp_path):
    """The table is read from the weights by its path; without one, or for another form, Keras' reason is given."""
    expected = _with_a_foreign_class(tmp_path / "m.keras")
    code = f"""
        import numpy as np
        from embkeras.tables.saved import load_table
        loaded = load_table({str(tmp_path / "m.keras")!r}, "encoder/deep", words=list("abcdefghij"))
        np.save({str(tmp_path / "found.npy")!r}, loaded.matrix)
        for layer in (None, "encoder"):
            try: load_table({str(tmp_path / "m.keras")!r}, layer)
            except Exception as error: print(type(error).__name__, error)
    """
    done = run_python("-c", textwrap.dedent(code))
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("VectorFileError") for line in lines), done.stdout
    assert "no plain table of a layer 'encoder'" in lines[1] and "encoder/deep" in lines[1]


def _link(group):
    del group["0"]
    group["0"] = h5py.ExternalLink("other.h5", "/0")


def _nan(group):
    group["0"][3, 1] = np.nan


@pytest.mark.parametrize("damage", [_link, _nan, lambda group: group.pop("0")])
def test_damaged_weights(tmp_path, damage):
    """One error with the file's name."""
    whole, path = save(tmp_path / "whole.keras", keras.layers.Embedding(10, 4), before=[lookup()]), tmp_path / "m.keras"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as copy:
        archive.extract("model.weights.h5", tmp_path)
        with h5py.File(tmp_path / "model.weights.h5", "a") as file:
            damage(file["layers/embedding/vars"])
        for name in archive.namelist():
            copy.writestr(name, (tmp_path / name).read_bytes() if name.endswith(".h5") else archive.read(name))
    with pytest.raises(VectorFileError, match=r"m\.keras"):
        load_table(path)


@pytest.mark.parametrize("size", [0, 100, 1000, -1])
def test_cut_off_or_missing(tmp_path, size):
    """Never returned as if whole."""
    whole = save(tmp_path / "whole.keras", keras.layers.Embedding(10, 4), before=[lookup()])
    if size >= 0:
        (tmp_path / "m.keras").write_bytes(whole.read_bytes()[:size])
    with pytest.raises(VectorFileError, match=r"m\.keras"):
        load_table(tmp_path / "m.keras")


def test_model_without_a_table(tmp_path):
    """The list of layers is empty."""
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    with pytest.raises(ArgumentError, match=r"one of \[\] of"):
        load_table(tmp_path / "m.keras")
