"""Several tables as one embedding layer."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ArgumentError, EmbkerasWarning, ScheduleError
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel
from embkeras.tables.builders import build_classifier, build_embedding
from embkeras.tables.combined import COMBINATIONS, CombinedEmbedding, combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseAdamW
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.variants import variants

VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(8))])
IDS = np.arange(10)
ROWS = np.isin(IDS, [1, 3, 7])
FOUND = ~np.isin(IDS, [0, 1, 2, 5]), ~np.isin(IDS, [0, 1, 2, 7])  # no source has 2; each lacks one that the other has
# (combine, output_dim) in every form
FORMS = [("concat", None), ("concat", 3), *((name, dim) for name in COMBINATIONS[1:] for dim in (None, 3))]


def _aligned(seed=0, width=4):
    table = np.random.default_rng(seed).normal(size=(10, width)).astype(np.float32)
    table[0] = 0
    return AlignedMatrix(table, VOCABULARY)


def _source(name="a", seed=0, width=4, **arguments):
    return build_embedding(_aligned(seed, width), name=name, **arguments)


def _layer(combine="concat", output_dim=None, *, first=False, second=True, masks=True, width=4, **arguments):
    """Sources "a" and "b", of which only "b" trains; the learned scores no longer have their initial values."""
    keras.utils.set_random_seed(0)
    found = FOUND if masks and combine != "concat" else None
    sources = [_source("a", trainable=first), _source("b", 1, width, trainable=second)]
    layer = combine_embeddings(sources, combine=combine, output_dim=output_dim, found=found, **arguments)
    for variable in layer.trainable_variables:
        if variable.name == "scores":
            variable.assign(np.linspace(-1, 2, variable.shape[0]))
    return layer


def _model(layer, optimizer="sgd", between=keras.layers.GlobalAveragePooling1D, **compile_arguments):
    """The layer, the mean of its vectors, a dense layer "head"."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int64")
    net = keras.Model(ids, keras.layers.Dense(3, "softmax", name="head")(between()(layer(ids))))
    net.compile(optimizer, loss="sparse_categorical_crossentropy", **compile_arguments)
    return net


def _kernels(layer):
    return [variable.numpy() for variable in layer.trainable_variables if variable.name.startswith("projection")]


def _score(layer, place, vector):
    if layer.combine == "mean":
        return 0
    (learned,) = [variable.numpy() for variable in layer.trainable_variables if variable.name == "scores"]
    return learned[place] if layer.combine == "weighted" else vector @ learned


def _expected(layer, found=FOUND):
    """The table that the layer should return, by loops over words and sources."""
    tables = [source.matrix() for source in layer.sources]
    kernels = _kernels(layer)
    if layer.combine == "concat":
        joined = np.concatenate(tables, axis=1)
        return joined @ kernels[0] if kernels else joined
    vectors = [table @ kernel for table, kernel in zip(tables, kernels, strict=True)] if kernels else tables
    result = np.zeros((10, layer.output_dim))
    for word in IDS:
        have = [place for place in range(len(vectors)) if found[place][word]] or list(range(len(vectors)))
        powers = np.exp([_score(layer, place, vectors[place][word]) for place in have])
        result[word] = sum(
            power * vectors[place][word] for power, place in zip(powers / powers.sum(), have, strict=True)
        )
    return result


# ------------------------------------------------------------------------------------------------------ what it computes


@pytest.mark.parametrize(("combine", "output_dim"), FORMS)
def test_against_numpy(combine, output_dim):
    """Each way of combining follows the formula of its paper, with words that a source lacks masked."""
    layer = _layer(combine, output_dim)
    np.testing.assert_allclose(layer(IDS), _expected(layer), atol=1e-6)
    assert layer.output_dim == layer(IDS).shape[-1] == (output_dim or (8 if combine == "concat" else 4))


@pytest.mark.parametrize(("combine", "output_dim"), FORMS)
def test_matrix_is_the_layer_at_every_id(combine, output_dim, monkeypatch):
    """matrix() returns one float32 table, made in blocks."""
    monkeypatch.setattr("embkeras.tables.row_io.BLOCK", 24)
    layer = _layer(combine, output_dim)
    assert layer.matrix().dtype == "float32" and layer.matrix().shape == (layer.input_dim, layer.output_dim)
    np.testing.assert_allclose(layer.matrix(), layer(IDS), atol=1e-6)


