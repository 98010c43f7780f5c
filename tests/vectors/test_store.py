"""KeyedVectors: words and one vector a word."""

from collections.abc import Sequence

import numpy as np
import pytest

from embkeras import KeyedVectors
from embkeras.errors import ArgumentError, UnknownWordError
from embkeras.vectors.io.request import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.subwords import Subwords

MATRIX = np.array([[1, 0], [0.9, 0.1], [0, 1]], "float32")


@pytest.fixture
def vectors():
    """Three words."""
    return KeyedVectors(["cat", "dog", "car"], MATRIX)


def test_reads_as_a_mapping(vectors):
    """Length, membership, order and look-up follow the words."""
    assert (len(vectors), "dog" in vectors, "cow" in vectors, list(vectors)) == (3, True, False, ["cat", "dog", "car"])
    np.testing.assert_array_equal(vectors["dog"], MATRIX[1])


def test_keeps_the_matrix_itself(vectors):
    """No copy is made, so it may be memory-mapped."""
    assert vectors.matrix is MATRIX


def test_repr_names_the_sizes(vectors):
    """The repr says how many words, how wide and of which type."""
    assert repr(vectors) == "KeyedVectors(3 words, vector_size=2, dtype=float32)"


def test_unknown_word_is_a_key_error(vectors):
    """The message names the word and is printed as written."""
    with pytest.raises(UnknownWordError, match=r"^No vector for the word 'cow' among 3 words.$"):
        vectors["cow"]


def test_repeated_word_is_refused():
    """The message names the word and its first row."""
    with pytest.raises(ArgumentError, match=r"Received 'b' twice .*row 1"):
        KeyedVectors(["a", "b", "b"], MATRIX)


def test_rows_of_many_words(vectors):
    """In the order asked for, repeated or not; -1 for words that are not there."""
    rows = vectors.rows_of(word for word in ("car", "cow", "cat", "car"))
    assert (rows.dtype, rows.tolist()) == (np.int64, [2, -1, 0, 2])
    assert vectors.rows_of([]).tolist() == []


def test_index_of_a_reader_is_kept():
    """Words and index are taken as they are, and not gone through."""

    class Unread(Sequence):
        def __len__(self):
            return 3

        def __getitem__(self, row):
            raise AssertionError("read")

    words, index = Unread(), {"dog": 1}
    vectors = KeyedVectors(words, MATRIX, key_to_index=index)
    assert vectors.words is words and vectors.key_to_index is index
    assert ("dog" in vectors, len(vectors)) == (True, 3)
    np.testing.assert_array_equal(vectors["dog"], MATRIX[1])


def test_another_number_of_words_is_refused():
    """The message names both numbers."""
    with pytest.raises(ArgumentError, match=r"must have 2 rows. Received: shape \(3, 2\)"):
        KeyedVectors(["a", "b"], MATRIX)


def test_most_similar_leaves_the_word_out(vectors):
    """The nearest come first, the word itself never."""
    assert [word for word, _ in vectors.most_similar("cat")] == ["dog", "car"]


def test_most_similar_gives_cosines(vectors):
    """The numbers are cosine similarities."""
    (_, similarity), *_ = vectors.most_similar("cat")
    assert similarity == pytest.approx(0.9 / np.hypot(0.9, 0.1))


def test_most_similar_leaves_the_word_out_among_twins():
    """A word whose vector others share still gets `topn` others."""
    vectors = KeyedVectors(list("abcd"), np.ones((4, 2), np.float32))
    assert [word for word, _ in vectors.most_similar("d", topn=2)] == ["a", "b"]


def test_most_similar_refuses_no_neighbours(vectors):
    """The message names the number received."""
    with pytest.raises(ArgumentError, match=r"at least 1. Received: 0"):
        vectors.most_similar("cat", topn=0)


def test_most_similar_of_an_unknown_word(vectors):
    """The message names the word."""
    with pytest.raises(UnknownWordError, match="'cow'"):
        vectors.most_similar("cow")


def test_subwords_are_carried():
    """None by default, else the ones given."""
    subwords = Subwords(np.ones((5, 2)), min_n=3, max_n=6, buckets=5)
    assert KeyedVectors(["cat", "dog", "car"], MATRIX).subwords is None
    assert KeyedVectors(["cat", "dog", "car"], MATRIX, subwords=subwords).subwords is subwords


@pytest.mark.parametrize("subwords", [Subwords(np.ones((5, 3)), min_n=3, max_n=6, buckets=5), np.ones((5, 2))])
def test_subwords_of_another_kind_are_refused(subwords):
    """Of another width, or a bare matrix."""
    with pytest.raises(ArgumentError, match=r"subwords must be Subwords of vector_size 2\. Received: "):
        KeyedVectors(["cat", "dog", "car"], MATRIX, subwords=subwords)


def test_readers_keep_subwords_whole(tmp_path):
    """Of a part of the rows too: they serve the words that have none."""
    subwords = Subwords(np.ones((5, 2)), min_n=3, max_n=6, buckets=5)
    request = Request(wanted=frozenset(["cat", "xyz"]), limit=1)
    vectors = keyed_vectors(["cat"], MATRIX[:1], Source(tmp_path), "fasttext", request, subwords=subwords, rows=1)
    assert vectors.subwords is subwords
