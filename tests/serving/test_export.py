"""export_saved_model: ids in, named scores out, one copy of the table."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, OutputError, SavedModelError

V, D = 40, 6


@pytest.fixture(scope="module")
def vocabulary():
    """Forty tokens."""
    return ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(V - 2))])


@pytest.fixture(scope="module")
def model(vocabulary):
    """A small classifier with a table that is not zero in its padding row."""
    matrix = np.random.default_rng(0).normal(size=(V, D)).astype("float32")
    return ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 3, architecture="lstm", units=4)


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
    """The input is named and typed, whatever the model's own input is called."""
    (spec,) = serve.structured_input_signature[1].values()
    assert (spec.name, spec.dtype, spec.shape.as_list()) == ("token_ids", tf.int64, [None, None])


def test_scores_equal_those_in_memory(serve, model):
    """The export answers as the model does."""
    ids = np.random.default_rng(1).integers(0, V, (5, 9))
    np.testing.assert_allclose(serve(token_ids=tf.constant(ids))["scores"], model(ids), atol=1e-6)


@pytest.mark.parametrize("bad", [-1, V, 2**31, 2**40, -(2**62)])
def test_bad_ids_are_read_as_oov(serve, bad):
    """An id outside the table gets the answer of "[UNK]", and never that of the last row."""
    as_bad = serve(token_ids=tf.constant([[3, bad, 5]], tf.int64))["scores"]
    as_oov = serve(token_ids=tf.constant([[3, 1, 5]], tf.int64))["scores"]
    np.testing.assert_array_equal(as_bad, as_oov)


@pytest.mark.parametrize("ids", [np.zeros((1, 0)), np.zeros((2, 7))], ids=["no time step", "padding only"])
def test_empty_text_gets_finite_scores(serve, ids):
    """A text without tokens has a defined answer."""
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
    """`model.export` writes every variable two times."""
    model = keras.Sequential([keras.Input((None,), dtype="int64"), keras.layers.Embedding(20_000, 50)])
    model.export(tmp_path / "m", verbose=False)
    stored = sum(file.stat().st_size for file in (tmp_path / "m" / "variables").iterdir())
    assert stored > 1.9 * 20_000 * 50 * 4


def test_assets_hold_vocabulary_fingerprint_and_class_names(folder, vocabulary):
    """The artifact says what its ids and its scores mean."""
    card = json.loads((folder / "assets" / "embkeras.json").read_text())
    assert card["vocabulary_fingerprint"] == vocabulary.fingerprint
    assert card["class_names"] == ["a", "b", "c"]
    assert ek.Vocabulary.load(folder / "assets" / "vocabulary.json").tokens == vocabulary.tokens


def test_next_version_is_free(model, vocabulary, folder):
    """Each export goes into the next number."""
    second = ek.export_saved_model(model, folder.parent, vocabulary=vocabulary)
    assert (folder.name, second.name) == ("1", "2")


def test_existing_version_is_not_overwritten(model, vocabulary, folder):
    """A version that is there stays as it is."""
    with pytest.raises(SavedModelError, match=r"Version 1 of .* exists already"):
        ek.export_saved_model(model, folder.parent, vocabulary=vocabulary, version=1)


@pytest.mark.parametrize("version", [0, -1, True, 1.5])
def test_bad_version_is_refused(model, vocabulary, tmp_path, version):
    """Versions are integers from 1."""
    with pytest.raises(ArgumentError, match=rf"version must be an integer of at least 1\. Received: {version}"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, version=version)


def test_other_vocabulary_is_refused(model, tmp_path):
    """A vocabulary of another size cannot be the one that the model was trained with."""
    with pytest.raises(SavedModelError, match=r"'embedding' has 40 rows, but the vocabulary 3 tokens"):
        ek.export_saved_model(model, tmp_path, vocabulary=ek.Vocabulary(["", "[UNK]", "a"]))


