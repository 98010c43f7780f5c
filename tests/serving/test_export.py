"""export_saved_model: token ids to named scores, with one copy of the table."""

import json
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, OutputError, SavedModelError
from embkeras.serving import card, export
from embkeras.serving.card import checked_metadata

V, D = 40, 6


@pytest.fixture(scope="module")
def vocabulary():
    """Forty tokens."""
    return ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(V - 2))])


@pytest.fixture(scope="module")
def model(vocabulary):
    """A small classifier with a table that is not zero in its padding row."""
    matrix = np.random.default_rng(0).normal(size=(V, D)).astype("float32")
    return ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 3, architecture="mean", units=4)


@pytest.fixture(scope="module")
def folder(model, vocabulary, tmp_path_factory):
    """The model, exported once."""
    path = tmp_path_factory.mktemp("export") / "model"
    return ek.export_saved_model(model, path, vocabulary=vocabulary, class_names=["a", "b", "c"])


@pytest.fixture(scope="module")
def serve(folder):
    """The signature of the export."""
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    signature.kept = loaded
    return signature


def test_signature_takes_int64_token_ids(serve):
    """The input's name and type don't depend on the model's own input."""
    (spec,) = serve.structured_input_signature[1].values()
    assert (spec.name, spec.dtype, spec.shape.as_list()) == ("token_ids", tf.int64, [None, None])


@keras.saving.register_keras_serializable("tests.serving.test_export")
class Weighed(keras.layers.Layer):
    """The mean of the vectors by weights that it learns, with a layer inside."""

    supports_masking = True

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.inner = units, keras.layers.Dense(units)

    def build(self, shape):
        """The weights, and those of the layer inside."""
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, vectors, mask=None):
        """Only words count."""
        told = keras.ops.exp(vectors @ self.scale[:, None]) * keras.ops.cast(mask, vectors.dtype)[..., None]
        return keras.ops.sum(told * self.inner(vectors), axis=1) / (keras.ops.sum(told, axis=1) + 1e-6)

    def compute_mask(self, vectors, mask=None):
        """None is left."""

    def get_config(self):
        """The units."""
        return {**super().get_config(), "units": self.units}


def test_a_layer_of_your_own(vocabulary, tmp_path):
    """After training, the scores of the export and of a .keras file are those of the model; CONTRIBUTING has a function."""
    table = np.random.default_rng(0).normal(size=(V, D)).astype("float32")
    model = ek.build_classifier(ek.AlignedMatrix(table, vocabulary), 3, architecture=Weighed(3), trainable=True)
    model.compile(ek.RowWiseAdam(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    ids = np.random.default_rng(1).integers(2, V, (6, 5))
    ids[::2, 3:] = 0
    before = model.predict(ids, verbose=0)
    model.fit(ids, np.arange(6) % 3, epochs=1, verbose=0)
    wanted = model.predict(ids, verbose=0)
    assert np.abs(wanted - before).max() > 1e-3
    loaded = tf.saved_model.load(str(ek.export_saved_model(model, tmp_path / "export", vocabulary=vocabulary)))
    scores = loaded.signatures["serving_default"](token_ids=tf.constant(ids))["scores"]
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(ids, verbose=0), wanted, atol=1e-6)


def test_scores_equal_those_in_memory(serve, model):
    """The export has the model's scores."""
    ids = np.random.default_rng(1).integers(0, V, (5, 9))
    np.testing.assert_allclose(serve(token_ids=tf.constant(ids))["scores"], model(ids), atol=1e-6)


@pytest.mark.parametrize("bad", [-1, V, 2**31, 2**40, -(2**62)])
def test_ids_out_of_range_are_read_as_oov(serve, bad):
    """An id outside the table has the scores of "[UNK]", never those of the last row."""
    as_bad = serve(token_ids=tf.constant([[3, bad, 5]], tf.int64))["scores"]
    as_oov = serve(token_ids=tf.constant([[3, 1, 5]], tf.int64))["scores"]
    np.testing.assert_array_equal(as_bad, as_oov)


@pytest.mark.parametrize("ids", [np.zeros((1, 0)), np.zeros((2, 7))], ids=["no time step", "padding only"])
def test_empty_text_gets_finite_scores(serve, ids):
    """A text without tokens has finite scores."""
    scores = serve(token_ids=tf.constant(ids, tf.int64))["scores"].numpy()
    assert scores.shape == (len(ids), 3)
    assert np.isfinite(scores).all()


def test_floats_are_refused_by_the_signature(serve):
    """A float request is an error and is not truncated to a row."""
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError), match=r"(?i)float"):
        serve(token_ids=tf.constant([[3.9]]))


