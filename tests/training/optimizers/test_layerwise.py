"""Multipliers from the top of a model down, biases alone, and weight decay without biases and norms."""

import keras
import numpy as np
import pytest

from embkeras.errors import OptimizerError
from embkeras.training.optimizers.layerwise import layerwise_rates
from embkeras.training.optimizers.rules import RowWiseAdamW, RowWiseSGD
from embkeras.training.schedule import Phase, Train, TrainabilitySchedule, TrainVariables
from tests.encoders import blocks


def test_levels_of_a_graph():
    """The top level has 1; each block is a level, and what has no matrix is not one."""
    expected = {"head": 1.0, "block_1": 0.5, "block_0": 0.25, "embedding": 0.125}
    assert layerwise_rates(blocks.model(), 0.5) == expected
    assert list(layerwise_rates(blocks.model(), 0.5)) == list(expected)


def test_norms_models_inside_and_several_ways():
    """A norm is on the level of what it reads; of two ways, the longer one counts; a model inside is laid open."""
    x = keras.Input((4,))
    first, second = keras.layers.Dense(4, name="first"), keras.layers.Dense(4, name="second")
    inner = keras.Sequential([keras.Input((4,)), second, keras.layers.BatchNormalization(name="norm")], name="inner")
    y = first(x)
    z = keras.layers.Concatenate()([y, inner(y)])
    net = keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.LayerNormalization(name="last")(z)))
    expected = {"head": 1.0, "last": 0.5, "inner/norm": 0.5, "inner/second": 0.5, "first": 0.25}
    assert layerwise_rates(net, 0.5) == expected


def test_a_list_of_levels():
    """In the model's order, the last has 1; several addresses are one level; globs too."""
    rates = layerwise_rates(blocks.model(), 0.5, ["embedding", ("block_1/att*/**", "block_1/norm"), "head"])
    assert rates == {"head": 1.0, "block_1/att*/**": 0.5, "block_1/norm": 0.5, "embedding": 0.25}


def test_an_optimizer_takes_them():
    """With SGD the update is the factor times the plain one."""
    moves = []
    for factor in (1, 0.5):
        net = blocks.model()
        before = blocks.values(net)
        blocks.fit(net, RowWiseSGD(0.1, learning_rate_multipliers=layerwise_rates(net, factor)))
        moves.append({path: value - before[path] for path, value in blocks.values(net).items()})
    for path, level in (("head/kernel", 0), ("block_1/wide/kernel", 1), ("embedding/embeddings", 3)):
        assert np.abs(moves[0][path]).max() > 1e-5
        np.testing.assert_allclose(moves[1][path], 0.5**level * moves[0][path], atol=1e-6)


def test_what_is_refused():
    """Each with what was wrong."""
    net = blocks.model()

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own(name="own")
    own(np.ones((1, 2)))
    for arguments, match in (
        ((net, 0), "factor must be .*> 0"),
        ((net, 1.5), "Received: 1.5"),
        ((own, 0.5), "'own' has none. Give the levels"),
        ((Own(), 0.5), "built keras.Model"),
        ((net, 0.5, ["head", "block_9"]), "'block_9' at place 1"),
        ((net, 0.5, ["head", "head"]), "distinct .* 'head' at place 1"),
        ((net, 0.5, "head"), "not a single string"),
        ((net, 0.5, ["block_0", 3]), "Received: 3"),
    ):
        with pytest.raises(OptimizerError, match=match):
            layerwise_rates(*arguments)


def test_biases_alone():
    """BitFit: the biases of blocks and the head train, kernels and scales stay to the bit."""
    net = blocks.model()
    before = blocks.values(net)
    blocks.fit(net, callbacks=[TrainabilitySchedule(Phase(0, TrainVariables("**/bias"), Train("head")))])
    moved = blocks.moved(net, before)
    assert {path for path in moved if "block_1" in path and "key" not in path} == {
        path for path in before if "block_1" in path and path.endswith("bias") and "key" not in path
    }
    assert not [path for path in moved if not path.endswith("bias") and path != "head/kernel"]


def test_no_decay_of_biases_and_norms():
    """Keras' `exclude_from_weight_decay` holds in the row-wise optimizers, also after a phase has rebuilt them."""
    net = blocks.model()
    for weight in net.weights:
        weight.assign(np.ones(weight.shape))
    optimizer = RowWiseAdamW(1e-12, weight_decay=1e10)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    blocks.fit(net, optimizer, epochs=2, callbacks=[TrainabilitySchedule([Phase(0, freeze="block_0"), Phase(1)])])
    for path, value in blocks.values(net).items():
        decays = path.endswith(("kernel", "embeddings"))
        assert (np.abs(value - 1).max() > 1e-3) == decays, path
