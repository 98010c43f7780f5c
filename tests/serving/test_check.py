"""check_saved_model finds wrong exports."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import check
from embkeras.serving import contract as contracts
from embkeras.serving.check import check_saved_model
from embkeras.serving.names import card_sha256
from tests.variants import variants

VOCABULARY = ek.Vocabulary.from_texts(["a b c d", "e f g h"])
ALIGNED = ek.AlignedMatrix(np.random.default_rng(0).normal(size=(len(VOCABULARY), 5)), VOCABULARY)


def _model():
    keras.utils.set_random_seed(0)
    return ek.build_classifier(ALIGNED, 2, architecture="cnn", units=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A good export."""
    path = tmp_path_factory.mktemp("export") / "model"
    ek.export_saved_model(_model(), path, vocabulary=VOCABULARY)
    return path


@pytest.fixture
def copy(path, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(path, tmp_path / "model")


def signed(card):
    """A card with the SHA-256 of its contents, as someone writes it who means it."""
    return card | {"card_sha256": card_sha256(card)}


def _change_card(copy, **changes):
    card = copy / "1" / "assets" / "embkeras.json"
    card.write_text(json.dumps(signed(json.loads(card.read_text()) | changes)))


def test_a_good_export_passes(path):
    """By the model's folder, by the version's folder, and compared with the model in memory."""
    check_saved_model(path)
    check_saved_model(path / "1", model=_model())


@pytest.mark.parametrize("dtype", variants(["float16", "int8"], always=["int8"]))
def test_small_tables_pass(tmp_path, dtype):
    """Their scores differ a little from the model's, and another model is still detected."""
    ek.export_saved_model(_model(), tmp_path, vocabulary=VOCABULARY, dtype=dtype)
    check_saved_model(tmp_path, model=_model())
    other = _model()
    other.get_layer("scores").bias.assign([2.0, -2.0])
    with pytest.raises(SavedModelError, match="scores are not those of model 'classifier'"):
        check_saved_model(tmp_path, model=other)


_UNMASKED = {
    "GlobalMaxPooling1D": lambda: [keras.layers.Conv1D(3, 1), keras.layers.GlobalMaxPooling1D()],
    "a mean of all rows": lambda: [keras.layers.GlobalAveragePooling1D()],
    "LSTM": lambda: [keras.layers.LSTM(3)],
}


@pytest.mark.parametrize("name", _UNMASKED)
def test_a_model_that_reads_padding_is_not_exported(tmp_path, name):
    """The error shows ids and what to do, and nothing is written."""
    table = ek.build_embedding(ALIGNED, mask_zero=False)
    layers = [keras.Input((None,), dtype="int64"), table, *_UNMASKED[name](), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    with pytest.raises(
        SavedModelError,
        match=r"scores depend on padding \(beside longer texts of a batch\).*Padding is read as words.*check=False",
    ):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    assert list(tmp_path.iterdir()) == []
    assert ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, check=False).name == "1"


def test_layers_that_lose_the_mask_are_named(tmp_path):
    """Layers that drop the embedding's mask."""
    table = ek.build_embedding(ALIGNED)
    ids = keras.Input((None,), dtype="int64")
    answers = keras.layers.Dense(2)(keras.layers.GlobalMaxPooling1D(name="largest")(table(ids)))
    with pytest.raises(SavedModelError, match=r"These layers ignore the mask: largest\."):
        ek.export_saved_model(keras.Model(ids, answers), tmp_path, vocabulary=VOCABULARY)


def test_another_model_is_told_apart(path):
    """Scores that differ from the model in memory."""
    other = _model()
    other.get_layer("scores").bias.assign([0.5, -0.5])
    with pytest.raises(
        SavedModelError, match=r"scores are not those of model 'classifier': 'scores' differs by 0\.\d+"
    ):
        check_saved_model(path, model=other)


def test_scores_that_are_not_finite(tmp_path):
    """NaN in a weight."""
    model = _model()
    model.get_layer("scores").bias.assign([np.nan, 0])
    with pytest.raises(SavedModelError, match="scores are not finite for token_ids"):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY)


def test_another_vocabulary(copy):
    """The fingerprint in the card differs from the vocabulary's."""
    ek.Vocabulary.from_texts(["other words"]).save(copy / "1" / "assets" / "vocabulary.json")
    with pytest.raises(SavedModelError, match=r"vocabulary for .* is not the one the model was exported with"):
        check_saved_model(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_of_range": "error"}, "the id -1 is not refused"),
        ({"outputs": ["classes"]}, "it has no output 'classes', only scores"),
    ],
)
def test_a_card_that_lies(copy, changes, message):
    """The promises of the card are checked."""
    _change_card(copy, **changes)
    with pytest.raises(SavedModelError, match=message):
        check_saved_model(copy)


@pytest.mark.parametrize("changes", [{"max_length": 3}, {"padding_id": None}, {"vocabulary_size": 7}, {"tables": {}}])
def test_a_card_of_another_export(copy, changes):
    """The card in the assets must be the one that the model returns to clients."""
    _change_card(copy, **changes)
    with pytest.raises(
        SavedModelError, match=f"embkeras.json and the signature 'card' differ in {next(iter(changes))}"
    ):
        check_saved_model(copy)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """An export with class names."""
    path = tmp_path_factory.mktemp("named") / "model"
    ek.export_saved_model(_model(), path, vocabulary=VOCABULARY, class_names=["no", "yes"])
    return path


