"""Tokens added to a trained model, or dropped."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras.errors import ArgumentError, EmbkerasWarning, ScheduleError, UnknownLayerError
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel
from embkeras.tables import row_io as table_io
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseSGD
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.training.test_rebuild import FEW, OPTIMIZERS
from tests.variants import variants

BEFORE = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(2, 10))])
MORE = Vocabulary(["", "[UNK]", "n10", *(f"w{place}" for place in range(9, 1, -1)), "n11"])  # in another order, too
FEWER = Vocabulary(["", "[UNK]", *(f"w{place}" for place in (3, 2, 5, 7))])
IDS_FEWER = np.array([[2, 3, 4, 5, 1], [5, 5, 2, 0, 0], [3, 0, 0, 0, 0], [4, 2, 1, 5, 3]])
TABLES = {len(vocabulary): np.random.default_rng(7).normal(size=(len(vocabulary), 4)) for vocabulary in (MORE, FEWER)}
FORMS = {
    "whole": {"trainable": True},
    "frozen": {},
    "rows": {"trainable": np.isin(np.arange(10), [1, 3, 7, 9])},
    "int8": {"trainable": np.isin(np.arange(10), [3, 7]), "stored": "int8"},
}


def _after(vocabulary, found=None):
    return AlignedMatrix(TABLES[len(vocabulary)], vocabulary, found=found)


def _layer(form):
    if form == "LoRA":
        layer = build_embedding(AlignedMatrix(tiny.TABLE, BEFORE), trainable=True)
        layer.enable_lora(2)
        return layer
    return build_embedding(AlignedMatrix(tiny.TABLE, BEFORE), **FORMS[form])


def _trained(layer, optimizer="sgd", epochs=2, **arguments):
    keras.utils.set_random_seed(0)
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax", name="head")]
    net = keras.Sequential([keras.Input((None,), dtype="int64"), layer, *head])
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **arguments)
    if epochs:
        tiny.fit(net, epochs=epochs)
    return net


@functools.cache
def _batches_of_more():
    """tiny.batches(), in the ids of MORE."""
    return tiny.batches().map(lambda ids, labels: (tf.gather(_translated(np.arange(10), BEFORE, MORE), ids), labels))


def _translated(ids, before, after):
    """The ids of the same tokens in another vocabulary."""
    map_ = [0, 1, *(after.token_to_id.get(token, -1) for token in before.tokens[2:])]
    return np.array(map_)[ids]


@pytest.mark.parametrize("form", [*FORMS, "LoRA"])
def test_more_tokens(form):
    """Texts keep their scores, whatever ids their tokens have now; new rows are those of the vectors."""
    net = _trained(_layer(form))
    scores, table = net.predict(tiny.IDS, verbose=0), net.layers[0].matrix()
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    after = net.layers[0].matrix()
    np.testing.assert_array_equal(net.predict(_translated(tiny.IDS, BEFORE, MORE), verbose=0), scores)
    np.testing.assert_array_equal(after[_translated(np.arange(10), BEFORE, MORE)], table)
    scale = np.abs(after[[2, 11]]).max(axis=1) / 127 if form == "int8" else np.zeros(2)
    np.testing.assert_allclose(after[[2, 11]], TABLES[12][[2, 11]], atol=1e-6 + scale.max())
    tiny.fit(net, epochs=1)


@pytest.mark.parametrize("form", [*FORMS, "LoRA"])
def test_fewer_tokens(form):
    """The same for a vocabulary that shrank; the table is smaller."""
    net = _trained(_layer(form))
    scores = net.predict(_translated(IDS_FEWER, FEWER, BEFORE), verbose=0)
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(FEWER))
    assert net.layers[0].matrix().shape == (6, 4)
    np.testing.assert_array_equal(net.predict(IDS_FEWER, verbose=0), scores)
    net.fit(IDS_FEWER, np.zeros(4), verbose=0)


@pytest.mark.parametrize("name", variants(OPTIMIZERS, always=FEW))
def test_training_continues_as_if_nothing_had_happened(name):
    """Under every optimizer, a model with other ids and more rows trains its old rows like one that was not changed."""
    nets = [_trained(_layer("whole"), OPTIMIZERS[name](), epochs=1, run_eagerly=True) for _ in range(2)]
    change_vocabulary(nets[1], "embedding", before=BEFORE, after=_after(MORE))
    tiny.fit(nets[0], epochs=1)
    nets[1].fit(_batches_of_more(), epochs=1, shuffle=False, verbose=0)
    tables = [net.layers[0].matrix() for net in nets]
    # Optimizers that use the whole table (norms, factors, orthogonal updates, global clipping) see the new rows too.
    whole = any(word in name for word in ("Adafactor", "Muon", "Lamb"))
    same = tables[1][_translated(np.arange(10), BEFORE, MORE)]
    np.testing.assert_allclose(same, tables[0], atol=0.05 if whole else 1e-6)
    np.testing.assert_allclose(
        nets[1].get_layer("head").kernel, nets[0].get_layer("head").kernel, atol=0.05 if whole else 1e-6
    )


def test_slots_of_rows_follow_their_tokens():
    """Moments, the anchor and its radius; new rows have those of a new optimizer."""
    optimizer = RowWiseAdam(0.01, anchor_decay=0.1, max_drift=0.5)
    net = _trained(_layer("whole"), optimizer)

    def slots():
        held = (optimizer._momentums, optimizer._velocities, optimizer._anchors, optimizer._radii)
        return [np.array(each[0]) for each in held]

    before, found = slots(), np.arange(12) != 2
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE, found))
    places, radius = _translated(np.arange(10), BEFORE, MORE), 0.5 * np.linalg.norm(TABLES[12][11])
    assert slots()[3][2] == np.inf  # a new word without a vector may go anywhere
    for was, now, new in zip(before, slots(), (np.zeros(4), np.zeros(4), TABLES[12][11], radius), strict=True):
        np.testing.assert_array_equal(now[places], was)
        np.testing.assert_allclose(now[11], new, rtol=1e-5)


def test_new_tokens_without_a_vector_train():
    """In a table of which some rows train, they train too; a token that the vectors have is frozen."""
    net = _trained(_layer("rows"), optimizers.Adam(0.05))
    found = np.arange(12) != 2
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE, found))
    layer = net.layers[0]
    trains = [MORE.tokens[id_] for id_ in np.flatnonzero(layer.trainable_mask)]
    assert sorted(trains) == ["[UNK]", "n10", "w3", "w7", "w9"] and layer.trainable_rows == 5
    before = layer.matrix()
    net.fit(np.arange(12)[None], np.zeros(1), verbose=0)
    np.testing.assert_array_equal((layer.matrix() != before).any(axis=1), layer.trainable_mask)


def test_a_model_that_is_not_compiled():
    """It has no optimizer; its answers stay the same."""
    layer = _layer("whole")
    net = keras.Sequential([keras.Input((None,), dtype="int64"), layer, keras.layers.GlobalAveragePooling1D()])
    answers = net.predict(tiny.IDS, verbose=0)
    change_vocabulary(net, layer, before=BEFORE, after=_after(MORE))
    np.testing.assert_array_equal(net.predict(_translated(tiny.IDS, BEFORE, MORE), verbose=0), answers)


@pytest.mark.parametrize("form", ["whole", "int8"])
def test_saved_and_exported(form, tmp_path):
    """Files and exports hold the table of the new size."""
    net = _trained(_layer(form))
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    scores = net.predict(tiny.IDS, verbose=0)
    net.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "model.keras").predict(tiny.IDS, verbose=0), scores
    )
    export_saved_model(net, tmp_path / "export", vocabulary=MORE)
    np.testing.assert_allclose(ExportedModel(tmp_path / "export").scores(tiny.IDS), scores, atol=1e-6)


def test_a_layer_inside_another_model():
    """Found by its path; the optimizer of the outer model follows."""
    net = tiny.nested(RowWiseSGD(0.1), embedding_trainable=True)
    tiny.fit(net, epochs=1)
    scores = net.predict(tiny.IDS, verbose=0)
    change_vocabulary(net, "encoder/embedding", before=BEFORE, after=_after(MORE))
    np.testing.assert_array_equal(net.predict(_translated(tiny.IDS, BEFORE, MORE), verbose=0), scores)
    tiny.fit(net, epochs=1)


_OTHER = AlignedMatrix(np.ones((12, 3)), MORE)
_NO_PADDING = AlignedMatrix(np.ones((2, 4)), Vocabulary(["a", "[UNK]"], padding_id=None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"before": MORE}, "Layer 'embedding' has a table of 10 x 4.* Received: before of 12 tokens, after of width 4"),
        (
            {"after": _OTHER},
            "Layer 'embedding' has a table of 10 x 4.* Received: before of 10 tokens, after of width 3",
        ),
        (
            {"after": _NO_PADDING},
            "the same padding id .* Received: .*padding_id=0, .* padding_id=None",
        ),
        ({"after": MORE}, "takes before=Vocabulary and after=AlignedMatrix. Received: Vocabulary and Vocabulary"),
        ({"layer": 3}, "layer must name layers.* Received: 3"),
        ({"layer": "head"}, "takes a built layer .* Received: Dense 'head'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    """Arguments that don't match the layer are refused, and nothing is changed."""
    net = _trained(_layer("whole"), epochs=0)
    given = {"layer": "embedding", "before": BEFORE, "after": _after(MORE)} | arguments
    with pytest.raises(ArgumentError, match=message):
        change_vocabulary(net, given.pop("layer"), **given)
    assert net.layers[0].input_dim == 10


