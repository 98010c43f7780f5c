"""Embedding layers that one thread looks up elsewhere."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.stand_ins import stand_in_for, stand_ins

IDS = np.array([[2, 3, 0]])


def _ones(ids):
    return tf.ones((*ids.shape, 4))


@pytest.mark.parametrize("combined", [False, True])
def test_only_this_thread_and_only_within_the_block(aligned, combined):
    """Other threads and later calls read the layer's own table."""
    layer = build_embedding(aligned)
    layer = combine_embeddings([layer, build_embedding(aligned, name="b")], combine="mean") if combined else layer
    own, found = layer(IDS).numpy(), []
    with stand_ins({layer: _ones}):
        assert (layer(IDS).numpy() == 1).all() and stand_in_for(layer) is _ones
        thread = threading.Thread(target=lambda: found.append(layer(IDS).numpy()))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(found[0], own)
    np.testing.assert_array_equal(layer(IDS), own)
    assert stand_in_for(layer) is None


def test_blocks_may_be_nested(aligned):
    """The inner block replaces the outer one, which comes back."""
    layer, other = build_embedding(aligned), build_embedding(aligned, name="other")
    with stand_ins({layer: _ones}):
        with stand_ins({other: _ones}):
            assert stand_in_for(layer) is None and stand_in_for(other) is _ones
        assert stand_in_for(layer) is _ones


def test_loops_and_conditions_of_a_graph(aligned):
    """Their bodies are part of the one function that is traced."""
    layer = build_embedding(aligned)

    @tf.function
    def serve(ids):
        looped = tf.map_fn(layer, ids, fn_output_signature=tf.float32)
        return tf.cond(tf.reduce_any(ids > 1), lambda: layer(ids), lambda: looped) + looped

    with stand_ins({layer: _ones}):
        assert (serve(tf.constant(IDS)).numpy() == 2).all()


def test_a_function_inside_the_function_is_refused(aligned):
    """It would keep the stand-in for later calls, so nothing of it is kept."""
    layer = build_embedding(aligned)
    inner = tf.function(lambda ids: layer(ids))
    with (
        stand_ins({layer: _ones}),
        pytest.raises(Exception, match=r"'embedding' is called inside a tf\.function") as caught,
    ):
        tf.function(lambda ids: inner(ids))(tf.constant(IDS))
    assert "SavedModelError" in str(caught.value) or isinstance(caught.value, SavedModelError)
    np.testing.assert_array_equal(inner(tf.constant(IDS)), layer(IDS))
