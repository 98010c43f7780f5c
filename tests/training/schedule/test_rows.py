"""Further rows of a table that train from an epoch on."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ScheduleError
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule.callback import unfreeze_at
from embkeras.training.schedule.rows import Rows, unfreeze_rows
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.training.resume.test_backup import Dies, Dying
from tests.training.test_rebuild import FEW, OPTIMIZERS
from tests.variants import variants

COUNTS = np.array([0, 9, 1, 5, 8, 2, 5, 4, 0, 7])
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))], counts=COUNTS)
FIRST = np.isin(np.arange(10), [1, 7])
FREQUENT = np.isin(np.arange(10), [3, 4, 6, 9])  # 9 is never in a batch
SEEN = np.isin(np.arange(10), [3, 4, 6])


def _model(optimizer="sgd", trainable=FIRST, **arguments):
    keras.utils.set_random_seed(0)
    layer = build_embedding(AlignedMatrix(tiny.TABLE, VOCABULARY), trainable=trainable)
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax", name="head")]
    net = keras.Sequential([keras.Input((5,), dtype="int64"), layer, *head])
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **arguments)
    return net


def _schedule(epoch=2):
    return unfreeze_rows(epoch, "embedding", vocabulary=VOCABULARY, min_count=5)


def test_rows_by_their_counts():
    """Words that occur often enough; special tokens are not words."""
    np.testing.assert_array_equal(_schedule().action.rows, FREQUENT)


@pytest.mark.parametrize("name", variants(OPTIMIZERS, always=FEW))
def test_they_move_from_the_epoch_on(name):
    """Before it only the first rows move, then the frequent ones too, and the rest never, under every optimizer."""
    net, tables = _model(OPTIMIZERS[name](), run_eagerly=True), tiny.Tables()
    tiny.fit(net, callbacks=[_schedule(), tables])
    assert not (tables.kept[1] != tiny.TABLE).any(axis=1)[~FIRST].any()
    assert (tables.kept[1] != tables.kept[3]).any(axis=1)[FIRST | SEEN].all()
    assert not (tables.kept[3] != tiny.TABLE).any(axis=1)[~(FIRST | FREQUENT)].any()


@pytest.mark.parametrize(
    "arguments", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}], ids=str
)
def test_in_every_mode_of_fit(arguments):
    """The weights are those of a plain fit, although the step is not traced again."""
    nets = [_model(RowWiseAdam(0.01), **each) for each in (arguments, {"jit_compile": False})]
    for net in nets:
        tiny.fit(net, callbacks=[_schedule()])
    assert tiny.apart(*nets) <= 1e-6


def test_equals_a_table_in_which_they_train_from_the_start():
    """From epoch 0 on, it equals a mask of both; SGD has no state that could differ."""
    nets = [_model("sgd"), _model("sgd", trainable=FIRST | FREQUENT)]
    tiny.fit(nets[0], callbacks=[_schedule(0)])
    tiny.fit(nets[1])
    np.testing.assert_allclose(nets[0].layers[0].matrix(), nets[1].layers[0].matrix(), atol=1e-6)


def test_the_step_is_traced_once():
    """Only the map changes at the epoch."""
    traces = []

    class Counting(keras.layers.Layer):
        """Counts how often it is traced in training."""

        def call(self, inputs, training=False):
            """The inputs."""
            traces.append(training)
            return inputs

    layer = build_embedding(AlignedMatrix(tiny.TABLE, VOCABULARY), trainable=FIRST)
    head = [Counting(), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax")]
    net = keras.Sequential([keras.Input((5,), dtype="int64"), layer, *head])
    net.compile("sgd", loss="sparse_categorical_crossentropy")
    traces.clear()
    tiny.fit(net, callbacks=[_schedule()])
    assert traces.count(True) == 1 and net.layers[0].trainable_mask.sum() == 6


def test_room_is_made_in_a_model_that_trained_before():
    """The moments of the rows that train are kept, and the second fit continues from them."""
    nets = [_model(optimizers.Adam(0.05)) for _ in range(2)]
    for net in nets:
        tiny.fit(net, epochs=2)
    tiny.fit(nets[0], epochs=4, initial_epoch=2, callbacks=[_schedule(4)])
    tiny.fit(nets[1], epochs=4, initial_epoch=2)
    np.testing.assert_array_equal(nets[0].layers[0].matrix(), nets[1].layers[0].matrix())
    assert [nets[0].layers[0].trainable_rows, nets[1].layers[0].trainable_rows] == [6, 2]


def test_slots_cost_what_may_train():
    """Room is made once, for all rows that will train."""
    net = _model(optimizers.Adam(0.05))
    for _ in range(2):
        tiny.fit(net, callbacks=[_schedule()])
    shapes = [tuple(variable.shape) for variable in net.optimizer.variables]
    assert shapes.count((7, 4)) == 2


def test_beside_a_schedule_of_layers():
    """The layer frozen as a whole, unfrozen at epoch 1, and the frequent rows from epoch 2 on, in any order."""
    for order in (1, -1):
        net, tables = _model(optimizers.Adam(0.05)), tiny.Tables()
        tiny.fit(net, callbacks=[*[_schedule(), unfreeze_at(1, "embedding")][::order], tables])
        moved = {epoch: (table != tiny.TABLE).any(axis=1) for epoch, table in tables.kept.items()}
        assert not moved[0].any() and np.array_equal(moved[1], FIRST) and np.array_equal(moved[3], FIRST | SEEN)


@pytest.mark.parametrize("batches", [2, 5, 8, 11])
def test_resumed_equals_uninterrupted(tmp_path, batches):
    """Interrupted before or after the rows joined, the run ends with the same bits."""

    def run(folder, step=None):
        net = _model(RowWiseAdam(0.05))
        tiny.fit(net, callbacks=[ResumableBackup(folder), _schedule(), Dying(step)])
        return net

    with pytest.raises(Dies):
        run(tmp_path / "state", batches)
    assert tiny.apart(run(tmp_path / "state"), run(tmp_path / "whole")) == 0


def test_saved_and_loaded(tmp_path):
    """The rows that joined are saved with the layer."""
    net = _model("sgd")
    tiny.fit(net, callbacks=[_schedule()])
    net.save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    np.testing.assert_array_equal(layer.trainable_mask, FIRST | FREQUENT)
    np.testing.assert_array_equal(layer.matrix(), net.layers[0].matrix())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epoch": -1}, "epoch must be an integer >= 0. Received: -1"),
        ({"min_count": 0}, "min_count must be an integer >= 1. Received: 0"),
        ({"min_count": 10}, r"min_count=10 .*Received: Vocabulary\(10 tokens"),
        (
            {"vocabulary": Vocabulary(["", "[UNK]", "a"])},
            r"a Vocabulary with counts.* Received: Vocabulary\(3 tokens",
        ),
        ({"layer": 3}, "layer must name layers: names, paths, globs or layer objects. Received: 3"),
    ],
)
def test_arguments_are_checked(arguments, message):
    """When the schedule is made."""
    given = {"epoch": 2, "layer": "embedding", "vocabulary": VOCABULARY, "min_count": 5} | arguments
    with pytest.raises(ScheduleError, match=message):
        unfreeze_rows(given.pop("epoch"), given.pop("layer"), **given)


def test_rows_are_a_mask():
    """With at least one row."""
    with pytest.raises(
        ScheduleError, match=r"rows must be a bool array with at least one True\. Received: array\(\[1, 2\]\)"
    ):
        Rows("embedding", np.array([1, 2]))


@pytest.mark.parametrize(("trainable", "kind"), [(True, "PretrainedEmbedding"), (False, "PretrainedEmbedding")])
def test_another_kind_of_layer_is_refused(trainable, kind):
    """A table that trains as a whole has no rows to add."""
    with pytest.raises(ScheduleError, match=f"layer in which some rows train, .* Received: {kind} 'embedding'"):
        tiny.fit(_model(trainable=trainable), callbacks=[_schedule()])


AT_THE_VALUE = {  # optimizers with a slot that begins at the value of a variable
    name: OPTIMIZERS[name] for name in ("ScheduleFreeAdamW", "EMA", "EMA overwriting", "EMA and accumulation")
} | {
    "anchors": lambda: RowWiseAdam(0.01, anchor_decay=0.5, max_drift=0.2),
    "rate as a function": lambda: tiny.since("ScheduleFreeAdamW")(lambda: 0.01),
}


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("name", AT_THE_VALUE)
def test_nothing_pulls_toward_the_old_values_of_the_room(name):
    """Averages and anchors of rows that join start at their values: a row that is in no batch does not move."""
    net = _model(AT_THE_VALUE[name](), run_eagerly=True)
    tiny.fit(net, callbacks=[_schedule(3)], epochs=5)
    table = net.layers[0].matrix()
    np.testing.assert_allclose(table[tiny.UNSEEN], tiny.TABLE[tiny.UNSEEN], atol=1e-5)
    assert 0 < np.abs(table - tiny.TABLE)[SEEN].max() < 0.2


def test_a_layer_that_others_combine():
    """It is found by its path; the layer it is combined with is unchanged."""
    layers = [
        build_embedding(AlignedMatrix(tiny.TABLE, VOCABULARY), trainable=FIRST, name="tuned"),
        build_embedding(AlignedMatrix(tiny.TABLE, VOCABULARY), name="static"),
    ]
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax", name="head")]
    net = keras.Sequential([keras.Input((5,), dtype="int64"), combine_embeddings(layers, combine="attention"), *head])
    net.compile(RowWiseAdam(0.01), loss="sparse_categorical_crossentropy")
    schedule = unfreeze_rows(2, "embedding/tuned", vocabulary=VOCABULARY)
    tiny.fit(net, callbacks=[schedule, unfreeze_at(1, "embedding/tuned")])
    moved = [(layer.matrix() != tiny.TABLE).any(axis=1) for layer in layers]
    np.testing.assert_array_equal(moved[0], FIRST | SEEN)
    assert not moved[1].any()


def test_an_initial_epoch_beyond_it():
    """The rows train from the first epoch of that fit."""
    net = _model(optimizers.Adam(0.01))
    tiny.fit(net, epochs=6, initial_epoch=5, callbacks=[_schedule()])
    np.testing.assert_array_equal((net.layers[0].matrix() != tiny.TABLE).any(axis=1), FIRST | SEEN)


def test_words_of_a_vocabulary_that_was_changed_are_refused():
    """As many tokens under other ids: the rows of the old ids would be other words."""
    net, turned = _model(), Vocabulary([*VOCABULARY.tokens[:2], *VOCABULARY.tokens[:1:-1]], counts=COUNTS)
    change_vocabulary(net, "embedding", before=VOCABULARY, after=AlignedMatrix(np.ones((10, 4)), turned))
    with pytest.raises(ScheduleError, match=r"'embedding' another vocabulary.* Received: Vocabulary\(10 tokens"):
        tiny.fit(net, callbacks=[_schedule()])
    tiny.fit(net, callbacks=[unfreeze_rows(1, "embedding", vocabulary=turned)])
