"""The hash that chooses among OOV ids: TensorFlow's, without TensorFlow."""

import random

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras.layers import StringLookup

from embkeras.text.hashing import fingerprint64, hash_bucket
from tests.properties import PROPERTY, TEXTS

BUCKETS = 2**62 + 3  # nearly all bits of the fingerprint show


@pytest.mark.parametrize("length", range(0, 201, 8))
def test_fingerprint_equals_tensorflows_for_every_length(length):
    """Random bytes of each length from 0 to 208, so that every branch and every overlap is met."""
    draw = random.Random(length)
    data = [draw.randbytes(size) for size in range(length, length + 9) for _ in range(4)]
    expected = tf.strings.to_hash_bucket_fast(tf.constant(data), BUCKETS).numpy().tolist()
    assert [fingerprint64(some) % BUCKETS for some in data] == expected


@PROPERTY
@given(st.binary(max_size=400))
def test_fingerprint_equals_tensorflows_for_any_bytes(data):
    """Any bytes: zeros, repetitions, everything hypothesis finds."""
    assert fingerprint64(data) % BUCKETS == tf.strings.to_hash_bucket_fast([data], BUCKETS).numpy()[0]


@PROPERTY
@given(TEXTS.filter(lambda token: token not in ("dog", "cat")), st.integers(2, 9))
def test_bucket_equals_the_layers(token, buckets):
    """Any token, non-ASCII ones among them, goes where StringLookup sends it."""
    layer = StringLookup(vocabulary=["dog", "cat"], num_oov_indices=buckets)
    assert hash_bucket(token, buckets) == layer([token]).numpy()[0]
