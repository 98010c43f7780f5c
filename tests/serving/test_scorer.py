"""A model that is pickled as a path, and what it does with texts and with frames."""

import pickle
import threading

import numpy as np
import pandas as pd
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import local, scorer
from embkeras.serving.scorer import BatchScorer

TEXTS = ["good day", "", 'a "quoted", bad day', "two\nlines", "é 😀", "7"]
FRAME = pd.DataFrame({"id": range(6), "review": TEXTS}, index=[5, 3, 3, 1, 0, 9])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a small model."""
    vocabulary = ek.Vocabulary.from_texts(["good day", "bad day"])
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 4)).astype("float32")
    model = ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 2, architecture="mean")
    path = tmp_path_factory.mktemp("export") / "model"
    return ek.export_saved_model(model, path, vocabulary=vocabulary, check=False).parent


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The folder of a model with two inputs of ids and two outputs, one of which is a number."""
    import keras

    vocabulary = ek.Vocabulary.from_texts(["good day", "bad day"])
    aligned = ek.AlignedMatrix(np.eye(len(vocabulary), 4, dtype="float32"), vocabulary)
    inputs = [keras.Input((None,), dtype="int64", name=name) for name in ("title", "body")]
    table = ek.build_embedding(aligned)
    both = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling1D()(table(ids)) for ids in inputs])
    answers = {"topic": keras.layers.Dense(3, activation="softmax", name="topic")(both)}
    answers["stars"] = keras.layers.Dense(1, name="stars")(both)
    model = keras.Model(inputs, answers)
    path = tmp_path_factory.mktemp("several") / "model"
    encodings = {"title": vocabulary, "body": vocabulary}
    return ek.export_saved_model(model, path, vocabulary=encodings, check=False).parent


@pytest.fixture(autouse=True)
def _nothing_loaded():
    """No model of another test."""
    scorer._in_this_process.cache_clear()


def _travelled(given):
    """What a worker receives."""
    return pickle.loads(pickle.dumps(given))


def test_scorer_travels_as_a_path(exported):
    """Pickled before and after it has loaded the model, it answers as the model does."""
    given = BatchScorer(exported, batch_size=2)
    wanted = ek.ExportedModel(exported).predict(TEXTS)
    for _ in range(2):
        assert len(pickle.dumps(given)) < 1000
        given = _travelled(given)
        pd.testing.assert_frame_equal(given(TEXTS), wanted, rtol=1e-5)


def test_frame_keeps_its_rows(exported):
    """Its columns and index stay; the predictions are those of the texts, in their order."""
    scored = BatchScorer(exported, column="review")(FRAME)
    wanted = ek.ExportedModel(exported).predict(TEXTS)
    assert list(scored) == ["id", "review", "label", "probability"] and list(FRAME) == ["id", "review"]
    pd.testing.assert_frame_equal(scored[["id", "review"]], FRAME)
    assert scored["label"].tolist() == wanted["label"].tolist()
    assert scored["probability"].tolist() == wanted["probability"].tolist()
    by_name = BatchScorer(exported)(FRAME.rename(columns={"review": "text"}))
    assert by_name["probability"].tolist() == wanted["probability"].tolist()


def test_frame_of_several_inputs(several):
    """Each from its column, named like the input or by `column`."""
    frame = pd.DataFrame({"title": TEXTS, "body": TEXTS[::-1]})
    wanted = ek.ExportedModel(several).predict(frame.to_dict("list"))
    scored = BatchScorer(several)(frame)
    pd.testing.assert_frame_equal(scored, wanted)
    other = BatchScorer(several, column={"body": "b", "title": "t"})(frame.set_axis(["t", "b"], axis=1))
    assert other["stars"].tolist() == wanted["stars"].tolist() and list(other)[:2] == ["t", "b"]


def test_no_rows_show_the_columns(exported, several, monkeypatch):
    """With the types of a frame with rows, and without loading the model."""
    frame = pd.DataFrame({"title": TEXTS, "body": TEXTS, "text": TEXTS})
    scored = [BatchScorer(path)(frame) for path in (exported, several)]
    monkeypatch.setattr(local, "ExportedModel", pytest.fail)
    for path, wanted in zip((exported, several), scored, strict=True):
        pd.testing.assert_frame_equal(_travelled(BatchScorer(path))(frame.iloc[:0]), wanted.iloc[:0])


def test_a_worker_loads_a_model_once(exported, monkeypatch):
    """However many copies arrive, in however many threads; the process that made the scorer loads its own."""
    loads, real = [], local.ExportedModel

    def counted(folder):
        loads.append(folder)
        return real(folder)

    monkeypatch.setattr(local, "ExportedModel", counted)
    copies = [_travelled(BatchScorer(exported)) for _ in range(4)]
    threads = [threading.Thread(target=copy, args=(TEXTS,)) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    BatchScorer(exported)(TEXTS)
    assert len(loads) == 2


def test_threads_of_a_worker(exported, monkeypatch):
    """Where the scorer was made, TensorFlow keeps its number; the tests of engines show that of a worker."""
    asked = []
    monkeypatch.setattr("embkeras._threads.limit_threads", asked.append)
    made = BatchScorer(exported, threads=3)
    made(TEXTS)
    assert not asked
    _travelled(made)(TEXTS)
    assert asked == [3]


@pytest.mark.parametrize(
    ("columns", "settings", "wrong"),
    [
        (["id", "review"], {}, r"no column 'text'.*column=\.\.\.\). Received: id, review"),
        (["id", "review"], {"column": "body"}, "no column 'body'"),
        (["label", "text"], {}, "column 'label', which .* rename"),
        (["text", "id"], {}, r"must be strings. Received: 0 at text 0"),
    ],
)
def test_other_frames(exported, columns, settings, wrong):
    """A column that is missing, in the way, or not of texts; the message names it."""
    with pytest.raises(ArgumentError, match=wrong):
        BatchScorer(exported, **settings)(FRAME.set_axis(columns, axis=1))


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"long_texts": "keep"}, {"threads": 0}, {"column": {"text": "review"}}, {"column": 3}]
)
def test_scorer_refuses_other_arguments(exported, tmp_path, wrong):
    """Where it is made, not in the workers."""
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        BatchScorer(exported, **wrong)
    with pytest.raises(SavedModelError, match="no exported model"):
        BatchScorer(tmp_path)


def test_columns_are_named_for_each_input(several):
    """One name for two inputs says nothing."""
    with pytest.raises(ArgumentError, match=r"dictionary of columns by input: title, body\. Received: 'title'"):
        BatchScorer(several, column="title")
