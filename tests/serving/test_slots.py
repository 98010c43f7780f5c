"""The inputs of models: padding masks, and those of subclassed models."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import embkeras as ek
from embkeras.errors import SavedModelError
from embkeras.serving.slots import Slot, masks_of
from tests.serving.c_api import Session

WORDS = ek.Vocabulary.from_texts(["a b c d e f g h"])
V = len(WORDS)
TEXT = np.random.default_rng(0).integers(2, V, (1, 4))
PADDINGS = [(0, 0), (0, 3), (2, 1), (5, 0)]  # in front, behind


def padded(ids, front, behind):
    """Ids with padding at either side."""
    return np.pad(ids, ((0, 0), (front, behind)))


def text_of(*shape):
    """A slot of a text's ids."""
    return [Slot(name, shape, "int32") for name in ("token_ids", "segment_ids", "padding_mask")]


def test_a_mask_belongs_to_the_ids_of_its_shape():
    """Its name and shape tell; a prefix, or the usual name of ids, where several have that shape."""
    assert masks_of(text_of(None, 7), ["token_ids"]) == {"padding_mask": "token_ids"}
    assert masks_of(text_of(None, None), ["token_ids", "segment_ids"]) == {"padding_mask": "token_ids"}
    assert masks_of(text_of(None, 7), ["token_ids", "padding_mask"]) == {}  # named in vocabulary=
    assert masks_of([Slot("ids", (None, 7), "int32"), Slot("attention_mask", (None, 8), "int32")], ["ids"]) == {}
    names = ("source_ids", "source_padding_mask", "target_ids", "target_attention_mask")
    pair = [Slot(name, (None, None), "int32") for name in names]
    found = masks_of(pair, ["source_ids", "target_ids"])
    assert found == {"source_padding_mask": "source_ids", "target_attention_mask": "target_ids"}


def test_a_mask_that_could_be_of_several_inputs_is_refused():
    """The message has the mask, what it could belong to, and how to name it."""
    slots = [Slot(name, (None, None), "int32") for name in ("query", "item", "padding_mask")]
    with pytest.raises(SavedModelError, match="'padding_mask' says what is padding in query or item"):
        masks_of(slots, ["query", "item"])


class Pooled(keras.Model):
    """Attention and a mean over the tokens that a mask names, beside numbers; two outputs, one in half precision."""

    def __init__(self):
        super().__init__()
        rows = np.random.default_rng(0).normal(size=(V, 4)).astype("float32")
        self.table = ek.build_embedding(ek.AlignedMatrix(rows, WORDS))
        self.attention = layers.MultiHeadAttention(2, 2)
        self.numbers, self.scores = layers.Dense(4), layers.Dense(2, activation="softmax")
        self.half = layers.Dense(1, dtype="mixed_bfloat16")

    def call(self, inputs):
        """Inputs by name."""
        mask, hidden = inputs["padding_mask"], self.table(inputs["token_ids"])
        hidden += self.attention(hidden, hidden, attention_mask=ops.cast(mask[:, None, :], "bool"))
        weights = ops.cast(mask, "float32")[:, :, None]
        pooled = ops.sum(hidden * weights, axis=1) + self.numbers(inputs["numbers"])
        return {"scores": self.scores(pooled), "half": self.half(pooled)}


def test_a_subclassed_model_with_several_inputs(tmp_path):
    """They are those it was built with; the mask is made from the ids; half precision is answered as float32."""
    keras.utils.set_random_seed(0)
    model = Pooled()
    numbers = np.array([[0.5, -1.0, 2.0]], np.float32)
    wanted = model({"token_ids": TEXT, "padding_mask": np.ones((1, 4), np.int32), "numbers": numbers})
    export = ek.ExportedModel(ek.export_saved_model(model, tmp_path, vocabulary=WORDS), trusted=False)
    assert [each["name"] for each in export.card["inputs"]] == ["numbers", "token_ids"]
    assert export.card["masks"] == [{"name": "padding_mask", "of": "token_ids", "dtype": "int32", "place": 1}]
    session = Session(export.folder)
    for sides in PADDINGS:
        got = session.run("serving_default", {"token_ids": padded(TEXT, *sides), "numbers": numbers})
        np.testing.assert_allclose(got["scores"], wanted["scores"], atol=1e-5)
        assert got["half"].dtype == np.float32
        np.testing.assert_allclose(got["half"], np.array(ops.cast(wanted["half"], "float32")), rtol=2e-2)
    nothing = session.run("serving_default", {"token_ids": TEXT[:0], "numbers": numbers[:0]})
    assert nothing["scores"].shape == (0, 2)
    with pytest.raises(SavedModelError, match=re.escape("which of its inputs a, b are ids: vocabulary={'a': ...}")):
        ek.export_saved_model(_without_ids(), tmp_path / "none", vocabulary=WORDS)


def _without_ids():
    """A subclassed model of numbers alone."""

    class Numbers(keras.Model):
        def call(self, inputs):
            return inputs["a"] + inputs["b"]

    model = Numbers()
    model({"a": np.ones((1, 2), np.float32), "b": np.ones((1, 2), np.float32)})
    return model


def test_a_name_that_tensorflow_refuses(tmp_path):
    """Keras calls a layer of the class _Odd "__odd"; the message has the variable and what to do."""

    class _Odd(layers.Dense):
        pass

    ids = keras.Input((3,), dtype="int64")
    model = keras.Model(ids, _Odd(2, name="__odd")(layers.Flatten()(layers.Embedding(V, 2)(ids))))
    with pytest.raises(SavedModelError, match="can't save the variable '__odd/"):
        ek.export_saved_model(model, tmp_path, vocabulary=WORDS)
