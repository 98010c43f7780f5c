"""Lookup layers inside a model follow a change of its vocabulary, or the change is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.vectors.aligned import AlignedMatrix

BEFORE = Vocabulary(["", "[UNK]", "cat", "sat", "mat"])
AFTER = Vocabulary(["", "[UNK]", "mat", "dog", "cat", "sun"])  # "sat" is gone, "dog" and "sun" are new
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
TEXTS = tf.constant([["cat", "mat", ""], ["mat", "zebra", "cat"]])


def _string_lookup(**arguments):
    return keras.layers.StringLookup(mask_token="", name="lookup", **arguments)


def _adapted():
    layer = _string_lookup()
    layer.adapt(np.array(["cat", "cat", "cat", "sat", "sat", "mat"]))
    return layer


def _vectorization():
    return keras.layers.TextVectorization(vocabulary=["cat", "sat", "mat"], name="lookup", output_sequence_length=3)


LOOKUPS = {
    "given": lambda: _string_lookup(vocabulary=["cat", "sat", "mat"]),
    "adapted": _adapted,
    "TextVectorization": _vectorization,
}


def _table(vocabulary=BEFORE, name="embedding"):
    return build_embedding(AlignedMatrix(ROWS[: len(vocabulary)], vocabulary), name=name)


def _model(lookup, *layers):
    """From strings to the vectors of all tokens, side by side."""
    vectorizes = isinstance(lookup, keras.layers.TextVectorization)
    texts = keras.Input(() if vectorizes else (3,), dtype="string")
    vectors = [layer(lookup(texts)) for layer in layers]
    net = keras.Model(texts, vectors[0] if len(vectors) == 1 else keras.layers.Concatenate()(vectors), name="net")
    net.compile("sgd", loss="mse")
    return net


def _change(net, after=AFTER, before=BEFORE, layer="embedding"):
    change_vocabulary(net, layer, before=before, after=AlignedMatrix(ROWS[: len(after)], after))


@pytest.mark.parametrize("form", LOOKUPS)
def test_the_lookup_follows(form, tmp_path):
    """Texts of known tokens have the vectors that they had, new tokens their own, in memory and after a load."""
    net = _model(LOOKUPS[form](), _table())
    texts = tf.constant(["cat mat", "mat zebra cat"]) if form == "TextVectorization" else TEXTS
    new = tf.constant(["dog sun sat"]) if form == "TextVectorization" else tf.constant([["dog", "sun", "sat"]])
    known = net.predict(texts, verbose=0)
    _change(net)
    net.save(tmp_path / "net.keras")
    for each in (net, keras.saving.load_model(tmp_path / "net.keras")):
        np.testing.assert_array_equal(each.predict(texts, verbose=0), known)
        np.testing.assert_array_equal(each.predict(new, verbose=0)[0, :2], ROWS[[3, 5]])  # "dog", "sun"
        np.testing.assert_array_equal(each.predict(new, verbose=0)[0, 2], ROWS[1])  # "sat" is unknown now
        assert each.get_layer("lookup").get_vocabulary() == list(AFTER.tokens)


def test_it_can_change_again_and_turn_ids_back_into_tokens():
    """An inverted lookup of the same tokens follows too; the second change starts from the first."""
    lookup, back = (
        LOOKUPS["given"](),
        keras.layers.StringLookup(vocabulary=["cat", "sat", "mat"], mask_token="", invert=True),
    )
    texts = keras.Input((3,), dtype="string")
    ids = lookup(texts)
    net = keras.Model(texts, [_table()(ids), back(ids)])
    for before, after in ((BEFORE, AFTER), (AFTER, BEFORE)):
        _change(net, after, before)
        assert net(TEXTS)[1].numpy().tolist() == [[b"cat", b"mat", b""], [b"mat", b"[UNK]", b"cat"]]


def test_integers():
    """An IntegerLookup gets integers, and refuses tokens that aren't."""
    before, after = Vocabulary(["[UNK]", "7", "-3"], padding_id=None, oov_ids=(0,)), ["[UNK]", "-3", "12", "7"]
    after = Vocabulary(after, padding_id=None, oov_ids=(0,))
    ids = keras.Input((3,), dtype="int64")
    lookup = keras.layers.IntegerLookup(vocabulary=[7, -3], name="lookup")
    layer = build_embedding(AlignedMatrix(ROWS[:3], before), mask_zero=False)
    net = keras.Model(ids, layer(lookup(ids)))
    known = net(np.array([[7, -3, 99]])).numpy()
    words = Vocabulary(["[UNK]", "x", "y"], padding_id=None, oov_ids=(0,))
    with pytest.raises(ArgumentError, match=r"'lookup', .*takes integers, and after has the token 'x'"):
        _change(net, words, before)
    _change(net, after, before)
    np.testing.assert_array_equal(net(np.array([[7, -3, 99]])), known)
    np.testing.assert_array_equal(net(np.array([[12, 12, 12]]))[0, 0], ROWS[2])


