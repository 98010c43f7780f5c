"""Labelled text: CSV, TSV, JSON Lines, Sentiment140, and the split."""

import csv
import json
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.errors import ArgumentError, DataError
from embkeras.text.labelled import LabelledTexts, labelled, read_labelled, read_texts, split
from tests.processes import run_python
from tests.properties import PROPERTY


@pytest.fixture
def write(tmp_path):
    """Write a file of that name and give its path."""

    def write(name, contents):
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return path

    return write


DATA = LabelledTexts(("t",) * 8, np.arange(8) % 2, ("a", "b"))
ROWS = "a,pos\nb,neg\nc,pos\nd,neg\n"


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "delimiter"), [("d.csv", ","), ("d.TSV", "\t"), ("d.tab", "\t")])
def test_columns_by_name(write, name, delimiter, end, start):
    """Any order of columns, line ends of either kind, with and without a byte order mark."""
    contents = start + ("id,label,text\n" + "1,x,a b\n2,y,c d\n3,x,é\n4,y,f\n").replace(",", delimiter).replace(
        "\n", end
    )
    data = read_labelled(write(name, contents), "text", "label")
    assert data.texts == ("a b", "c d", "é", "f")
    assert (data.labels.tolist(), data.labels.dtype, data.class_names) == ([0, 1, 0, 1], np.int64, ("x", "y"))


def test_quoted_fields(write):
    """Commas, doubled quotes and newlines inside a field."""
    path = write("d.csv", 'text,label\n"a, ""b""\nc",x\nd,y\ne,x\n"",y\nf,y\n')
    assert read_labelled(path, "text", "label", skip_empty=True).texts == ('a, "b"\nc', "d", "e", "f")


@pytest.mark.parametrize(("bad", "line"), [('"open,x', 5), ('"closed"early,x', 3)])
def test_bad_quotation_is_refused(write, bad, line):
    """An open quotation mark would swallow the rows below it; the message names the row and the line reached."""
    path = write("d.csv", f"text,label\na,x\n{bad}\nb,y\nc,y\n")
    with pytest.raises(DataError, match=rf"d\.csv', row 3 \(up to line {line}\): .*quotation marks"):
        read_labelled(path, "text", "label")


def test_bad_quotation_in_the_header_is_refused(write):
    """The header is row 1."""
    with pytest.raises(DataError, match=r"row 1 \(up to line 1\): .*quotation marks"):
        read_labelled(write("d.csv", '"text"s,label\na,x\n'), "text", "label")


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_json_lines(write, start):
    """Text with newlines, numeric labels, blank lines and further fields."""
    rows = [
        {"text": "a\nb", "label": 4, "id": 1},
        {"label": 0, "text": "é"},
        {"text": "c", "label": 4},
        {"text": "d", "label": 0},
    ]
    contents = start + "\n\n".join(json.dumps(row) for row in rows) + "\n"
    data = read_labelled(write("d.jsonl", contents), "text", "label")
    assert data.texts == ("a\nb", "é", "c", "d")
    assert (data.class_names, data.labels.tolist()) == (("0", "4"), [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", r"line 2: expected an object, found '\[1\]'"),
        ('{"label": "x"}', "no column 'text'. Columns: 'label'"),
        ('{"text": "x"}', "no column 'label'. Columns: 'text'"),
        ('{"text": 3, "label": "x"}', "line 2: 'text' must be a string, found 3"),
        ('{"text": "a", "label": null}', "line 2: empty label"),
    ],
)
def test_bad_json_line_is_refused(write, line, message):
    """The message names the line and what was found."""
    path = write("d.ndjson", '{"text": "a", "label": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_labelled(path, "text", "label")


SENTIMENT140 = "".join(
    f'"{label}","{i}","Mon Apr 06","NO_QUERY","user","caf\u00e9, {i}"\n' for i, label in enumerate([0, 4, 0, 4])
)


def test_sentiment140_is_known_by_its_shape(write):
    """Six columns, no header, Latin-1; no names are needed."""
    data = read_labelled(write("d.csv", SENTIMENT140.encode("latin-1")))
    assert data.texts[1] == "café, 1"
    assert (data.class_names, data.labels.tolist()) == (("0", "4"), [0, 1, 0, 1])


def test_sentiment140_in_another_encoding(write):
    """encoding= overrides Latin-1."""
    assert read_labelled(write("d.csv", SENTIMENT140), encoding="utf-8").texts[1] == "café, 1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": ""}, r"no column ''\. Columns: 'label', 'id'"),
        ({"label": ""}, r"no column ''\. Columns: 'label', 'id'"),
        ({"encoding": ""}, r"can't be read as '': unknown encoding"),
    ],
)
def test_sentiment140_with_empty_names(write, given, message):
    """An empty name is a wrong one, and not the default."""
    with pytest.raises(DataError, match=message):
        read_labelled(write("d.csv", SENTIMENT140.encode("latin-1")), **given)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("tweet", "label"), r"d\.csv' has no column 'tweet'. Columns: 'text', 'label'"),
        (("text", None), r"column of '.*d\.csv' to read: label=. Columns: 'text', 'label'"),
    ],
)
def test_missing_column_names_those_there(write, columns, message):
    """The message lists the columns."""
    with pytest.raises(DataError, match=message):
        read_labelled(write("d.csv", "text,label\n" + ROWS), *columns)