def test_table_is_stored_once(vocabulary, tmp_path):
    """The weights on disk are as large as the table and the few other weights together."""
    table = np.ones((20_000, 50), np.float32)
    large = ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(19_998))])
    model = ek.build_classifier(ek.AlignedMatrix(table, large), 2, architecture="mean", units=2)
    version = ek.export_saved_model(model, tmp_path / "m", vocabulary=large)
    stored = sum(file.stat().st_size for file in (version / "variables").iterdir())
    assert stored < 1.02 * table.nbytes


@pytest.mark.stock_keras
def test_stock_export_stores_the_table_twice(tmp_path):
    """`model.export` writes every variable twice."""
    model = keras.Sequential([keras.Input((None,), dtype="int64"), keras.layers.Embedding(20_000, 50)])
    model.export(tmp_path / "m", verbose=False)
    stored = sum(file.stat().st_size for file in (tmp_path / "m" / "variables").iterdir())
    assert stored > 1.9 * 20_000 * 50 * 4


def test_assets_hold_vocabulary_fingerprint_and_class_names(folder, vocabulary):
    """The export says what its ids and scores mean."""
    card = json.loads((folder / "assets" / "embkeras.json").read_text())
    assert card["vocabulary_fingerprint"] == vocabulary.fingerprint
    assert card["class_names"] == ["a", "b", "c"]
    assert ek.Vocabulary.load(folder / "assets" / "vocabulary.json").tokens == vocabulary.tokens


def test_next_version_is_free(model, vocabulary, folder):
    """Each export gets the next number."""
    second = ek.export_saved_model(model, folder.parent, vocabulary=vocabulary)
    assert (folder.name, second.name) == ("1", "2")


def test_existing_version_is_not_overwritten(model, vocabulary, folder):
    """An existing version isn't changed."""
    with pytest.raises(SavedModelError, match=r"Version 1 of .* already exists"):
        ek.export_saved_model(model, folder.parent, vocabulary=vocabulary, version=1)


@pytest.mark.parametrize("version", [0, -1, True, 1.5])
def test_bad_version_is_refused(model, vocabulary, tmp_path, version):
    """Versions are integers from 1."""
    with pytest.raises(
        ArgumentError, match=rf"version must be an integer from 1 to 9223372036854775807\. Received: {version}"
    ):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, version=version)


def test_other_vocabulary_is_refused(model, tmp_path):
    """A vocabulary of another size can't be the one that the model was trained with."""
    with pytest.raises(SavedModelError, match=r"'embedding' has 40 rows, but the vocabulary has 3 tokens"):
        ek.export_saved_model(model, tmp_path, vocabulary=ek.Vocabulary(["", "[UNK]", "a"]))


def test_vocabulary_without_oov_id_is_refused(model, tmp_path):
    """Ids outside the table need an id to be read as."""
    with pytest.raises(SavedModelError, match="no OOV id"):
        ek.export_saved_model(model, tmp_path, vocabulary=ek.Vocabulary([f"w{i}" for i in range(V)], oov_ids=()))


