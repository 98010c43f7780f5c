"""How far a run moved its tables or its encoder."""

import math

import keras
import numpy as np
import pytest

from embkeras import Strategy, enable_lora
from embkeras.experiments.moved import Moved, layers_named
from tests import tiny


def watched(model, *layers):
    """The callback, as behind `fit` where nothing has changed yet."""
    moved = Moved(layers)
    moved.set_model(model)
    moved.on_train_begin()
    return moved


def test_of_a_table():
    """The mean cosine distance of the rows that moved, whatever else did."""
    model = tiny.model("sgd")
    moved, table = watched(model), tiny.TABLE.copy()
    assert moved.drift() == 0
    table[3], table[4] = -table[3], 2 * table[4]
    model.get_layer("embedding").assign_table(table)
    model.get_layer("head").kernel.assign_add(keras.ops.ones_like(model.get_layer("head").kernel))
    assert moved.drift() == pytest.approx(1.0)
    moved.on_train_begin()  # a second fit still measures from where the first began
    assert moved.drift() == pytest.approx(1.0)


def test_of_a_stock_table():
    """As of ours."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Embedding(4, 2), keras.layers.Flatten()])
    moved = watched(model)
    table = np.array(model.layers[0].embeddings)
    table[1] *= -1
    model.layers[0].embeddings.assign(table)
    assert moved.drift() == pytest.approx(2, abs=1e-6)


def encoder():
    """A table, a dense layer and a head."""
    ids = keras.Input((5,), dtype="int64")
    vectors = keras.layers.GlobalAveragePooling1D()(tiny.embedding()(ids))
    return keras.Model(ids, keras.layers.Dense(3, name="head")(keras.layers.Dense(4, name="block")(vectors)))


def test_of_an_encoder():
    """The step over what was there, of all its weights; not of the head, and with what LoRA adds to a kernel."""
    model = encoder()
    enable_lora(model, 2, ["block"])
    moved, block = watched(model, "embedding", "block", "gone"), model.get_layer("block")
    assert moved.drift() == 0
    kernel = np.array(block.kernel)
    block.low_rank.b.assign(np.ones(block.low_rank.b.shape))
    model.get_layer("head").kernel.assign(np.ones((4, 3)))
    step = np.linalg.norm(np.array(block.kernel) - kernel)
    assert (
        0
        < moved.drift()
        == pytest.approx(step / np.hypot(np.linalg.norm(tiny.TABLE), np.linalg.norm(kernel)), rel=1e-5)
    )


def test_a_table_that_is_named_is_a_table():
    """As where strategies freeze it by its name."""
    model = encoder()
    moved = watched(model, "embedding")
    model.get_layer("embedding").assign_table(3 * tiny.TABLE)  # no row turns, and the step is twice the table
    assert moved.drift() == pytest.approx(0, abs=1e-6)


def test_nothing_to_measure():
    """Without a table or an encoder, and where `fit` calls no callbacks."""
    assert math.isnan(watched(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])).drift())
    assert math.isnan(Moved().drift())


def test_layers_of_all_strategies():
    """Each once: what one strategy trains, another freezes."""
    lora = Strategy("b", freeze="low", lora_layers=["top"], lora_rank=1)
    assert layers_named([Strategy("a", freeze=["low", "mid"]), lora, Strategy("c")]) == ("low", "mid", "top")
