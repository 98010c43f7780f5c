"""Tokens counted in parts."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import TokenCounts, Tokenizer, Vocabulary
from embkeras.errors import VocabularyError
from tests.properties import PROPERTY

WORDS_OF_TEXTS = st.lists(st.sampled_from(["a", "b", "cat", "[UNK]", "dog", "é", "", "A."]), max_size=6).map(" ".join)


@PROPERTY
@given(st.lists(WORDS_OF_TEXTS, max_size=12), st.data())
def test_any_division_makes_the_same_vocabulary(texts, data):
    """Cut anywhere, added in any order: tokens, counts and fingerprint are those of the whole."""
    texts = ["start [UNK]", *texts]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=4)))
    parts = [
        TokenCounts.of(iter(texts[begin:end]), partition=place)
        for place, (begin, end) in enumerate(pairwise([0, *cuts, len(texts)]))
    ]
    most, least = data.draw(st.sampled_from([None, 4, 5])), data.draw(st.sampled_from([1, 1, 2]))
    try:
        wanted = Vocabulary.from_texts(texts, most, least)
    except VocabularyError as error:
        with pytest.raises(VocabularyError, match=str(error)):
            sum(data.draw(st.permutations(parts))).vocabulary(most, least)
        return
    found = sum(data.draw(st.permutations(parts))).vocabulary(most, least)
    assert (found.tokens, found.fingerprint) == (wanted.tokens, wanted.fingerprint)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    assert found.encode("a cat").tolist() == wanted.encode("a cat").tolist()


def test_counts_travel():
    """Counts survive pickling, and keep the tokenizer."""
    tokenizer = Tokenizer(lowercase=False)
    counts = pickle.loads(pickle.dumps(TokenCounts.of(["A a A"], partition=1, tokenizer=tokenizer)))
    whole = counts + TokenCounts.of(["b"], tokenizer=tokenizer)
    assert dict(whole.counts) == {"b": 1, "A": 2, "a": 1} and list(whole.counts) == ["b", "A", "a"]
    assert whole.vocabulary().tokenizer == tokenizer
    assert repr(whole) == "TokenCounts(3 tokens that occur 4 times, partitions 2)"


def test_a_part_counts_once():
    """A part that an engine ran again and delivered twice, and parts without numbers."""
    with pytest.raises(VocabularyError, match="twice: partition 3"):
        _ = TokenCounts.of(["a"], partition=3) + TokenCounts.of(["a"], partition=3)


def test_a_missing_part_is_noticed():
    """A vocabulary of some parts would be another one."""
    counts = TokenCounts.of(["a"], partition=0) + TokenCounts.of(["b"], partition=2)
    with pytest.raises(VocabularyError, match="partition 1 of 3"):
        counts.vocabulary()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"texts": "a cat"}, "texts"),
        ({"texts": ["a", 3]}, r"Text 1 .*3"),
        ({"partition": -1}, "partition must be .*-1"),
        ({"partition": True}, "partition must be .*True"),
        ({"tokenizer": str.split}, "split"),
    ],
)
def test_what_cannot_be_counted(given, named):
    """Other texts, parts and tokenizers are refused."""
    with pytest.raises(VocabularyError, match=named):
        TokenCounts.of(**{"texts": ["a"], **given})


def test_parts_split_otherwise_are_refused():
    """And what isn't counts at all, by Python."""
    counts = TokenCounts.of(["a"])
    with pytest.raises(VocabularyError, match="split alike"):
        _ = counts + TokenCounts.of(["a"], partition=1, tokenizer=Tokenizer(lowercase=False))
    with pytest.raises(TypeError):
        _ = counts + 1
    with pytest.raises(TypeError):
        _ = 1 + counts
