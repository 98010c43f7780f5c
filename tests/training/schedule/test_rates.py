"""Learning rates of phases: numbers, schedules from a phase's start, factors, and changes between them."""

import keras
import numpy as np
import pytest
from keras import optimizers
from keras.optimizers import schedules

from embkeras.errors import ScheduleError
from embkeras.keras_compat.optimizers import rate_of
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.rates import PhaseRate, Rates
from tests import tiny
from tests.variants import variants

STEPS = 3  # an epoch of tiny.fit


def _decay(rate=0.1):
    """Halves with each step."""
    return schedules.ExponentialDecay(rate, 1, 0.5)


class _Rates(keras.callbacks.Callback):
    """The rate of the first step of each epoch; comes after the schedule in the list."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def on_epoch_begin(self, epoch, logs=None):
        """Note it."""
        self.kept[epoch] = round(float(self.model.optimizer.learning_rate), 7)


def _run(optimizer, phases, schedule=None, **arguments):
    net, rates = tiny.model(optimizer, run_eagerly=True), _Rates()  # faster here; the other modes have a test below
    tiny.fit(net, callbacks=[schedule or TrainabilitySchedule(phases), rates], **arguments)
    return net, rates.kept


KINDS = {
    "number": [Phase(0, freeze="embedding"), Phase(1, learning_rate=0.05), Phase(2), Phase(3, learning_rate=0.01)],
    "schedule": [Phase(0, freeze="embedding"), Phase(1, learning_rate=_decay())],
    "schedule, number": [Phase(0, learning_rate=_decay()), Phase(2, learning_rate=0.03), Phase(3, freeze="embedding")],
    "factors": [Phase(0, rate_factor=0.5), Phase(1, rate_factor=0.5), Phase(3, freeze="embedding", rate_factor=2)],
    "schedule, factor": [Phase(1, learning_rate=_decay()), Phase(2, rate_factor=3), Phase(3, rate_factor=2)],
    "factor, schedule": [Phase(0, rate_factor=3), Phase(2, learning_rate=_decay())],
}
EXPECTED = {  # of an optimizer that was compiled with 0.2
    "number": [0.2, 0.05, 0.05, 0.01],
    "schedule": [0.2, 0.1, 0.1 / 8, 0.1 / 64],
    "schedule, number": [0.1, 0.1 / 8, 0.03, 0.03],
    "factors": [0.1, 0.05, 0.05, 0.1],
    "schedule, factor": [0.2, 0.1, 0.3 / 8, 0.6 / 64],
    "factor, schedule": [0.6, 0.6, 0.1, 0.1 / 8],
}


@pytest.mark.parametrize("name", KINDS)
def test_rates_of_the_phases(name):
    """From epoch to epoch."""
    _, rates = _run(optimizers.SGD(0.2), KINDS[name])
    assert list(rates.values()) == pytest.approx(EXPECTED[name], rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("begin", [1, 3])
def test_a_run_that_begins_late_has_the_rates_of_an_unbroken_one(name, begin):
    """Phases that were skipped count, and a schedule is as far as it would be."""
    _, rates = _run(optimizers.SGD(0.2), KINDS[name], initial_epoch=begin)
    expected = dict(enumerate(EXPECTED[name]))
    assert rates == {epoch: pytest.approx(expected[epoch], rel=1e-5) for epoch in range(begin, 4)}


@pytest.mark.parametrize("name", variants(KINDS, always=["number", "factors", "schedule, factor"]))
@pytest.mark.parametrize("begin", [0, 3])
def test_a_second_fit_starts_the_rates_again(name, begin):
    """With the same schedule, from any epoch."""
    net, schedule, rates = (
        tiny.model(optimizers.SGD(0.2), run_eagerly=True),
        TrainabilitySchedule(KINDS[name]),
        _Rates(),
    )
    tiny.fit(net, callbacks=[schedule])
    tiny.fit(net, callbacks=[schedule, rates], initial_epoch=begin)
    expected = dict(enumerate(EXPECTED[name]))
    if begin == 0 and name == "schedule, factor":
        expected.pop(0)  # before its first phase a schedule does nothing
    assert {epoch: rates.kept[epoch] for epoch in expected if epoch >= begin} == {
        epoch: pytest.approx(expected[epoch], rel=1e-5) for epoch in expected if epoch >= begin
    }


def test_a_second_fit_begins_with_the_number_of_the_phase_that_ran_last():
    """Changes by other callbacks in the first fit are gone, as they are if the last phase was a later one."""
    net, schedule, rates = (
        tiny.model(optimizers.SGD(0.2)),
        TrainabilitySchedule([Phase(0, learning_rate=0.1)]),
        _Rates(),
    )
    tiny.fit(net, epochs=1, callbacks=[schedule])
    net.optimizer.learning_rate = 0.001
    tiny.fit(net, epochs=1, callbacks=[schedule, rates])
    assert rates.kept == {0: pytest.approx(0.1)}


@pytest.mark.filterwarnings("ignore:This fit ends before")
@pytest.mark.parametrize("name", variants(KINDS, always=["number", "factors", "schedule, factor"]))
def test_a_keras_file_keeps_the_rate(name, tmp_path):
    """Saved in any phase, loaded, and continued with a new schedule: the weights of one run."""
    whole, _ = _run(optimizers.Adam(0.02), KINDS[name])
    for stop in (2, 3):
        first, _ = _run(optimizers.Adam(0.02), KINDS[name], epochs=stop)
        first.save(tmp_path / "model.keras")
        second = keras.saving.load_model(tmp_path / "model.keras")
        tiny.fit(second, initial_epoch=stop, callbacks=[TrainabilitySchedule(KINDS[name])])
        assert tiny.apart(whole, second) <= 1e-6, stop


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.Adam(0.01),
        lambda: optimizers.Adam(_decay(0.01)),
        lambda: optimizers.LossScaleOptimizer(optimizers.Nadam(_decay(0.01)), initial_scale=8),
        lambda: optimizers.SGD(_decay(0.01), use_ema=True),
        lambda: optimizers.Adam(_decay(0.01), gradient_accumulation_steps=2),
    ],
    ids=["number", "schedule", "loss scale", "EMA", "accumulation"],
)
def test_from_a_schedule_to_a_number_and_back(make):
    """Every kind of rate after every other, with the weights of a run whose rates were set by hand."""
    rates = [0.05, _decay(), 0.03, _decay(0.2)]
    net = tiny.model(make())
    tiny.fit(
        net, callbacks=[TrainabilitySchedule([Phase(epoch, learning_rate=rate) for epoch, rate in enumerate(rates)])]
    )
    by_hand = tiny.model(_with_rate(make(), _by_hand()))
    tiny.fit(by_hand)
    assert tiny.apart(net, by_hand) <= 1e-6


def _by_hand():
    class ByHand(schedules.LearningRateSchedule):
        def __call__(self, step):
            step = keras.ops.cast(step, "float32")
            second, last = (rate * 0.5 ** (step - first) for rate, first in ((0.1, STEPS), (0.2, 3 * STEPS)))
            late = keras.ops.where(step < 3 * STEPS, 0.03, last)
            return keras.ops.where(step < STEPS, 0.05, keras.ops.where(step < 2 * STEPS, second, late))

    return ByHand()


def _with_rate(optimizer, rate):
    getattr(optimizer, "inner_optimizer", optimizer).learning_rate = rate
    return optimizer


def test_a_number_after_a_schedule_has_the_place_it_has_in_a_new_optimizer(tmp_path):
    """.keras files name the optimizer's variables by position."""
    phases = [Phase(0, learning_rate=_decay()), Phase(2, learning_rate=0.03)]
    net, _ = _run(optimizers.Adam(0.2), phases)
    assert [each.name for each in net.optimizer.variables[:2]] == ["iteration", "learning_rate"]
    fresh = tiny.model(optimizers.Adam(0.2))
    fresh.optimizer.build(fresh.trainable_variables)
    assert [each.path.split("/")[-1] for each in net.optimizer.variables] == [
        each.path.split("/")[-1] for each in fresh.optimizer.variables
    ]
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.03)
    tiny.fit(net, initial_epoch=4, epochs=6)
    tiny.fit(loaded, initial_epoch=4, epochs=6)
    assert tiny.apart(net, loaded) <= 1e-7