def test_wrong_number_of_class_names_is_refused(model, vocabulary, tmp_path):
    """One name for each score."""
    with pytest.raises(ArgumentError, match=r"each of 3 scores\. Received: 2"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int4"}, r"dtype must be one of float32, float16, int8\. Received: 'int4'"),
        ({"out_of_range": "clip"}, r"out_of_range must be one of oov, error\. Received: 'clip'"),
        ({"metadata": {3: "Data"}}, r"metadata must map .* Received: 3: 'Data'"),
    ],
)
def test_arguments_are_checked(model, vocabulary, tmp_path, arguments, message):
    """Each error names the rule and the value."""
    with pytest.raises(ArgumentError, match=message):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_leaves_nothing(model, vocabulary, tmp_path):
    """A path below a file can't be written, and the message names it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"Cannot write .*file"):
        ek.export_saved_model(model, tmp_path / "file" / "model", vocabulary=vocabulary)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failed_export_leaves_no_half_version(model, vocabulary, tmp_path, monkeypatch):
    """If writing fails midway, the model's folder contains no version."""

    def fail(module, path, **_):
        Path(path).mkdir()
        Path(path, "saved_model.pb").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OutputError, match=r"Cannot write .*No space left on device"):
        ek.export_saved_model(model, tmp_path / "m", vocabulary=vocabulary)
    assert list((tmp_path / "m").iterdir()) == []


def test_several_outputs_keep_their_names(vocabulary, tmp_path):
    """A model's dictionary of outputs keeps its names."""
    ids = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(V, D, mask_zero=True)(ids))
    outputs = {"mood": keras.layers.Dense(2)(pooled), "topic": keras.layers.Dense(4)(pooled)}
    folder = ek.export_saved_model(keras.Model(ids, outputs), tmp_path, vocabulary=vocabulary)
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert {name: spec.shape[-1] for name, spec in signature.structured_outputs.items()} == {"mood": 2, "topic": 4}


def test_several_outputs_are_asked_by_name(tmp_path):
    """predict takes one of them, or all; the error of another name lists them."""
    words = ek.Vocabulary.from_texts(["good day", "bad day"])
    ids = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(len(words), D, mask_zero=True)(ids))
    model = keras.Model(ids, {"mood": keras.layers.Dense(2)(pooled), "topic": keras.layers.Dense(4)(pooled)})
    export = ek.ExportedModel(ek.export_saved_model(model, tmp_path, vocabulary=words, check=False))
    row = words.encode_batch(["good day"])
    for name, scores in model.predict(row, verbose=0).items():
        np.testing.assert_allclose(export.scores(row, output=name), scores, atol=1e-6)
        assert export.predict(["good day", "bad"], output=name)["label"][0] == str(scores[0].argmax())
    assert {"mood_label", "topic_label"} < set(export.predict(["good day"]).columns)
    with pytest.raises(SavedModelError, match="no output 'scores', only mood, topic: output= chooses one"):
        export.scores(row)


