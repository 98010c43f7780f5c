"""Character n-grams for many words at once, and the means of their rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.vectors import ngrams
from embkeras.vectors.ngrams import gathered, mean_rows, ngram_rows
from tests.properties import PROPERTY

MATRIX = np.random.default_rng(4).normal(size=(60, 5)).astype("float32")


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
    """Words need not be UTF-8: a character is a byte and those of 0x80 to 0xBF behind it; the order is fastText's."""
    rows, counts = ngram_rows(words, min_n=min_n, max_n=min_n + more, buckets=97, whole=None)
    expected = [by_definition(word, min_n, min_n + more, 97) for word in words]
    assert rows.tolist() == [row for one in expected for row in one]
    assert counts.tolist() == [len(one) for one in expected]


def test_batches_do_not_matter(monkeypatch):
    """Words worked on in several batches give the rows that they give in one."""
    words = [b"word%d" % i for i in range(50)]
    whole = ngram_rows(words, min_n=3, max_n=6, buckets=97)
    monkeypatch.setattr(ngrams, "_HASHES", 64)
    for one, other in zip(whole, ngram_rows(words, min_n=3, max_n=6, buckets=97), strict=True):
        np.testing.assert_array_equal(one, other)


def test_end_of_sentence_is_whole():
    """fastText makes no n-grams of "</s>"; its first releases did."""
    assert ngram_rows([b"</s>"], min_n=3, max_n=6, buckets=97)[1].tolist() == [0]
    assert ngram_rows([b"</s>"], min_n=3, max_n=6, buckets=97, whole=None)[1].tolist() == [10]


@pytest.mark.parametrize("sums", [1 << 16, 10])
def test_means_are_summed_in_order(monkeypatch, sums):
    """In float32, one row after the other, times the inverse: bit for bit what fastText's loop gives."""
    monkeypatch.setattr(ngrams, "_SUMS", sums)
    rng = np.random.default_rng(5)
    counts = np.array([3, 0, 40, 1, 7])
    rows = rng.integers(0, 60, counts.sum())
    means = mean_rows(MATRIX, rows, counts)
    for mean, group in zip(means, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
        total = np.zeros(5, np.float32)
        for row in group:
            total = total + MATRIX[row]
        expected = total * np.float32(1 / max(1, len(group)))
        assert mean.tobytes() == expected.tobytes()


def test_means_that_are_not_finite_do_not_warn(recwarn):
    """They are the caller's to refuse."""
    matrix = np.array([[np.inf], [-np.inf]], np.float32)
    assert np.isnan(mean_rows(matrix, np.array([0, 1]), np.array([2])))
    assert not list(recwarn)


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8"])
def test_gathered_equals_indexing(dtype):
    """Also from a place in a file that is no multiple of four, and from columns."""
    values = MATRIX.astype(dtype)
    unaligned = np.ndarray(values.shape, dtype, b"x" + values.tobytes(), 1)
    rows = np.array([5, 0, 5, 59])
    for matrix in (values, unaligned, values[:, 1:4], np.asfortranarray(values)):
        np.testing.assert_array_equal(gathered(matrix, rows), matrix[rows])