def test_repeated_column_is_refused(write):
    """It is unclear which of the two is meant."""
    with pytest.raises(DataError, match=r"has 2 columns 'text'. Columns: 'text', 'text'"):
        read_labelled(write("d.csv", "text,text\n" + ROWS), "text", "label")


@pytest.mark.parametrize(("row", "found"), [("c", 1), ("c,d,pos", 3)])
def test_row_of_another_width_is_refused(write, row, found):
    """The message names row and line, which differ after a newline in a field."""
    path = write("d.csv", f'text,label\n"a\nb",pos\n{row}\n')
    with pytest.raises(DataError, match=rf"row 3 \(line 4\): expected 2 fields, found {found}"):
        read_labelled(path, "text", "label")


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl"])
def test_bad_encoding_is_refused(write, name):
    """The message names file, encoding and byte."""
    contents = b"text,label\ncaf\xe9,x\n" if name == "d.csv" else b'{"text": "caf\xe9", "label": "x"}\n'
    with pytest.raises(DataError, match=rf"{name}'.* as 'utf-8.*0xe9.*encoding="):
        read_labelled(write(name, contents), "text", "label")


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl"])
@pytest.mark.parametrize(("encoding", "said"), [("latin-99", "as 'latin-99'"), ("", "as '': unknown encoding")])
def test_unknown_encoding_is_refused(write, name, encoding, said):
    """The message names it; an empty one is not the default."""
    with pytest.raises(DataError, match=said):
        read_labelled(write(name, "text,label\n"), "text", "label", encoding=encoding)


def test_unknown_ending_is_refused(write):
    """The message lists the endings known and shows the one received."""
    with pytest.raises(DataError, match=r"one of \.csv, .*\.parquet. Received: '\.xls'"):
        read_labelled(write("d.xls", ""), "text", "label")


def test_missing_file_is_refused(tmp_path):
    """The message names the file."""
    with pytest.raises(DataError, match=r"none\.csv': there is no such file"):
        read_labelled(tmp_path / "none.csv", "text", "label")


def test_folder_is_refused(tmp_path):
    """The message says that the path is a folder."""
    with pytest.raises(DataError, match="it is a folder"):
        read_labelled(tmp_path, "text", "label")


@pytest.mark.parametrize(("name", "contents"), [("d.csv", "text,label\n"), ("d.jsonl", "\n")])
def test_file_without_rows_is_refused(write, name, contents):
    """The message names the file."""
    with pytest.raises(DataError, match=f"{name}' has no rows"):
        read_labelled(write(name, contents), "text", "label")


@pytest.mark.parametrize(("row", "what"), [(" ,pos", "text"), ("c,", "label")])
def test_empty_field_is_refused_or_skipped(write, row, what):
    """The message names the row; skip_empty leaves the row out."""
    path = write("d.csv", f"text,label\n{row}\n{ROWS}")
    with pytest.raises(DataError, match=rf"row 2 \(line 2\): empty {what}"):
        read_labelled(path, "text", "label")
    assert read_labelled(path, "text", "label", skip_empty=True).texts == ("a", "b", "c", "d")


def test_one_class_is_refused():
    """The message names it and counts the rows."""
    with pytest.raises(DataError, match=r"at least two classes\. Received: \['x'\] in 2 rows"):
        labelled(["a", "b"], ["x", "x"])


def test_as_many_classes_as_rows_are_refused():
    """Most likely the wrong column."""
    with pytest.raises(DataError, match="4 different labels in 4 rows"):
        labelled(list("abcd"), list("1234"))