def test_sequential_with_float_input_is_served_in_ids(vocabulary, tmp_path):
    """A Sequential that Keras built for floats still takes int64 ids."""
    model = keras.Sequential(
        [keras.layers.Embedding(V, D, mask_zero=True), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
    )
    model(np.zeros((1, 3), "float32"))
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    loaded = tf.saved_model.load(str(folder))
    scores = loaded.signatures["serving_default"](token_ids=tf.constant([[7, 9]], tf.int64))["scores"]
    np.testing.assert_allclose(scores, model(np.array([[7, 9]])), atol=1e-6)


def test_fixed_length_is_kept(vocabulary, tmp_path):
    """Shorter texts are padded to a fixed length, and longer ones refused on request."""
    layers = [
        keras.Input((6,), dtype="int64"),
        keras.layers.Embedding(V, D),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    folder = ek.export_saved_model(keras.Sequential(layers), tmp_path, vocabulary=vocabulary, long_texts="error")
    model, loaded = keras.Sequential(layers), tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    ids = np.array([[3, 4, 0, 0, 0, 0]])
    np.testing.assert_allclose(serve(token_ids=tf.constant(ids[:, :2]))["scores"], model(ids), atol=1e-6)
    np.testing.assert_allclose(
        serve(token_ids=tf.constant(np.pad(ids, ((0, 0), (0, 9)))))["scores"], model(ids), atol=1e-6
    )
    for padding in (0, 2):  # a text of just that length, alone and with padding behind it
        full = np.pad(np.array([[3, 4, 5, 6, 7, 8]]), ((0, 0), (0, padding)))
        np.testing.assert_allclose(serve(token_ids=tf.constant(full))["scores"], model(full[:, :6]), atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"up to 6 tokens\. Received\] \[7\] \[in text\] \[0\]"):
        serve(token_ids=tf.ones((1, 7), tf.int64))


def test_embedding_of_positions_may_have_another_size(vocabulary, tmp_path):
    """Only the table for the token ids must fit the vocabulary."""
    ids = keras.Input((6,), dtype="int64")
    words = keras.layers.Embedding(V, D)(ids)
    places = keras.layers.Embedding(50, D, name="places")(keras.ops.ones_like(ids))
    model = keras.Model(ids, keras.layers.Dense(2)(keras.layers.Flatten()(words + places)))
    assert ek.export_saved_model(model, tmp_path, vocabulary=vocabulary).name == "1"


def test_subclassed_model_is_exported(vocabulary, tmp_path):
    """A model without symbolic inputs can be exported."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.out = keras.layers.Embedding(V, D, mask_zero=True), keras.layers.Dense(2)
            self.pool = keras.layers.GlobalAveragePooling1D()

        def call(self, ids):
            return self.out(self.pool(self.table(ids)))

    model = Subclassed()
    here = model(np.array([[3, 4]]))
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    loaded = tf.saved_model.load(str(folder))
    np.testing.assert_allclose(
        loaded.signatures["serving_default"](token_ids=tf.constant([[3, 4]], tf.int64))["scores"], here
    )


def test_class_names_may_not_be_one_string(model, vocabulary, tmp_path):
    """A string would be read letter by letter."""
    with pytest.raises(ArgumentError, match=r"class_names must be a sequence.* Received: 'abc'"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names="abc")


class Positions(keras.layers.Layer):
    """Adds a vector for each position."""

    def __init__(self, longest):
        super().__init__()
        self.supports_masking = True
        self.table = keras.layers.Embedding(longest, D)

    def call(self, inputs):
        """Vectors plus positions."""
        return inputs + self.table(keras.ops.arange(keras.ops.shape(inputs)[1]))


def _headed(ids, vectors):
    return keras.Model(ids, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(vectors)))


def _table(vocabulary):
    return ek.build_embedding(ek.AlignedMatrix(np.random.default_rng(0).normal(size=(V, D)), vocabulary))


@pytest.mark.parametrize(("most", "warm_up"), [(10, [10]), (None, [1, 8, 32, 128])])
def test_warm_up_requests_are_no_longer_than_the_model_reads(vocabulary, tmp_path, most, warm_up):
    """TensorFlow Serving doesn't load a model that fails on one."""
    ids = keras.Input((most,), dtype="int64")
    model = _headed(ids, _table(vocabulary)(ids))
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    assert json.loads((folder / "assets" / "embkeras.json").read_text())["warm_up"] == warm_up


def test_padding_may_be_longer_than_the_model_has_places(vocabulary, tmp_path):
    """Padding is cut behind the longest text, and a text where the places end."""
    ids = keras.Input((None,), dtype="int64")
    model = _headed(ids, Positions(64)(_table(vocabulary)(ids)))
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    assert json.loads((folder / "assets" / "embkeras.json").read_text())["warm_up"] == [1, 8, 32]
    export = ek.ExportedModel(folder)
    np.testing.assert_allclose(export.scores([[0, 3, 4] + 300 * [0]]), export.scores([[3, 4]]), atol=1e-6)
    np.testing.assert_array_equal(export.scores([65 * [3]]), export.scores([64 * [3]]))


def test_outputs_of_one_name_are_refused(vocabulary, tmp_path):
    """One output would be lost."""
    ids, head = keras.Input((None,), dtype="int64"), keras.layers.Dense(2, name="head")
    vectors = keras.layers.GlobalAveragePooling1D()(_table(vocabulary)(ids))
    model = keras.Model(ids, [head(vectors), head(-vectors)])
    with pytest.raises(SavedModelError, match="share a name: head, head"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)


def test_class_names_are_for_one_output(vocabulary, tmp_path):
    """With two outputs it isn't clear which one they belong to."""
    ids = keras.Input((None,), dtype="int64")
    vectors = keras.layers.GlobalAveragePooling1D()(_table(vocabulary)(ids))
    model = keras.Model(ids, {name: keras.layers.Dense(2)(vectors) for name in "ab"})
    with pytest.raises(ArgumentError, match=r"class_names need a model with one output\. Model .* has a, b"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names=["x", "y"])


def test_tuple_of_a_subclassed_model(vocabulary, tmp_path):
    """Outputs without names are numbered."""

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.pool, self.head = (
                _table(vocabulary),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(2),
            )

        def call(self, inputs):
            scores = self.head(self.pool(self.table(inputs)))
            return scores, keras.ops.argmax(scores, axis=-1)

    model = Two()
    model(np.array([[1, 2]]))
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, out_of_range="error")
    answers = ek.ExportedModel(folder).ask("serving_default", token_ids=np.array([[3, 4]]))
    assert set(answers) == {"output_0", "output_1"} and answers["output_1"].dtype.kind == "i"


def test_small_rows_are_for_our_layers(vocabulary, tmp_path):
    """Keras' own Embedding would silently stay float32."""
    ids = keras.Input((None,), dtype="int64")
    model = _headed(ids, keras.layers.Embedding(V, D, mask_zero=True)(ids))
    with pytest.raises(ArgumentError, match=r"dtype='int8' applies to embkeras embeddings .* has none"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, dtype="int8")


@pytest.mark.parametrize("names", [["a", "b", "b"], ["a", "b\n", "c"], [b"a", b"b", b"c"], ["a", "b", "\ud800"]])
def test_class_names_that_name_nothing(model, vocabulary, tmp_path, names):
    """A name twice, with a newline, as bytes, and one that UTF-8 can't encode."""
    with pytest.raises(ArgumentError, match="class_names must be distinct names of one line each"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names=names)


@pytest.mark.parametrize(
    "metadata",
    [
        {"m": {("a", "b"): 1}},
        {"m": "\ud800"},
        [1],
        {"m": {np.int64(1): 1}},
        {"m": {"loss": float("nan")}},
        {"m": [1, {"loss": float("inf")}]},
        {"m": np.array([-np.inf])},
        {"m": np.float32("inf")},
        {"m": pd.DataFrame({"loss": [1, np.inf]})},
        {"m": {"m": pd.DataFrame({"loss": [1, -np.inf]})}},
    ],
)
def test_metadata_that_no_file_can_hold(model, vocabulary, tmp_path, metadata):
    """The error comes before anything is written."""
    with pytest.raises(ArgumentError, match="metadata must"):
        ek.export_saved_model(model, tmp_path / "m", vocabulary=vocabulary, metadata=metadata)
    assert not (tmp_path / "m").exists()


def test_numbers_of_numpy_stay_numbers(model, vocabulary, tmp_path):
    """metadata.json has numbers, not strings."""
    metadata = {"Result": {"accuracy": np.float32(0.5), "texts": np.int64(3)}}
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, metadata=metadata)
    assert json.loads((folder / "assets" / "metadata.json").read_text()) == {"Result": {"accuracy": 0.5, "texts": 3}}


