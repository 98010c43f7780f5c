"""A schedule under MirroredStrategy on two logical CPUs: run in a process of its own, prints one JSON object.

Logical devices have to be made before TensorFlow starts, so this cannot run inside the test process.
"""

import json

import numpy as np
import tensorflow as tf
from keras import optimizers

from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from tests import mirroring, tiny

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
DECAY = optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
RUNS = {  # name -> how to make the optimizer and the schedule, and how two replicas compile
    "Adam": (lambda: optimizers.Adam(0.05), lambda: unfreeze_at(2, "embedding")),
    "rates": (
        lambda: optimizers.Adam(0.05),
        lambda: TrainabilitySchedule(
            [Phase(0, freeze="embedding", learning_rate=DECAY), Phase(2, learning_rate=0.02), Phase(3, rate_factor=0.1)]
        ),
    ),
    "EMA, train=": (
        lambda: optimizers.SGD(0.1, momentum=0.9, use_ema=True),
        lambda: TrainabilitySchedule([Phase(0, train="head"), Phase(2, train="embedding")]),
    ),
    "loss scale": (
        lambda: optimizers.LossScaleOptimizer(optimizers.Nadam(0.05), initial_scale=8),
        lambda: unfreeze_at(2, "embedding"),
    ),
    "patience": (
        lambda: optimizers.Adam(0.05),
        lambda: TrainabilitySchedule(
            [Phase(0, freeze="embedding", patience=1), Phase(3)], monitor="loss", mode="max", min_delta=0.001
        ),
    ),
    "RowWiseAdam": (lambda: RowWiseAdam(0.05), lambda: unfreeze_at(2, "embedding")),
    "several steps at once": (
        lambda: optimizers.Adam(0.05),
        lambda: unfreeze_at(2, "embedding"),
        {"steps_per_execution": 2},
    ),
}


def strategy():
    """Two replicas on one processor."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())


def fit(scope, optimizer, schedules, **compile_arguments):
    """The tiny model, trained inside a strategy's scope."""
    with scope:
        net = tiny.model(optimizer(), **compile_arguments)
    tiny.fit(net, callbacks=schedules)
    return net


def apart(name):
    """Two replicas against one."""
    optimizer, schedule, arguments = (*RUNS[name], {})[:3]
    one = fit(tf.distribute.get_strategy().scope(), optimizer, [schedule()])
    two = fit(strategy().scope(), optimizer, [schedule()], **arguments)
    moved = float(np.abs(tiny.table_of(two) - tiny.TABLE).max())
    return {"apart": tiny.apart(one, two), "moved": moved, "slots": _slots(two) - _slots(one)}


def _slots(net):
    return len(net.optimizer.variables)


def problem(schedules):
    """The error of accumulated gradients: its class and its first line."""
    try:
        fit(strategy().scope(), lambda: optimizers.Adam(0.05, gradient_accumulation_steps=2), schedules)
    except Exception as error:
        return [type(error).__name__, str(error).strip().splitlines()[0]]
    return None


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "runs": mirroring.each(RUNS, apart),
                "stock": problem([]),
                "refused": problem([unfreeze_at(2, "embedding")]),
            }
        )
    )
