"""How an export answers all kinds of requests."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import embkeras as ek
from embkeras.serving import runtimes
from embkeras.serving.local import ExportedModel
from embkeras.text.tokenizer import TWEETS, WORDS, Tokenizer
from tests.variants import variants

TEXTS = ["good day , sunshine !", "a bad day", "so so ... <3", "it 's n't good"]
VOCABULARY = ek.Vocabulary.from_texts(TEXTS, tokenizer=TWEETS)
V = len(VOCABULARY)
_FAR = [-1, V, 2**31 - 1, 2**31, 2**40, -(2**63), 2**63 - 1]


def _model(vocabulary=VOCABULARY, architecture="mean"):
    keras.utils.set_random_seed(0)
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype("float32")
    return ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 2, architecture=architecture, units=4)


@pytest.fixture(scope="module", params=["lstm", "cnn", "mean"])
def export(request, tmp_path_factory):
    """Each architecture, exported."""
    path = tmp_path_factory.mktemp(request.param)
    ek.export_saved_model(_model(architecture=request.param), path, vocabulary=VOCABULARY)
    return ExportedModel(path)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """An export that refuses ids outside the table."""
    path = tmp_path_factory.mktemp("refusing")
    ek.export_saved_model(_model(), path, vocabulary=VOCABULARY, out_of_range="error")
    return ExportedModel(path)


def _scores(export, ids):
    return export.ask("serving_default", token_ids=np.atleast_2d(np.asarray(ids, np.int64)))["scores"]


_ids = st.lists(st.integers(1, V - 1), min_size=1, max_size=12)


@settings(max_examples=12, deadline=None)
@given(ids=_ids, front=st.integers(0, 4), behind=st.integers(0, 9), other=_ids)
def test_a_text_has_one_answer(export, ids, front, behind, other):
    """The same scores alone, with zeros in front and behind, and beside another text of any length."""
    alone = _scores(export, ids)
    padded = np.pad(ids, (front, behind))
    np.testing.assert_allclose(_scores(export, padded), alone, atol=1e-6)
    width = max(len(padded), len(other))
    batch = [np.pad(row, (0, width - len(row))) for row in (other, padded)]
    np.testing.assert_allclose(_scores(export, batch)[1:], alone, atol=1e-6)


@pytest.mark.parametrize("ids", [[[]], [[0]], [[0, 0, 0]], [[], []]])
def test_no_text_is_one_oov(export, ids):
    """No time steps, or only padding."""
    unknown = _scores(export, [1])
    answers = export.ask("serving_default", token_ids=np.array(ids, np.int64))["scores"]
    np.testing.assert_allclose(answers, np.repeat(unknown, len(ids), axis=0), atol=1e-6)


def test_a_batch_without_rows_is_answered(export):
    """TensorFlow's convolutions fail on it; the export reads one row and drops its answer."""
    for name, ids in (("serving_default", np.zeros((0, 3), np.int64)), ("serving_int32", np.zeros((0, 0), np.int32))):
        assert export.ask(name, token_ids=ids)["scores"].shape == (0, 2)
    assert export.scores([]).shape == (0, 2)


@pytest.mark.parametrize("far", variants(_FAR, always=[-1, V, 2**31, 2**63 - 1]))
def test_ids_outside_are_oov(export, far):
    """Near and far ids, in a graph and under XLA."""
    serve = export.signatures["serving_default"]
    wanted, ids = _scores(export, [2, 1, 3]), tf.constant([[2, far, 3]], tf.int64)
    for way in (serve, tf.function(serve, jit_compile=True)):
        np.testing.assert_allclose(way(token_ids=ids)["scores"], wanted, atol=1e-6)


@pytest.mark.parametrize("far", _FAR)
def test_ids_outside_are_refused(refusing, far):
    """The error has the rule and the id; under XLA, which drops assertions, the scores of that text are NaN."""
    serve = refusing.signatures["serving_default"]
    ids = tf.constant([[2, 3], [2, far]], tf.int64)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"must lie in \[0, {V}\)\. Received\] \[{far}\] \[in text\] \[1\]"
    ):
        serve(token_ids=ids)
    scores = tf.function(serve, jit_compile=True)(token_ids=ids)["scores"].numpy()
    assert np.isfinite(scores[0]).all() and np.isnan(scores[1]).all()


def test_ids_inside_are_not_refused(refusing):
    """The policy doesn't affect other requests."""
    assert np.isfinite(_scores(refusing, [2, 3])).all() and np.isfinite(_scores(refusing, [0, 0])).all()


