"""The state of Keras optimizers, and the private names it is read by."""

import numpy as np
import pytest
from keras import optimizers

from embkeras.keras_compat.optimizers import (
    StepHooks,
    adagrad_slots,
    adam_slots,
    is_built_for,
    model_of,
    new_slots,
    parts,
    rate_of,
    rebuild,
    slots_of,
    steps_of,
)
from tests import tiny


def test_private_names_of_keras_are_there():
    """Keras may rename what this module uses."""
    net = tiny.model(optimizers.Adam(0.01, use_ema=True))
    tiny.fit(net, epochs=1)
    names = [
        "_variables",
        "_trainable_variables",
        "_trainable_variables_indices",
        "_var_key",
        "_track_variable",
        "_untrack_variable",
        "_iterations",
        "_learning_rate",
        "_model_variables_moving_average",
        "_tracker",
        "_get_variable_index",
        "_use_weight_decay",
        "_clip_gradients",
        "_apply_weight_decay",
    ]
    assert [name for name in names if not hasattr(net.optimizer, name)] == []
    assert any(each is net.optimizer._learning_rate for each in net.optimizer._variables)  # set_rate replaces it


def test_the_slots_of_the_row_wise_rules_are_there():
    """`.keras` files know these lists and no others."""
    adam, adagrad = optimizers.Adam(amsgrad=True), optimizers.Adagrad()
    for optimizer in (adam, adagrad):
        optimizer.build([tiny.variable()])
    assert [len(slots) for slots in adam_slots(adam)] == [1, 1, 1] and len(adagrad_slots(adagrad)[0]) == 1


def test_keras_calls_the_hooks_of_a_step():
    """Clipping and weight decay go through `StepHooks`: Keras' own decay of the whole table does not happen."""
    clipped = []

    class Noted(StepHooks, optimizers.SGD):
        def clip_globally(self, gradients):
            clipped.append(len(gradients))
            return super().clip_globally(gradients)

    table = tiny.variable()
    Noted(0.1, weight_decay=0.5).apply([np.zeros((10, 4), np.float32)], [table])
    assert clipped == [1]
    np.testing.assert_array_equal(np.array(table), tiny.TABLE)


def test_model_of():
    """The model in whose step or loading the optimizer is built; none outside."""
    found = []

    class Asks(optimizers.SGD):
        def build(self, variables):
            found.append(model_of(self))
            super().build(variables)

    for wrap in (lambda inner: inner, optimizers.LossScaleOptimizer):
        net = tiny.model(wrap(Asks(0.1)))
        tiny.fit(net, epochs=1)
        assert found.pop() is net
    Asks(0.1).build([tiny.variable()])
    assert found == [None]


def test_parts():
    """The optimizers inside a LossScaleOptimizer and a MultiOptimizer are found."""
    inner, other = optimizers.Adam(), optimizers.SGD()
    multi = tiny.since("MultiOptimizer")(tiny.since("OptimizerMap")(other, {"table": inner}))
    assert list(parts(multi)) == [multi, inner, other]
    scaled = optimizers.LossScaleOptimizer(inner)
    assert list(parts(scaled)) == [scaled, inner]


def test_slots_of():
    """By attribute; an unknown variable has none."""
    first, second, optimizer = tiny.variable(), tiny.variable(2), optimizers.Adam(0.01)
    assert slots_of(optimizer, first) == {}
    optimizer.build([first, second])
    slots = slots_of(optimizer, second)
    assert set(slots) == {"_momentums", "_velocities"} and slots["_momentums"] is optimizer._momentums[1]
    assert slots_of(optimizer, tiny.variable()) == {}


def test_new_slots_leave_the_optimizer_alone():
    """Moments at zero and the moving average at the value, while its own slots keep their values."""
    table, optimizer = tiny.variable(), optimizers.Adam(0.01, use_ema=True)
    optimizer.apply([tiny.slices([3], np.ones((1, 4)))], [table])
    before = [np.array(each) for each in optimizer.variables]
    new = new_slots(optimizer, table)
    assert not np.array(new["_momentums"]).any()
    np.testing.assert_array_equal(np.array(new["_model_variables_moving_average"]), np.array(table))
    for was, now in zip(before, optimizer.variables, strict=True):
        np.testing.assert_array_equal(was, np.array(now))


def test_rebuild_keeps_the_state_of_what_stays():
    """The slots of one variable, the steps and the rate are kept; those of the other are gone."""
    stays, leaves, joins = tiny.variable(), tiny.variable(2), tiny.variable(3)
    optimizer = optimizers.Adam(0.02)
    optimizer.apply([np.ones((10, 4), np.float32), np.ones((10, 2), np.float32)], [stays, leaves])
    momentum = np.array(slots_of(optimizer, stays)["_momentums"])
    rebuild(optimizer, [joins, stays])
    assert is_built_for(optimizer, [stays, joins]) and not is_built_for(optimizer, [stays, leaves])
    np.testing.assert_array_equal(np.array(slots_of(optimizer, stays)["_momentums"]), momentum)
    assert not np.array(slots_of(optimizer, joins)["_momentums"]).any()
    assert (steps_of(optimizer), rate_of(optimizer)) == (1, pytest.approx(0.02))
    assert len(optimizer.variables) == 2 + 4
