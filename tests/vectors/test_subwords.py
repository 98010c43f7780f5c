"""Subwords: fastText's vectors of character n-grams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.errors import ArgumentError, UnknownWordError
from embkeras.vectors import subwords as module
from embkeras.vectors.subwords import Subwords, gathered, mean_rows, ngram_rows
from tests.properties import PROPERTY, TEXTS

MATRIX = np.random.default_rng(2).normal(size=(50, 6)).astype("float32")
UNSEEN = ["a", "unseen", "naïve", "日本語", "🙂", "Ünïcödé", "<s>", "x" * 60, "ß", "\u00a0", "e\u0301"]


def subwords(min_n=3, max_n=6):
    """Fifty buckets of width 6."""
    return Subwords(MATRIX, min_n=min_n, max_n=max_n, buckets=50)


def reference_ngrams(word, min_n, max_n):
    """All substrings of "<word>" by definition, shortest position first, without a mark alone."""
    marked = f"<{word}>"
    spans = [(i, n) for i in range(len(marked)) for n in range(min_n, max_n + 1) if i + n <= len(marked)]
    return [marked[i : i + n] for i, n in spans if not (n == 1 and i in (0, len(marked) - 1))]


def reference_hash(ngram):
    """FNV-1a over bytes that are taken as signed and widened to 32 bits."""
    value = 2166136261
    for byte in np.frombuffer(ngram.encode(), np.int8).tolist():
        value = (value ^ byte % 2**32) * 16777619 % 2**32
    return value


@PROPERTY
@given(TEXTS, st.integers(1, 4), st.integers(0, 3))
def test_rows_are_those_of_the_ngrams(word, min_n, more):
    """Every n-gram by code points, hashed one by one."""
    ngrams = reference_ngrams(word, min_n, min_n + more)
    assert subwords(min_n, min_n + more).rows(word).tolist() == [reference_hash(ngram) % 50 for ngram in ngrams]


@pytest.mark.parametrize(("ngram", "expected"), [("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_hash_is_fnv_1a(ngram, expected):
    """The published values for ASCII, where the sign of a byte does not matter."""
    assert reference_hash(ngram) == expected


def test_composed_vector_is_the_mean():
    """One row an n-gram, repetitions counted."""
    composed = subwords().compose("aaaa")
    np.testing.assert_allclose(composed, MATRIX[subwords().rows("aaaa")].mean(axis=0), rtol=1e-6)
    assert (composed.dtype, composed.shape) == (np.float32, (6,))


@pytest.mark.parametrize(("min_n", "max_n"), [(3, 6), (1, 3), (2, 2)])
def test_vectors_equal_gensims(min_n, max_n):
    """A FastText model trained with gensim has the same vectors for unseen words."""
    models = pytest.importorskip("gensim.models")
    texts = [["naïveté", "café", "日本", "word", "words"], ["the", "cat", "sat", "日本", "übung"]] * 3
    wv = models.FastText(
        texts, vector_size=8, min_count=1, min_n=min_n, max_n=max_n, bucket=97, epochs=3, workers=1, seed=1
    ).wv
    ours = Subwords(wv.vectors_ngrams, min_n=wv.min_n, max_n=wv.max_n, buckets=wv.bucket)
    for word in UNSEEN:
        assert word not in wv.key_to_index
        if len(ours.rows(word)):
            np.testing.assert_allclose(ours.compose(word), wv[word], rtol=0, atol=1e-6)
    assert any(np.abs(wv[word]).max() > 1e-2 for word in UNSEEN)  # not all but zeros


@pytest.mark.parametrize("word", ["", "a", "</s>"])
def test_word_without_ngrams_is_refused(word):
    """Too short, or fastText's own end of sentence; the message names the word and the lengths."""
    assert len(subwords(4).rows(word)) == 0
    with pytest.raises(UnknownWordError, match=f"{word!r} has no n-gram of 4 to 6 characters"):
        subwords(4).compose(word)


def test_half_a_surrogate_has_a_vector():
    """A word that no encoding holds gets bytes of its own rather than an error."""
    assert np.isfinite(subwords().compose("a\ud83d")).all()


def test_keeps_the_matrix_itself():
    """No copy is made, so it may be memory-mapped."""
    assert subwords().matrix is MATRIX


def test_repr_names_the_sizes():
    """Buckets, width and lengths."""
    assert repr(subwords()) == "Subwords(50 buckets, vector_size=6, min_n=3, max_n=6)"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_n": 0}, "min_n must be an integer >= 1. Received: 0"),
        ({"min_n": 7}, "max_n must be an integer >= 7. Received: 6"),
        ({"max_n": 6.0}, "max_n must .* Received: 6.0"),
        ({"min_n": True}, "min_n must .* Received: True"),
        ({"buckets": "50"}, "buckets must .* Received: '50'"),
        ({"encoding": "utf-9"}, "name of a text encoding.* Received: 'utf-9'"),
        ({"encoding": "base64"}, "Received: 'base64'"),
        ({"encoding": None}, "encoding must .* Received: None"),
        ({"buckets": 49}, r"must have 49 rows. Received: shape \(50, 6\)"),
        ({"matrix": np.ones((50, 6), int)}, "must hold floats. Received: dtype int"),
    ],
)
def test_contradictions_are_refused(changed, message):
    """Lengths and a matrix that do not fit; the message names them."""
    with pytest.raises(ArgumentError, match=message):
        Subwords(**({"matrix": MATRIX, "min_n": 3, "max_n": 6, "buckets": 50} | changed))