def test_channels_of_one_source():
    """A static and a tuned copy side by side (Kim 2014)."""
    layer = combine_embeddings([_source("static"), _source("tuned", trainable=True)])
    np.testing.assert_array_equal(layer(IDS), np.concatenate([_aligned().values] * 2, axis=1))
    assert [variable.path for variable in layer.trainable_variables] == ["tuned/embeddings"]


@pytest.mark.parametrize("combine", ["concat", "attention"])
def test_widths_may_differ(combine):
    """For "concat", or with a projection of each source."""
    layer = _layer(combine, 3 if combine == "attention" else None, width=6)
    assert layer.output_dim == (10 if combine == "concat" else 3)
    np.testing.assert_allclose(layer(IDS), _expected(layer), atol=1e-6)


@pytest.mark.parametrize("combine", ["mean", "weighted", "attention"])
def test_a_source_without_a_word_has_weight_zero(combine):
    """Its row changes no bit of the result, and the other source has weight 1."""
    layer = _layer(combine)
    before, (a, b) = layer.matrix(), layer.sources
    a.assign_table(np.where((IDS == 5)[:, None], 100, a.matrix()).astype(np.float32))
    np.testing.assert_array_equal(layer.matrix(), before)
    alone = b.matrix()[5] @ (_kernels(layer)[1] if combine == "attention" else np.eye(4))
    np.testing.assert_allclose(before[5], alone, atol=1e-6)


@pytest.mark.parametrize("combine", ["weighted", "attention"])
def test_learned_weights_begin_as_the_mean(combine):
    """Before training, all sources have the same weight."""
    keras.utils.set_random_seed(0)
    layer = combine_embeddings([_source("a"), _source("b", 1)], combine=combine, output_dim=3)
    projected = [source.matrix() @ each for source, each in zip(layer.sources, _kernels(layer), strict=True)]
    np.testing.assert_allclose(layer.matrix(), np.mean(projected, axis=0), atol=1e-6)


def test_projection_alone():
    """One layer and a width; at first, distances are preserved as far as the width allows."""
    keras.utils.set_random_seed(0)
    narrow, wide = (combine_embeddings([_source()], output_dim=width) for width in (2, 6))
    np.testing.assert_allclose(narrow.matrix(), _aligned().values @ _kernels(narrow)[0], atol=1e-6)
    grams = [table @ table.T for table in (wide.matrix(), _aligned().values)]
    np.testing.assert_allclose(*grams, atol=1e-5)


def test_folds_into_a_table():
    """What it has learned can be copied into a plain embedding."""
    layer = _layer("attention", 3)
    folded = build_embedding(AlignedMatrix(layer.matrix(), VOCABULARY))
    np.testing.assert_allclose(folded(IDS), layer(IDS), atol=1e-6)


def test_combinations_combine():
    """A projected source beside a plain one."""
    inner = combine_embeddings([_source("wide")], output_dim=2, name="narrow")
    layer = combine_embeddings([inner, _source("b", 1)])
    np.testing.assert_allclose(layer.matrix(), np.concatenate([inner.matrix(), _aligned(1).values], axis=1), atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(("combine", "output_dim"), FORMS)
@pytest.mark.parametrize("mask_zero", variants([True, False], always=[False]))
@pytest.mark.filterwarnings("ignore:Layer 'flatten.*destroy the mask:UserWarning")
def test_padding_is_zeros_and_gets_no_gradient(combine, output_dim, mask_zero):
    """Also under Flatten, with and without a mask, after steps of Adam that read it."""
    keras.utils.set_random_seed(0)
    sources = [_source(name, seed, trainable=True, mask_zero=mask_zero) for seed, name in enumerate("ab")]
    layer = combine_embeddings(sources, combine=combine, output_dim=output_dim)
    net = _model(layer, optimizers.Adam(0.1), keras.layers.Flatten, run_eagerly=True)
    net.fit(tiny.IDS * (tiny.IDS > 3), tiny.LABELS, epochs=2, verbose=0)
    assert not np.any(layer(np.array([0]))) and not any(np.any(source.matrix()[0]) for source in sources)
    assert all((source.matrix()[5] != _aligned(seed).values[5]).all() for seed, source in enumerate(sources))


def test_mask():
    """Id 0 is masked for the layers that follow if the sources mask it."""
    assert _layer().compute_mask(np.array([[1, 0]])).numpy().tolist() == [[True, False]]
    plain = combine_embeddings([_source("a", mask_zero=False), _source("b", mask_zero=False)])
    assert plain.compute_mask(np.array([[1, 0]])) is None and not plain.mask_zero
    assert plain.padding_id == plain.sources[0].padding_id and _layer().padding_id == 0


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.Adam(0.01),
        lambda: optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: RowWiseAdamW(0.01, weight_decay=0.1),
    ],
    ids=["Adam", "AdamW", "RowWiseAdamW"],
)
def test_frozen_source_stays_bit_identical(make):
    """The other source, the scores and the projections move."""
    layer = _layer("attention", 3)
    before = [variable.numpy() for variable in layer.trainable_variables]
    tiny.fit(_model(layer, make()), epochs=2)
    np.testing.assert_array_equal(layer.sources[0].matrix(), _aligned(0).values)
    assert all((after.numpy() != value).any() for after, value in zip(layer.trainable_variables, before, strict=True))