def test_a_number_after_a_schedule_can_be_set():
    """ReduceLROnPlateau and others can lower it again."""
    net, _ = _run(optimizers.Adam(_decay()), [Phase(0), Phase(1, learning_rate=0.03)])
    net.optimizer.learning_rate = 0.01
    assert float(net.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.stock_keras
def test_stock_takes_no_number_in_place_of_a_schedule():
    """Keras' own setter."""
    optimizer = optimizers.Adam(_decay())
    with pytest.raises(TypeError, match="created with a `LearningRateSchedule`"):
        optimizer.learning_rate = 0.1


def test_a_factor_scales_the_current_schedule():
    """It keeps counting from its own start."""
    net, rates = _run(optimizers.SGD(_decay(0.8)), [Phase(0), Phase(1, rate_factor=0.5), Phase(2, rate_factor=0.5)])
    assert list(rates.values()) == pytest.approx([0.8, 0.4 / 8, 0.2 / 64, 0.2 / 512], rel=1e-4)
    assert isinstance(rate_of(net.optimizer), PhaseRate) and rate_of(net.optimizer).factor == 0.25


def test_a_factor_multiplies_what_other_callbacks_left():
    """The current rate, and not the one that the previous phase began with."""

    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2

    net, rates = tiny.model(optimizers.SGD(0.8)), _Rates()
    schedule = TrainabilitySchedule([Phase(0), Phase(2, rate_factor=0.1)])
    tiny.fit(net, callbacks=[schedule, rates, Halve()])
    assert list(rates.kept.values()) == pytest.approx([0.8, 0.4, 0.02, 0.01])


def test_a_loaded_factor_is_not_applied_twice(tmp_path):
    """In mid-phase the rate contains it already."""
    phases = [Phase(0, freeze="embedding"), Phase(1, rate_factor=0.5)]
    net, _ = _run(optimizers.SGD(0.2), phases)
    net.save(tmp_path / "model.keras")
    loaded, rates = keras.saving.load_model(tmp_path / "model.keras"), _Rates()
    tiny.fit(loaded, initial_epoch=4, epochs=5, callbacks=[TrainabilitySchedule(phases), rates])
    assert rates.kept == {4: 0.1}


def test_a_loaded_schedule_in_mid_phase_is_kept(tmp_path):
    """It continues from where it began, even if patience began it sooner than a new schedule could know."""
    phases = [Phase(0, freeze="embedding", patience=1), Phase(3, learning_rate=_decay())]
    first = TrainabilitySchedule(phases, monitor="loss", mode="max")  # the loss falls: patience ends with epoch 1
    net, _ = _run(optimizers.SGD(0.2), phases, first)
    begun = rate_of(net.optimizer).start
    assert begun == 2 * STEPS and list(first.history["first_epoch"]) == [0, 2]
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = TrainabilitySchedule(phases, monitor="loss", mode="max")
    tiny.fit(loaded, initial_epoch=4, epochs=5, callbacks=[again])
    assert rate_of(loaded.optimizer).start == begun


def test_train_step_is_not_traced_again_for_another_number():
    """Only a change between number and schedule is traced again."""
    traced = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            traced.append(self.model.train_function)

    phases = [Phase(0), Phase(1, learning_rate=0.1), Phase(2, rate_factor=0.5), Phase(3, learning_rate=_decay())]
    tiny.fit(tiny.model(optimizers.SGD(0.2)), callbacks=[TrainabilitySchedule(phases), Count()])
    assert traced[0] is traced[1] is traced[2] is not traced[3]


def test_the_compiled_step_uses_the_rate():
    """A tiny rate stops the head, a schedule that begins high moves it again."""
    phases = [Phase(0, learning_rate=1e-12), Phase(2, learning_rate=_decay(1.0))]
    kept = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(net.get_weights()[-2]))
    net = tiny.model(optimizers.SGD(0.2))
    tiny.fit(net, callbacks=[TrainabilitySchedule(phases), watch])
    assert np.abs(kept[1] - kept[0]).max() < 1e-6 and np.abs(kept[2] - kept[1]).max() > 1e-2