@pytest.mark.parametrize("value", [[[1.0, 2.0]], [["a"]], [[True]]])
def test_other_types_are_refused(export, value):
    """Floats above all: TensorFlow doesn't cast them."""
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError), match=r"(?s)int64|token_ids"):
        export.signatures["serving_default"](token_ids=tf.constant(value))


def test_int32(export):
    """int32 ids have the same scores."""
    ids = np.array([[2, 3, -1, V]])
    answers = export.ask("serving_int32", token_ids=ids.astype(np.int32))
    np.testing.assert_array_equal(answers["scores"], _scores(export, ids))


def test_embed(export):
    """Vectors of ids: padding is zeros, ids outside are "[UNK]"."""
    vectors = export.ask("embed", token_ids=np.array([[2, 0, -1, 1]]))["vectors"]
    assert vectors.shape == (1, 4, 5) and not vectors[0, 1].any()
    np.testing.assert_array_equal(vectors[0, 2], vectors[0, 3])


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ago dyb.,!'n't<3&;#@:/wx-\t\n 😀é") | st.characters(exclude_categories=["Cs"])))
def test_text_gives_the_scores_of_its_ids(export, text):
    """The graph splits a text as the vocabulary does."""
    ids = VOCABULARY.encode(text)
    answers = export.ask("text", text=np.array([text.encode("utf-8")]))["scores"]
    np.testing.assert_allclose(answers, _scores(export, ids), atol=1e-6)


def test_texts_of_several_lengths(export):
    """Texts have the same scores in a batch as alone."""
    texts = [*TEXTS, "", "unknown words only"]
    together = export.ask("text", text=np.array([text.encode() for text in texts]))["scores"]
    for text, scores in zip(texts, together, strict=True):
        alone = export.ask("text", text=np.array([text.encode()]))["scores"][0]
        np.testing.assert_allclose(scores, alone, atol=1e-6)


def test_texts_with_special_tokens_spelt_out(tmp_path):
    """ "[UNK]" or "<pad>" in a text is an unknown word."""
    vocabulary = ek.Vocabulary(["<pad>", "[UNK]", "a", "b"], tokenizer=Tokenizer())
    ek.export_saved_model(_model(vocabulary), tmp_path, vocabulary=vocabulary)
    export = ExportedModel(tmp_path)
    for text in ("<pad> a", "[unk] a", "a <pad>"):
        answers = export.ask("text", text=np.array([text.encode()]))["scores"]
        np.testing.assert_allclose(answers, _scores(export, vocabulary.encode(text)), atol=1e-6)


def test_several_oov_buckets(tmp_path):
    """Unknown words go to the same bucket as in Keras."""
    vocabulary = ek.Vocabulary(["", "[UNK]", "[UNK]2", "[UNK]3", "a"], oov_ids=(1, 2, 3), tokenizer=WORDS)
    ek.export_saved_model(_model(vocabulary), tmp_path, vocabulary=vocabulary)
    export = ExportedModel(tmp_path)
    seen = set()
    for text in ("x", "yy a", "zzz", "a", "w1", "w2"):
        ids = vocabulary.encode(text)
        seen |= set(ids.tolist())
        answers = export.ask("text", text=np.array([text.encode()]))["scores"]
        np.testing.assert_allclose(answers, _scores(export, ids), atol=1e-6)
    assert len(seen) == 4


def test_without_a_tokenizer_there_are_no_text_reason(tmp_path):
    """The signature is missing, and the card says why."""
    vocabulary = ek.Vocabulary(["", "[UNK]", "a"])
    folder = ek.export_saved_model(_model(vocabulary), tmp_path, vocabulary=vocabulary)
    export = ExportedModel(tmp_path)
    assert "text" not in export.signatures and export.card["no_text_reason"] == "the vocabulary has no tokenizer"
    assert "not available: the vocabulary has no tokenizer" in (folder / "README.md").read_text("utf-8")


def test_class_names_beside_scores(tmp_path):
    """One name for each score, in every row."""
    ek.export_saved_model(_model(), tmp_path, vocabulary=VOCABULARY, class_names=["no", "yes"])
    answers = ExportedModel(tmp_path).ask("serving_default", token_ids=np.array([[2], [3]]))
    assert answers["classes"].tolist() == [[b"no", b"yes"]] * 2 and answers["scores"].shape == (2, 2)


