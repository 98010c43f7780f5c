"""Words in a buffer or a file: their bytes, their hashes, and the row of each."""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.errors import VectorFileError
from embkeras.vectors import words as words_module
from embkeras.vectors.words import (
    PackedWords,
    WordIndex,
    Words,
    hash_filter,
    index_of_hashes,
    quick_hash,
    stored_hash,
    stored_hashes,
)
from tests.properties import PROPERTY, TEXTS

WORDS = ["the", "", "naïve", "猫", "New York"]
RAWS = st.lists(st.binary(max_size=3) | st.binary(min_size=60, max_size=70), max_size=8)


def _packed(words, check=lambda: None, raws=None):
    raws = [word.encode() for word in words] if raws is None else raws
    offsets = np.array([0, *accumulate(map(len, raws))], np.uint64)
    packed = PackedWords(np.frombuffer(b"".join(raws), np.uint8), offsets, check, "'v.h5'")
    return packed, WordIndex(packed, *index_of_hashes(stored_hashes(raws)))


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
    """One by one and many at once, for known and unknown words, lone surrogates included."""
    packed, index = _packed(words)
    plain = {word: row for row, word in enumerate(words)}
    asked = [*others, *words, *others]
    assert [index.get(word, -1) for word in asked] == [plain.get(word, -1) for word in asked]
    assert index.rows_of(asked).tolist() == [plain.get(word, -1) for word in asked]
    assert packed == words


def test_equal_hashes(monkeypatch):
    """Words are told apart by their bytes."""
    monkeypatch.setattr(words_module, "stored_hash", lambda raw: 2**64 - 1)
    _, index = _packed(WORDS)
    assert index.rows_of([*WORDS, "x"]).tolist() == [0, 1, 2, 3, 4, -1]
    assert [index[word] for word in WORDS] == [0, 1, 2, 3, 4]


def test_hash_is_that_of_the_specification():
    """BLAKE2b of 8 bytes, little-endian: files contain this value, so it must never change."""
    assert [stored_hash(b""), stored_hash(b"the")] == [0xB4B2797457A0A6E4, 0x2E3A97906CABDA5E]


def test_check_comes_before_what_the_bytes_do_not_prove():
    """A word that is found needs no check; a missing word, or the word of a row, does."""
    calls = []
    packed, index = _packed(WORDS, lambda: calls.append(1))
    assert (index["the"], "猫" in index, index.rows_of(WORDS).tolist()) == (0, True, [0, 1, 2, 3, 4])
    assert not calls
    for ask in (lambda: "x" in index, lambda: packed[0], lambda: list(packed), lambda: index.rows_of(["the", "x"])):
        calls.clear()
        ask()
        assert calls


def test_word_that_is_not_utf8():
    """From a faulty writer; the message shows the bytes."""
    packed, _ = _packed(WORDS, raws=[b"a", b"b\xff"])
    with pytest.raises(VectorFileError, match=r"'v\.h5' contains a word that is not UTF-8: b'b\\xff'"):
        list(packed)


def test_copies_are_plain():
    """A list and a dict, which don't need the file."""
    packed, index = _packed(WORDS)
    assert type(copy.deepcopy(packed)) is list and copy.deepcopy(packed) == WORDS
    assert type(copy.deepcopy(index)) is dict and copy.deepcopy(index) == dict(index)


@PROPERTY
@given(RAWS)
def test_bytes_and_hashes(raws):
    """Of empty words, and of words longer than the list of factors."""
    words = Words.of(raws)
    assert (len(words), words.raws()) == (len(raws), raws)
    assert words.hashes.tolist() == [quick_hash(raw) for raw in raws]


def test_gathered_from_anywhere_in_a_buffer():
    """In any order, and more than once."""
    buffer = np.frombuffer(b"one two three", np.uint8)
    words = Words.gathered(buffer, np.array([8, 0, 4, 13, 0]), np.array([13, 3, 7, 13, 3]))
    assert words.raws() == [b"three", b"one", b"two", b"", b"one"]
    assert words.hashes[1] == words.hashes[4] == quick_hash(b"one")


@PROPERTY
@given(
    st.lists(st.text(max_size=3).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=3), max_size=6)
)
def test_utf8_is_that_of_each_word(raws):
    """A character that is split between two words is invalid."""

    def is_utf8(raw):
        try:
            return raw.decode() is not None
        except UnicodeDecodeError:
            return False

    assert Words.of(raws).are_utf8() == all(map(is_utf8, raws))


def test_character_across_two_words_is_not_utf8():
    """Although the joined bytes are valid."""
    assert not Words.of([b"na\xc3", b"\xafve"]).are_utf8()
    assert not Words.of([b"na\xc3", b"", b"\xafve"]).are_utf8()


@PROPERTY
@given(st.lists(RAWS, max_size=4), st.data())
def test_joined_and_only(parts, data):
    """The words of all parts in order; the others stay as they are."""
    raws = [raw for part in parts for raw in part]
    words = Words.joined(map(Words.of, parts))
    assert words.raws() == raws and words.hashes.tolist() == list(map(quick_hash, raws))
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(raws), max_size=len(raws))), bool)
    left = words.only(kept)
    assert left.raws() == [raw for raw, keep in zip(raws, kept, strict=True) if keep]
    assert left.hashes.tolist() == list(map(quick_hash, left.raws()))


@pytest.mark.parametrize("collide", [False, True])
@PROPERTY
@given(words=st.lists(st.text("ab\u00e9", max_size=3), max_size=12))
def test_packed_is_a_dict_of_first_rows(collide, words):
    """Words, rows and what was left out, also if all hashes are equal."""
    gathered = Words.of([word.encode() for word in words])
    if collide:
        gathered = Words(gathered.text, gathered.lengths, np.full(len(words), 7, np.uint64))
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(words_module, "quick_hash", lambda raw: 7)
            patch.setattr(words_module, "quick_hashes", lambda raws: np.full(len(raws), 7, np.uint64))
        packed, index, repeated = gathered.packed("'v.txt'")
        first = list(dict.fromkeys(words))
        assert packed == first
        assert repeated == [place for place, word in enumerate(words) if word in words[:place]]
        assert index == {word: row for row, word in enumerate(first)}
        assert index.rows_of(["c", *first]).tolist() == [-1, *range(len(first))]


def test_long_words_that_begin_alike_have_their_own_hashes():
    """Bytes after the 64th count too: URLs have long common beginnings."""
    raws = [b"http://" + b"x" * 60 + b"%06d" % i for i in range(2000)]
    assert len(set(Words.of(raws).hashes.tolist())) == 2000


@PROPERTY
@given(st.lists(st.text(max_size=4), max_size=30))
def test_filter_lets_every_word_pass(words):
    """Lone surrogates too, which no file contains."""
    raws = [word.encode("utf-8", "surrogatepass") for word in words]
    assert hash_filter(words)(Words.of(raws).hashes).all()


def test_filter_stops_most_others():
    """About one in 32 of 10,000 other words may pass."""
    words, others = ([f"{kind}{i}" for i in range(10_000)] for kind in "ab")
    passed = hash_filter(words)(Words.of([word.encode() for word in others]).hashes)
    assert passed.mean() < 0.05
