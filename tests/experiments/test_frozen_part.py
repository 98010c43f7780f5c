"""When frozen layers run once in a comparison, and that it changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras import Strategy
from embkeras.experiments import runs
from embkeras.experiments.data import Data
from embkeras.experiments.frozen_part import runs_once
from embkeras.experiments.runs import run_strategy
from tests import tiny

DATA = Data((tiny.IDS, tiny.LABELS), (tiny.IDS[:4], tiny.LABELS[:4]), (tiny.IDS[4:], tiny.LABELS[4:]))
BLOCKS = Strategy("frozen", freeze=["embedding", "block"])


def build(strategy, *, pooled=True, dropout=0.0, mask=False):
    """A table, a block, and a head."""
    ids = keras.Input((5,), dtype="int64")
    vectors = keras.layers.Embedding(10, 4, mask_zero=mask, name="embedding")(ids)
    if pooled:
        vectors = keras.layers.GlobalAveragePooling1D()(vectors)
    vectors = keras.layers.Dropout(dropout)(vectors)
    vectors = keras.layers.Dense(4, name="block")(vectors)
    vectors = vectors if pooled else keras.layers.Flatten()(vectors)
    model = strategy.apply(keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(vectors)))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


@pytest.mark.parametrize(
    ("freeze", "form", "expected"),
    [
        (["embedding", "block"], {}, True),
        (["embedding", "block"], {"pooled": False}, True),
        (["embedding", "block"], {"dropout": 0.5}, False),
        (["embedding"], {}, True),
        (["embedding"], {"dropout": 0.5}, True),
        (["embedding"], {"mask": True}, True),
        (["embedding"], {"pooled": False}, False),
        ([], {}, False),
        (["block"], {}, False),
    ],
)
def test_where_it_is_exact_and_cheaper(freeze, form, expected):
    """Not with dropout below what trains, and not for a table whose vectors are read one by one."""
    assert runs_once(build(Strategy("a", freeze=freeze), **form), DATA) is expected


def test_a_dataset_or_a_step_of_its_own():
    """Both run in every step."""
    assert runs_once(build(BLOCKS), Data((tf.constant(tiny.IDS), tiny.LABELS), DATA.validation, DATA.test))
    assert not runs_once(build(BLOCKS), Data(tiny.batches(), DATA.validation, DATA.test))
    net = tiny.own_step(None, lambda model: model.optimizer)
    net.get_layer("embedding").trainable = False
    assert not runs_once(net, DATA)


def test_the_same_run(tmp_path, monkeypatch):
    """To the bit, and the frozen part runs once for two seeds."""
    passes, real = [], runs.fit_on_frozen

    def seen(*arguments, **settings):
        history = real(*arguments, **settings)
        passes.append([each["computed"] for each in history.frozen])
        return history

    monkeypatch.setattr(runs, "fit_on_frozen", seen)

    def same(strategy):
        keras.utils.set_random_seed(5)  # an encoder that was read from a file is the same for each seed
        model = build(strategy)
        keras.utils.set_random_seed(len(passes))
        return model

    plain = run_strategy(same, DATA, BLOCKS, epochs=1)
    for seed in (0, 1):
        once = run_strategy(same, DATA, BLOCKS, epochs=1, seed=seed, keep=tmp_path)
        if seed == 0:
            assert tiny.apart(plain.model, once.model) == 0 and plain.history == once.history
            np.testing.assert_array_equal(plain.scores, once.scores)
    assert passes == [[12, 4], [0, 0]]
