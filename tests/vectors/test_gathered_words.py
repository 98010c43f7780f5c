"""Words out of a buffer: their bytes, their hashes, and the first of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.vectors import gathered_words
from embkeras.vectors.gathered_words import Words, hash_filter, quick_hash
from tests.properties import PROPERTY

RAWS = st.lists(st.binary(max_size=3) | st.binary(min_size=60, max_size=70), max_size=8)


@PROPERTY
@given(RAWS)
def test_bytes_and_hashes(raws):
    """Those of each word, empty ones and those longer than the factors are many."""
    words = Words.of(raws)
    assert (len(words), words.raws()) == (len(raws), raws)
    assert words.hashes.tolist() == [quick_hash(raw) for raw in raws]


def test_gathered_from_anywhere_in_a_buffer():
    """In the order asked for, and more than once."""
    buffer = np.frombuffer(b"one two three", np.uint8)
    words = Words.gathered(buffer, np.array([8, 0, 4, 13, 0]), np.array([13, 3, 7, 13, 3]))
    assert words.raws() == [b"three", b"one", b"two", b"", b"one"]
    assert words.hashes[1] == words.hashes[4] == quick_hash(b"one")


@PROPERTY
@given(
    st.lists(st.text(max_size=3).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=3), max_size=6)
)
def test_utf8_is_that_of_each_word(raws):
    """A character may not lie across two words."""

    def is_utf8(raw):
        try:
            return raw.decode() is not None
        except UnicodeDecodeError:
            return False

    assert Words.of(raws).are_utf8() == all(map(is_utf8, raws))


def test_character_across_two_words_is_not_utf8():
    """Though both together are."""
    assert not Words.of([b"na\xc3", b"\xafve"]).are_utf8()
    assert not Words.of([b"na\xc3", b"", b"\xafve"]).are_utf8()


@PROPERTY
@given(st.lists(RAWS, max_size=4), st.data())
def test_joined_and_without(parts, data):
    """The words of all parts in their order; those left out are missed by nobody else."""
    raws = [raw for part in parts for raw in part]
    words = Words.joined(map(Words.of, parts))
    assert words.raws() == raws and words.hashes.tolist() == list(map(quick_hash, raws))
    places = data.draw(st.lists(st.sampled_from(range(len(raws))), unique=True)) if raws else []
    left = words.without(places)
    assert left.raws() == [raw for place, raw in enumerate(raws) if place not in places]
    assert left.hashes.tolist() == list(map(quick_hash, left.raws()))


@pytest.mark.parametrize("collide", [False, True])
@PROPERTY
@given(words=st.lists(st.text("ab\u00e9", max_size=3), max_size=12))
def test_packed_is_a_dict_of_first_rows(collide, words):
    """Words, rows and what was left out; also where all hashes are one."""
    gathered = Words.of([word.encode() for word in words])
    if collide:
        gathered = Words(gathered.text, gathered.lengths, np.full(len(words), 7, np.uint64))
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(gathered_words, "quick_hash", lambda raw: 7)
            patch.setattr(gathered_words, "quick_hashes", lambda raws: np.full(len(raws), 7, np.uint64))
        packed, index, repeated = gathered.packed("'v.txt'")
        first = list(dict.fromkeys(words))
        assert packed == first
        assert repeated == [place for place, word in enumerate(words) if word in words[:place]]
        assert index == {word: row for row, word in enumerate(first)}
        assert index.rows_of(["c", *first]).tolist() == [-1, *range(len(first))]


def test_long_words_that_begin_alike_have_their_own_hashes():
    """Beyond the 64th byte every byte and its place counts, too: addresses begin alike."""
    raws = [b"http://" + b"x" * 60 + b"%06d" % i for i in range(2000)]
    assert len(set(Words.of(raws).hashes.tolist())) == 2000


@PROPERTY
@given(st.lists(st.text(max_size=4), max_size=30))
def test_filter_lets_every_word_pass(words):
    """Lone surrogates, too, which no file holds."""
    raws = [word.encode("utf-8", "surrogatepass") for word in words]
    assert hash_filter(words)(Words.of(raws).hashes).all()


def test_filter_stops_most_others():
    """Of 10,000 others one in 32 may pass."""
    words, others = ([f"{kind}{i}" for i in range(10_000)] for kind in "ab")
    passed = hash_filter(words)(Words.of([word.encode() for word in others]).hashes)
    assert passed.mean() < 0.05
