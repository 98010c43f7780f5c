"""Predictions from scores: several inputs and outputs, thresholds by label, files with several columns."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

import embkeras as ek
from embkeras.app import cli
from embkeras.errors import ArgumentError, DataError, SavedModelError
from embkeras.serving.bulk import predict_file
from embkeras.serving.predictions import prediction_table, thresholds
from embkeras.serving.scorer import BatchScorer
from tests.serving.servers import InTensorFlow, Model, rest_server

WORDS = ek.Vocabulary.from_texts(["a b c d e f g h"])
USERS = ek.Vocabulary(["", "[UNK]", "ann", "bob"])
ROWS = {
    "review": ["a b c", "", "d", "e f g h a b c d", "zz"],
    "user": ["ann", "bob", "nobody", "bob", "ann"],
    "price": [1.5, 2.0, -3.0, 0.25, 8.0],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Genres, of which several can be right, and a rating, from a review, its user and the price."""
    keras.utils.set_random_seed(0)
    review, user = keras.Input((None,), dtype="int64", name="review"), keras.Input((), dtype="int64", name="user")
    price = keras.Input((), name="price")
    words = layers.GlobalAveragePooling1D()(layers.Embedding(len(WORDS), 3, mask_zero=True)(review))
    number = layers.Reshape((1,))(price)
    hidden = layers.concatenate([words, layers.Embedding(len(USERS), 2)(user), number])
    outputs = {"genres": layers.Dense(3, activation="sigmoid")(hidden), "rating": layers.Dense(1)(hidden)}
    path = tmp_path_factory.mktemp("reviews") / "reviews"
    vocabulary = {"review": WORDS, "user": USERS}
    return ek.export_saved_model(keras.Model([review, user, price], outputs), path, vocabulary=vocabulary, check=False)


def _ids(rows):
    texts = [WORDS.encode(text) for text in rows["review"]]
    return {
        "review": texts,
        "user": [{"ann": 2, "bob": 3}.get(name, 1) for name in rows["user"]],
        "price": rows["price"],
    }


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_several_inputs_and_outputs(folder, batch_size):
    """A column for each input, labels over their thresholds, and the number; rows in their order."""
    export = ek.ExportedModel(folder)
    table = export.predict(ROWS, batch_size=batch_size, threshold=[0.1, 0.9, 0.4])
    assert table.columns.tolist() == [*ROWS, "genres_label", "genres_probability", "rating"]
    assert table["review"].tolist() == ROWS["review"] and table["price"].tolist() == ROWS["price"]
    genres, ratings = (export.scores(_ids(ROWS), output=name) for name in ("genres", "rating"))
    wanted = [[str(place) for place in np.flatnonzero(row >= [0.1, 0.9, 0.4])] for row in genres]
    assert table["genres_label"].tolist() == wanted
    np.testing.assert_allclose(table["rating"], ratings[:, 0], rtol=1e-5, atol=1e-6)
    one = export.predict(_ids(ROWS), output="genres", batch_size=batch_size)
    assert one.columns.tolist()[3:] == ["label", "probability"]


