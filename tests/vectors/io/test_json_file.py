"""JSON objects of lists: entry by entry, bit for bit, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import load_vectors
from embkeras.errors import EmbkerasWarning, VectorFileError
from tests.properties import PROPERTY, TEXTS, comes_back, finite_bits


def load(tmp_path, contents, **how):
    """What is read from these contents."""
    path = tmp_path / "v.dat"
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return load_vectors(path, **how)


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("ascii", [True, False])
def test_what_json_writes(tmp_path, indent, ascii):
    """However it is laid out, by its contents, with a byte order mark or without."""
    vectors = {'naïve "x"\n': [0.1, -2], "日本": [3, 4e-5], "": [0.0, -0.0]}
    text = json.dumps(vectors, indent=indent, ensure_ascii=ascii)
    for contents in (text.encode(), text.encode("utf-8-sig"), b"\n " + text.encode() + b"\n\n"):
        loaded = load(tmp_path, contents)
        assert loaded.words == list(vectors) and loaded.provenance.format == "json"
        np.testing.assert_array_equal(loaded.matrix, np.array(list(vectors.values()), "float32"))


@PROPERTY
@given(finite_bits(), st.lists(TEXTS, min_size=6, max_size=6, unique=True))
def test_round_trip(tmp_path, matrix, words):
    """Bit for bit, for any words."""
    comes_back(words[: len(matrix)], matrix, tmp_path / "v.json")


def test_only_wanted_rows_are_in_memory(tmp_path):
    """Entries are read one after the other."""
    row = ", ".join(["0.125"] * 100)
    path = tmp_path / "v.json"
    path.write_text("{" + ", ".join(f'"w{i}": [{row}]' for i in range(20_000)) + "}")  # 15 MB
    tracemalloc.start()
    loaded = load_vectors(path, words=["w7", "w19999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.words == ["w7", "w19999"] and peak < 4 << 20


def test_repeated_words(tmp_path):
    """Python's json would keep the last without a word; the first row is kept here, with a warning."""
    with pytest.warns(EmbkerasWarning, match="1 rows with a repeated word"):
        assert load(tmp_path, '{"a": [1], "b": [2], "a": [3]}')["a"].tolist() == [1]


def test_selection_and_limit(tmp_path):
    """In the order of the file."""
    contents = '{"a": [1], "b": [2], "c": [3]}'
    assert load(tmp_path, contents, words=["C", "a"]).matrix.tolist() == [[1], [3]]
    assert load(tmp_path, contents, limit=2).words == ["a", "b"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('{"a": [1, 2], "b": [3]}', "entry 1: expected 2 numbers, as in entry 0, found 1"),
        ('{"a": [1, true]}', r"entry 0: expected a list of numbers, found '\[1, true\]'"),
        ('{"a": [1, null]}', "entry 0: expected a list of numbers"),
        ('{"a": []}', "entry 0: expected a list of numbers"),
        ('{"a": [NaN]}', r"NaN, infinity .* in row 0 \(word 'a'\)"),
        ('{"a": [1e39]}', r"too large for float32 in row 0 \(word 'a'\)"),
        ('{"a": [' + "9" * 400 + "]}", r"in row 0 \(word 'a'\)"),
        ('{"a": [1], "b": [2]', r"""entry 1: expected a list of numbers for 'b', found '\[2\]'"""),
        ('{"a": [1],}', """entry 1: expected "word": .* found '}'"""),
        ('{"a": [1]} x', "after entry 0: expected the end, found ' x'"),
        ('{"a": [1_0]}', r"entry 0: .*\[1_0\]"),
        ('{"a": ["1"]}', "entry 0: expected a list of numbers"),
        ('{"the": 1, "of": 2}', "entry 0: .* found '1, .*words_file="),
        ('{"words": {"a": [1]}}', "entry 0: expected a list of numbers for 'words'"),
        ('{"a\n": [1]}', "entry 0: "),
        ("{}", "contains no vectors"),
        (b'{"a\xff": [1]}', r"row 0: the word b'a\\xff' is not valid utf-8"),
        (r'{"\ud83d": [1]}', "row 0: the word .* is not valid utf-8"),
    ],
)
def test_what_is_refused(tmp_path, contents, message):
    """The message names the entry, what was expected and what was found."""
    with pytest.raises(VectorFileError, match=message):
        load(tmp_path, contents)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@PROPERTY
@given(st.dictionaries(TEXTS, st.lists(st.floats(width=32) | st.integers(), max_size=3) | VALUES, max_size=4))
def test_any_object_is_plain_json_or_refused(tmp_path, value):
    """What is read is what json reads."""
    try:
        loaded = load(tmp_path, json.dumps(value), format="json")
    except VectorFileError:
        return
    assert dict(zip(loaded.words, loaded.matrix.tolist(), strict=True)) == {
        word: np.array(row, "float32").tolist() for word, row in value.items()
    }


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ('{"a": [1, 2', "entry 0: .*cut off"),
        ('{"a": {"b": [1]}}', "entry 0: .*KeyedVectors"),
        ('{"a": [1, ' + "9" * 5000 + "]}", r"too large for float32 in row 0 \(word 'a'\)"),
    ],
)
def test_other_json(tmp_path, contents, said):
    """The message fits what is there: a list that doesn't end, another structure, an integer of any length."""
    (tmp_path / "t.json").write_text(contents)
    with pytest.raises(VectorFileError, match=said):
        load_vectors(tmp_path / "t.json")
