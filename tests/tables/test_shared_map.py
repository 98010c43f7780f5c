"""A table of frozen vectors B that returns B + B W + R."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError, UnknownLayerError
from embkeras.serving.folding import fold
from embkeras.tables.builders import build_embedding
from embkeras.tables.shared_map import MappedEmbedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW
from embkeras.training.schedule.callback import TrainabilitySchedule
from embkeras.training.schedule.flags import Flags
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.rows import unfreeze_rows
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny

VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(8))], counts=[0, 1, 9, 9, 1, 1, 1, 9, 1, 0])
ALIGNED = AlignedMatrix(tiny.TABLE, VOCABULARY)
BASE = ALIGNED.values
RNG = np.random.default_rng(8)
both = pytest.mark.parametrize("trainable", ["map", "map+rows"])


def layer_of(trainable, *, trained=False, **arguments):
    """A built layer; with `trained`, a map and rows that aren't zeros."""
    layer = build_embedding(ALIGNED, trainable=trainable, **arguments)
    if trained:
        part(layer, "map").assign(RNG.normal(size=(4, 4)))
        if trainable == "map+rows":
            rows = RNG.normal(size=(10, 4))
            rows[9] = 0  # of all ids that don't train: it never gets a gradient
            part(layer, "rows").assign(rows)
    return layer


def part(layer, name):
    """The variable "map" or "rows"."""
    return next(weight for weight in layer.weights if weight.name == name)


def expected(layer):
    """B + B W + R by the formula; padding has no row of R."""
    table = BASE + BASE @ keras.ops.convert_to_numpy(part(layer, "map"))
    if layer.trainable_rows:
        table[1:] += keras.ops.convert_to_numpy(part(layer, "rows"))[:9]
    return table


