"""Asking an export in this process and in another one."""

import functools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.local import ask_in_new_process, request_bytes
from embkeras.serving.text_encoder import encoded_rows


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


@pytest.fixture
def copied(path, tmp_path):
    """The folder of a copy of that version, which a test may damage; the model's folder is tmp_path."""
    return shutil.copytree(path / "1", tmp_path / "1")


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


def test_highest_version_is_taken(path, tmp_path):
    """10 comes after 9, and folders that aren't numbers don't count."""
    for version in (9, 10):
        shutil.copytree(path / "1", tmp_path / str(version))
    (tmp_path / "old").mkdir()
    assert ek.ExportedModel(tmp_path).folder.name == "10"


def test_folder_without_export_is_refused(tmp_path):
    """The message names the folder."""
    with pytest.raises(SavedModelError, match=rf"no exported model in '{tmp_path}'"):
        ek.ExportedModel(tmp_path)


@pytest.mark.parametrize("name", ["embkeras.json", "vocabulary.json"])
def test_damaged_assets_are_refused(copied, tmp_path, name):
    """A truncated file is refused."""
    asset = copied / "assets" / name
    asset.write_bytes(asset.read_bytes()[:-20])
    with pytest.raises(ek.errors.EmbkerasError, match=r"damaged|not a vocabulary"):
        ek.ExportedModel(tmp_path)


def test_other_vocabulary_in_the_assets_is_refused(copied, tmp_path):
    """The fingerprint ties the vocabulary to the model."""
    ek.Vocabulary(["", "[UNK]", "other"]).save(copied / "assets" / "vocabulary.json")
    with pytest.raises(SavedModelError, match="not the one the model was exported with"):
        ek.ExportedModel(tmp_path)


def test_damaged_weights_are_refused(copied, tmp_path):
    """Truncated weights are an embkeras error, not one of TensorFlow's."""
    data = next((copied / "variables").glob("*.data-*"))
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


# Many texts at once

_WORDS = ["good", "bad", "day", "so", "unknown"]


@pytest.fixture(scope="module")
def texts():
    """Texts of 0 to 12 words, in no order."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(_WORDS, rng.integers(0, 13))) for _ in range(60)]


def _one_by_one(export, texts):
    """Label and probability of each text, asked alone."""
    scores = np.concatenate([export.scores(ids[None]) for ids in encoded_rows(export.vocabulary, texts)])
    return [str(label) for label in scores.argmax(axis=1)], scores.max(axis=1)


def _mean(vocabulary, *, mask, length=None):
    keras.utils.set_random_seed(0)
    ids = keras.Input((length,), dtype="int64")
    vectors = keras.layers.Embedding(len(vocabulary), 5, mask_zero=mask)(ids)
    flat = keras.layers.Flatten() if length else keras.layers.GlobalAveragePooling1D()
    return keras.Model(ids, keras.layers.Dense(3, activation="softmax")(flat(vectors)))


_TOKENIZER = ek.Vocabulary.from_texts(["good bad day so"]).tokenizer
_PADDED = ek.Vocabulary(["", "[UNK]", *_WORDS[:4]], tokenizer=_TOKENIZER)
_FRONT = ek.Vocabulary(["", "[UNK]", *_WORDS[:4]], tokenizer=_TOKENIZER, padding_side="start")
_UNPADDED = ek.Vocabulary(["[UNK]", *_WORDS[:4]], padding_id=None, oov_ids=(0,), tokenizer=_TOKENIZER)
_MODELS = {
    "masks": (_PADDED, {"mask": True}),
    "padding in front": (_FRONT, {"mask": True}),
    "no padding id": (_UNPADDED, {"mask": False}),
    "fixed length": (_PADDED, {"mask": False, "length": 12}),
    "fixed length, padding in front": (_FRONT, {"mask": False, "length": 12}),
    "fixed length, no padding id": (_UNPADDED, {"mask": False, "length": 12}),
    "reads padding as words, unchecked": (_PADDED, {"mask": False}),
}


@pytest.mark.parametrize("kind", _MODELS)
def test_batched_scores_are_those_of_each_text_alone(kind, texts, tmp_path):
    """In the order of the texts, with few requests; an export that fails the check isn't asked with padding."""
    vocabulary, arguments = _MODELS[kind]
    model = _mean(vocabulary, **arguments)
    ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, check="unchecked" not in kind)
    export = ek.ExportedModel(tmp_path)
    labels, probabilities = _one_by_one(export, texts)
    asked = []
    ask, export.ask = export.ask, lambda *args, **inputs: asked.append(inputs) or ask(*args, **inputs)
    for batch_size in (1, 7, 256):
        asked.clear()
        table = export.predict(texts, batch_size=batch_size)
        np.testing.assert_allclose(table["probability"], probabilities, atol=1e-5)
        assert table["label"].tolist() == labels and table["text"].tolist() == texts
        assert max(len(inputs["token_ids"]) for inputs in asked) <= max(batch_size, 2)
    assert len(asked) <= 15  # 13 lengths, and two to find out whether they may share a batch