@pytest.mark.parametrize(
    "arguments",
    variants(
        [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 3}], always=[{"steps_per_execution": 3}]
    ),
    ids=str,
)
def test_in_every_mode_of_the_train_step(arguments):
    """Each kind of rate, and each change of kind, eager, under XLA and with several steps at once."""
    phases = [
        Phase(0, freeze="embedding", learning_rate=_decay()),
        Phase(1, learning_rate=0.05),
        Phase(2, rate_factor=0.5),
        Phase(3, learning_rate=_decay()),
    ]
    nets = [tiny.model(optimizers.Adam(0.2), **each) for each in (arguments, {"jit_compile": False})]
    for net in nets:
        tiny.fit(net, callbacks=[TrainabilitySchedule(phases)])
    assert tiny.apart(*nets) <= 1e-6


def test_apply_says_when_a_loop_has_to_trace_again():
    """After a change between number and schedule too, although the same variables train."""
    phases = [Phase(0), Phase(1, learning_rate=0.1), Phase(2, learning_rate=_decay()), Phase(4, learning_rate=0.1)]
    net, schedule = tiny.model(optimizers.SGD(0.2)), TrainabilitySchedule(phases)
    assert [schedule.apply(net, epoch) for epoch in range(6)] == [False, False, True, False, True, False]


def test_a_factor_needs_a_rate_that_can_be_set():
    """Like a number."""
    net = tiny.model(tiny.since("MultiOptimizer")(tiny.since("OptimizerMap")(optimizers.SGD(0.1))))
    with pytest.raises(ScheduleError, match=r"which MultiOptimizer '.*' doesn't let change"):
        tiny.fit(net, callbacks=[TrainabilitySchedule([Phase(0), Phase(2, rate_factor=0.5)])])


def test_a_rate_that_is_not_touched_may_be_anything():
    """Phases without a rate don't touch the optimizer's."""
    net = tiny.model(optimizers.SGD(lambda: 0.1))
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding")])
    assert Rates(net, [Phase(0)]).first is None


@pytest.mark.parametrize("schedule", [PhaseRate(_decay(), 7), PhaseRate(_decay(), 7, 0.5)], ids=["counted", "scaled"])
def test_schedules_are_serialised(schedule):
    """Through a config and back, at several steps."""
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert [float(again(step)) for step in (0, 7, 9)] == [float(schedule(step)) for step in (0, 7, 9)]
