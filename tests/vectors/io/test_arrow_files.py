"""Parquet and Feather: what pandas and datasets write, in batches, and what is refused."""

import sys

import numpy as np
import pandas
import pytest

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import EmbkerasWarning, MissingDependencyError, VectorFileError
from tests.properties import comes_back

pyarrow = pytest.importorskip("pyarrow")
FRAME = pandas.DataFrame([[0.5, 1.0], [2.0, 0.25]], index=["the", "of"], columns=["0", "1"])
MATRIX = [[0.5, 1], [2, 0.25]]


def written(frame, path):
    """A frame as pandas writes it."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_feather(path)
    return path


@pytest.fixture(params=["t.parquet", "t.feather"])
def path(request, tmp_path):
    """A path of each format."""
    return tmp_path / request.param


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.reset_index(names="word"),
        FRAME.rename(columns="dim_{}".format).assign(token=FRAME.index).reset_index(drop=True),
        FRAME.astype("float16").reset_index(names="key"),
        FRAME.reset_index(names="word").astype({"word": "category"}),
        pandas.DataFrame({"word": FRAME.index, "vector": MATRIX}),
        pandas.DataFrame(
            {"id": [7, 8], "word": FRAME.index, "pos": ["x", "y"], "vector": list(np.array(MATRIX, "float32"))}
        ),
    ],
)
def test_what_pandas_writes(path, frame):
    """Numbered columns or one column of lists."""
    loaded = load_vectors(written(frame, path))
    assert (loaded.words, loaded.matrix.tolist()) == (list(FRAME.index), MATRIX)
    assert loaded.provenance.format == path.suffix[1:]


def test_words_in_the_index(tmp_path):
    """pandas stores the index as a column; one that counts the rows, or is left beside a column of words, doesn't matter."""
    assert load_vectors(written(FRAME, tmp_path / "t.parquet")).words == ["the", "of"]
    frame = FRAME.assign(word=FRAME.index).set_index(pandas.Index([5, 9]))
    assert load_vectors(written(frame, tmp_path / "t.parquet")).matrix.tolist() == MATRIX


def test_round_trip(path):
    """Bit for bit, over several batches, and as pandas reads it."""
    words = ["", "a\nb", "nan", *(f"w{i}" for i in range(9000))]
    matrix = np.random.default_rng(0).normal(size=(len(words), 300)).astype("float32")
    comes_back(words, matrix, path)
    frame = pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_feather(path)
    again = KeyedVectors.from_dataframe(frame)
    assert again.words == words and again.matrix.tobytes() == matrix.tobytes()
    some = load_vectors(path, words=["w8999", "nan"], limit=9003)
    assert some.words == ["nan", "w8999"] and some["w8999"].tobytes() == matrix[-1].tobytes()


def test_other_arrow_files_are_read(tmp_path):
    """Arrow's IPC file under its own ending."""
    save_vectors(KeyedVectors(["a"], np.ones((1, 2), "float32")), tmp_path / "v.arrow")
    assert load_vectors(tmp_path / "v.arrow").provenance.format == "feather"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.reset_index(names="word")[["word"]], "words and no numbers: pass it as words_file="),
        (FRAME.reset_index(drop=True), "no column of strings; its columns are '0', '1'"),
        (FRAME.reset_index(names="word").assign(count=[3, 4]), "numbered from 0 or 1.* 'count'"),
        (FRAME.reset_index(names="word")[["word", "1", "0"]], "numbered from 0 or 1"),
        (FRAME.reset_index(names="word").assign(**{"1": [True, False]}), "column '1': expected numbers, found bool"),
        (FRAME.reset_index(names="word").replace(0.25, np.nan), r"NaN, infinity .* in row 1 \(word 'of'\)"),
        (FRAME.reset_index(names="word").replace("of", None), "no word in row 1 of the column 'word'"),
        (FRAME.reset_index(names="a").assign(b=["x", "y"]), "one column of words.* Received: 2"),
        (
            pandas.DataFrame({"word": ["a", "b"], "vector": [[1.0, 2.0], [3.0]]}),
            "row 1: expected 2 numbers, .* found 1",
        ),
        (
            pandas.DataFrame({"word": ["a", "b"], "vector": [[1.0], None]}),
            "row 1: expected 1 numbers, as in row 0, found 0",
        ),
        (pandas.DataFrame({"word": ["a", "b"], "vector": [[], []]}), "no column|empty list|numbered"),
        (FRAME.reset_index(names="word").head(0), "contains no vectors"),
    ],
)
def test_what_is_refused(path, frame, message):
    """The message names the columns, or the row."""
    with pytest.raises(VectorFileError, match=message):
        load_vectors(written(frame, path))


def test_repeated_words(path):
    """The first row is kept, with a warning."""
    frame = FRAME.reset_index(names="word").replace("of", "the")
    with pytest.warns(EmbkerasWarning, match="1 rows with a repeated word"):
        assert load_vectors(written(frame, path)).matrix.tolist() == [[0.5, 1]]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_files(path, share):
    """They are refused by name."""
    whole = written(FRAME.reset_index(names="word"), path).read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VectorFileError, match=r"t\.\w+' is not a complete (Parquet|Feather) file"):
        load_vectors(path)


def test_missing_pyarrow(path, monkeypatch):
    """It says what to install, for reading and writing."""
    save_vectors(KeyedVectors(["a"], np.ones((1, 2), "float32")), path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r't\.\w+\' needs pyarrow: .*"embkeras\[demo\]"'):
        load_vectors(path)
    with pytest.raises(MissingDependencyError, match="needs pyarrow"):
        save_vectors(KeyedVectors(["a"], np.ones((1, 2), "float32")), path.with_stem("w"))
