"""What a training consists of: which variables and states, and whether they belong to the script."""

import keras
import pytest
from keras import callbacks as stock
from keras import optimizers

from embkeras.errors import ResumeError
from embkeras.training.resume.contents import (
    callback_states,
    check_model,
    check_training,
    restore_callbacks,
    signature,
    unsaved,
    variables_of,
)
from tests import tiny


def _net(*layers, optimizer="sgd"):
    net = keras.Sequential([keras.Input((2,)), *layers], name="net")
    net.compile(optimizer, loss="mse")
    net.optimizer.build(net.trainable_variables)
    return net


def test_seed_generators_and_statistics_are_variables():
    """`.keras` files omit the seed generators."""
    net = _net(keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(1))
    names = [variable.name for name, variable in variables_of(net).items() if name.startswith("model/")]
    assert {"seed_generator_state", "moving_mean", "moving_variance", "kernel"} <= set(names)


def test_a_shared_layer_counts_once():
    """Also its seed generator, which Keras lists at each place."""
    dropout = keras.layers.Dropout(0.5)
    net = _net(dropout, keras.layers.Dense(2), dropout)
    variables = list(variables_of(net).values())
    assert len(variables) == len({id(each) for each in variables})


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.LossScaleOptimizer(optimizers.Adam(use_ema=True, gradient_accumulation_steps=2)),
        lambda: tiny.since("MultiOptimizer")(tiny.since("OptimizerMap")(optimizers.SGD(momentum=0.9), {})),
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


def test_numbers_of_automatic_names_may_be_shifted():
    """As when the same script runs later in a process: all numbers shift by the same."""
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


def test_another_trainable_layer_is_found():
    """Flags that differ."""
    saved = signature(tiny.model("sgd"))
    with pytest.raises(
        ResumeError, match="has variable head/kernel in training where the script has variable embedding/emb"
    ):
        check_training(tiny.model("sgd", trainable=True), saved, "the file")


class Counting(keras.callbacks.Callback):
    """One with a state of its own."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def state(self):
        """The count."""
        return {"count": self.count}

    def restore(self, model, state):
        """Set it."""
        self.count, self.given = state["count"], model


def test_states_are_restored_by_class_and_place():
    """The second of two gets the state of the second; `restore` gets the model."""
    before, after = [Counting(), stock.TerminateOnNaN(), Counting()], [Counting(), Counting()]
    before[0].count, before[2].count = 1, 2
    states = callback_states(before)
    restore_callbacks(after, states, "model", "the file")
    assert [each.count for each in after] == [1, 2] and after[0].given == "model"


def test_changed_callbacks_are_refused():
    """The callback that only one of them has is named."""
    early = stock.EarlyStopping("loss")
    with pytest.raises(
        ResumeError, match=r"the file has EarlyStopping 1, and the script does not.*Received: Counting 1"
    ):
        restore_callbacks([Counting()], callback_states([Counting(), early]), "model", "the file")
    with pytest.raises(ResumeError, match="the script has Counting 2, and the file does not"):
        restore_callbacks([Counting(), Counting()], callback_states([Counting()]), "model", "the file")


def test_callbacks_without_state_methods_are_unsaved():
    """Their class is named, but not those that have no state or return it."""
    quiet = [Counting(), stock.TerminateOnNaN(), stock.EarlyStopping(), stock.CSVLogger("x.csv", append=True)]
    assert unsaved(quiet) == []
    assert unsaved([stock.LambdaCallback()]) == ["LambdaCallback (it has no state() and restore())"]


def test_subclass_of_a_known_callback_is_unsaved():
    """It may have more state than its parent."""

    class Mine(stock.EarlyStopping):
        pass

    assert unsaved([Mine()]) == ["Mine (it has no state() and restore())"]


def test_csv_that_is_overwritten_is_unsaved():
    """Keras overwrites the file when training begins."""
    assert unsaved([stock.CSVLogger("x.csv")]) == ["the file of CSVLogger, which is overwritten without append=True"]