def test_compose_all_equals_compose():
    """Many words at once have the same rows as one at a time; those without n-grams are zeros and marked."""
    vectors, composed = subwords().compose_all(["", "a", "</s>", *UNSEEN])
    assert composed.tolist() == [False, True, False, *[True] * len(UNSEEN)]
    assert not vectors[[0, 2]].any()
    for vector, word in zip(vectors[3:], UNSEEN, strict=True):
        np.testing.assert_array_equal(vector, subwords().compose(word))
    assert (vectors.dtype, vectors.shape) == (np.float32, (3 + len(UNSEEN), 6))


def test_compose_all_of_nothing():
    """An empty table of the right width."""
    assert subwords().compose_all([])[0].shape == (0, 6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("word", "Received: 'word'"),
        (b"word", "Received: b'word'"),
        (None, "Received: None"),
        (["a", None], "strings: .* Received: None .* at place 1"),
        ([b"a"], "strings: .* Received: b'a' "),
    ],
)
def test_compose_all_takes_words(words, message):
    """A single string, or something that is not a string, is refused."""
    with pytest.raises(ArgumentError, match=message):
        subwords().compose_all(words)


@pytest.mark.parametrize("word", [None, 3, b"word"])
def test_single_word_is_a_string(word):
    """By `rows` and `compose`."""
    for call in (subwords().rows, subwords().compose):
        with pytest.raises(ArgumentError, match=r"strings: .* Received: "):
            call(word)


def test_encoding_is_that_of_the_model():
    """N-grams are hashed as the bytes the model learnt from; what the encoding cannot hold becomes "?"."""
    ours = Subwords(MATRIX, min_n=3, max_n=6, buckets=50, encoding="cp852")
    assert ours.rows("už").tolist() == ngram_rows(["už".encode("cp852")], min_n=3, max_n=6, buckets=50)[0].tolist()
    assert ours.rows("už").tolist() != subwords().rows("už").tolist()
    assert ours.rows("a日b").tolist() == ours.rows("a?b").tolist()


ROWS = np.random.default_rng(4).normal(size=(60, 5)).astype("float32")


def by_definition(word, min_n, max_n, buckets):
    """One n-gram after the other, over bytes."""
    marked, rows = b"<" + word + b">", []
    heads = [i for i, byte in enumerate(marked) if byte & 0xC0 != 0x80] + [len(marked)]
    for i in range(len(heads) - 1):
        for n in range(min_n, max_n + 1):
            mark_alone = n == 1 and i in (0, len(heads) - 2)
            if i + n < len(heads) and not mark_alone:
                value = 2166136261
                for byte in np.frombuffer(marked[heads[i] : heads[i + n]], np.int8).tolist():
                    value = (value ^ byte % 2**32) * 16777619 % 2**32
                rows.append(value % buckets)
    return rows


@PROPERTY
@given(st.lists(st.binary(max_size=12), max_size=6), st.integers(1, 4), st.integers(0, 4))
def test_rows_of_any_bytes(words, min_n, more):
    """Words need not be UTF-8: a character is a byte and the bytes 0x80 to 0xBF after it; the order is fastText's."""
    rows, counts = ngram_rows(words, min_n=min_n, max_n=min_n + more, buckets=97, whole=None)
    expected = [by_definition(word, min_n, min_n + more, 97) for word in words]
    assert rows.tolist() == [row for one in expected for row in one]
    assert counts.tolist() == [len(one) for one in expected]


def test_batches_do_not_matter(monkeypatch):
    """Words worked on in several batches give the rows that they give in one."""
    words = [b"word%d" % i for i in range(50)]
    whole = ngram_rows(words, min_n=3, max_n=6, buckets=97)
    monkeypatch.setattr(module, "_HASHES", 64)
    for one, other in zip(whole, ngram_rows(words, min_n=3, max_n=6, buckets=97), strict=True):
        np.testing.assert_array_equal(one, other)


def test_end_of_sentence_is_whole():
    """fastText makes no n-grams of "</s>"; its first releases did."""
    assert ngram_rows([b"</s>"], min_n=3, max_n=6, buckets=97)[1].tolist() == [0]
    assert ngram_rows([b"</s>"], min_n=3, max_n=6, buckets=97, whole=None)[1].tolist() == [10]


@pytest.mark.parametrize("sums", [1 << 16, 10])
def test_means_are_summed_in_order(monkeypatch, sums):
    """In float32, one row after the other, times the inverse: bit for bit the result of fastText's loop."""
    monkeypatch.setattr(module, "_SUMS", sums)
    rng = np.random.default_rng(5)
    counts = np.array([3, 0, 40, 1, 7])
    rows = rng.integers(0, 60, counts.sum())
    means = mean_rows(ROWS, rows, counts)
    for mean, group in zip(means, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
        total = np.zeros(5, np.float32)
        for row in group:
            total = total + ROWS[row]
        expected = total * np.float32(1 / max(1, len(group)))
        assert mean.tobytes() == expected.tobytes()


def test_means_that_are_not_finite_do_not_warn(recwarn):
    """The caller refuses NaN and infinity."""
    matrix = np.array([[np.inf], [-np.inf]], np.float32)
    assert np.isnan(mean_rows(matrix, np.array([0, 1]), np.array([2])))
    assert not list(recwarn)


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8"])
def test_gathered_equals_indexing(dtype):
    """Also at an offset in a file that is not a multiple of four, and for columns."""
    values = ROWS.astype(dtype)
    unaligned = np.ndarray(values.shape, dtype, b"x" + values.tobytes(), 1)
    rows = np.array([5, 0, 5, 59])
    for matrix in (values, unaligned, values[:, 1:4], np.asfortranarray(values)):
        np.testing.assert_array_equal(gathered(matrix, rows), matrix[rows])
