"""Pairs of a text of numbers and a file of words: TensorFlow's projector, and what other programs write so."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError, VectorFileError
from embkeras.vectors.io.projector import export_projector, export_states
from tests.properties import PROPERTY, TEXTS, finite_bits

VECTORS = KeyedVectors(["the", "new york", "nan"], np.array([[0.5, 1], [2, 0.1], [3, -1]], "float32"))


def pair(tmp_path, numbers, words, names=("vectors.tsv", "metadata.tsv")):
    """The two files, and the path of the first."""
    for name, contents in zip(names, (numbers, words), strict=True):
        (tmp_path / name).write_bytes(contents.encode())
    return tmp_path / names[0]


@pytest.mark.parametrize("names", [("vectors.tsv", "metadata.tsv"), ("x_tensor.tsv", "x_metadata.tsv")])
def test_pairs_are_found(tmp_path, names):
    """By the names that the projector's tutorials and gensim's script use."""
    loaded = load_vectors(pair(tmp_path, "0.5\t1\n2\t-3\n", "cat\nnew york\n", names))
    assert (loaded.words, loaded.matrix.tolist()) == (["cat", "new york"], [[0.5, 1], [2, -3]])
    assert loaded.provenance.format == "projector"


@pytest.mark.parametrize("folder", [True, False])
def test_export_projector(tmp_path, folder):
    """What is written is read bit for bit, by the folder or the file; other files stay."""
    (tmp_path / "checkpoint").write_text("x")
    assert export_projector(VECTORS, tmp_path) == tmp_path
    loaded = load_vectors(tmp_path if folder else tmp_path / "vectors.tsv")
    assert loaded.words == VECTORS.words and loaded.matrix.tobytes() == VECTORS.matrix.tobytes()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "metadata.tsv", "vectors.tsv"]


@PROPERTY
@given(finite_bits(), st.lists(TEXTS, min_size=6, max_size=6, unique=True))
def test_round_trip_or_refusal(tmp_path, matrix, words):
    """Any words without tabs and ends of lines come back."""
    words = words[: len(matrix)]
    try:
        export_projector(KeyedVectors(words, matrix), tmp_path)
    except VectorFileError:
        assert any(set(word) & set("\t\n\r") for word in words) or words[0].startswith("\ufeff")
        return
    loaded = load_vectors(tmp_path)
    assert loaded.words == words and loaded.matrix.tobytes() == matrix.tobytes()


def test_nothing_is_overwritten_unasked(tmp_path):
    """Neither of the two files."""
    (tmp_path / "metadata.tsv").write_text("before")
    with pytest.raises(OutputError, match=r"metadata\.tsv' already exists"):
        export_projector(VECTORS, tmp_path, overwrite=False)
    assert os.listdir(tmp_path) == ["metadata.tsv"] and (tmp_path / "metadata.tsv").read_text() == "before"


def test_a_killed_save_leaves_no_pair_that_differs(tmp_path, monkeypatch):
    """If only the words were renamed, there are no numbers to read with them."""
    export_projector(VECTORS, tmp_path)
    real = os.replace

    def replace(source, target):
        if str(target).endswith("vectors.tsv"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export_projector(KeyedVectors(["x", "y", "z"], VECTORS.matrix), tmp_path)
    monkeypatch.undo()
    with pytest.raises(VectorFileError):
        load_vectors(tmp_path)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (None, ArgumentError, "must be KeyedVectors. Received: None"),
        (KeyedVectors(["a", "b\tc"], np.eye(2)), VectorFileError, r"the word 'b\\tc' \(row 1\)"),
        (KeyedVectors(["a", "b"], np.array([[1.0], [np.nan]])), VectorFileError, r"in row 1 \(word 'b'\)"),
        (KeyedVectors([], np.ones((0, 2))), VectorFileError, "no vectors"),
    ],
)
def test_what_can_not_be_shown(tmp_path, vectors, error, message):
    """It is refused before anything is written."""
    with pytest.raises(error, match=message):
        export_projector(vectors, tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("Word\tCount\ncat\t3\ndog\t2\n", ["cat", "dog"]),
        ("id\tlabel\n0\tcat\n1\tdog\n", ["cat", "dog"]),
        ("x\ty\ncat\t3\r\ndog\t2", ["cat", "dog"]),
    ],
)
def test_several_columns(tmp_path, metadata, words):
    """Their first line has names; the words are the column that is named so, or the first."""
    assert load_vectors(pair(tmp_path, "1\t2\n3\t4\n", metadata)).words == words


@pytest.mark.parametrize("separator", [" ", "\t", ",", "  "])
def test_other_pairs(tmp_path, separator):
    """A text of numbers and its words, as SENNA and numpy.savetxt have them, with words_file=."""
    numbers = "".join(f"{separator.join(row)}\n" for row in (["0.1", "2e-3", "-3"], ["4", "5", "6"]))
    path = pair(tmp_path, numbers, "the\nof\n", ("embeddings.txt", "words.lst"))
    loaded = load_vectors(path, words_file=tmp_path / "words.lst")
    assert loaded.words == ["the", "of"]
    np.testing.assert_array_equal(loaded.matrix, np.array([[0.1, 2e-3, -3], [4, 5, 6]], "float32"))


@pytest.mark.parametrize(
    ("numbers", "metadata", "message"),
    [
        ("1\t2\n3\t4\n", "cat\n", r"has 2 rows, but '.*metadata\.tsv' has 1 words"),
        ("1\t2\n3\t4\n", "word\ncat\ndog\n", r"has 2 rows, but '.*metadata\.tsv' has 3 words"),
        ("1\t2\n3\t4\n", "a\tb\ncat\n", r"metadata\.tsv', line 2: expected 2 columns"),
        ("1\t2\n" * 200 + "3\n", "x\n" * 201, "line 201: expected 2 numbers, as in line 1, found 1"),
        ("1\t2\n" * 200 + "\n3\t4\n", "x\n" * 201, "line 201: .* a blank line"),
        ("1\t2\n" * 200 + "3\tx\n", "\n".join(map(str, range(201))), "line 201: expected a number, found 'x'"),
        ("1\t2\n" * 200 + "3\tnan\n", "\n".join(map(str, range(201))), "line 201: expected a number, found 'nan'"),
        ("1\t2\n3\t1e39\n", "a\nb\n", r"in row 1 \(word 'b'\)"),
    ],
)
def test_what_is_refused(tmp_path, numbers, metadata, message):
    """The message names the file and the line."""
    with pytest.raises(VectorFileError, match=message):
        load_vectors(pair(tmp_path, numbers, metadata))


def test_no_words(tmp_path):
    """Asked for by name, without metadata."""
    (tmp_path / "vectors.tsv").write_text("1\t2\n")
    with pytest.raises(VectorFileError, match=r"no words, and there is no metadata\.tsv beside it"):
        load_vectors(tmp_path / "vectors.tsv", format="projector")


def test_a_cut_last_value_is_warned_of(tmp_path):
    """If nothing ends the last line and its last value is short."""
    (tmp_path / "metadata.tsv").write_text("a\nb\n")
    (tmp_path / "vectors.tsv").write_text("0.125\t0.125\n0.125\t0.1")
    with pytest.warns(EmbkerasWarning, match=r"last value b'0.1' .*row 2"):
        load_vectors(tmp_path)


def test_a_tab_behind_the_last_number(tmp_path):
    """Divides nothing."""
    (tmp_path / "metadata.tsv").write_text("a\nb\n")
    (tmp_path / "vectors.tsv").write_text("1\t2\t\n3\t4\t\n")
    loaded = load_vectors(tmp_path)
    assert (list(loaded.words), loaded.matrix.tolist()) == (["a", "b"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("contents", ["1.0\t2\t\n3\t4\t\n", "1,5\t2\n3\t4\n"])
def test_numbers_alone_are_never_words(tmp_path, contents):
    """Also with tabs behind them, or decimal commas."""
    (tmp_path / "numbers.tsv").write_text(contents)
    with pytest.raises(VectorFileError, match="line 1: every field is a number"):
        load_vectors(tmp_path / "numbers.tsv")


def test_several_states(tmp_path):
    """A file a state, what is known of the rows in columns, and a configuration that names them all."""
    states = {"before": np.eye(2, dtype="float32"), "after": np.array([[0.1, 1], [2, 3]], "float32")}
    (tmp_path / "checkpoint").write_text("x")
    assert export_states(tmp_path, states, {"word": ["cat", ""], "count": [3, 0]}) == tmp_path
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    config = files.pop("projector_config.pbtxt")
    assert files == {
        "before.tsv": "1\t0\n0\t1\n",
        "after.tsv": "0.100000001\t1\n2\t3\n",
        "metadata.tsv": "word\tcount\ncat\t3\n\t0\n",
        "checkpoint": "x",
    }
    assert [line.split('"')[1::2] for line in config.splitlines()] == [
        ["before", "before.tsv", "metadata.tsv"],
        ["after", "after.tsv", "metadata.tsv"],
    ]


def test_states_are_refused_as_vectors_are(tmp_path):
    """A word that metadata.tsv can't hold, and files that exist."""
    states = {"before": np.eye(2), "after": np.eye(2)}
    with pytest.raises(VectorFileError, match=r"'a\\tb' \(row 1\)"):
        export_states(tmp_path, states, {"word": ["a", "a\tb"], "count": [1, 2]})
    assert not list(tmp_path.iterdir())
    (tmp_path / "after.tsv").write_text("before")
    with pytest.raises(OutputError, match=r"after\.tsv' already exists"):
        export_states(tmp_path, states, {"word": ["a", "b"], "count": [1, 2]}, overwrite=False)


def test_tensorboard_reads_the_configuration(tmp_path):
    """With its own message."""
    projector = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2", reason="needs tensorboard")
    from google.protobuf import text_format

    export_states(tmp_path, {"before": np.eye(2), "after": np.eye(2)}, {"word": ["a", "b"], "count": [1, 2]})
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    assert [(each.tensor_path, each.metadata_path) for each in config.embeddings] == [
        ("before.tsv", "metadata.tsv"),
        ("after.tsv", "metadata.tsv"),
    ]