def test_another_number_of_labels_is_refused():
    """The message names both numbers."""
    with pytest.raises(DataError, match="the data has 2 texts, but 1 labels"):
        labelled(["a", "b"], ["x"])


def test_numeric_labels_are_ordered_by_size():
    """10 comes after 9, and words after numbers."""
    names = ["10", "9", "-1", "2.5", "b", "a"]
    assert labelled(["t"] * 12, names * 2).class_names == ("-1", "2.5", "9", "10", "a", "b")


def test_order_of_classes_does_not_hang_on_the_hash_seed():
    """The order does not depend on the order of a set, even with a label "nan"."""
    names = ["3", "nan", "1", "x", "NaN", "2"]
    code = f"from embkeras.text.labelled import labelled; print(labelled(['t'] * 12, {names * 2}).class_names)"
    run = [run_python("-c", code, env={"PYTHONHASHSEED": seed}) for seed in "123"]
    assert {done.stdout.strip() for done in run} == {"('1', '2', '3', 'NaN', 'nan', 'x')"}


@PROPERTY
@given(
    st.lists(st.integers(3, 25), min_size=2, max_size=4),
    st.floats(0.01, 0.98),
    st.floats(0.01, 0.98),
    st.integers(0, 2**32),
)
def test_split_is_a_partition(sizes, validation, test, seed):
    """Every row is in one part, and every class is in each part, for any shares."""
    if validation + test >= 1:
        validation, test = validation / 2, test / 2
    labels = np.repeat(np.arange(len(sizes)), sizes)
    data = LabelledTexts(tuple(map(str, range(len(labels)))), labels, tuple("abcd"[: len(sizes)]))
    parts = split(data, validation=validation, test=test, seed=seed)
    parts = (parts.train, parts.validation, parts.test)
    assert sorted(int(text) for part in parts for text in part.texts) == list(range(len(labels)))
    for part in parts:
        assert set(part.labels) == set(labels)
        assert [labels[int(text)] for text in part.texts] == part.labels.tolist()


def test_split_keeps_the_shares_of_the_classes():
    """15% of each class by default."""
    data = LabelledTexts(("t",) * 300, np.repeat([0, 1], [100, 200]), ("a", "b"))
    parts = split(data)
    assert Counter(parts.test.labels.tolist()) == Counter(parts.validation.labels.tolist()) == {0: 15, 1: 30}


def test_split_gives_each_part_its_own_share():
    """20% for validation and 30% for the test, not swapped."""
    parts = split(LabelledTexts(("t",) * 300, np.repeat([0, 1], [100, 200]), ("a", "b")), validation=0.2, test=0.3)
    counts = [Counter(part.labels.tolist()) for part in (parts.train, parts.validation, parts.test)]
    assert counts == [{0: 50, 1: 100}, {0: 20, 1: 40}, {0: 30, 1: 60}]


def test_split_is_fixed_by_the_seed():
    """The same seed gives the same parts, another seed others."""
    data = LabelledTexts(tuple(map(str, range(40))), np.arange(40) % 2, ("a", "b"))
    first, again, other = (split(data, seed=seed).test.texts for seed in (1, 1, 2))
    assert first == again and set(first) != set(other)


def test_split_refuses_a_class_with_fewer_than_3_texts():
    """The message names the class and its number of texts."""
    data = LabelledTexts(("t",) * 7, np.array([0] * 5 + [1] * 2), ("many", "few"))
    with pytest.raises(DataError, match=r"Class 'few' has 2 text\(s\); each class needs 3"):
        split(data)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (0, 0.1, "validation must .* Received: 0"),
        (0.1, 1, "test must .* Received: 1"),
        (0.5, 0.5, "share for training. Received: 0.5 and 0.5"),
        (-0.1, 0.5, "validation must .* Received: -0.1"),
        (True, 0.5, "validation must .* Received: True"),
        (0.1, "0.1", "test must .* Received: '0.1'"),
        (0.1, None, "test must .* Received: None"),
    ],
)
def test_split_refuses_shares(validation, test, message):
    """Shares that leave nothing for a part, and values that are not numbers."""
    data = LabelledTexts(("t",) * 8, np.arange(8) % 2, ("a", "b"))
    with pytest.raises(DataError, match=message):
        split(data, validation=validation, test=test)


@pytest.mark.parametrize(
    ("data", "seed", "message"),
    [(None, 0, "takes LabelledTexts. Received: None"), (["a"], 0, "Received: .'a'."), (DATA, True, "seed .* True")],
)
def test_split_refuses_other_arguments(data, seed, message):
    """The message shows what was received."""
    with pytest.raises(ArgumentError, match=message):
        split(data, seed=seed)