def test_vocabulary_without_oov_id_is_refused(model, tmp_path):
    """There must be an id for those that are outside."""
    with pytest.raises(SavedModelError, match="no OOV id"):
        ek.export_saved_model(model, tmp_path, vocabulary=ek.Vocabulary([f"w{i}" for i in range(V)], oov_ids=()))


def test_wrong_number_of_class_names_is_refused(model, vocabulary, tmp_path):
    """One name for each score."""
    with pytest.raises(ArgumentError, match=r"scores 3 classes\. Received: 2 class names"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int4"}, r"dtype must be one of float32, float16, int8\. Received: 'int4'"),
        ({"bad_ids": "clip"}, r"bad_ids must be one of oov, error\. Received: 'clip'"),
        ({"about": {"Data": 3}}, r"about maps titles .* Received: 'Data': 3"),
    ],
)
def test_arguments_are_checked(model, vocabulary, tmp_path, arguments, message):
    """Each names its rule and the value."""
    with pytest.raises(ArgumentError, match=message):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_leaves_nothing(model, vocabulary, tmp_path):
    """A path below a file cannot be written, and the message names it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"Cannot write .*file"):
        ek.export_saved_model(model, tmp_path / "file" / "model", vocabulary=vocabulary)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failed_export_leaves_no_half_version(model, vocabulary, tmp_path, monkeypatch):
    """If writing fails in the middle, the model's folder holds no version."""

    def fail(module, path, **_):
        Path(path).mkdir()
        Path(path, "saved_model.pb").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OutputError, match=r"Cannot write .*No space left on device"):
        ek.export_saved_model(model, tmp_path / "m", vocabulary=vocabulary)
    assert list((tmp_path / "m").iterdir()) == []


def test_several_outputs_keep_their_names(vocabulary, tmp_path):
    """A model with a dictionary of outputs is served under its own names."""
    ids = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(V, D, mask_zero=True)(ids))
    outputs = {"mood": keras.layers.Dense(2)(pooled), "topic": keras.layers.Dense(4)(pooled)}
    folder = ek.export_saved_model(keras.Model(ids, outputs), tmp_path, vocabulary=vocabulary)
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert {name: spec.shape[-1] for name, spec in signature.structured_outputs.items()} == {"mood": 2, "topic": 4}


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
    """A model that insists on its length gets shorter texts filled up, and refuses longer ones."""
    layers = [
        keras.Input((6,), dtype="int64"),
        keras.layers.Embedding(V, D),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    folder = ek.export_saved_model(keras.Sequential(layers), tmp_path, vocabulary=vocabulary)
    model, loaded = keras.Sequential(layers), tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    ids = np.array([[3, 4, 0, 0, 0, 0]])
    np.testing.assert_allclose(serve(token_ids=tf.constant(ids[:, :2]))["scores"], model(ids), atol=1e-6)
    np.testing.assert_allclose(
        serve(token_ids=tf.constant(np.pad(ids, ((0, 0), (0, 9)))))["scores"], model(ids), atol=1e-6
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"takes texts of up to 6 tokens\. Received:\] \[7\]"):
        serve(token_ids=tf.ones((1, 7), tf.int64))


def test_embedding_of_positions_may_have_another_size(vocabulary, tmp_path):
    """Only the table that the ids are looked up in has to fit the vocabulary."""
    ids = keras.Input((6,), dtype="int64")
    words = keras.layers.Embedding(V, D)(ids)
    places = keras.layers.Embedding(50, D, name="places")(keras.ops.ones_like(ids))
    model = keras.Model(ids, keras.layers.Dense(2)(keras.layers.Flatten()(words + places)))
    assert ek.export_saved_model(model, tmp_path, vocabulary=vocabulary).name == "1"


def test_subclassed_model_is_exported(vocabulary, tmp_path):
    """A model without symbolic inputs is served as well."""

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
    """A string would be read as one name a letter."""
    with pytest.raises(ArgumentError, match="Received the string 'abc'"):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names="abc")