@pytest.mark.parametrize(
    ("value", "stored", "written"),
    [
        (3, 3, "```json\n3\n```"),
        (None, None, "```json\nnull\n```"),
        ([1, {"a": [True, "b"]}], [1, {"a": [True, "b"]}], '"b"'),
        ({"a": {"b": {"c": [1]}}}, {"a": {"b": {"c": [1]}}}, "```json"),
        ({"rows": np.arange(3)}, {"rows": [0, 1, 2]}, "| rows | [0 1 2] |"),
        (MappingProxyType({"a": 1}), {"a": 1}, "| a | 1 |"),
        ({"a|b": "c\nd"}, {"a|b": "c\nd"}, "| a\\|b | c d |"),
        (
            pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]}),
            [{"a": 1.5, "b": "x"}, {"a": None, "b": None}],
            "| 1.5 | x |",
        ),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), [{"a": 1}, {"a": None}], "| <NA> |"),
    ],
    ids=str,
)
def test_metadata_is_any_json(value, stored, written):
    """It is stored as it is, and the README shows a table or JSON."""
    metadata = checked_metadata({"Section": value})
    assert json.loads(card._as_json(metadata)) == {"Section": stored}
    assert written in card._section(value)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: keras.layers.LSTM(3, stateful=True, name="memory"), "memory"),
        (lambda: keras.layers.Bidirectional(keras.layers.GRU(3, stateful=True, name="inner"), name="both"), "both"),
        (lambda: keras.layers.RNN(keras.layers.SimpleRNNCell(3), stateful=True, name="memory"), "memory"),
    ],
)
def test_stateful_layers_are_refused_with_the_reason(vocabulary, tmp_path, make, path):
    """What they keep of one request would change the answer to the next."""
    ids = keras.Input(batch_shape=(1, None), dtype="int64")
    table = ek.AlignedMatrix(np.random.default_rng(0).normal(size=(V, D)), vocabulary)
    scores = keras.layers.Dense(2)(make()(ek.build_embedding(table)(ids)))
    with pytest.raises(SavedModelError, match=rf"Layer '{path}\S*' is stateful: .*stateful=False"):
        ek.export_saved_model(keras.Model(ids, scores), tmp_path / "m", vocabulary=vocabulary)
    assert not (tmp_path / "m").exists()


