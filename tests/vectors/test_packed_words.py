"""Words that stay in a file, and the index of their hashes."""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.errors import VectorFileError
from embkeras.vectors import packed_words
from embkeras.vectors.packed_words import PackedWords, WordIndex, index_of_hashes, stored_hash
from tests.properties import PROPERTY, TEXTS

WORDS = ["the", "", "naïve", "猫", "New York"]


def _packed(words, check=lambda: None, raws=None):
    raws = [word.encode() for word in words] if raws is None else raws
    offsets = np.array([0, *accumulate(map(len, raws))], np.uint64)
    packed = PackedWords(np.frombuffer(b"".join(raws), np.uint8), offsets, check, "'v.h5'")
    return packed, WordIndex(packed, *index_of_hashes(raws))


def test_reads_as_a_list():
    """Length, rows, slices, order, membership and equality are those of the list."""
    packed, _ = _packed(WORDS)
    assert isinstance(packed, Sequence)
    assert (len(packed), packed[0], packed[-1], packed[np.int64(3)]) == (5, "the", "New York", "猫")
    assert (packed[1:3], packed[::-2], list(packed)) == (WORDS[1:3], WORDS[::-2], WORDS)
    assert packed == WORDS and WORDS == packed and packed == tuple(WORDS)  # noqa: SIM300
    assert packed != WORDS[:4] and packed != [*WORDS[:4], "x"] and packed != "the"
    assert ("猫" in packed, packed.index("naïve")) == (True, 2)
    assert repr(packed) == "['the', '', 'naïve', ...]"
    with pytest.raises(IndexError, match="out of range"):
        packed[5]


def test_index_reads_as_a_dict():
    """Look-up, membership, length, order and equality are those of the dict."""
    _, index = _packed(WORDS)
    plain = {word: row for row, word in enumerate(WORDS)}
    assert isinstance(index, Mapping)
    assert dict(index) == plain and index == plain
    assert (index["猫"], index.get("x"), index.get("x", 7), "x" in index, 3 in index, "\udc80" in index) == (
        3,
        None,
        7,
        False,
        False,
        False,
    )
    with pytest.raises(KeyError, match="'x'"):
        index["x"]


@PROPERTY
@given(st.lists(TEXTS, unique=True, max_size=12), st.lists(st.text(max_size=3), max_size=12))
def test_rows_are_those_of_a_dict(words, others):
    """One by one and many at once, for words that are there and words that are not, lone surrogates too."""
    packed, index = _packed(words)
    plain = {word: row for row, word in enumerate(words)}
    asked = [*others, *words, *others]
    assert [index.get(word, -1) for word in asked] == [plain.get(word, -1) for word in asked]
    assert index.rows_of(asked).tolist() == [plain.get(word, -1) for word in asked]
    assert packed == words


def test_equal_hashes(monkeypatch):
    """Found by their bytes, though all hashes are one."""
    monkeypatch.setattr(packed_words, "stored_hash", lambda raw: 2**64 - 1)
    _, index = _packed(WORDS)
    assert index.rows_of([*WORDS, "x"]).tolist() == [0, 1, 2, 3, 4, -1]
    assert [index[word] for word in WORDS] == [0, 1, 2, 3, 4]


def test_hash_is_that_of_the_specification():
    """BLAKE2b of 8 bytes, little-endian: the value may not change, for it stands in files."""
    assert [stored_hash(b""), stored_hash(b"the")] == [0xB4B2797457A0A6E4, 0x2E3A97906CABDA5E]


def test_check_comes_before_what_the_bytes_do_not_prove():
    """A word found proves itself; a word missing, or the word of a row, is first checked."""
    calls = []
    packed, index = _packed(WORDS, lambda: calls.append(1))
    assert (index["the"], "猫" in index, index.rows_of(WORDS).tolist()) == (0, True, [0, 1, 2, 3, 4])
    assert not calls
    for ask in (lambda: "x" in index, lambda: packed[0], lambda: list(packed), lambda: index.rows_of(["the", "x"])):
        calls.clear()
        ask()
        assert calls


def test_word_that_is_not_utf8():
    """A writer that did not keep to the specification; the message shows the bytes."""
    packed, _ = _packed(WORDS, raws=[b"a", b"b\xff"])
    with pytest.raises(VectorFileError, match=r"'v\.h5' holds a word that is not UTF-8: b'b\\xff'"):
        list(packed)


def test_copies_are_plain():
    """A list and a dict, which need no file."""
    packed, index = _packed(WORDS)
    assert type(copy.deepcopy(packed)) is list and copy.deepcopy(packed) == WORDS
    assert type(copy.deepcopy(index)) is dict and copy.deepcopy(index) == dict(index)