def test_row_wise_optimizer_knows_the_tables():
    """A row that occurs in no batch stays, and nothing warns of stock tables or dense gradients."""
    layer = _layer("attention", 3, first=True)
    tiny.fit(_model(layer, RowWiseAdam(0.01)), epochs=2)
    for seed, source in enumerate(layer.sources):
        moved = (source.matrix() != _aligned(seed).values).any(axis=1)
        assert not moved[tiny.UNSEEN] and moved[[3, 4, 6, 8]].all()


def test_rows_that_a_source_lacks_get_no_gradient():
    """The row of a word moves only in sources that contain it; words that no source contains move in all."""
    layer = _layer("weighted", first=True)
    tiny.fit(_model(layer, RowWiseAdam(0.01)), epochs=2)
    moved = [(source.matrix() != _aligned(seed).values).any(axis=1) for seed, source in enumerate(layer.sources)]
    assert not moved[0][5] and moved[1][5] and moved[0][7] and not moved[1][7] and moved[0][2] and moved[1][2]


def test_partly_trainable_source():
    """A source of which only some rows train keeps the others."""
    layer = combine_embeddings([_source("a"), _source("b", 1, trainable=ROWS)], combine="mean", output_dim=3)
    tiny.fit(_model(layer, optimizers.AdamW(0.01, weight_decay=0.1)), epochs=2)
    moved = (layer.sources[1].matrix() != _aligned(1).values).any(axis=1)
    np.testing.assert_array_equal(moved, ROWS)


def test_a_schedule_thaws_one_source():
    """ "embedding/b" begins to move at its epoch, and "a" never does."""
    layer = _layer("concat", second=False)
    net, tables = _model(layer, optimizers.Adam(0.01)), tiny.Tables()
    tiny.fit(net, callbacks=[unfreeze_at(2, "embedding/b"), tables])
    start = np.concatenate([_aligned(0).values, _aligned(1).values], axis=1)
    np.testing.assert_array_equal(tables.kept[1], start)
    np.testing.assert_array_equal(layer.matrix()[:, :4], start[:, :4])
    assert (layer.matrix()[1:9, 4:] != start[1:9, 4:]).all()


def test_a_schedule_freezes_one_source():
    """The other continues to train, and so does the projection."""
    layer = _layer("concat", 3, first=True)
    kernel, tables = _kernels(layer)[0], {}
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: tables.update({epoch: layer.sources[0].matrix()})
    )
    phases = [Phase(0), Phase(2, freeze="embedding/a")]
    tiny.fit(_model(layer, optimizers.Adam(0.01)), callbacks=[TrainabilitySchedule(phases), keep])
    assert (tables[1] != tables[0]).any() and (tables[3] == tables[1]).all()
    assert (_kernels(layer)[0] != kernel).any()


def test_thawing_the_whole_layer_thaws_sources_that_start_frozen():
    """Those that their user froze by hand stay frozen: the schedule raises if nothing else could train."""
    net = _model(_layer("concat", second=False))
    tiny.fit(net, callbacks=[unfreeze_at(1, "embedding")])
    assert all(source.trainable for source in net.get_layer("embedding").sources)
    by_hand = _layer("concat", second=False)
    for source in by_hand.sources:
        source.trainable = False
    with pytest.raises(ScheduleError, match=r"Layer 'embedding' can't train from epoch 1 on: it has no trainable"):
        tiny.fit(_model(by_hand), callbacks=[unfreeze_at(1, "embedding")])


@pytest.mark.parametrize(
    "arguments", variants([{"run_eagerly": True}, {"jit_compile": True}], always=[{"run_eagerly": True}]), ids=str
)
def test_in_every_mode_of_fit(arguments):
    """The weights are those of a plain fit."""
    nets = [_model(_layer("attention", 3), RowWiseAdam(0.01), **each) for each in (arguments, {"jit_compile": False})]
    for net in nets:
        tiny.fit(net, epochs=2)
    assert tiny.apart(*nets) <= 1e-5


