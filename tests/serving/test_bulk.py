"""Files of texts to files of answers."""

import csv
import gc
import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from embkeras.errors import ArgumentError, DataError, MissingDependencyError, OutputError, SavedModelError
from embkeras.serving import bulk
from embkeras.serving.bulk import predict_file

TEXTS = ["good day", "", 'a "quoted", bad day', "two\nlines", "é\r😀", "7"]


def predict(texts):
    """The number of letters, in place of a model."""
    probability = np.array([len(text) / 100 for text in texts], np.float32)
    return pd.DataFrame({"text": texts, "label": ["odd" if len(text) % 2 else "even" for text in texts]}).assign(
        probability=probability
    )


@pytest.fixture
def source(tmp_path):
    """A CSV of the texts."""
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "review"], *enumerate(TEXTS)])
    return tmp_path / "in.csv"


def _read(path):
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_dict("records")
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix in (".jsonl", ".ndjson"):
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_every_text_has_a_row_in_order(source, tmp_path, monkeypatch, ending, block):
    """In each format, and in blocks of any size; the result can be read again."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(bulk, "BLOCK", block)
    out = tmp_path / f"out{ending}"
    assert predict_file(predict, source, out, column="review") == len(TEXTS)
    rows = _read(out)
    assert [row["text"] for row in rows] == TEXTS and [row["label"] for row in rows] == predict(TEXTS)["label"].tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in rows], predict(TEXTS)["probability"], atol=1e-9)
    assert predict_file(predict, out, tmp_path / "again.csv", column="text") == len(TEXTS)


def test_lines_of_a_written_csv(tmp_path):
    """End in a line feed alone, whatever the text holds; there is no empty line between them."""
    (tmp_path / "in.jsonl").write_text('{"text": "a\\rb"}\n{"text": "c"}\n', encoding="utf-8")
    predict_file(predict, tmp_path / "in.jsonl", tmp_path / "out.csv", column="text")
    head, first, second, rest = (tmp_path / "out.csv").read_bytes().split(b"\n")
    assert head == b"text,label,probability" and rest == b""
    assert first.startswith(b'"a\rb",') and second.startswith(b"c,") and not second.endswith(b"\r")


def test_a_first_block_without_labels(tmp_path, monkeypatch):
    """Of a multi-label model: the columns of a Parquet file have the types of the blocks that follow."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(bulk, "BLOCK", 1)
    (tmp_path / "in.txt").write_text("none\nsport\n", encoding="utf-8")

    def labels(texts):
        found = [[text] * (text != "none") for text in texts]
        return pd.DataFrame({"text": texts, "label": found, "probability": [[0.75] * len(each) for each in found]})

    predict_file(labels, tmp_path / "in.txt", tmp_path / "out.parquet")
    rows = _read(tmp_path / "out.parquet")
    assert [row["label"].tolist() for row in rows] == [[], ["sport"]]
    assert [row["probability"].tolist() for row in rows] == [[], [0.75]]


def test_lines_of_a_plain_file(tmp_path):
    """One text a line, without the end of the line."""
    (tmp_path / "in.txt").write_bytes(b"good\r\nbad day\n")
    predict_file(predict, tmp_path / "in.txt", tmp_path / "out.jsonl")
    assert [row["text"] for row in _read(tmp_path / "out.jsonl")] == ["good", "bad day"]


@pytest.fixture
def collector():
    """Garbage is collected as often as in a user's program, which the other tests don't need."""
    threshold = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Ten times the rows take the same memory."""
    monkeypatch.setattr(bulk, "BLOCK", 500)
    peaks = []
    for rows in (4_000, 40_000):
        (tmp_path / "in.csv").write_text("text\n" + "good day, bad day\n".replace(",", "") * rows)
        tracemalloc.start()
        predict_file(predict, tmp_path / "in.csv", tmp_path / "out.csv", column="text", overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize(
    ("name", "contents", "column", "wrong"),
    [
        ("in.csv", "text\n", "text", "has no rows"),
        ("in.csv", "text\na\nb,c\n", "text", r"row 3 \(line 3\): expected 1 fields, found 2"),
        ("in.csv", "text\na\n", "body", "no column 'body'"),
        ("in.csv", "text\na\n", None, "Name the column"),
        ("in.txt", "a\n", "text", "has no columns"),
        ("in.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', "text", r"in\.jsonl', text 1: .*valid Unicode"),
    ],
)
def test_wrong_files_are_refused_before_any_text_is_asked(tmp_path, name, contents, column, wrong):
    """The message has the place, and nothing is written."""
    (tmp_path / name).write_text(contents)
    with pytest.raises(DataError, match=wrong):
        predict_file(pytest.fail, tmp_path / name, tmp_path / "out.csv", column=column)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_wrong_arguments(source, tmp_path, monkeypatch):
    """Another ending, a file that exists, no function, and no pyarrow."""
    with pytest.raises(ArgumentError, match=r"one of \.csv, .* Received: '\.xls'"):
        predict_file(predict, source, tmp_path / "out.xls", column="review")
    with pytest.raises(OutputError, match=r"in\.csv': it already exists"):
        predict_file(predict, source, source, column="review")
    with pytest.raises(ArgumentError, match="Received: str"):
        predict_file("model", source, tmp_path / "out.csv", column="review")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"out\.parquet' needs pyarrow"):
        predict_file(predict, source, tmp_path / "out.parquet", column="review")


def test_failure_in_the_middle_leaves_no_file(source, tmp_path, monkeypatch):
    """The error has the texts that were asked; an older result stays."""
    monkeypatch.setattr(bulk, "BLOCK", 4)
    (tmp_path / "out.csv").write_text("older")

    def fail_later(texts):
        if "7" in texts:
            raise SavedModelError("it refuses")
        return predict(texts)

    with pytest.raises(SavedModelError, match=r"in\.csv', texts 4 to 5: it refuses"):
        predict_file(fail_later, source, tmp_path / "out.csv", column="review", overwrite=True)
    assert (tmp_path / "out.csv").read_text() == "older"