def test_a_vocabulary_without_padding(tmp_path):
    """Ids are used as they are; a request without any is one "[UNK]"."""
    vocabulary = ek.Vocabulary(["[UNK]", "a", "b"], padding_id=None, oov_ids=(0,), tokenizer=WORDS)
    ids = keras.Input((None,), dtype="int64")
    table = ek.build_embedding(ek.AlignedMatrix(np.eye(3, 4), vocabulary), mask_zero=False)
    pooled = keras.layers.GlobalAveragePooling1D()(table(ids))
    ek.export_saved_model(keras.Model(ids, keras.layers.Dense(2)(pooled)), tmp_path, vocabulary=vocabulary)
    export = ExportedModel(tmp_path)
    np.testing.assert_allclose(_scores(export, [[]]), _scores(export, [0]), atol=1e-6)
    np.testing.assert_allclose(_scores(export, [-5, 1]), _scores(export, [0, 1]), atol=1e-6)


def test_without_padding_texts_cannot_share_a_batch(tmp_path):
    """Padding would be read as words, so there is no `text` signature and no batching of different lengths."""
    vocabulary = ek.Vocabulary(["[UNK]", "a", "b"], padding_id=None, oov_ids=(0,), tokenizer=WORDS)
    ids = keras.Input((None,), dtype="int64")
    table = ek.build_embedding(ek.AlignedMatrix(np.eye(3, 4), vocabulary), mask_zero=False)
    model = keras.Model(ids, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(table(ids))))
    ek.export_saved_model(model, tmp_path / "m", vocabulary=vocabulary, with_config=True)
    export = ExportedModel(tmp_path / "m")
    assert "text" not in export.signatures and "has no padding id" in export.card["no_text_reason"]
    assert "pad_variable_length_inputs: false" in (tmp_path / "m" / "batching.config").read_text()


def test_vocabulary_of_special_tokens_alone(tmp_path):
    """There is no `text` signature; ids work, and the check sends only "[UNK]"."""
    vocabulary = ek.Vocabulary(["", "[UNK]"], tokenizer=WORDS)
    ek.export_saved_model(_model(vocabulary), tmp_path, vocabulary=vocabulary)
    assert ExportedModel(tmp_path).card["no_text_reason"] == "the vocabulary has no token that can occur in a text"


def test_the_card_is_given_the_card_once_for_each_number(tmp_path):
    """REST refuses a signature without an input, and batching an answer with another number of rows."""
    vocabulary = ek.Vocabulary(["", "[UNK]", "é", "b"])
    aligned = ek.AlignedMatrix(np.eye(4, dtype="float32"), vocabulary)
    model = ek.build_classifier(aligned, 2, architecture="mean")
    folder = ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, class_names=["né", "b"], check=False)
    cards = ek.ExportedModel(folder).ask("card", request=np.array([0, 7, -1], np.int32))["card"]
    assert cards.shape == (3,)
    assert all(json.loads(card) == json.loads((folder / "assets" / "embkeras.json").read_bytes()) for card in cards)
    assert json.loads(cards[0])["padding_id"] == 0


OLD = ek.Vocabulary.from_word_index({"a": 1, "b": 2, "c": 3, "\u00e9": 4})


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A model of the kind that knows no mask: each place of its five has weights of its own. And its export."""
    keras.utils.set_random_seed(0)
    table = ek.AlignedMatrix(np.random.default_rng(0).normal(size=(5, 3)), OLD)
    layers = [ek.build_embedding(table, mask_zero=False), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((5,), dtype="int64"), *layers])
    path = tmp_path_factory.mktemp("old")
    ek.export_saved_model(model, path, vocabulary=OLD)
    return model, ExportedModel(path)


def test_words_without_an_id_are_dropped_when_served(old):
    """By ids and by text, in every alphabet, as the model was trained; a text without a word is padding alone."""
    model, export = old
    texts = ["a x b", "C, \u00c9!", "x", "", "b a c a b"]
    wanted = model.predict(OLD.encode_batch(texts, 5), verbose=0)
    served = export.ask("text", text=np.array([text.encode() for text in texts]))["scores"]
    np.testing.assert_allclose(served, wanted, atol=1e-6)
    np.testing.assert_allclose(_scores(export, OLD.encode_batch(texts)), wanted, atol=1e-6)
    np.testing.assert_allclose(_scores(export, [[1, 99, 2, -5, 0]]), wanted[:1], atol=1e-6)
    assert ek.TextEncoder(export.folder).encode(texts).tolist() == OLD.encode_batch(texts).tolist()
    assert (export.card["oov_id"], export.card["padding_id"]) == (0, 0)
    assert "ids outside [0, 5) are dropped" in (export.folder / "README.md").read_text("utf-8")


def test_a_model_does_not_pad_again(export):
    """One time step is padded by the export; a convolution needs more, and its model appends those."""
    pads = any("/at_least" in node.name for node in runtimes._nodes(export.folder))
    assert pads == ("cnn" in export.folder.parent.name)