def test_a_combination_is_not_another_table():
    """Its sources change together."""
    net = _model(LOOKUPS["given"](), combine_embeddings([_table(name="one"), _table(name="two")]))
    known = net(TEXTS).numpy()
    change_vocabulary(net, "embedding", before=BEFORE, after=[AlignedMatrix(ROWS, AFTER)] * 2)
    np.testing.assert_array_equal(net(TEXTS), known)


def test_a_lookup_of_something_else_is_left_alone():
    """A second tower with as many tokens and its own lookup, and tokens that are counted."""
    others = keras.layers.StringLookup(vocabulary=["x", "y", "z"], mask_token="", name="others")
    counted = keras.layers.StringLookup(vocabulary=["cat", "sat", "mat"], output_mode="multi_hot", name="counted")
    texts, labels = keras.Input((3,), dtype="string"), keras.Input((3,), dtype="string")
    other = _table(Vocabulary(["", "[UNK]", "x", "y", "z"]), name="other")
    net = keras.Model([texts, labels], [_table()(LOOKUPS["given"]()(texts)), other(others(labels)), counted(texts)])
    _change(net)
    assert others.get_vocabulary()[2:] == ["x", "y", "z"] and counted.vocabulary_size() == 4
    assert net.get_layer("lookup").get_vocabulary() == list(AFTER.tokens)


def _refused(net, after=AFTER, before=BEFORE):
    """The message, after a look that nothing has changed."""
    known = [each.numpy() for each in tf.nest.flatten(net(TEXTS))]
    with pytest.raises(ArgumentError) as caught:
        _change(net, after, before)
    for value, each in zip(known, tf.nest.flatten(net(TEXTS)), strict=True):
        np.testing.assert_array_equal(each, value)
    return str(caught.value)


def test_what_cannot_follow_is_refused():
    """With the layer, and why; the model is as it was."""
    full = _model(_string_lookup(vocabulary=["cat", "sat", "mat"], max_tokens=5), _table())
    assert "'lookup', which makes the table's ids, can't" in _refused(
        full
    ) and "max_tokens=5, and after has 6" in _refused(full)
    shared = _model(LOOKUPS["given"](), _table(), _table(name="second"))
    assert "'lookup' makes the ids of several tables" in _refused(shared) and _refused(shared).endswith(": second.")
    other = _model(_string_lookup(vocabulary=["x", "y", "z"]), _table())
    assert "'lookup' of model 'net' has as many tokens, but not those of before" in _refused(other)
    moved = Vocabulary(["", "dog", "cat", "[UNK]"], oov_ids=(3,))
    assert "mask and OOV ids are [0, 1], and those of after [0, 3]" in _refused(
        _model(LOOKUPS["given"](), _table()), moved
    )
    empty = Vocabulary(["", "[UNK]"])
    assert "no tokens besides padding and OOV" in _refused(_model(LOOKUPS["given"](), _table()), empty)