def test_class_names_in_another_order(named, tmp_path):
    """A client would label every text wrongly."""
    copy = shutil.copytree(named, tmp_path / "model")
    _change_card(copy, class_names=["yes", "no"])
    with pytest.raises(SavedModelError, match=r"classes.txt doesn't contain the class names yes, no"):
        check_saved_model(copy)
    (copy / "1" / "assets" / "classes.txt").write_text("yes\nno\n")
    with pytest.raises(SavedModelError, match=r"its output 'classes' is \['no', 'yes'\] instead of \['yes', 'no'\]"):
        check_saved_model(copy)
    _change_card(copy, class_names=5)
    with pytest.raises(SavedModelError, match="class_names is 5"):
        check_saved_model(copy)


@pytest.mark.parametrize("key", ["dtype", "precision"])
def test_unknown_types_in_the_card(named, tmp_path, key):
    """The message names the key, the folder and the value."""
    copy = shutil.copytree(named, tmp_path / "model")
    _change_card(copy, **{key: "int4"})
    with pytest.raises(SavedModelError, match=rf"{key} in the card of .*model/1' must be one of .*Received: 'int4'"):
        check_saved_model(copy)


@pytest.mark.parametrize("damage", ["removed", "cut off", "another"])
def test_warm_up_requests_that_are_damaged(copy, path, damage):
    """A server would not load the model."""
    file = copy / "1" / "assets.extra" / "tf_serving_warmup_requests"
    contents = file.read_bytes()
    file.unlink()
    if damage != "removed":
        file.write_bytes(contents[:-3] if damage == "cut off" else b"")
    with pytest.raises(SavedModelError, match="its warm-up requests are missing, damaged or not those"):
        check_saved_model(copy)


def test_another_tokenizer(copy):
    """Texts would become other ids than in the model's graph."""
    other = ek.Vocabulary(VOCABULARY.tokens, tokenizer=ek.Tokenizer(lowercase=False))
    assert other.fingerprint == VOCABULARY.fingerprint
    other.save(copy / "1" / "assets" / "vocabulary.json")
    with pytest.raises(SavedModelError, match=r"tokenizer for .* is not the one the model was exported with"):
        check_saved_model(copy)


@pytest.mark.parametrize(
    ("policy", "architecture"),
    variants(
        [("mixed_float16", "cnn"), *(("mixed_bfloat16", architecture) for architecture in ("mean", "cnn", "lstm"))],
        always=[("mixed_float16", "cnn")],
    ),
)
def test_rounding_of_small_floats_is_not_taken_for_padding(tmp_path, policy, architecture):
    """A model that computes in 16 bits is exported, and its card says so; bfloat16 rounds most."""
    keras.config.set_dtype_policy(policy)
    try:
        model = ek.build_classifier(ALIGNED, 2, architecture=architecture, units=3)
        folder = ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    finally:
        keras.config.set_dtype_policy("float32")
    assert json.loads((folder / "assets" / "embkeras.json").read_text())["precision"] == policy.removeprefix("mixed_")


def test_a_signature_that_is_missing(tmp_path):
    """Every signature that the card promises must exist."""
    vocabulary = ek.Vocabulary(ALIGNED.vocabulary.tokens)
    aligned = ek.AlignedMatrix(ALIGNED.values, vocabulary)
    model = ek.build_classifier(aligned, 2, architecture="mean", units=3)
    ek.export_saved_model(model, tmp_path, vocabulary=vocabulary)
    card = tmp_path / "1" / "assets" / "embkeras.json"
    card.write_text(json.dumps(signed(json.loads(card.read_text()) | {"no_text_reason": None})))
    with pytest.raises(
        SavedModelError, match="it has no signature 'text', only card, embed, serving_default, serving_int32"
    ):
        check_saved_model(tmp_path)


def test_ids_that_are_not_policed(tmp_path, monkeypatch):
    """An export that lets ids outside the table through, as a gather on a GPU would."""
    monkeypatch.setattr(contracts.Input, "checked", lambda self, ids: tf.cast(ids, tf.int64) % len(VOCABULARY))
    with pytest.raises(SavedModelError, match=r"the id -1 is not read as the OOV id"):
        ek.export_saved_model(_model(), tmp_path, vocabulary=VOCABULARY)


def test_texts_that_are_cut_otherwise(tmp_path, monkeypatch):
    """The graph splits texts differently from the vocabulary."""
    monkeypatch.setattr(contracts.tf.strings, "split", lambda text: tf.strings.bytes_split(text))
    with pytest.raises(SavedModelError, match=r"the text '.*' has other scores than its ids"):
        ek.export_saved_model(_model(), tmp_path, vocabulary=VOCABULARY)


def test_a_table_that_is_stored_twice(path, monkeypatch):
    """model.export stores variables twice."""
    monkeypatch.setattr(check, "_SLACK_BYTES", -100_000)
    with pytest.raises(SavedModelError, match=r"variables/ takes [\d,]+ bytes for variables of [\d,]+"):
        check_saved_model(path)


def test_what_is_no_model(path):
    """The error names the type."""
    with pytest.raises(ArgumentError, match=r"takes a keras\.Model\. Received: str"):
        check_saved_model(path, model="model")


def test_what_is_no_export(tmp_path):
    """A folder without a SavedModel."""
    with pytest.raises(SavedModelError, match="There is no exported model"):
        check_saved_model(tmp_path)


def test_card_of_another_vocabulary(tmp_path, monkeypatch):
    """A client would compare with the wrong fingerprint."""
    real = contracts.card_signature
    monkeypatch.setattr(contracts, "card_signature", lambda card: real(card | {"vocabulary_fingerprint": "0" * 64}))
    with pytest.raises(
        SavedModelError, match=r"embkeras.json and the signature 'card' differ in vocabulary_fingerprint\."
    ):
        ek.export_saved_model(_model(), tmp_path, vocabulary=VOCABULARY)