def model_of(layer, optimizer="sgd", **compile_arguments):
    """Embedding, mean, a dense layer "head"."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int64")
    mean = keras.layers.GlobalAveragePooling1D(dtype="float32")(layer(ids))
    net = keras.Model(ids, keras.layers.Dense(3, "softmax", name="head", dtype="float32")(mean))
    # Eager steps: tracing takes most of the time here, and the gradients are tested in a graph.
    compile_arguments = {"run_eagerly": True} | compile_arguments
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **compile_arguments)
    return net


@both
def test_a_new_layer_returns_the_vectors(trainable):
    """Bit by bit: map and rows are zeros; the variables are its parts."""
    layer = layer_of(trainable)
    assert layer(np.arange(10)).numpy().tobytes() == layer.matrix().tobytes() == BASE.tobytes()
    assert [weight.path for weight in layer.trainable_weights] == [f"embedding/{name}" for name in trainable.split("+")]


@both
@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_calls_matrix_and_scores_follow_the_formula(trainable, stored):
    """For ids of any shape, with repetitions; scores are those of the folded table."""
    layer = layer_of(trainable, trained=True, stored=stored)
    table = layer.matrix()
    np.testing.assert_allclose(table, expected(layer), atol=1e-5 if stored == "float32" else 0.2)
    ids = np.array([[3, 3, 0], [9, 1, 3]])
    np.testing.assert_allclose(layer(ids), table[ids], atol=1e-5)
    assert not table[0].any()
    vectors = RNG.normal(size=(2, 4)).astype("float32")
    np.testing.assert_allclose(layer.project(vectors)[:, 1:], vectors @ table[1:].T, atol=1e-4)
    np.testing.assert_allclose(layer.project(vectors, ids=np.array([4, 2])), vectors @ table[[4, 2]].T, atol=1e-4)


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_are_those_of_the_plain_formula(jit):
    """Of the map: repeated ids are summed; of the rows: by rows, none for padding or absent ids."""
    layer = layer_of("map+rows", trained=True)
    ids = np.array([[3, 3, 0, 5], [5, 3, 1, 0]])
    weights = RNG.normal(size=(2, 4, 4)).astype("float32")

    @tf.function(jit_compile=jit)
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(ids)) * weights)
        found = tape.gradient(loss, [part(layer, "map").value, part(layer, "rows").value])
        return found[0], tf.convert_to_tensor(found[1])

    upstream = np.cos(expected(layer)[ids]) * weights
    of_map, of_rows = gradients()
    np.testing.assert_allclose(of_map, np.einsum("bti,btj->ij", BASE[ids], upstream), rtol=1e-4, atol=1e-4)
    sums = np.zeros((10, 4))
    np.add.at(sums, ids, upstream)
    np.testing.assert_allclose(of_rows, np.vstack([sums[1:], np.zeros((1, 4))]), rtol=1e-4, atol=1e-5)


def test_gradient_of_the_rows_stays_sliced():
    """So that a row-wise optimizer pays for the rows of a batch only."""
    layer = layer_of("map+rows")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[3, 3, 5]])))
    assert isinstance(tape.gradient(loss, part(layer, "rows").value), tf.IndexedSlices)


@pytest.fixture(scope="module")
def trained():
    """A model with map and rows, after four epochs in a graph, with weight decay."""
    net = model_of(layer_of("map+rows"), RowWiseAdamW(0.05, weight_decay=0.1), run_eagerly=False)
    tiny.fit(net)
    return net


def test_words_never_read_move_with_the_others(trained):
    """Id 9 occurs in no batch: its row becomes B + B W; the base and the padding stay bit-identical, decay included."""
    layer = trained.get_layer("embedding")
    table, moved = layer.matrix(), layer.map_matrix
    assert np.abs(moved).max() > 0.01 and np.abs(table[9] - BASE[9]).max() > 0.01
    np.testing.assert_allclose(table[9], BASE[9] + BASE[9] @ moved, atol=1e-5)
    assert not np.allclose(table[3], BASE[3] + BASE[3] @ moved, atol=1e-3)
    assert keras.ops.convert_to_numpy(part(layer, "base")).tobytes() == BASE.tobytes() and not table[0].any()


def test_file_brings_back_the_model(trained, tmp_path):
    """A .keras file, with the slots of the parts."""
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.get_layer("embedding"), MappedEmbedding)
    assert tiny.apart(trained, loaded) == 0
    for one, other in zip(trained.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_export_holds_the_folded_table_alone(trained):
    """One table of V x D, no map; its answers are those of the model."""
    scores, folded = trained(tiny.IDS), fold(trained)
    assert sorted(tuple(variable.shape) for variable in folded.variables(trained)) == [(3,), (4, 3), (10, 4)]
    with folded.reading():
        np.testing.assert_allclose(trained(tiny.IDS), scores, atol=1e-5)


def test_masks_and_mixed_precision():
    """Padding is masked; a float16 policy casts the result, not the sums."""
    layer = layer_of("map+rows", trained=True, dtype="mixed_float16")
    assert layer.compute_mask(np.array([[1, 0]])).numpy().tolist() == [[True, False]]
    assert layer(np.array([[1, 0]])).dtype == "float16" and part(layer, "map").dtype == "float32"
    np.testing.assert_allclose(layer(np.arange(10)), expected(layer), atol=1e-2)
    tiny.fit(model_of(layer, RowWiseAdam(0.05)), epochs=1)


def test_lora_is_refused():
    """The message names the layer and what to do."""
    with pytest.raises(ArgumentError, match=r"takes a plain table .*layer 'embedding' has a shared map"):
        layer_of("map").enable_lora(2)


@pytest.mark.parametrize(
    ("phase", "training", "said"),
    [
        (Phase(0, freeze="embedding/rows"), {"map", "head"}, "frozen: embedding/rows"),
        (Phase(1), {"map", "rows", "head"}, "unfrozen: head, embedding"),
        (Phase(2, train=["embedding/rows", "head"]), {"rows", "head"}, "unfrozen: head, embedding/rows"),
        (Phase(3, freeze=["embedding/map"]), {"rows", "head"}, "frozen: embedding/map"),
        (Phase(4, freeze="embedding"), {"head"}, "frozen: embedding"),
    ],
)
def test_schedules_take_the_parts(phases_model, phase, training, said):
    """Each phase, after any other, freezes or trains the parts by their addresses, and says so."""
    net, phases = phases_model
    flags = Flags(net, phases, ())
    for before in phases:
        flags.apply(before)
        flags.apply(phase)
        names = {variable.name for variable in net.trainable_variables}
        assert {"head" if name in ("kernel", "bias") else name for name in names} == training
        assert said in flags.describe(phase)


@pytest.fixture(scope="module")
def phases_model():
    """A model, and phases that name its layers in every way."""
    named = [Phase(0, freeze="embedding/rows"), Phase(1, train=["embedding/map", "head"]), Phase(2, freeze="embedding")]
    return model_of(layer_of("map+rows")), named


def test_a_frozen_part_does_not_move():
    """In a fit under Adam: the rows join in the second epoch."""
    layer = layer_of("map+rows")
    tables = tiny.Tables()
    schedule = TrainabilitySchedule([Phase(0, freeze="embedding/rows"), Phase(1)])
    tiny.fit(model_of(layer, RowWiseAdam(0.05)), epochs=2, callbacks=[schedule, tables])
    np.testing.assert_allclose(tables.kept[0], by_a_map(tables.kept[0]), atol=1e-4)
    assert np.abs(layer.matrix() - by_a_map(layer.matrix())).max() > 1e-3


def by_a_map(table):
    """The nearest table that a map alone could have made."""
    return BASE + BASE @ np.linalg.lstsq(BASE, table - BASE, rcond=None)[0]


def test_unknown_part_is_refused():
    """The message lists what there is."""
    with pytest.raises(UnknownLayerError, match="'embedding/columns'"):
        Flags(model_of(layer_of("map")), [Phase(0, freeze="embedding/columns")], ())


def test_rates_of_the_parts():
    """`learning_rate_multipliers` take the same addresses."""
    layer = layer_of("map+rows")
    optimizer = RowWiseAdam(0.05, learning_rate_multipliers={"embedding/map": 0.0001})
    tiny.fit(model_of(layer, optimizer), epochs=1)
    assert np.abs(layer.map_matrix).max() < 1e-4 < np.abs(layer.matrix() - BASE).max()


def test_unfreeze_rows_adds_rows_to_a_map():
    """Frequent words train by themselves from an epoch on, starting where the map has brought them."""
    layer = layer_of("map")
    net = model_of(layer, RowWiseAdam(0.05))
    tables = tiny.Tables()
    tiny.fit(net, epochs=2, callbacks=[unfreeze_rows(1, "embedding", vocabulary=VOCABULARY, min_count=5), tables])
    assert np.flatnonzero(layer.trainable_mask).tolist() == [2, 3, 7]
    shared = BASE + BASE @ layer.map_matrix
    assert np.flatnonzero(np.abs(layer.matrix() - shared).max(axis=1) > 1e-4).tolist() == [2, 3, 7]
    np.testing.assert_allclose(tables.kept[0], by_a_map(tables.kept[0]), atol=1e-4)


@both
def test_a_word_added_after_training_is_understood(trainable):
    """`change_vocabulary`: known words keep their rows, a new one is B + B W at once, and slots stay."""
    layer = layer_of(trainable)
    net = model_of(layer, RowWiseAdam(0.05))
    tiny.fit(net, epochs=1)
    before, slot = layer.matrix(), keras.ops.convert_to_numpy(net.optimizer._momentums[0])
    extended = VOCABULARY.extended(["new"])
    new = RNG.normal(size=(1, 4)).astype("float32")
    change_vocabulary(net, "embedding", before=VOCABULARY, after=AlignedMatrix(np.vstack([BASE, new]), extended))
    table = layer.matrix()
    np.testing.assert_allclose(table[:10], before, atol=1e-6)
    np.testing.assert_allclose(table[10:], new + new @ layer.map_matrix, atol=1e-6)
    assert layer.trainable_mask[10] == (trainable == "map+rows")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(net.optimizer._momentums[0]), slot)
    tiny.fit(net, epochs=1)
    assert (layer.matrix()[10] != table[10]).all()


def test_assign_and_quantize():
    """A table that is assigned is what the layer returns; int8 keeps map and rows."""
    layer = layer_of("map+rows", trained=True)
    before = layer.matrix()
    layer.quantize("int8")
    np.testing.assert_allclose(layer.matrix(), before, atol=0.2)
    assert layer.accuracy.smallest_cosine > 0.99
    layer = layer_of("map+rows", trained=True)
    layer.assign_table(BASE * 2)
    np.testing.assert_array_equal(layer.matrix(), BASE * 2)
    assert not layer.map_matrix.any()


@both
@pytest.mark.parametrize("name", ["RMSprop", "Nadam", "Adadelta", "Adafactor", "Ftrl", "Lion"])
def test_optimizers_of_keras_train_the_map(aligned, trainable, name):
    """Also those that ask for the shape of a gradient."""
    layer = build_embedding(aligned, trainable=trainable)
    net = keras.Sequential([keras.Input((3,), dtype="int64"), layer, keras.layers.GlobalAveragePooling1D()])
    net.compile(getattr(keras.optimizers, name)(0.01), loss="mse")
    net.fit(np.array([[2, 3, 0], [4, 5, 5]]), np.ones((2, 4)), verbose=0)
    assert layer.map_matrix.any()