@pytest.mark.parametrize("combine", ["concat", "attention"])
def test_mixed_precision(combine):
    """It computes in half precision and keeps float32 variables."""
    layer = _layer(combine, 3, dtype="mixed_float16")
    assert layer(IDS).dtype == "float16" and {v.dtype for v in layer.trainable_variables} == {"float32"}
    np.testing.assert_allclose(layer(IDS), _expected(layer), atol=2e-2)
    net = _model(layer, optimizers.LossScaleOptimizer(optimizers.Adam(0.01), initial_scale=128))
    tiny.fit(net, epochs=2)
    np.testing.assert_array_equal(layer.sources[0].matrix(), _aligned(0).values)
    assert np.isfinite(layer.matrix()).all()


def test_ids_that_come_as_float32_are_not_rounded():
    """A Sequential without an Input passes float32 ids; as float16, ids above 2048 would be rounded."""
    rows = np.arange(5000, dtype=np.float32)[:, None] / 8
    aligned = AlignedMatrix(rows, Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(4998))]))
    layer = combine_embeddings(
        [build_embedding(aligned, name=name) for name in "ab"], combine="mean", dtype="mixed_float16"
    )
    assert layer(np.array([4097.0], np.float32)).numpy().tolist() == [[np.float16(4097 / 8)]]


# ---------------------------------------------------------------------------------------------------- files and exports


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
@pytest.mark.parametrize(
    ("combine", "output_dim"), [("concat", None), ("mean", 3), ("weighted", None), ("attention", 3)]
)
def test_files(combine, output_dim, name, tmp_path):
    """A loaded model has the same tables, masks, weights, flags and variable paths."""
    layer = _layer(combine, output_dim)
    net, path = _model(layer), tmp_path / name
    if name.endswith(".keras"):
        net.save(path)
        loaded = keras.saving.load_model(path)
    else:
        net.save_weights(path)
        loaded = _model(_layer(combine, output_dim, masks=False))
        for variable in loaded.trainable_variables:
            variable.assign(variable * 0)
        loaded.load_weights(path)
    assert tiny.apart(net, loaded) == 0
    assert [v.path for v in loaded.trainable_variables] == [v.path for v in net.trainable_variables]
    assert [v.path for v in loaded.variables] == [v.path for v in net.variables]
    np.testing.assert_array_equal(loaded.get_layer("embedding").matrix(), layer.matrix())


def test_training_continues_from_a_file_bit_for_bit(tmp_path):
    """With a source of which only some rows train, and with the optimizer's slots."""
    layer = combine_embeddings([_source("a"), _source("b", 1, trainable=ROWS)], combine="attention", found=FOUND)
    net = _model(layer, RowWiseAdam(0.01))
    tiny.fit(net, epochs=1)
    loaded = tiny.fit_on_from_a_file(net, tmp_path)
    assert tiny.apart(net, loaded) == 0


def test_config_does_not_hold_tables_or_masks():
    """A copy from the config is empty until weights are loaded, which each of its sources warns of."""
    layer = _layer("mean", 3)
    config = keras.saving.serialize_keras_object(layer)
    assert len(str(config)) < 6000
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config() and copy.count_params() == layer.count_params()
    with pytest.warns(EmbkerasWarning, match="table of layer '[ab]' is all zeros") as warned:
        copy(IDS)
    assert len(warned) == 2
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(IDS), layer(IDS))


@pytest.mark.parametrize(("combine", "output_dim"), [("concat", 3), ("weighted", None), ("attention", 3)])
def test_export(combine, output_dim, tmp_path):
    """The export returns the scores of the model."""
    net = _model(_layer(combine, output_dim), optimizers.Adam(0.05), run_eagerly=True)
    tiny.fit(net, epochs=1)
    export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    scores = ExportedModel(tmp_path).scores(tiny.IDS)
    np.testing.assert_allclose(scores, net.predict(tiny.IDS, verbose=0), atol=1e-6)


def test_quantize_takes_the_tables(tmp_path):
    """`Model.quantize` quantizes the tables inside and nothing else; the model can be saved and loaded."""
    layer = _layer("attention", 3, second=False)
    net, before = _model(layer), layer.matrix()
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        net.quantize("int8")
    assert [source.quantization_mode for source in layer.sources] == ["int8", "int8"]
    assert 0 < np.abs(layer.matrix() - before).max() < 0.03
    net.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(tiny.IDS), net(tiny.IDS))


