"""A span model on an encoder: its outputs, its file, and its export asked in this process and at a server."""

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from tests.encoders.folders import write_folder
from tests.serving.servers import InTensorFlow, Model, rest_server
from tests.variants import THOROUGH, variants

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

KINDS = ("bert", "roberta", "xlm-roberta", "distilbert", "albert")
EXAMPLES = [
    ek.SpanExample("cat a?", "a cab dog bad  dig fig [SEP] cab", [("bad", 10)]),
    ek.SpanExample("dog", "cab a cat"),
]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A BERT of one narrow block."""
    return ek.load_pretrained(write_folder(tmp_path_factory.mktemp("bert") / "x", num_hidden_layers=1))


@pytest.fixture(scope="module")
def windows(read):
    """Four windows of two questions."""
    return ek.encode_spans(read.tokenizer, EXAMPLES, read.max_length, 4)


@pytest.fixture(scope="module")
def model(read):
    """A model of random weights, whose answers are long."""
    keras.utils.set_random_seed(3)
    return ek.build_span_model(read)


@pytest.fixture(scope="module")
def export(read, model, tmp_path_factory):
    """The export."""
    folder = tmp_path_factory.mktemp("served") / "facts"
    ek.export_saved_model(model, folder, vocabulary=read.tokenizer, check=False)
    return ek.ExportedModel(folder)


@pytest.fixture(scope="module")
def answers(model, windows):
    """The answers of the model."""
    return ek.decode_spans(model(windows.ids), windows)


@pytest.mark.parametrize("kind", variants(KINDS, always=["roberta"]))
def test_probabilities(kind, tmp_path):
    """Of each window they add up to 1, all on the context and the first place; pairs of a RoBERTa have no segments."""
    read = ek.load_pretrained(write_folder(tmp_path / "x", kind, num_hidden_layers=1))
    windows = ek.encode_spans(read.tokenizer, EXAMPLES, read.max_length)
    scores = ek.build_span_model(read)(windows.ids)
    allowed = windows.offsets[..., 0] >= 0
    allowed[:, 0] = True
    for name in ("start", "end"):
        np.testing.assert_allclose(np.sum(scores[name], axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(scores[name]) > 0, allowed)


def test_layers(model, read, tmp_path):
    """Segments begin behind the question; a saved model returns the same to the bit."""
    mask = model.get_layer("context_mask")
    assert (mask.separator_id, mask.special_ids) == (3, [0, 2, 3])
    assert model.get_layer("segment_embedding").separator_id == 3
    ids = ek.encode_spans(read.tokenizer, EXAMPLES, 12).ids
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")(ids)
    scores = model(ids)
    for name in ("start", "end"):
        np.testing.assert_array_equal(loaded[name], scores[name])
    assert abs(np.subtract(scores["start"], scores["end"])).max() > 0.01


def test_losses_read_logits(model, windows):
    """A label that can't be is not hidden: its loss is enormous, where clipped probabilities would make 16 of it."""
    start = model(windows.ids)["start"]
    losses = keras.losses.sparse_categorical_crossentropy(np.array([1, *windows.start[1:]]), start)
    np.testing.assert_allclose(losses[1:], -np.log(np.asarray(start)[[1, 2, 3], windows.start[1:]]), rtol=1e-4)
    assert losses[0] > 1e6


def test_answers_of_an_export(export, answers, monkeypatch):
    """Text, score and place are those of the model, over all windows of a context, asked two by two."""
    monkeypatch.setattr("embkeras.serving.local._WINDOWS", 2)
    for example, wanted in zip(EXAMPLES, answers, strict=True):
        answer = export.answer(example.question, example.context, stride=4)
        assert (answer.text, answer.start, answer.end) == (wanted.text, wanted.start, wanted.end)
        assert example.context[answer.start : answer.end] == answer.text
        assert (answer.score, answer.no_answer) == pytest.approx((wanted.score, wanted.no_answer), rel=1e-4)
    nothing = export.answer("dog", "cab a cat", threshold=0)
    assert (nothing.text, nothing.start, nothing.end) == ("", 0, 0) and nothing.score > 0
    assert len(export.answer("dog", "cab a cat", max_pieces=1).text) in (1, 3)


def test_ids_and_places_beside_an_export(export, windows):
    """TextEncoder makes the rows of one question; by default they are as wide as the model reads."""
    encoder = ek.TextEncoder(export.folder)
    alone = encoder.encode_question(EXAMPLES[0].question, EXAMPLES[0].context, stride=4)
    own = windows.example == 0
    np.testing.assert_array_equal(alone.ids, windows.ids[own])
    np.testing.assert_array_equal(alone.offsets, windows.offsets[own])
    with pytest.raises(ArgumentError, match=r"length .*17"):
        encoder.encode_question("cat", "dog", length=17)
    with pytest.raises(ArgumentError, match=r"13 pieces .* shorter question.*length=16\.$"):
        encoder.encode_question("cat " * 13, "dog")
    with pytest.raises(ArgumentError, match="stride=11"):
        encoder.encode_question("cat a?", "dog", stride=11)
    with pytest.raises(ArgumentError, match=r"context .*3"):
        encoder.encode_question("cat", 3)


@THOROUGH
def test_the_usual_checks(export):
    """Probabilities don't depend on padding, texts have those of their ids, and so on."""
    ek.check_saved_model(export.folder)


@pytest.mark.parametrize("leading", variants([True, False], always=[True]))
def test_answers_of_a_server(export, answers, leading):
    """The client's answers are the model's, in batches of two windows, with padding in front and without."""
    served = Model("facts", {1: InTensorFlow(export.folder)})
    arguments = {"encoder": export.folder, "batch_size": 2, "leading_padding": leading, "timeout": 60}
    with rest_server(served) as url, ek.ServingClient(url, **arguments) as client:
        for example, wanted in zip(EXAMPLES, answers, strict=True):
            answer = client.answer(example.question, example.context, stride=4)
            assert (answer.text, answer.start, answer.end) == (wanted.text, wanted.start, wanted.end)
            assert answer.score == pytest.approx(wanted.score, rel=1e-4)
    with pytest.raises(ArgumentError, match="encoder"):
        ek.ServingClient(url, model="facts").answer("cat", "dog")


def test_what_does_not_answer_questions_says_so(export, monkeypatch):
    """A span model predicts no classes, and a classifier finds no spans; the README says how to ask."""
    with pytest.raises(SavedModelError, match=r"'end'.*answer\("):
        export.predict(["cat"])
    assert "answer(question, context)" in (export.folder / "README.md").read_text("utf-8")
    monkeypatch.setitem(
        export.card, "answers", [each | {"name": f"{each['name']}_2"} for each in export.card["answers"]]
    )
    with pytest.raises(SavedModelError, match="build_span_model"):
        export.answer("cat", "dog")
