"""The vocabulary folder of spaCy: keys, rows and words, and what is refused."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import load_vectors
from embkeras.errors import EmbkerasWarning, VectorFileError
from embkeras.vectors.io.spacy_folder import hashes_of
from tests.properties import PROPERTY

MATRIX = np.arange(12, dtype="float32").reshape(4, 3)
SYMBOL = 383  # of "ORG"
KEYS = {  # as spaCy 3.8 has them
    "cat": 5439657043933447811,
    "naïve": 16224804062388677344,
    "1234567": 11906548768923648808,
    "12345678": 9871996032675327904,
    "123456789": 2056675840866671865,
    "a long word of many letters and more than sixteen bytes": 18195233386613691418,
    "😀😀": 3541425211766962648,
    " ": 8532415787641010193,
}


def packed(pairs):
    """A map of whole numbers in MessagePack, with the shortest form of each."""

    def number(value):
        for most, kind, code in ((0x7F, None, "B"), (0xFF, 0xCC, "B"), (0xFFFF, 0xCD, "H"), (0xFFFFFFFF, 0xCE, "I")):
            if value <= most:
                return (b"" if kind is None else bytes([kind])) + struct.pack(f">{code}", value)
        return b"\xcf" + struct.pack(">Q", value)

    begin = bytes([0x80 | len(pairs)]) if len(pairs) < 16 else b"\xde" + struct.pack(">H", len(pairs))
    return begin + b"".join(number(key) + number(row) for key, row in pairs)


@pytest.fixture
def folder(tmp_path):
    """A pipeline with four words in two rows, and one of spaCy's symbols; "dog" is stored first."""
    vocab = tmp_path / "vocab"
    vocab.mkdir()
    with (vocab / "vectors").open("wb") as file:
        np.save(file, MATRIX)
    keys = [(key_of("dog"), 2), (key_of("cat"), 0), (key_of("kitty"), 0), (key_of("a long word of many letters"), 2)]
    (vocab / "key2row").write_bytes(packed(keys))
    (vocab / "strings.json").write_text(json.dumps(["", "kitty", "a long word of many letters", "cat", "dog", "other"]))
    (vocab / "vectors.cfg").write_text('{"mode": "default"}')
    return tmp_path


def key_of(word):
    """The key of one word."""
    return int(hashes_of([word.encode()])[0])


def test_keys_are_those_of_spacy():
    """Of words shorter and longer than a block."""
    assert hashes_of([word.encode() for word in KEYS]).tolist() == list(KEYS.values())


@pytest.mark.parametrize("inside", ["", "vocab", "vocab/vectors"])
def test_words_in_the_order_of_the_rows(folder, inside):
    """By the pipeline's folder, its vocabulary or the matrix; words may share a row."""
    loaded = load_vectors(folder / inside)
    assert loaded.words == ["cat", "kitty", "dog", "a long word of many letters"]
    assert loaded.matrix.tolist() == MATRIX[[0, 0, 2, 2]].tolist()
    assert loaded.provenance.format == "spacy"


def test_selection_and_limit(folder):
    """As in any file."""
    assert load_vectors(folder, words=["kitty", "dog", "none"]).matrix.tolist() == MATRIX[[0, 2]].tolist()
    assert load_vectors(folder, limit=3).words == ["cat", "kitty", "dog"]


def test_symbols_are_left_out(folder):
    """Keys without a word are counted in a warning."""
    (folder / "vocab" / "key2row").write_bytes(packed([(SYMBOL, 1), (key_of("cat"), 0)]))
    with pytest.warns(EmbkerasWarning, match=r"vocab' has 1 keys without a word in strings\.json") as warned:
        assert load_vectors(folder).words == ["cat"]
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("vectors.cfg", b'{"mode": "floret"}', r"vectors\.cfg': expected vectors of words .* 'floret'"),
        ("vectors.cfg", b"{", r"Cannot read the settings in '.*vectors\.cfg'"),
        ("key2row", packed([(5, 4)]), r"key2row' must have rows from 0 to 3, .* Received: 4 to 4"),
        ("key2row", packed([(5, 1)])[:-1], r"key2row', byte 2: expected 1 keys and rows"),
        ("key2row", packed([(5, 1)]) + b"\x01", "key2row', byte 3: expected 1 keys and rows, and then the end"),
        ("key2row", b"\x81\xa1a\x01", "key2row', byte 1: expected a whole number"),
        ("key2row", b"\x81\xff\x01", "expected keys >= 0"),
        ("key2row", b"", "key2row', byte 0: expected a map of whole numbers in MessagePack"),
        ("key2row", b"[1]", "key2row', byte 0: expected a map"),
        ("strings.json", b"{}", r"strings\.json' must contain a list of strings"),
        ("strings.json", b"[1]", r"strings\.json' must contain a list of strings"),
        ("strings.json", b"[", r"strings\.json' is not a readable list of words"),
        ("strings.json", None, r"words in '.*strings\.json': there is no such file"),
        ("vectors", b"\x93NUMPY\x01\x00", r"vectors' is not a complete matrix"),
    ],
)
def test_what_is_refused(folder, name, contents, message):
    """The message names the file and the place in it."""
    path = folder / "vocab" / name
    path.unlink() if contents is None else path.write_bytes(contents)
    with pytest.raises(VectorFileError, match=message):
        load_vectors(folder)


@PROPERTY
@given(st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 3), min_size=1, max_size=20), st.data())
def test_damaged_keys(folder, keys, data):
    """They are read as they were written, or refused."""
    contents = bytearray(packed(list(keys.items())))
    contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    (folder / "vocab" / "key2row").write_bytes(contents)
    with pytest.raises((VectorFileError, EmbkerasWarning)):
        load_vectors(folder)