def test_unknown_layers_and_quantized_tables():
    """Both are named."""
    net = _trained(_layer("frozen"), epochs=0)
    with pytest.raises(UnknownLayerError, match="has no layer named 'words'"):
        change_vocabulary(net, "words", before=BEFORE, after=_after(MORE))
    net.layers[0].quantize("int8")
    with pytest.raises(ArgumentError, match="'embedding' is quantized"):
        change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))


@pytest.mark.parametrize("form", ["whole", "frozen", "rows", "int8", "LoRA"])
def test_a_frozen_layer_can_be_unfrozen_afterwards(form):
    """By a schedule that was made before, in a fit that continues."""
    net, schedule = _trained(_layer(form), optimizers.Adam(0.05)), unfreeze_at(1, "embedding")
    with pytest.warns(EmbkerasWarning, match="ends before epoch 1"):
        tiny.fit(net, epochs=1, callbacks=[schedule])
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    table = net.layers[0].matrix()
    tiny.fit(net, epochs=2, initial_epoch=1, callbacks=[schedule])
    assert (net.layers[0].matrix() != table).any()


def test_patience_that_continues_is_refused():
    """The best weights that it would restore have another shape; a new schedule starts again."""
    schedules = [TrainabilitySchedule(Phase(0, patience=3), monitor="loss", mode="max") for _ in range(2)]
    net = _trained(_layer("whole"))
    tiny.fit(net, epochs=1, callbacks=[schedules[0]])
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    with pytest.raises(ScheduleError, match=r"weights of epoch 0 .* model 'sequential.*' have other shapes now"):
        tiny.fit(net, epochs=2, initial_epoch=1, callbacks=[schedules[0]])
    tiny.fit(net, epochs=2, initial_epoch=1, callbacks=[schedules[1]])


