"""Encodings other than Vocabulary, with a TensorFlow graph and without one."""

import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.check import check_saved_model
from embkeras.serving.client import ServingClient
from embkeras.serving.text_graphs import TextGraph, text_graph
from embkeras.text.encoding import Encoding
from tests.serving.letters import Letters, letters_model
from tests.serving.servers import InTensorFlow, Model, rest_server

TEXTS = ["good day", "so", "", "a-b"]


class GraphLetters(Letters):
    """Letters with a TensorFlow graph."""


@text_graph.register
def _(encoding: GraphLetters, assets):
    def encode(texts):
        codes = tf.strings.unicode_decode(texts, "UTF-8")
        ids = tf.where((codes.values >= 97) & (codes.values <= 122), codes.values - 95, 1)
        return tf.RaggedTensor.from_row_splits(tf.cast(ids, tf.int64), codes.row_splits)

    return TextGraph(encode, []), None


@pytest.fixture(scope="module")
def model():
    """A classifier over letters."""
    return letters_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A model exported with an encoding that has no graph."""
    path = tmp_path_factory.mktemp("letters") / "letters"
    return ek.export_saved_model(model, path, vocabulary=Letters(), class_names=["a", "b", "c"])


def _wanted(model, texts=TEXTS):
    rows = [Letters().encode_batch([text or "-"]) for text in texts]
    return np.concatenate([model(row).numpy() for row in rows])


def test_both_are_encodings():
    """Export, check and client need only the protocol."""
    assert isinstance(Letters(), Encoding) and isinstance(ek.Vocabulary(["", "[UNK]"]), Encoding)


def test_without_a_graph_there_is_no_signature_for_texts(folder):
    """The card and the README give the reason, and the assets contain no vocabulary."""
    export = ek.ExportedModel(folder)
    assert set(export.signatures) == {"serving_default", "serving_int32", "card"}
    assert export.card["no_text_reason"] == "Letters has no TensorFlow graph"
    readme = (folder / "README.md").read_text("utf-8")
    assert "not available: Letters has no TensorFlow graph" in readme and "vocabulary.json" not in readme
    assert not (folder / "assets" / "vocabulary.json").exists()
    assert (export.card["vocabulary_size"], export.card["padding_id"], export.card["oov_id"]) == (28, 0, 1)


def test_ids_are_answered_without_the_encoding(folder, model):
    """Texts need the encoding, and the error says how to pass it."""
    export = ek.ExportedModel(folder)
    np.testing.assert_allclose(export.scores(Letters().encode_batch(TEXTS)), _wanted(model), atol=1e-6)
    assert export.vocabulary is None
    with pytest.raises(SavedModelError, match=r"doesn't contain its encoding, Letters.*vocabulary="):
        export.predict(TEXTS)
    with pytest.raises(SavedModelError, match=r"don't contain the encoding of the export, Letters.*vocabulary="):
        ek.TextEncoder(folder)
    check_saved_model(folder)


def test_texts_are_answered_with_the_encoding(folder, model):
    """In this process, and over REST."""
    wanted = _wanted(model)
    table = ek.ExportedModel(folder, vocabulary=Letters()).predict(TEXTS)
    np.testing.assert_allclose(table["probability"], wanted.max(axis=1), atol=1e-6)
    encoder = ek.TextEncoder(folder, vocabulary=Letters())
    np.testing.assert_array_equal(encoder.encode(TEXTS), Letters().encode_batch(TEXTS))
    assert (encoder.size, encoder.tokenizer_fingerprint) == (28, None)
    with rest_server(Model("letters", {1: InTensorFlow(folder)})) as url, ServingClient(url, encoder=encoder) as client:
        assert client.predict(TEXTS)["label"].tolist() == [["a", "b", "c"][best] for best in wanted.argmax(axis=1)]
        np.testing.assert_allclose(client.predict(TEXTS)["probability"], wanted.max(axis=1), atol=1e-6)
    check_saved_model(folder, model=model, vocabulary=Letters())


@pytest.mark.parametrize("read", [ek.ExportedModel, ek.TextEncoder, lambda *a, **k: check_saved_model(*a, **k)])
def test_another_encoding_is_refused(folder, read):
    """Another fingerprint, and something that isn't an Encoding."""
    with pytest.raises(SavedModelError, match="not the one the model was exported with"):
        read(folder, vocabulary=Letters(salt="other"))
    with pytest.raises(ArgumentError, match=r"vocabulary must be a Vocabulary or another Encoding\. Received: dict"):
        read(folder, vocabulary={})


def test_server_with_another_encoding_is_refused(folder):
    """The client compares fingerprints before it sends anything."""
    served = Model("letters", {1: InTensorFlow(folder)})
    encoder = ek.TextEncoder(folder, vocabulary=Letters())
    encoder.vocabulary = Letters(salt="other")
    with rest_server(served) as url, pytest.raises(SavedModelError, match="has another vocabulary than the encoder"):
        ServingClient(url, encoder=encoder).predict(TEXTS)


def test_with_a_graph_texts_are_served(model, tmp_path):
    """A graph can be registered for a type; the check compares it with `encode_batch`."""
    encoding = GraphLetters()
    folder = ek.export_saved_model(model, tmp_path, vocabulary=encoding)
    answers = ek.ExportedModel(folder).ask("text", text=np.array([text.encode() for text in TEXTS]))
    np.testing.assert_allclose(answers["scores"], _wanted(model), atol=1e-6)
    encoding.encode_batch = lambda texts, length=None: np.full((len(texts), 1), 5)
    with pytest.raises(SavedModelError, match="has other scores than its ids"):
        check_saved_model(folder, vocabulary=encoding)


def test_encoding_without_an_oov_id_is_refused(model, tmp_path):
    """Ids outside the table need an id to be read as."""
    encoding = Letters()
    encoding.oov_id = None
    with pytest.raises(SavedModelError, match="no OOV id"):
        ek.export_saved_model(model, tmp_path, vocabulary=encoding)