def test_classifier_and_drift():
    """build_classifier and DriftMonitor take the layer."""
    net, monitor = build_classifier(_layer(), 3, architecture="mean", units=4), DriftMonitor("embedding")
    net.compile(RowWiseAdam(0.01), loss="sparse_categorical_crossentropy")
    tiny.fit(net, epochs=1, callbacks=[monitor])
    assert monitor.table["moved"].tolist() == [len(np.unique(tiny.IDS))]


# -------------------------------------------------------------------------------------------------------------- refused


def test_ids_are_checked_by_the_sources():
    """The error is that of PretrainedEmbedding."""
    with pytest.raises(ArgumentError, match=r"Token ids must be in \[0, 10\)\. Received: 10 at position \[0\]"):
        _layer("attention")(np.array([10]))


def test_contextual_is_refused_with_the_reason():
    """Such weights depend on the other words."""
    with pytest.raises(ArgumentError, match=r"an id would have no vector of its own, and the layer no matrix\(\)"):
        _layer("contextual")


@pytest.mark.parametrize(
    ("layers", "arguments", "message"),
    [
        (lambda: _source(), {}, r"needs two layers.* Received: 1 with combine='concat', output_dim=None"),
        (list, {"output_dim": 3}, r"needs two layers.* Received: 0"),
        (
            lambda: [_source()],
            {"output_dim": 3, "combine": "mean"},
            r"two layers.* 1 with combine='mean', output_dim=3",
        ),
        (lambda: _aligned(), {}, r"takes layers made by build_embedding\. Received: AlignedMatrix"),
        (lambda: [_source(), keras.layers.Embedding(10, 4)], {}, r"made by build_embedding\. Received: Embedding"),
        (lambda: [_source(), _source()], {}, r"need different names: .* Received: 'a', 'a'"),
        (
            lambda: [_source("a"), _source("b", mask_zero=False)],
            {},
            r"the same mask_zero\. Received: True for layer 'a', False for layer 'b'",
        ),
        (
            lambda: [_source("a"), build_embedding(AlignedMatrix(np.eye(3), Vocabulary(["", "[UNK]", "w"])), name="b")],
            {},
            r"the same input_dim\. Received: 10 for layer 'a', 3 for layer 'b'",
        ),
        (lambda: [_source("a"), _source("b")], {"combine": "sum"}, r"one of concat, mean, .*\. Received: 'sum'"),
        (lambda: [_source("a"), _source("b")], {"output_dim": 0}, r"output_dim must be an integer >= 1.*: 0"),
        (lambda: [_source("a"), _source("b")], {"output_dim": True}, r"output_dim must be .*: True"),
        (
            lambda: [_source("a"), _source("b", width=6)],
            {"combine": "mean"},
            r"combine='mean' needs vectors of one width, .* Received: 4 of layer 'a', 6 of layer 'b'",
        ),
    ],
)
def test_layers_are_checked(layers, arguments, message):
    """Their number, kind and names, and whether they match; the error names both layers."""
    with pytest.raises(ArgumentError, match=message):
        combine_embeddings(layers(), **arguments)


@pytest.mark.parametrize(
    ("combine", "found", "message"),
    [
        ("concat", FOUND, r'combine="concat" has no weights, so it takes no found'),
        ("mean", FOUND[:1], r"found takes one mask for each of 2 layers\. Received: 1"),
        ("mean", [FOUND[0], FOUND[1][:9]], r"layer 'b' must be bool of shape \(10,\)\. Received: bool of shape \(9,\)"),
        ("mean", [[[1], [1, 2]], FOUND[1]], r"layer 'a' must be an array of numbers\. Received: a list"),
        ("mean", [FOUND[0].astype(int), FOUND[1]], r"layer 'a' must be bool .* Received: int64"),
    ],
)
def test_masks_are_checked(combine, found, message):
    """Number, dtype and shape, and that the layer has weights."""
    with pytest.raises(ArgumentError, match=message):
        combine_embeddings([_source("a"), _source("b")], combine=combine, found=found)


def test_nothing_before_it_is_built():
    """Masks and table exist only after build."""
    layer = CombinedEmbedding([_source("a"), _source("b")], "mean", name="both")
    for work in (layer.matrix, lambda: layer.assign_found(FOUND)):
        with pytest.raises(ArgumentError, match="Layer 'both' has no table yet: build the layer"):
            work()
