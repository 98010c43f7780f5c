"""Rows for tokens that the vectors do not give."""

import numpy as np
import pytest
from keras.layers import StringLookup

from embkeras import KeyedVectors, Vocabulary, align
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.vectors.subwords import Subwords

WORDS = ["cat", "dog", "car", "the"]
MATRIX = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
NGRAMS = np.random.default_rng(2).normal(size=(30, 5)).astype("float32")


@pytest.fixture
def vectors():
    """Four words, and the n-grams of a model that has no others."""
    return KeyedVectors(WORDS, MATRIX, subwords=Subwords(NGRAMS, min_n=4, max_n=6, buckets=30))


@pytest.fixture
def vocabulary():
    """Padding, [UNK], a word found, one with n-grams, one too short for any, a fallback."""
    return Vocabulary(["", "[UNK]", "car", "Übung", "x", "DOG"])


@pytest.mark.parametrize("out", [None, "table.npy"])
def test_subwords_compose_what_is_missing(tmp_path, vectors, vocabulary, out):
    """From the token as it is spelt; rows found are those of the vectors."""
    values = align(vectors, vocabulary, oov="subwords", out=out and tmp_path / out).values
    np.testing.assert_array_equal(values[3], vectors.subwords.compose("Übung"))
    np.testing.assert_array_equal(values[[2, 5]], MATRIX[[2, 1]])


def test_subwords_draw_what_has_no_ngram(vectors, vocabulary):
    """[UNK] is no word and "x" too short: both are drawn, each its own, the same for the same seed."""
    first, again, other = (align(vectors, vocabulary, oov="subwords", seed=seed).values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first[[1, 4]] != other[[1, 4]]).all()
    assert (first[1] != first[4]).all()
    assert not first[0].any()


def test_subwords_are_reported_and_not_found(vectors, vocabulary):
    """`how` tells them from the drawn ones; neither counts as covered."""
    aligned = align(vectors, vocabulary, oov="subwords")
    assert aligned.report()["how"].tolist() == ["special", "special", "exact", "subwords", "oov", "lower"]
    assert aligned.found.tolist() == [False, False, True, False, False, True]
    assert aligned.coverage.types == 2 / 4


def test_subwords_need_vectors_that_have_them(vocabulary):
    """The message names the vectors received."""
    with pytest.raises(ArgumentError, match=r'oov="subwords" needs vectors .* Received: KeyedVectors\(4 words'):
        align(KeyedVectors(WORDS, MATRIX), vocabulary, oov="subwords")


@pytest.mark.parametrize("oov", ["random", np.zeros(5), ["mean"], None])
def test_other_fills_are_refused(vectors, vocabulary, oov):
    """A name that is not known, or a row where a function is wanted; the message names what there is."""
    with pytest.raises(ArgumentError, match=r"oov must be one of normal, .* or a function\. Received: "):
        align(vectors, vocabulary, oov=oov)


def test_nonfinite_ngram_is_refused(vocabulary):
    """The message names the token."""
    ngrams = np.full((30, 5), np.nan, np.float32)
    vectors = KeyedVectors(WORDS, MATRIX, subwords=Subwords(ngrams, min_n=4, max_n=6, buckets=30))
    with pytest.raises(AlignmentError, match="NaN or infinity from the n-grams of 'Übung'"):
        align(vectors, vocabulary, oov="subwords")


def test_function_gives_the_rows(vectors, vocabulary):
    """It is asked for each token without a vector, [UNK] among them, and never for padding."""
    asked = []

    def length(token):
        asked.append(token)
        return [len(token)] * 5

    aligned = align(vectors, vocabulary, oov=length)
    assert asked == ["[UNK]", "Übung", "x"]
    assert aligned.values[:, 0].tolist() == [0, 5, MATRIX[2, 0], 5, 1, MATRIX[1, 0]]
    assert aligned.report()["how"].tolist() == ["special", "special", "exact", "oov", "oov", "lower"]
    assert not aligned.found[[1, 3, 4]].any()


def test_function_may_leave_rows_to_be_drawn(vectors, vocabulary):
    """None stands for a row as "normal" draws it."""
    other = {"x": np.ones(5)}
    values = align(vectors, vocabulary, oov=other.get).values
    np.testing.assert_array_equal(values[4], np.ones(5))
    assert values[[1, 3]].all()
    assert (values[1] != values[3]).all()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones(4), r"must return 5 numbers, .* token '\[UNK\]': shape \(4,\), dtype float64"),
        (np.ones((1, 5)), r"token '\[UNK\]': shape \(1, 5\)"),
        ([[1], [1, 2]], r"token '\[UNK\]': shape \(0,\), dtype object"),
        ("abcde", r"token '\[UNK\]': shape \(\), dtype <U5"),
        ([np.nan] * 5, r"must be finite. Received NaN or infinity for the token '\[UNK\]'"),
        ([1e39] * 5, r"must be finite. Received NaN or infinity for the token '\[UNK\]'"),
    ],
)
def test_function_that_gives_no_row_is_refused(vectors, vocabulary, answer, message):
    """Another shape, no numbers, or not finite in float32; the message names the token."""
    with pytest.raises(ArgumentError, match=message):
        align(vectors, vocabulary, oov=lambda token: answer)


@pytest.mark.parametrize("oov", ["normal", "subwords", lambda token: None])
def test_several_oov_ids_get_rows_that_differ(vectors, oov):
    """Each bucket of a StringLookup has a row of its own, so that training can tell them apart."""
    layer = StringLookup(vocabulary=["cat", "car"], num_oov_indices=3, mask_token="")
    values = align(vectors, Vocabulary.from_layer(layer), oov=oov).values
    assert len(np.unique(values[1:4], axis=0)) == 3
    np.testing.assert_array_equal(values[[0, 4, 5]], [np.zeros(5), MATRIX[0], MATRIX[2]])