def test_no_rows_and_wrong_rows(folder):
    """The error has the input."""
    export = ek.ExportedModel(folder)
    empty = export.predict({name: [] for name in ROWS})
    assert len(empty) == 0 and "genres_label" in empty.columns
    for wrong, message in [
        (["a"], "takes the inputs review, user, price: pass a dictionary"),
        ({"review": ["a"]}, "Received: no 'user'"),
        (ROWS | {"more": [1]}, "Received: 'more'"),
        (ROWS | {"user": ["ann"]}, "same number of rows.* 1 of user"),
        (ROWS | {"price": ["1", "2", "x", "3", "4"]}, "Input 'price': It takes numbers. Received: 'x' in row 2"),
        (ROWS | {"price": ["1", "2", "[3]", "3", "4"]}, r"numbers of shape \(\)\. Received: '\[3\]' in row 2"),
        (ROWS | {"review": "abcde"}, "texts\\['review'\\] must be a"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            export.predict(wrong)
    with pytest.raises(ArgumentError, match="threshold is for scores of a sigmoid"):
        export.predict(ROWS, output="rating", threshold=0.5)


def test_client_predicts_from_several_inputs(folder):
    """As in this process."""
    wanted = ek.ExportedModel(folder).predict(ROWS, threshold={"1": 0.2})
    with rest_server(Model("m", {1: InTensorFlow(folder)})) as url:
        client = ek.ServingClient(url, model="m", encoder=folder, batch_size=2)
        pd.testing.assert_frame_equal(client.predict(ROWS, threshold={"1": 0.2}), wanted, rtol=1e-5)
        assert len(client.predict({name: [] for name in ROWS})) == 0


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_files_with_a_column_for_each_input(folder, tmp_path, ending):
    """By a scorer that travels, with columns of other names; numbers may be text or not."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    source, out = tmp_path / f"in{ending}", tmp_path / "out.jsonl"
    table = pd.DataFrame(ROWS).rename(columns={"review": "text"})
    if ending == ".csv":
        table.to_csv(source, index=False)
    elif ending == ".jsonl":
        table.to_json(source, orient="records", lines=True)
    else:
        table.to_parquet(source)
    columns = {"price": "price", "review": "text", "user": "user"}
    assert predict_file(BatchScorer(folder, threshold=0.3), source, out, column=columns) == 5
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    wanted = ek.ExportedModel(folder).predict(ROWS, threshold=0.3)
    assert [row["genres_label"] for row in rows] == wanted["genres_label"].tolist()
    np.testing.assert_allclose([row["rating"] for row in rows], wanted["rating"], rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="no column 'review'"):
        predict_file(pytest.fail, source, tmp_path / "more.csv", column=columns | {"review": "review"})


def test_command_reads_a_column_for_each_input(folder, tmp_path, capsys):
    """Inputs whose column has their name need no flag."""
    pd.DataFrame(ROWS).rename(columns={"review": "text"}).to_csv(tmp_path / "in.csv", index=False)
    line = ["predict", str(folder), "--file", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv")]
    assert cli.main([*line, "--text", "review=text", "--threshold", "0=0.2", "--threshold", "1=0.7"]) == 0
    wanted = ek.ExportedModel(folder).predict(ROWS, threshold={"0": 0.2, "1": 0.7})
    assert pd.read_csv(tmp_path / "out.csv")["genres_label"].tolist() == [str(row) for row in wanted["genres_label"]]
    for wrong, message in [
        (["--text", "text"], "INPUT=COLUMN for each .*Received: 'text'"),
        (["--threshold", "high"], "--threshold takes NUMBER or LABEL=NUMBER. Received: 'high'"),
        (["--threshold", "0.1", "--threshold", "0.2"], "takes one NUMBER"),
    ]:
        assert cli.main([*line, *wrong]) == 2
        assert pd.Series([capsys.readouterr().err]).str.contains(message).all()


CARD = {"class_names": None, "answers": [{"name": "scores", "activation": "sigmoid", "shape": [None, 3]}]}


def test_threshold_of_each_label():
    """One for all, one for each, or by label; a label at its threshold counts."""
    scores = {"scores": np.array([[0.5, 0.2, 0.9], [0.1, 0.1, 0.1]])}
    card = CARD | {"class_names": ["x", "y", "z"]}
    for threshold, wanted in [
        (None, [["x", "z"], []]),
        (0.2, [["x", "y", "z"], []]),
        ((0.6, 0.1, 1.0), [["y"], ["y"]]),
        (np.array([0.6, 0.1, 1.0]), [["y"], ["y"]]),
        ({"x": 0.6, "y": 0.2}, [["y", "z"], []]),
        (0, [["x", "y", "z"]] * 2),
    ]:
        assert prediction_table({"text": ["a", "b"]}, scores, card, "it", threshold)["label"].tolist() == wanted


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (1.5, r"threshold must be a number .*1.* Received: 1\.5"),
        (True, "threshold must be a number .* Received: True"),
        ("0.5", "threshold must be a number .* Received: '0.5'"),
        ([0.1, 0.2], "one for each of 3 labels. Received: 2"),
        ([0.1, 0.2, -1], "threshold of 'z' must be a number .* Received: -1"),
        ({"w": 0.1}, "by label: x, y, z. Received: 'w'"),
        ({"y": float("nan")}, r"threshold\['y'\] must be a number"),
    ],
)
def test_wrong_thresholds(wrong, message):
    """The message has the label."""
    with pytest.raises(ArgumentError, match=message):
        thresholds(wrong, ["x", "y", "z"])


def test_threshold_of_two_classes():
    """The second counts from there, and has its probability."""
    card = CARD | {"class_names": ["no", "yes"]}
    table = prediction_table({}, {"scores": np.array([[0.3], [0.5], [0.1]])}, card, "it", 0.3)
    assert table["label"].tolist() == ["yes", "yes", "no"]
    np.testing.assert_allclose(table["probability"], [0.3, 0.5, 0.9])
    assert prediction_table({}, {"scores": np.array([[0.5]])}, card, "it")["label"].tolist() == ["no"]
    with pytest.raises(ArgumentError, match="threshold must be a number"):
        prediction_table({}, {"scores": np.array([[0.3]])}, card, "it", {"yes": 0.3})


def test_columns_that_would_be_there_twice():
    """An input with the name of an answer."""
    with pytest.raises(SavedModelError, match="it has an input 'label', which would be a column"):
        prediction_table({"label": ["a"]}, {"scores": np.array([[0.3, 0.1, 0.2]])}, CARD, "it")


def _card(names):
    return {"class_names": names, "answers": []}


def test_labels_name_the_best_class():
    """Class names if there are any, otherwise numbers."""
    scores = {"scores": np.array([[0.2, 0.8], [0.7, 0.3]])}
    for card, wanted in [(_card(["no", "yes"]), ["yes", "no"]), (_card(None), ["1", "0"]), (None, ["1", "0"])]:
        assert prediction_table({"text": ["a", "b"]}, scores, card, "X")["label"].tolist() == wanted


@pytest.mark.parametrize(
    ("scores", "names", "message"),
    [
        (np.zeros((2, 1)), None, r"X returns scores of shape \(1,\) for a text"),
        (np.zeros((2, 3, 4)), None, r"X returns scores of shape \(3, 4\) for a text"),
        (np.zeros((2, 3)), ["no", "yes"], "X has 2 class names for 3 scores"),
        (np.array([[1, 2], [np.nan, 1]]), None, "X returns NaN or infinity as scores of text 1"),
    ],
)
def test_scores_that_name_no_class_are_refused(scores, names, message):
    """One score, one per token, or another number than class names."""
    with pytest.raises(SavedModelError, match=message):
        prediction_table({"text": ["a", "b"]}, {"scores": scores}, _card(names), "X")
