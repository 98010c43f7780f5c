"""Frozen means frozen: no gradient in the graph, no slots, no bit changed, and no Python in any step."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from tests import tiny


def _all_ops(graph_def):
    """Every operation of a traced function and of those that it calls."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


class _Graph(keras.callbacks.Callback):
    """For each epoch: the kinds of the operations of the train step."""

    def __init__(self):
        super().__init__()
        self.kinds, self.writes = {}, {}

    def on_epoch_end(self, epoch, logs=None):
        """Trace the step that has just run once more, for its graph."""
        function = self.model.train_function.__closure__
        traced = [cell.cell_contents for cell in function if hasattr(cell.cell_contents, "get_concrete_function")]
        (concrete,) = traced[-1]._list_all_concrete_functions()[:1]
        ops = list(_all_ops(concrete.graph.as_graph_def()))
        self.kinds[epoch] = {op.op for op in ops}
        self.writes[epoch] = sum(op.op.startswith(("ResourceScatter", "ResourceSparseApply")) for op in ops)


def _graphs(optimizer, phases):
    net, graph = tiny.model(optimizer), _Graph()
    tiny.fit(net, callbacks=[TrainabilitySchedule(phases), graph])
    return graph


@pytest.mark.parametrize("make", [lambda: optimizers.SGD(0.1), lambda: RowWiseAdam(0.01)], ids=["SGD", "row-wise"])
def test_no_gradient_is_computed_for_a_frozen_table(make):
    """The step scatters rows only while the table trains."""
    graph = _graphs(make(), [Phase(0, freeze="embedding"), Phase(1), Phase(2, freeze="embedding")])
    assert graph.writes[0] == 0 and graph.writes[1] > 0 and graph.writes[2] == 0


def test_no_dense_gradient_either():
    """Adam makes the gradient dense; the frozen step contains none of it."""
    graph = _graphs(optimizers.Adam(0.01), [Phase(0, freeze="embedding"), Phase(2)])
    joined = graph.kinds[2] - graph.kinds[0]
    assert joined & {"UnsortedSegmentSum", "ResourceScatterAdd", "ResourceScatterSub", "TensorScatterAdd", "Unique"}


@pytest.mark.filterwarnings("ignore:This fit ends before")
@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.Adam(0.01, amsgrad=True),
        lambda: optimizers.SGD(0.1, momentum=0.9, use_ema=True),
        lambda: optimizers.Nadam(0.01, gradient_accumulation_steps=2),
        lambda: optimizers.LossScaleOptimizer(optimizers.RMSprop(0.01, centered=True)),
        lambda: RowWiseAdam(0.01),
    ],
    ids=["Adam", "EMA", "accumulation", "loss scale", "row-wise"],
)
def test_a_frozen_table_has_no_slots_from_the_first_step_on(make):
    """Even if the layer was trainable: the optimizer is built after the first phase has set the flags."""
    net = tiny.model(make(), trainable=True)
    tiny.fit(net, epochs=1, callbacks=[unfreeze_at(2, "embedding")])
    assert (10, 4) not in [tuple(variable.shape) for variable in net.optimizer.variables]


def test_only_the_embedding_trains():
    """Nothing else has slots, which saves memory, and nothing else moves."""
    net, tables = tiny.model(optimizers.Adam(0.01)), tiny.Tables()
    head = [np.array(weight) for weight in net.get_layer("head").weights]
    tiny.fit(net, callbacks=[TrainabilitySchedule([Phase(0, train="embedding")]), tables])
    shapes = [tuple(variable.shape) for variable in net.optimizer.variables]
    assert shapes == [(), (), (10, 4), (10, 4)] and np.abs(tables.kept[0] - tiny.TABLE).max() > 1e-3
    for weight, before in zip(net.get_layer("head").weights, head, strict=True):
        np.testing.assert_array_equal(np.array(weight), before)


def test_freeze_unfreeze_refreeze():
    """Frozen, training, frozen, training: a frozen table keeps its bits."""
    phases = [Phase(0, freeze="embedding"), Phase(1), Phase(3, freeze="embedding"), Phase(5)]
    net, tables = tiny.model(optimizers.AdamW(0.01)), tiny.Tables()
    tiny.fit(net, epochs=6, callbacks=[TrainabilitySchedule(phases), tables])
    moved = [
        (tables.kept[epoch] != before).any() for epoch, before in enumerate([tiny.TABLE, *tables.kept.values()][:6])
    ]
    assert moved == [False, True, True, False, False, True]


def test_a_flag_set_by_hand_between_two_fits_does_not_move_a_frozen_table():
    """The step that Keras traced for the unfrozen table is not used again."""
    net = tiny.model(optimizers.SGD(0.5), trainable=True)
    tiny.fit(net, epochs=1)
    net.get_layer("embedding").trainable = False
    before = tiny.table_of(net)
    tiny.fit(net, epochs=2, callbacks=[TrainabilitySchedule([Phase(0, freeze="embedding")])])
    np.testing.assert_array_equal(tiny.table_of(net), before)


def test_no_python_in_any_step():
    """The callback has no batch hook, so that Keras calls nothing for it within an epoch."""
    hooks = [name for name in dir(keras.callbacks.Callback) if "batch" in name]
    assert hooks and all(
        getattr(TrainabilitySchedule, name) is getattr(keras.callbacks.Callback, name) for name in hooks
    )