def test_quotation_marks_may_be_ordinary_marks(tmp_path):
    """A TSV of tweets may open a field with a quotation mark that encloses nothing."""
    path = tmp_path / "tweets.tsv"
    path.write_text('text\tlabel\n"Great" he said\tup\n"no\tdown\n' + "a\tup\nb\tdown\n")
    with pytest.raises(DataError, match=r"row 2 .*pass quotes=False"):
        read_labelled(path, "text", "label")
    assert read_labelled(path, "text", "label", quotes=False).texts[:2] == ('"Great" he said', '"no')


def test_half_a_surrogate_is_refused_with_its_line(tmp_path):
    """Half an emoji, as in some dumps of tweets, is an error when the file is read, not after training."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"t": "good", "l": "a"}\n{"t": "x \\ud83d", "l": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: A text must be valid Unicode\. Received: '\\ud83d' at character 2"):
        read_labelled(path, "t", "l")


def test_encoding_without_its_byte_order_mark_is_refused(tmp_path):
    """The encoding passed is UTF-16, the file is UTF-8."""
    path = tmp_path / "d.csv"
    path.write_text("t,l\ngood,a\nbad,b\n")
    with pytest.raises(DataError, match=r"can't be read as 'utf-16': .*encoding="):
        read_labelled(path, "t", "l", encoding="utf-16")


def test_deeply_nested_json_is_refused(tmp_path):
    """JSON that Python cannot follow is an error of the line."""
    path = tmp_path / "d.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_labelled(path, "t", "l")


def test_long_text_is_read(tmp_path):
    """A text may be longer than the limit of Python's csv module."""
    path = tmp_path / "d.csv"
    path.write_text("t,l\n" + "word " * 40_000 + ",a\nbad,b\nfine,a\nsour,b\n")
    assert len(read_labelled(path, "t", "l").texts[0]) == 200_000


