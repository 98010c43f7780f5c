"""Soft prompts: what they begin as, what moves, what the rest of a model sees."""

import keras
import numpy as np
import pytest

from embkeras.encoders.families import architecture_of
from embkeras.encoders.heads import build_encoder_classifier
from embkeras.encoders.prompts import prompt_ids
from embkeras.encoders.reading import load_pretrained
from embkeras.encoders.reference import hidden_states
from embkeras.encoders.tensors import opened
from embkeras.encoders.tuned import load_tuned, save_tuned
from embkeras.errors import ArgumentError, EncoderError
from tests.encoders.folders import PIECES, TEXTS, write_folder

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A BERT of two narrow blocks."""
    return load_pretrained(write_folder(tmp_path_factory.mktemp("bert") / "x", hidden_act="gelu"))


@pytest.fixture(scope="module")
def ids(read):
    """Ids of the texts, padded."""
    return read.tokenizer.encode_batch(TEXTS)


def test_pieces_in_turn(read):
    """Those of the words, repeated; without words pieces that are no special ones."""
    found = prompt_ids(read.tokenizer, 5, ["cab", "dog"], 0)
    assert [PIECES[id_] for id_ in found] == ["c", "##a", "##b", "dog", "c"]
    assert prompt_ids(read.tokenizer, 2, "cat", 0).tolist() == [PIECES.index("cat")] * 2
    drawn = prompt_ids(read.tokenizer, 60, None, 3)
    assert set(drawn) <= set(range(4, 28)) and not np.array_equal(drawn, prompt_ids(read.tokenizer, 60, None, 4))
    for start, match in (
        ([], r"one word or more"),
        (["cat", "?"], "Received: '[?]'.*Leave it out"),
        (3, "Received: 3"),
    ):
        with pytest.raises(ArgumentError, match=match):
            read.with_prompts(2, start=start)


@pytest.mark.parametrize("pairs", [False, True])
def test_tokens_in_front_of_the_text(read, pairs):
    """With the vectors of "cat dog", a text's vectors are those behind the tokens "cat dog", in every row of a padded batch."""
    prompted = read.with_prompts(2, start=["cat", "dog"])
    assert (prompted.prompts, prompted.max_length, read.max_length) == (2, 14, 16)
    tokenizer = read.tokenizer
    ids = tokenizer.encode_pairs(TEXTS, TEXTS[::-1]) if pairs else tokenizer.encode_batch(TEXTS)
    token_ids = keras.Input((None,), dtype="int64", name="token_ids")
    vectors, mask = prompted.vectors(token_ids, pairs=pairs)
    vectors, mask = keras.Model(token_ids, [vectors, mask])(ids)
    np.testing.assert_array_equal(mask, ids != 0)
    front = np.tile([PIECES.index("cat"), PIECES.index("dog")], (len(ids), 1))
    whole = np.concatenate([front, ids], axis=1)
    token_ids = keras.Input((None,), dtype="int64", name="token_ids")
    wanted = keras.Model(token_ids, read.vectors(token_ids, pairs=pairs)[0])(whole)[:, 2:]
    np.testing.assert_allclose(np.asarray(vectors)[ids != 0], np.asarray(wanted)[ids != 0], atol=1e-6)
    if not pairs:
        architecture = architecture_of(read.config, "")
        with opened(read.folder, architecture.family) as tensors:
            wanted = hidden_states(tensors, architecture, whole)[:, 2:]
        np.testing.assert_allclose(np.asarray(vectors)[ids != 0], wanted[ids != 0], atol=1e-5)


def test_prompts_by_themselves(read, ids, tmp_path):
    """A layer that trains alone; its file is for a model with as many, and takes the same ids."""
    net = build_encoder_classifier(read.with_prompts(3, start="cat"), 2, pool="cls")
    for layer in net.layers:
        layer.trainable = layer.name in ("prompts", "scores")
    assert [each.path for each in net.trainable_variables] == ["prompts/embeddings", "scores/kernel", "scores/bias"]
    for each in net.trainable_variables:
        each.assign(np.random.default_rng(0).normal(size=each.shape))
    assert save_tuned(net, tmp_path / "x.safetensors") == ["prompts/embeddings", "scores/kernel", "scores/bias"]
    fresh = build_encoder_classifier(read.with_prompts(3), 2, pool="cls")
    load_tuned(fresh, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(fresh(ids), net(ids))
    with pytest.raises(EncoderError, match="no weight 'prompts/embeddings'"):
        load_tuned(build_encoder_classifier(read, 2, pool="cls"), tmp_path / "x.safetensors")


def test_trimmed_and_refused(read):
    """Prompts stay where pieces go; a second set and too many are refused."""
    prompted = read.with_prompts(2, start=["dog", "cab"])
    assert repr(prompted).endswith("28 pieces, 2 prompts)")
    small = prompted.trimmed(["cat"])
    assert small.prompts == 2 and len(small.tokenizer) < 28
    for each, count in ((prompted, 1), (read, 16), (read, 0)):
        with pytest.raises(ArgumentError, match=r"prompts already|count must be"):
            each.with_prompts(count)
