"""convert: every readable format to every writable one, and nothing overwritten unasked."""

import numpy as np
import pytest

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError, VectorFileError
from embkeras.vectors import conversion
from embkeras.vectors.conversion import convert
from embkeras.vectors.io.registry import FORMATS
from embkeras.vectors.subwords import Subwords

VECTORS = KeyedVectors(["the", "Cat", "dog"], np.array([[0.5, 1], [2, 0.1], [3, -1]], "float32"))
ENDINGS = [endings[0] for module, endings in FORMATS.values() if endings and hasattr(module, "write")]


@pytest.mark.parametrize("before", ENDINGS)
@pytest.mark.parametrize("after", ENDINGS)
def test_round_trips(tmp_path, before, after):
    """Words and values come back bit for bit."""
    source = save_vectors(VECTORS, tmp_path / "in" / f"v{before}")
    returned = convert(source, tmp_path / "out" / f"v{after}")
    loaded = load_vectors(tmp_path / "out" / f"v{after}")
    assert list(loaded.words) == list(returned.words) == list(VECTORS.words)
    np.testing.assert_array_equal(loaded.matrix, VECTORS.matrix)


def test_arguments_of_reading(tmp_path):
    """limit and dtype are those of load_vectors, `to` the format of a name that does not tell."""
    source = save_vectors(VECTORS, tmp_path / "v.txt")
    convert(source, tmp_path / "v.dat", to="word2vec", limit=2, dtype="float16")
    loaded = load_vectors(tmp_path / "v.dat")
    assert (loaded.words, loaded.provenance.format) == (["the", "Cat"], "word2vec")
    assert loaded["Cat"].tolist() == [2, np.float32(np.float16(0.1))]


@pytest.mark.parametrize("there", ["v.npy", "v.json"])
def test_nothing_is_overwritten_unasked(tmp_path, there):
    """Nor the list of words beside a matrix; the source is not even read."""
    (tmp_path / there).write_text("before")
    with pytest.raises(OutputError, match=rf"{there}' exists already: say to overwrite it"):
        convert(tmp_path / "absent.txt", tmp_path / "v.npy")
    assert (tmp_path / there).read_text() == "before"
    convert(save_vectors(VECTORS, tmp_path / "in.txt"), tmp_path / "v.npy", overwrite=True)
    assert load_vectors(tmp_path / "v.npy").words == VECTORS.words


def test_onto_itself(tmp_path):
    """The file is read before it is replaced."""
    path = save_vectors(VECTORS, tmp_path / "v.txt")
    convert(path, path, to="word2vec", overwrite=True)
    assert load_vectors(path).provenance.format == "word2vec"


def test_unknown_target_and_damaged_source(tmp_path):
    """The errors of save_vectors and load_vectors, and no file."""
    source = save_vectors(VECTORS, tmp_path / "v.txt")
    with pytest.raises(ArgumentError, match=r"for a name such as 'v\.dat'"):
        convert(source, tmp_path / "v.dat")
    source.write_text("a 1 2\nb 3")
    with pytest.raises(VectorFileError, match="line 2"):
        convert(source, tmp_path / "v.vec")
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


def test_subwords_left_behind_are_warned_of(tmp_path, monkeypatch):
    """The new file gives no vectors for words that are not in it."""
    subwords = Subwords(np.ones((4, 2), "float32"), min_n=2, max_n=3, buckets=4)
    monkeypatch.setattr(
        conversion, "load_vectors", lambda path: KeyedVectors(VECTORS.words, VECTORS.matrix, subwords=subwords)
    )
    with pytest.warns(EmbkerasWarning, match=r"v\.txt' holds the \d words and not the 4 rows of n-grams"):
        convert(tmp_path / "m.bin", tmp_path / "v.txt")