def test_limit_of_the_csv_module_stays(write):
    """It is one for the whole process: the same after reading, after an error, and with several readers at once."""
    before = csv.field_size_limit(1000)
    long, broken = write("long.csv", "t,l\n" + "word " * 40_000 + ",a\nbad,b\nf,a\ns,b\n"), write("b.csv", "t,l\na\n")
    results = []
    threads = [threading.Thread(target=lambda: results.append(read_labelled(long, "t", "l"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    with pytest.raises(DataError, match="expected 2 fields"):
        read_labelled(broken, "t", "l")
    for thread in threads:
        thread.join()
    assert [len(each) for each in results] == [4] * 8 and csv.field_size_limit(before) == 1000


def test_labelled_texts_compare_by_identity():
    """`==` has an answer, and they can be in a set."""
    assert DATA == DATA and DATA.take(np.arange(8)) != DATA and len({DATA, split(DATA), DATA}) == 2


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (None, ["x"], "texts must be a sequence. Received: None"),
        ("ab", ["x", "y"], "texts must .* Received: 'ab'"),
        (["a", "b"], b"xy", "labels must .* Received: b'xy'"),
        (["a", None], ["x", "y"], "the data, text 2: the text must be a string. Received: None"),
        (["a", "b"], ["x", 1], "the data, text 2: the label must be a string. Received: 1"),
    ],
)
def test_other_than_strings_are_refused(texts, labels, message):
    """The message shows the value and its place."""
    with pytest.raises(DataError, match=message):
        labelled(texts, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": None}, "path must be a path.* Received: None"),
        ({"path": b"d.csv"}, "path must be a path.* Received: b'd.csv'"),
        ({"text": 3}, "text must be the name of a column. Received: 3"),
        ({"label": ["label"]}, r"label must be the name of a column. Received: \['label'\]"),
        ({"encoding": 8}, "encoding must .* Received: 8"),
        ({"encoding": "utf\0"}, "encoding must .* Received: "),
        ({"skip_empty": "no"}, "skip_empty must be True or False. Received: 'no'"),
        ({"quotes": 0}, "quotes must be True or False. Received: 0"),
    ],
)
def test_arguments_of_other_types_are_refused(write, arguments, message):
    """The message names the argument and the value."""
    with pytest.raises(ArgumentError, match=message):
        read_labelled(**({"path": write("d.csv", "text,label\n" + ROWS), "text": "text", "label": "label"} | arguments))


def test_undecodable_byte_is_placed_by_line(tmp_path):
    """The line is counted in the file, and not in a block of the reader."""
    path = tmp_path / "d.csv"
    path.write_bytes(b"t,l\n" + b"good,a\n" * 3000 + b"caf\xe9,b\n")
    with pytest.raises(DataError, match=r"d\.csv', line 3002, byte 4 of it can't be read as 'utf-8-sig'"):
        read_labelled(path, "t", "l")


@pytest.mark.parametrize(
    ("name", "contents", "column"),
    [
        ("c.csv", 'id,text\n1,"a, b"\n2,c\n', "text"),
        ("c.tsv", "text\tid\na, b\t1\nc\t2\n", "text"),
        ("c.jsonl", '{"text": "a, b"}\n\n{"text": "c", "id": 2}\n', "text"),
        ("c.txt", "\ufeffa, b\nc", None),
        ("c", "a, b\r\nc\n", None),
    ],
)
def test_texts_of_a_corpus(write, name, contents, column):
    """A column of a file with columns, or else the lines of the file."""
    assert [text.strip() for text in read_texts(write(name, contents), column)] == ["a, b", "c"]


@pytest.mark.parametrize(
    ("name", "contents", "column", "said"),
    [
        ("c.csv", "id,text\n1,a\n", None, r"the column .* column=\. Columns: 'id', 'text'"),
        ("c.csv", "id,text\n1,a\n", "x", "no column 'x'"),
        ("c.jsonl", '{"text": "a"}\n', None, "column="),
        ("c.jsonl", '{"text": 3}\n', "text", "'text' must be a string, found 3"),
        ("c.txt", "a\n", "text", r"is read line by line and has no columns\. Received: column='text'"),
        ("c.txt", b"a\n\xff\n", None, r"line 2, byte 1 of it can't be read as 'utf-8-sig'"),
    ],
)
def test_texts_that_cannot_be_read(write, name, contents, column, said):
    """The file and the argument to pass."""
    with pytest.raises(DataError, match=said):
        list(read_texts(write(name, contents), column))


def test_texts_of_no_file(tmp_path):
    """A missing file, and a folder."""
    for path, said in ((tmp_path / "c.txt", "there is no such file"), (tmp_path, "it is a folder")):
        with pytest.raises(DataError, match=said):
            list(read_texts(path))


# Block by block


def test_texts_are_read_as_they_are_asked_for(write):
    """The texts above a wrong row come first, also within its block of rows; a second file may be read meanwhile."""
    rows = [f"{number},text {number}" for number in range(1500)]
    path = write("d.csv", "\n".join(["id,text", *rows, "1,2,3"]) + "\n")
    texts = read_texts(path, "text")
    assert next(texts) == "text 0" and next(read_texts(path, "text")) == "text 0"
    found = []
    with pytest.raises(DataError, match=r"row 1502 \(line 1502\): expected 2 fields, found 3"):
        list(texts)
    with pytest.raises(DataError, match=r"row 1502 \(line 1502\)"):
        for text in read_texts(path, "text"):
            found.append(text)
    assert found == [f"text {number}" for number in range(1500)]


def test_open_quotation_mark_is_placed(write):
    """The row that the csv module can't read, in a later block."""
    path = write("d.csv", "id,text\n" + "1,a\n" * 1300 + '2,"open\n')
    with pytest.raises(DataError, match=r"row 1302 \(up to line 1302\)"):
        list(read_texts(path, "text"))


@pytest.fixture
def parquet(tmp_path):
    """A Parquet file of texts and labels."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"y": [1, 0, 2], "text": ["a\nb", "", "é"]}), tmp_path / "d.parquet")
    return tmp_path / "d.parquet"


def test_parquet(parquet):
    """Texts as they are; numbers are labels."""
    assert list(read_texts(parquet, "text")) == ["a\nb", "", "é"]
    assert read_labelled(parquet, text="text", label="y", skip_empty=True).texts == ("a\nb", "é")


@pytest.mark.parametrize(
    "column, wrong", [("label", r"no column 'label'. Columns: 'y', 'text'"), ("y", r"row 1: 'y' must be a string")]
)
def test_parquet_without_texts(parquet, column, wrong):
    """A missing column, and one of numbers."""
    with pytest.raises(DataError, match=wrong):
        list(read_texts(parquet, column))


def test_damaged_parquet(parquet):
    """pyarrow's error becomes one with the path."""
    parquet.write_bytes(parquet.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"d\.parquet' as Parquet: "):
        list(read_texts(parquet, "text"))