def test_a_layer_that_others_combine_is_refused():
    """Its ids are theirs too, and would no longer mean the same."""
    layers = [
        build_embedding(AlignedMatrix(tiny.TABLE, BEFORE), trainable=kind, name=name)
        for kind, name in ((True, "tuned"), (False, "static"))
    ]
    net = _trained(combine_embeddings(layers), epochs=0)
    with pytest.raises(ArgumentError, match=r"Received: 'tuned', which layer 'embedding' combines"):
        change_vocabulary(net, "tuned", before=BEFORE, after=_after(MORE))


def test_several_oov_ids():
    """The first stays the first, wherever they are now."""
    before = Vocabulary(["", "[UNK]", "[UNK]", *"abcdefg"], oov_ids=(1, 2))
    after = Vocabulary(["", "a", "[UNK]", "[UNK]", "new", "c"], oov_ids=(3, 2))
    net = _trained(build_embedding(AlignedMatrix(tiny.TABLE, before), trainable=True), optimizers.Adam(0.05))
    table = net.layers[0].matrix()
    change_vocabulary(net, "embedding", before=before, after=AlignedMatrix(np.ones((6, 4)), after))
    expected = np.concatenate([table[[0, 3, 2, 1]], np.ones((1, 4)), table[[5]]])
    np.testing.assert_array_equal(net.layers[0].matrix(), expected)


def test_slots_go_over_in_blocks(monkeypatch):
    """Never as a whole; the result is the same."""
    tables = []
    for block in (1 << 20, 8):  # numbers: two rows
        monkeypatch.setattr(table_io, "BLOCK", block)
        net = _trained(_layer("whole"), RowWiseAdam(0.05, anchor_decay=0.005), run_eagerly=True)
        change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
        tiny.fit(net, epochs=1)
        tables.append(net.layers[0].matrix())
    np.testing.assert_array_equal(*tables)


def test_an_optimizer_of_several():
    """The one that has the table continues where it was."""
    several = [
        tiny.since("MultiOptimizer")(
            tiny.since("OptimizerMap")(optimizers.SGD(0.1, momentum=0.9), {"embedding/.*": optimizers.Adam(0.01)})
        )
        for _ in range(2)
    ]
    nets = [_trained(_layer("whole"), each, run_eagerly=True) for each in several]
    change_vocabulary(nets[1], "embedding", before=BEFORE, after=_after(MORE))
    for net, ids in zip(nets, (tiny.IDS, _translated(tiny.IDS, BEFORE, MORE)), strict=True):
        net.fit(ids, tiny.LABELS, epochs=2, batch_size=4, shuffle=False, verbose=0)
    same = nets[1].layers[0].matrix()[_translated(np.arange(10), BEFORE, MORE)]
    np.testing.assert_allclose(same, nets[0].layers[0].matrix(), atol=1e-6)