def test_path_that_is_none(model, vocabulary):
    """The error shows the value."""
    with pytest.raises(ArgumentError, match=r"path must be a path.* Received: None"):
        ek.export_saved_model(model, None, vocabulary=vocabulary)


def test_number_that_another_export_takes_meanwhile(model, vocabulary, tmp_path, monkeypatch):
    """The export takes the next number."""
    real = export._check
    monkeypatch.setattr(export, "_check", lambda *a: ((tmp_path / "1").mkdir(exist_ok=True), real(*a)))
    assert ek.export_saved_model(model, tmp_path, vocabulary=vocabulary).name == "2"


def test_server_config_of_the_current_folder(model, vocabulary, tmp_path, monkeypatch):
    """The name is the folder's; an existing file isn't changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batching.config").write_text("max_batch_size { value: 7 }")
    ek.export_saved_model(model, ".", vocabulary=vocabulary, with_config=True)
    assert f'name: "{tmp_path.name}"' in (tmp_path / "models.config").read_text()
    assert (tmp_path / "batching.config").read_text() == "max_batch_size { value: 7 }"


def test_server_config_needs_a_plain_name(model, vocabulary, tmp_path):
    """Each file quotes names differently."""
    with pytest.raises(ArgumentError, match="Received: 'my \"model\"'"):
        ek.export_saved_model(model, tmp_path / 'my "model"', vocabulary=vocabulary, with_config=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error:The structure of `inputs`")
@pytest.mark.parametrize("structure", [lambda ids: {"words": ids}, lambda ids: [ids]], ids=["dict", "list"])
def test_one_input_in_a_structure(vocabulary, tmp_path, structure):
    """Keras has nothing to say about inputs of another structure."""
    ids = keras.Input((None,), dtype="int64", name="words")
    table = ek.AlignedMatrix(np.random.default_rng(0).normal(size=(V, D)), vocabulary)
    pooled = keras.layers.GlobalAveragePooling1D()(ek.build_embedding(table)(ids))
    model = keras.Model(structure(ids), keras.layers.Dense(2, activation="softmax")(pooled))
    some = np.random.default_rng(1).integers(2, V, (3, 4))
    scores = ek.ExportedModel(ek.export_saved_model(model, tmp_path / "m", vocabulary=vocabulary)).scores(some)
    np.testing.assert_allclose(scores, model.predict(structure(some), verbose=0), atol=1e-6)


def test_one_id_for_each_row(vocabulary, tmp_path):
    """A model of single ids, such as users, takes them as (batch,)."""
    layers = [ek.build_embedding(ek.AlignedMatrix(np.ones((V, D)), vocabulary), mask_zero=False), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((), dtype="int64"), *layers])
    export = ek.ExportedModel(ek.export_saved_model(model, tmp_path / "m", vocabulary=vocabulary))
    answers = export.ask("serving_default", token_ids=np.array([3, 5, -7]))["scores"]
    np.testing.assert_allclose(answers, model(np.array([3, 5, 1])), atol=1e-6)
