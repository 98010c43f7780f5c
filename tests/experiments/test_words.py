"""The words of labelled texts in parts."""

import numpy as np
import pytest

from embkeras import AlignedMatrix, Tokenizer, Vocabulary
from embkeras.errors import ArgumentError
from embkeras.experiments.words import words_of

PARTS = {"train": ["a cat a cat a", "a dog", ""], "test": ["a bird", "cow cat", "a"]}


SPACES = Tokenizer()


def _aligned(tokenizer=SPACES, found=("a", "cat", "bird")):
    tokens = ["", "[UNK]", "a", "cat", "dog", "bird"]
    values = np.arange(12, dtype="float32").reshape(6, 2)
    vocabulary = Vocabulary(tokens, tokenizer=tokenizer)
    return AlignedMatrix(values, vocabulary, found=np.array([token in found for token in tokens]))


def test_figures_by_hand():
    """Of training: 7 tokens of 3 types, of which "dog" has no vector."""
    figures = words_of(PARTS, _aligned()).figures("train")
    assert np.isnan([figures.pop("unseen"), figures.pop("unseen_with_vector")]).all()
    assert figures == {
        "texts": 3,
        "tokens": 7,
        "median_tokens": 2,
        "longest": 5,
        "empty": 1,
        "types": 3,
        "coverage_types": pytest.approx(2 / 3),
        "coverage_tokens": pytest.approx(6 / 7),
    }


def test_unseen_words_with_and_without_a_vector():
    """Two of three texts have a word that training doesn't have: "bird" has a vector, "cow" is not in the vocabulary."""
    figures = words_of(PARTS, _aligned()).figures("test")
    assert (figures["unseen"], figures["unseen_with_vector"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_occurrences_by_hand():
    """Of training, not of the vocabulary's own counts: "a" occurs 4 times, "cat" twice, "dog" once."""
    table = words_of(PARTS, _aligned()).occurrences()
    assert table["types"].tolist() == [1, 2, 0, 0, 0]
    assert table["tokens"].tolist() == [1, 6, 0, 0, 0]
    assert table["with_vector"].tolist() == [0, 2, 0, 0, 0]


def test_special_tokens_in_a_text_have_no_vector():
    """A text that spells out "[UNK]" doesn't reach the row of that token."""
    words = words_of({"train": ["[unk] a"]}, _aligned(found=("", "[UNK]", "a")))
    assert words.figures("train")["coverage_tokens"] == 0.5


def test_vectors_are_the_means_of_known_words():
    """ "dog" has no vector and doesn't count, and a text without a known word is zeros."""
    vectors = words_of({"train": ["a cat dog", "dog", ""]}, _aligned()).vectors("train", np.arange(3))
    assert vectors.tolist() == [[5, 6], [0, 0], [0, 0]]


def test_without_vectors_texts_are_near_by_rare_words():
    """Two texts that share a rare word are nearer than two that share one that all texts have."""
    texts = ["the wolf", "the wolf howls", "the sea", "the hill"]
    words = words_of({"train": texts}, None)
    assert "coverage_types" not in words.figures("train") and "with_vector" not in words.occurrences()
    vectors = words.vectors("train", np.arange(4))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    assert near[0, 1] > 0.5 and abs(near[0, 2]) < 0.3


def test_vocabulary_needs_a_tokenizer():
    """Otherwise the texts can't be split as its ids require."""
    with pytest.raises(ArgumentError, match="tokenizer"):
        words_of(PARTS, _aligned(tokenizer=None))


def test_text_that_cannot_be_split_is_named():
    """The part and the place, from 0."""
    with pytest.raises(ArgumentError, match="Text 1 of test"):
        words_of({"train": ["a"], "test": ["a", "\ud83d"]}, None)