def test_an_optimizer_that_is_not_built():
    """It is built for the new table when training begins."""
    net = _trained(_layer("whole"))
    net.compile(optimizers.Adam(0.05), loss=net.loss)
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    table = net.layers[0].matrix()
    tiny.fit(net, epochs=1)
    assert (net.layers[0].matrix() != table).any()


@pytest.mark.parametrize("form", [*FORMS, "LoRA"])
def test_weights_go_into_a_clone(form):
    """In the order in which a new layer has them."""
    net = _trained(_layer(form))
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    clone = keras.models.clone_model(net)
    clone.set_weights(net.get_weights())
    np.testing.assert_array_equal(clone.predict(tiny.IDS, verbose=0), net.predict(tiny.IDS, verbose=0))


@pytest.mark.parametrize("combine", ["concat", "attention"])
def test_a_combination_as_a_whole(combine, tmp_path):
    """All of its tables change, and the map of which source has which word; texts keep their scores, training continues."""
    aligned = AlignedMatrix(tiny.TABLE, BEFORE)
    layers = [build_embedding(aligned, name="static"), build_embedding(aligned, trainable=True, name="tuned")]
    found = [np.arange(10) != 4, np.arange(10) != 5]
    layer = combine_embeddings(layers, combine=combine, found=found if combine == "attention" else None)
    net = _trained(layer, optimizers.Adam(0.05))
    scores = net.predict(tiny.IDS, verbose=0)
    after = [_after(MORE, np.arange(12) != 2), _after(MORE)]
    change_vocabulary(net, "embedding", before=BEFORE, after=after)
    np.testing.assert_allclose(net.predict(_translated(tiny.IDS, BEFORE, MORE), verbose=0), scores, atol=1e-6)
    assert layer.input_dim == 12 and layer.matrix().shape[0] == 12
    if combine == "attention":
        assert np.array(layer._found)[[2, 11]].tolist() == [[0, 1], [1, 1]]
    tiny.fit(net, epochs=1)
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(tiny.IDS, verbose=0), net.predict(tiny.IDS, verbose=0))


def test_a_combination_needs_one_matrix_a_source():
    """All of one vocabulary."""
    aligned = AlignedMatrix(tiny.TABLE, BEFORE)
    layer = combine_embeddings([build_embedding(aligned, name="a"), build_embedding(aligned, name="b")])
    net = _trained(layer)
    for after in (_after(MORE), [_after(MORE), _after(FEWER)]):
        with pytest.raises(
            ArgumentError, match=r"one AlignedMatrix for each of the tables \['a', 'b'\].* Received: [12], of [12]"
        ):
            change_vocabulary(net, "embedding", before=BEFORE, after=after)


def test_two_towers_by_path_and_glob():
    """A bare name that both have is refused with both paths; only the tower named is changed."""
    ids, towers = keras.Input((5,), dtype="int64"), []
    for name in ("q", "a"):
        inner = keras.Input((5,), dtype="int64")
        towers.append(keras.Model(inner, tiny.embedding()(inner), name=name)(ids))
    net = keras.Model(ids, keras.layers.Add()(towers), name="towers")
    for several in ("embedding", "*/embedding"):
        with pytest.raises(UnknownLayerError, match=r"q/embedding, a/embedding"):
            change_vocabulary(net, several, before=BEFORE, after=_after(MORE))
    change_vocabulary(net, "q*/embedding", before=BEFORE, after=_after(MORE))
    assert [net.get_layer(name).get_layer("embedding").input_dim for name in "qa"] == [12, 10]


def test_slots_of_an_optimizer_beside_the_models_own_follow():
    """A custom train step's optimizer has the moments of each token in the token's new row."""
    net = tiny.own_step(optimizers.SGD(0.1, momentum=0.9), lambda net: net.held, trainable=True)
    tiny.fit(net, epochs=1)
    before = np.array(net.held.momentums[0])
    change_vocabulary(net, "embedding", before=BEFORE, after=_after(MORE))
    (after,) = [np.array(slot) for slot in net.held.momentums if slot.shape == (12, 4)]
    np.testing.assert_array_equal(after[_translated(np.arange(10), BEFORE, MORE)], before)
    assert before.any() and not after[[2, 11]].any()
    tiny.fit(net, epochs=1)