@pytest.fixture(scope="module")
def of_three_tokens(tmp_path_factory):
    """Exports a model of fixed length 3, once for each vocabulary."""

    @functools.cache
    def exported(vocabulary):
        path = tmp_path_factory.mktemp("three")
        ek.export_saved_model(_mean(vocabulary, mask=False, length=3), path, vocabulary=vocabulary)
        return path

    return exported


@pytest.mark.parametrize("vocabulary, kept", [(_PADDED, "good bad day"), (_FRONT, "bad day so")])
def test_long_texts_are_cut_as_in_training(vocabulary, kept, of_three_tokens):
    """At the end, or in front where padding is; the other texts of the batch are not affected."""
    export = ek.ExportedModel(of_three_tokens(vocabulary))
    table = export.predict(["so so", "good bad day so", kept])
    assert table["probability"][1] == pytest.approx(table["probability"][2], abs=1e-6)
    assert table["probability"][0] == pytest.approx(export.predict(["so so"])["probability"][0], abs=1e-6)


def test_long_texts_are_refused_on_request(of_three_tokens):
    """The message has the limit, what was received, and where."""
    path = of_three_tokens(_PADDED)
    with pytest.raises(ArgumentError, match=r"texts of up to 3 tokens\. Received 4 in text 1\."):
        ek.ExportedModel(path).predict(["so so", "good bad day so"], long_texts="error")
    encoder = ek.TextEncoder(path)
    assert encoder.encode(["so so", "good bad day so"]).tolist() == [[5, 5, 0], [2, 3, 4]]
    assert encoder.encode(["good bad day so"], 4).shape == (1, 4)
    with pytest.raises(ArgumentError, match=r"texts of up to 3 tokens\. Received 4 in text 0\."):
        encoder.encode(["good bad day so"], long_texts="error")


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("vocabulary", [_PADDED, _FRONT, _UNPADDED], ids=["end", "start", "no padding"])
def test_export_cuts_long_texts_itself(vocabulary, xla, of_three_tokens):
    """Ids and texts, as encode_batch cuts them; padding doesn't count, and shorter texts beside it keep their scores."""
    export = ek.ExportedModel(of_three_tokens(vocabulary))
    serve = tf.function(export.signatures["serving_default"], jit_compile=xla)
    long = [int(vocabulary.token_to_id[word]) for word in ("good", "bad", "day", "so", "bad")]
    kept = long[-3:] if vocabulary is _FRONT else long[:3]
    (wanted,) = export.scores([kept])
    (cut,) = serve(token_ids=tf.constant([long], tf.int64))["scores"].numpy()
    np.testing.assert_allclose(cut, wanted, atol=1e-6)
    if vocabulary.padding_id is None:
        return
    beside = [[0, *long], [0, 0, 0, 0, 0, 2]]
    found = serve(token_ids=tf.constant(beside, tf.int64))["scores"].numpy()
    np.testing.assert_allclose(found, [wanted, export.scores([[2]])[0]], atol=1e-6)
    answers = export.ask("text", text=np.array([b"good bad day so bad", b"good"]))["scores"]
    np.testing.assert_allclose(answers, found, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [_PADDED, _FRONT], ids=["end", "start"])
def test_what_was_cut_has_no_answer_for_each_token(vocabulary, tmp_path):
    """A tagger of fixed length: zeros there, and the others at their tokens."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int64")
    tagger = keras.Model(ids, keras.layers.Dense(2)(keras.layers.Embedding(len(vocabulary), 4)(ids)))
    ek.export_saved_model(tagger, tmp_path, vocabulary=vocabulary)
    found = ek.ExportedModel(tmp_path).scores([[0, 2, 3, 4, 5, 2], [0, 0, 3, 0, 0, 0]])
    kept = slice(3, 6) if vocabulary is _FRONT else slice(1, 4)
    wanted = np.zeros((2, 6, 2), "float32")
    wanted[0, kept] = tagger(np.array([[0, 2, 3, 4, 5, 2]])[:, kept])[0]
    wanted[1, 2] = tagger(np.array([[3, 3, 3]]))[0, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_export_refuses_long_texts_on_request(tmp_path):
    """The policy of the export is that of predict and of the encoder, too."""
    folder = ek.export_saved_model(
        _mean(_PADDED, mask=False, length=3), tmp_path, vocabulary=_PADDED, long_texts="error"
    )
    export, wanted = ek.ExportedModel(tmp_path), r"texts of up to 3 tokens\. Received 4 in text 1\."
    with pytest.raises(SavedModelError, match=wanted):
        export.scores([[2, 3, 0, 0], [2, 3, 4, 5]])
    for ask in (export.predict, ek.TextEncoder(folder).encode):
        with pytest.raises(ArgumentError, match=wanted):
            ask(["so so", "good bad day so"])
    assert len(export.predict(["good bad day so"], long_texts="cut")) == 1
    assert "longer ones are refused" in (folder / "README.md").read_text()


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 2.5}, {"long_texts": "keep"}])
def test_predict_refuses_other_arguments(path, wrong):
    """The message has the name of the argument."""
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        ek.ExportedModel(path).predict(["good"], **wrong)
