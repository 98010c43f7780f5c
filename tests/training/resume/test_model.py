"""Which variables a state holds, and whether it is of the model at hand."""

import keras
import pytest
from keras import optimizers

from embkeras.errors import ResumeError
from embkeras.training.resume.model import check_model, check_training, other_optimizers, signature, variables_of
from tests import tiny


def _net(*layers, optimizer="sgd"):
    net = keras.Sequential([keras.Input((2,)), *layers], name="net")
    net.compile(optimizer, loss="mse")
    net.optimizer.build(net.trainable_variables)
    return net


def test_seed_generators_and_statistics_are_variables():
    """`.keras` files leave the first out."""
    net = _net(keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(1))
    names = [variable.name for name, variable in variables_of(net).items() if name.startswith("model/")]
    assert {"seed_generator_state", "moving_mean", "moving_variance", "kernel"} <= set(names)


def test_a_shared_layer_is_held_once():
    """Also its seed generator, which Keras lists at each place."""
    dropout = keras.layers.Dropout(0.5)
    net = _net(dropout, keras.layers.Dense(2), dropout)
    variables = list(variables_of(net).values())
    assert len(variables) == len({id(each) for each in variables})


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.LossScaleOptimizer(optimizers.Adam(use_ema=True, gradient_accumulation_steps=2)),
        lambda: optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.SGD(momentum=0.9), {})),
    ],
    ids=["LossScaleOptimizer", "MultiOptimizer"],
)
def test_inner_optimizers_are_held(make):
    """Their slots and counters, and their classes in the signature."""
    net = _net(keras.layers.Dense(1), optimizer=make())
    inner = getattr(net.optimizer, "inner_optimizer", None) or net.optimizer.optimizers[0]
    held = {id(each) for each in variables_of(net).values()}
    assert {id(each) for each in inner.variables} <= held
    assert signature(net)["optimizer"] == [type(net.optimizer).__name__, type(inner).__name__]


def test_model_without_optimizer():
    """A custom step may do without one."""
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert signature(net)["optimizer"] == [] and len(variables_of(net)) == 2


def test_other_optimizers_are_found():
    """Those beside `model.optimizer`, by attribute."""
    net = _net(keras.layers.Dense(1))
    net.critic = optimizers.Adam()
    assert other_optimizers(net) == ["critic"]


def test_numbers_of_automatic_names_may_be_shifted():
    """The same script later in a process: all by as much."""
    saved = signature(_net(keras.layers.Dense(2), keras.layers.Dense(2), optimizer="adam"))
    later = _net(keras.layers.Dense(2), keras.layers.Dense(2), optimizer="adam")
    assert signature(later) != saved
    check_model(later, saved, "the file")
    check_training(later, saved, "the file")


def test_exchanged_layers_are_found():
    """Names that differ in their numbers only, in another order."""
    first, second = (keras.layers.Dense(2, name=f"block_{number}") for number in (1, 2))
    saved = signature(_net(first, second))
    with pytest.raises(ResumeError, match="the file is the state of another training: it has variable net/block_2"):
        check_model(
            _net(keras.layers.Dense(2, name="block_2"), keras.layers.Dense(2, name="block_1")), saved, "the file"
        )


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (lambda: keras.layers.Dense(3, name="head"), r"net/head/kernel \(2, 3\) float32"),
        (lambda: keras.layers.Dense(1, name="tail"), r"net/tail/kernel \(2, 1\) float32"),
        (lambda: keras.layers.Dense(1, name="head", dtype="float64"), r"net/head/kernel \(2, 1\) float64"),
        (lambda: keras.layers.Dense(1, name="head", use_bias=False), "no further variable"),
    ],
    ids=["shape", "name", "dtype", "number"],
)
def test_first_difference_is_named(layer, found):
    """What the state has, and what the script has."""
    saved = signature(_net(keras.layers.Dense(1, name="head")))
    with pytest.raises(ResumeError, match=rf"it has variable net/head/.* where the script has .*{found}"):
        check_model(_net(layer()), saved, "the file")


def test_other_slots_are_found():
    """An optimizer of the same class with another setting."""
    saved = signature(_net(keras.layers.Dense(1), optimizer=optimizers.SGD(momentum=0.9)))
    with pytest.raises(ResumeError, match=r"momentum.* where the script has no further variable"):
        check_training(_net(keras.layers.Dense(1), optimizer=optimizers.SGD()), saved, "the file")


def test_thawed_layer_is_found():
    """Flags that differ."""
    saved = signature(tiny.model("sgd"))
    with pytest.raises(
        ResumeError, match="has variable head/kernel in training where the script has variable embedding/emb"
    ):
        check_training(tiny.model("sgd", trainable=True), saved, "the file")
