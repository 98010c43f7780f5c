"""Encodings as TensorFlow graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras import Tokenizer, Vocabulary
from embkeras.serving.text_encoder import encoded_tokens
from embkeras.serving.text_graphs import text_graph, token_graph
from embkeras.text.tokenizer import WHOLE

TOKENS = ["New York", "a\tb", " a", "A", "line\nbreak", "r\r", "\u00e9\u4e2d"]
ASKED = [*TOKENS, "", "[UNK]", "[PAD]", "a", "York", "zz", *(f"new {number}" for number in range(20))]


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(["", "[UNK]", *TOKENS]),
        Vocabulary([*TOKENS[:2], "[PAD]", *TOKENS[2:4], "[UNK]", *TOKENS[4:]], padding_id=2, oov_ids=(5,)),
        Vocabulary(["[UNK]", "", *TOKENS], padding_id=None, oov_ids=(0,)),
        Vocabulary(["[PAD]", *TOKENS], oov_ids=(), drop_unknown=True),
        Vocabulary([*"uvw", *TOKENS], padding_id=None, oov_ids=(2, 0, 1), tokenizer=WHOLE),
    ],
)
def test_single_tokens_are_looked_up_as_they_are_written(vocabulary, tmp_path):
    """With any marks and spaces, special ids anywhere, as a client looks them up."""
    graph, why = token_graph(vocabulary, tmp_path)
    oov_id = vocabulary.padding_id if vocabulary.oov_id is None else vocabulary.oov_id
    assert why is None
    assert graph.encode(tf.constant(ASKED)).numpy().tolist() == encoded_tokens(vocabulary, ASKED, oov_id).tolist()
    known = [vocabulary.token_to_id[token] for token in TOKENS]
    assert graph.encode(tf.constant(TOKENS)).numpy().tolist() == known


@pytest.mark.parametrize("settings", [{}, {"mask_token": ""}, {"mask_token": "[PAD]", "num_oov_indices": 3}])
def test_single_tokens_have_the_ids_of_the_layer(settings, tmp_path):
    """Those of padding and unknown tokens too."""
    layer = keras.layers.StringLookup(vocabulary=TOKENS, **settings)
    graph, _ = token_graph(Vocabulary.from_layer(layer, tokenizer=WHOLE), tmp_path)
    np.testing.assert_array_equal(graph.encode(tf.constant(ASKED)), layer(tf.constant(ASKED)))


@pytest.mark.parametrize(
    ("make", "vocabulary", "why"),
    [
        (token_graph, Vocabulary(["u", "v", "a"], padding_id=None, oov_ids=(0, 1)), "several OOV ids and no tokenizer"),
        (token_graph, Vocabulary(["", "[UNK]", "\n"]), "no token that a file can hold"),
        (token_graph, "letters", "str has no single tokens"),
        (text_graph, Vocabulary(["", "[UNK]", "a"], tokenizer=WHOLE), "takes a text as one token"),
        (text_graph, Vocabulary(["", "[UNK]", "a b"], tokenizer=Tokenizer()), "no token that can occur in a text"),
    ],
)
def test_why_there_is_no_graph(make, vocabulary, why, tmp_path):
    """The card and the README say it."""
    graph, reason = make(vocabulary, tmp_path)
    assert graph is None and why in reason
