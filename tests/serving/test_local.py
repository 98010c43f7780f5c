"""Asking an export in this process and in another one."""

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.local import ask_in_new_process, request_bytes


@pytest.fixture(scope="module")
def vocabulary():
    """Words of a few texts."""
    return ek.Vocabulary.from_texts(["good day", "bad day", "so so"])


@pytest.fixture(scope="module")
def model(vocabulary):
    """A small classifier."""
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 4)).astype("float32")
    return ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 2, architecture="cnn", units=3)


@pytest.fixture(scope="module")
def path(model, vocabulary, tmp_path_factory):
    """The model's folder with one version."""
    path = tmp_path_factory.mktemp("export") / "model"
    ek.export_saved_model(model, path, vocabulary=vocabulary, class_names=["no", "yes"])
    return path


def test_process_with_tensorflow_only_gives_the_same_scores(path, model, vocabulary):
    """The export works on its own, in a process without embkeras."""
    requests = [vocabulary.encode("good day"), vocabulary.encode("bad"), vocabulary.encode("")]
    scores, loaded = ask_in_new_process(path / "1", requests)
    here = np.concatenate([model(ids[None]).numpy() for ids in (*requests[:2], np.array([1]))])
    np.testing.assert_allclose(scores, here, atol=1e-6)
    assert loaded["tensorflow"] and not loaded["embkeras"]


def test_failing_process_is_quoted(tmp_path):
    """The error quotes the other process."""
    with pytest.raises(SavedModelError, match=r"failed: .*SavedModel file does not exist"):
        ask_in_new_process(tmp_path, [[1]])


def test_predict_gives_label_and_probability(path, model, vocabulary):
    """Each text gets its best class and the probability."""
    table = ek.ExportedModel(path).predict(["good day", ""])
    scores = model(vocabulary.encode("good day")[None]).numpy()[0]
    assert table["label"][0] == ["no", "yes"][scores.argmax()]
    assert table["probability"][0] == pytest.approx(scores.max(), abs=1e-6)


def test_highest_version_is_taken(model, vocabulary, tmp_path):
    """10 comes after 9, and folders that aren't numbers don't count."""
    for version in (9, 10):
        ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, version=version)
    (tmp_path / "old").mkdir()
    assert ek.ExportedModel(tmp_path).folder.name == "10"


def test_folder_without_export_is_refused(tmp_path):
    """The message names the folder."""
    with pytest.raises(SavedModelError, match=rf"no exported model in '{tmp_path}'"):
        ek.ExportedModel(tmp_path)


@pytest.mark.parametrize("name", ["embkeras.json", "vocabulary.json"])
def test_damaged_assets_are_refused(model, vocabulary, tmp_path, name):
    """A truncated file is refused."""
    asset = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary) / "assets" / name
    asset.write_bytes(asset.read_bytes()[:-20])
    with pytest.raises(ek.errors.EmbkerasError, match=r"damaged|not a vocabulary"):
        ek.ExportedModel(tmp_path)


def test_other_vocabulary_in_the_assets_is_refused(model, vocabulary, tmp_path):
    """The fingerprint ties the vocabulary to the model."""
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    ek.Vocabulary(["", "[UNK]", "other"]).save(folder / "assets" / "vocabulary.json")
    with pytest.raises(SavedModelError, match="not the one the model was exported with"):
        ek.ExportedModel(tmp_path)


def test_damaged_weights_are_refused(model, vocabulary, tmp_path):
    """Truncated weights are an embkeras error, not one of TensorFlow's."""
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    data = next((folder / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(SavedModelError, match="Can't load"):
        ek.ExportedModel(tmp_path).predict(["good"])


def test_ids_weigh_less_than_vectors():
    """JSON is the body over REST; protobuf takes 8 bytes per id and 4 per float."""
    table = request_bytes(np.full((1, 50), 7), np.full((1, 50, 300), 0.125, "float32"))
    assert table.loc["JSON", "ids"] == len('{"instances": [[]]}') + 50 + 49 * 2
    assert 4 * 50 * 300 < table.loc["protobuf", "vectors"] < 4 * 50 * 300 + 100
    assert table.loc["protobuf", "ids"] < 8 * 50 + 100


def test_predict_refuses_a_single_string(path):
    """It would be read letter by letter."""
    with pytest.raises(ArgumentError, match="Received: 'good'"):
        ek.ExportedModel(path).predict("good")


def test_predict_of_nothing_is_empty(path):
    """No texts, no rows."""
    assert ek.ExportedModel(path).predict([]).shape == (0, 3)


@pytest.mark.parametrize("ids", [[1, 2], [[1.5, 2.0]], [["a"]]])
def test_scores_refuse_what_is_no_batch_of_ids(path, ids):
    """The error shows shape and dtype."""
    with pytest.raises(ArgumentError, match=r"token_ids must be integers \(batch, time\).* Received: "):
        ek.ExportedModel(path).scores(ids)


def test_one_score_names_no_class(vocabulary, tmp_path):
    """The argmax of one sigmoid would always be class 0."""
    ids = keras.Input((None,), dtype="int64")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(len(vocabulary), 3, mask_zero=True)(ids))
    ek.export_saved_model(keras.Model(ids, keras.layers.Dense(1)(pooled)), tmp_path, vocabulary=vocabulary)
    with pytest.raises(
        SavedModelError,
        match=r"returns scores of shape \(1,\) for a text, not one score per class\. Use scores\(\)",
    ):
        ek.ExportedModel(tmp_path).predict(["good"])
