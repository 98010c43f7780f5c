"""Tables to compare, from files, models and exports."""

import numpy as np
import pytest

from embkeras import KeyedVectors, Vocabulary, save_vectors
from embkeras.app.two_tables import Table, check_picture, compared, is_model, read_table
from embkeras.errors import ArgumentError, OutputError
from tests.processes import ROOT

GOLDEN = str(ROOT / "saved_models" / "golden")


def table(words, counts=None):
    """Vectors that hold the place of each word."""
    return Table(KeyedVectors(words, np.arange(1, len(words) + 1)[:, None] * np.ones((1, 2))), counts)


def test_words_of_both_in_the_order_after():
    """Rows are matched by word; counts come from the table that has them."""
    report = compared(table(["a", "b", "c"]), table(["c", "x", "a"], {"a": 4}), ["one", "other"])
    assert report.table[["token", "count"]].to_numpy().tolist() == [["c", 0], ["a", 4]]
    assert (report.before[:, 0].tolist(), report.after[:, 0].tolist()) == ([3, 1], [1, 3])


def test_no_word_in_common():
    """The first words of both are in the message."""
    with pytest.raises(ArgumentError, match=r"'one' and 'other' have no word in common.*'a', 'b'.* 'x'"):
        compared(table(["a", "b"]), table(["x"]), ["one", "other"])


def test_what_is_a_model(tmp_path):
    """An export by its folder; a store of vectors ends otherwise than a `.keras` file."""
    vectors = save_vectors(KeyedVectors(["a"], np.ones((1, 2))), tmp_path / "v.h5")
    assert is_model(GOLDEN) and is_model(f"{GOLDEN}/1")
    assert not is_model(str(vectors)) and not is_model(str(tmp_path)) and not is_model("absent.keras")


def test_pictures_are_refused_at_once(tmp_path):
    """Of an unknown kind, or that exist."""
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    (tmp_path / "x.png").touch()
    with pytest.raises(OutputError, match=r"x\.png' already exists"):
        check_picture(tmp_path / "x.png", overwrite=False)
    check_picture(tmp_path / "x.png", overwrite=True)
    with pytest.raises(ArgumentError, match=r"out must be a picture.* Received: '.*x\.gif'"):
        check_picture(tmp_path / "x.gif", overwrite=True)


def test_tables_of_models(tmp_path):
    """An export has its words and their counts; a `.keras` file takes its words from a file. TensorFlow starts for them."""
    from tests import tiny

    started = []
    found = read_table(GOLDEN, None, None, None, lambda: started.append(1))
    assert set(found.counts or found.vectors.words) >= set(found.vectors.words) and started == [1]
    tiny.model("sgd").save(tmp_path / "m.keras")
    words = ["", "[UNK]", *(f"w{place}" for place in range(2, 10))]
    Vocabulary(words).save(tmp_path / "words.json")
    (tmp_path / "words.txt").write_text("\n".join(["<pad>", *words[1:]]) + "\n")
    for name, first in (("words.json", ""), ("words.txt", "<pad>")):
        path = str(tmp_path / "m.keras")
        found = read_table(path, "embedding", tmp_path / name, None, lambda: started.append(2))
        assert found.vectors.words == [first, *words[1:]] and found.counts is None
        np.testing.assert_array_equal(found.vectors.matrix, tiny.TABLE)
    assert started == [1, 2, 2]
