"""Adapters in the blocks of a model: what trains, several sets, files, schedules, exports."""

import keras
import numpy as np
import pytest

from embkeras.encoders.adapters import enable_adapters, use_adapters
from embkeras.encoders.heads import build_encoder_classifier
from embkeras.encoders.lora import enable_lora
from embkeras.encoders.reading import load_pretrained
from embkeras.encoders.tuned import load_tuned, save_tuned
from embkeras.errors import ArgumentError, EncoderError, UnknownLayerError
from embkeras.serving.export import export_saved_model
from embkeras.serving.folding import fold
from embkeras.serving.local import ExportedModel
from embkeras.training.frozen_trunk.fit import fit_on_frozen
from embkeras.training.optimizers.layerwise import layerwise_rates
from embkeras.training.optimizers.rules import RowWiseAdamW
from embkeras.training.schedule import Phase, TrainabilitySchedule, gradual_unfreeze
from tests.encoders import blocks
from tests.encoders.folders import TEXTS, write_folder

PLACES = ["attention/attention_output", "narrow", "norm"]


def _with(net=None, layers="block_1", **settings):
    net = net or blocks.model()
    enable_adapters(net, 2, layers, **settings)
    return net


def _shaken(net, name, seed=1):
    """Random values in the adapters of that name, as if they had trained."""
    rng = np.random.default_rng(seed)
    for weight in net.weights:
        if f"/{name}/" in weight.path or weight.path.startswith("head/"):
            weight.assign(rng.normal(size=weight.shape))
    return net


@pytest.mark.parametrize(
    ("form", "places", "numbers"), [("houlsby", PLACES, 2 * 22 + 8), ("pfeiffer", ["norm"], 22 + 8)]
)
def test_only_adapters_train(form, places, numbers):
    """The first scores are those of the base, to the bit; the block's other weights stay, its normalisations have copies."""
    net = blocks.model()
    before = blocks.scores(net)
    for name in ("embedding", "block_0", "block_1"):
        net.get_layer(name).trainable = False
    assert enable_adapters(net, 2, "block_[1]", form=form) == [f"block_1/{place}/adapter" for place in places]
    np.testing.assert_array_equal(blocks.scores(net), before)
    assert sum(map(keras.ops.size, net.get_layer("block_1").trainable_variables)) == numbers
    weights = blocks.values(net)
    blocks.fit(net, epochs=2)
    moved = blocks.moved(net, weights)
    assert moved == {path for path in weights if "/adapter/" in path or path.startswith("head/")}


def test_a_schedule_cannot_thaw_the_base():
    """Thawing the blocks trains their adapters; the rest of them stays to the bit, as do adapters that aren't in use."""
    net = _with(_with(layers="block_*", name="first"), layers="block_*", name="second")
    weights = blocks.values(net)
    net.compile(
        RowWiseAdamW(0.05, weight_decay=0.1), keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True
    )
    blocks.fit(net, epochs=4, callbacks=[gradual_unfreeze(["block_1", "block_0"], every=1, start=1)])
    net.trainable = True
    blocks.fit(net)
    moved = blocks.moved(net, weights)
    assert {path for path in moved if "block" in path} == {path for path in weights if "/second/" in path}
    names = "block_1/narrow/second/up", "block_0"
    blocks.fit(net, callbacks=[TrainabilitySchedule(Phase(0, train=list(names)))])
    assert net.get_layer("block_1").narrow.adapter_second.up.trainable
    assert not net.get_layer("block_1").narrow.adapter_second.down.trainable


def test_sets_are_switched_by_name():
    """Each has its own scores, normalisations too; without one the scores are those of the base, to the bit."""
    net = blocks.model()
    plain = blocks.scores(net)
    _with(net, name="first")
    for weight in net.get_layer("block_1").trainable_variables:
        weight.assign(weight + 0.5)
    first = blocks.scores(net)
    _with(net, name="second", form="pfeiffer")
    np.testing.assert_array_equal(blocks.scores(net), plain)
    for name, wanted in (("first", first), (None, plain), ("second", plain), ("first", first)):
        use_adapters(net, name)
        np.testing.assert_array_equal(blocks.scores(net), wanted)
        trains = [weight.path for weight in net.get_layer("block_1").trainable_variables]
        assert all(f"/{name}/" in path for path in trains) and bool(trains) == (name is not None)
    with pytest.raises(ArgumentError, match=r"no adapters 'third'. It has: first, second"):
        use_adapters(net, "third")
    with pytest.raises(ArgumentError, match="Call enable_adapters first"):
        use_adapters(blocks.model(), "first")


def test_a_file_and_a_clone(tmp_path):
    """All sets, which is in use, what is frozen, and the optimizer's state: two fits go on alike."""
    net = _with(_with(name="first"), name="second", form="pfeiffer")
    net.get_layer("block_0").trainable = False
    _shaken(_shaken(net, "first"), "second")
    net.get_layer("block_1").norm.adapter_second.up.trainable = False
    blocks.fit(net)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    clone = keras.models.clone_model(net)
    clone.set_weights(net.get_weights())
    for each in (loaded, clone):
        np.testing.assert_array_equal(blocks.scores(each), blocks.scores(net))
        assert [w.name for w in each.trainable_variables] == [w.name for w in net.trainable_variables]
        assert len(net.trainable_variables) == 1 + 4 + 2
    blocks.fit(net, epochs=2)
    blocks.fit(loaded, epochs=2)
    np.testing.assert_allclose(blocks.scores(loaded), blocks.scores(net), atol=1e-6)
    for name in ("first", None):
        use_adapters(net, name)
        use_adapters(loaded, name)
        np.testing.assert_allclose(blocks.scores(loaded), blocks.scores(net), atol=1e-6)


def test_on_kept_outputs(tmp_path):
    """`fit_on_frozen` runs what is below the adapters once, and trains as `fit` does."""
    nets = [_with() for _ in range(2)]
    for net, fitting in zip(nets, ({}, {"keep": tmp_path}), strict=True):
        for name in ("embedding", "block_0"):
            net.get_layer(name).trainable = False
        net.compile(RowWiseAdamW(0.05), keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
        (fit_on_frozen if fitting else keras.Model.fit)(
            net, blocks.IDS, blocks.LABELS, epochs=2, shuffle=False, verbose=0, **fitting
        )
    np.testing.assert_allclose(blocks.scores(nets[1]), blocks.scores(nets[0]), atol=1e-6)
    assert list(tmp_path.iterdir()) and np.abs(blocks.scores(nets[1]) - blocks.scores(blocks.model())).max() > 1e-3


def test_a_refusal_changes_nothing():
    """What can't be done is named, and the model is as it was."""
    net = blocks.model()
    count = len(net.weights)
    for layers, settings, error, match in (
        ("block_1/norm", {}, ArgumentError, "layer 'norm', a LayerNormalization"),
        ("block_1/narrow", {"form": "pfeiffer"}, ArgumentError, "whole blocks. Received: layer 'narrow'"),
        ("block_7", {}, UnknownLayerError, "block_7"),
        ("block_1", {"name": "a/b"}, ArgumentError, "Received: 'a/b'"),
        ("block_1", {"form": "other"}, ArgumentError, "Received: 'other'"),
        ("block_1", {"activation": "other"}, ArgumentError, "Received: 'other'"),
    ):
        with pytest.raises(error, match=match):
            enable_adapters(net, 2, layers, **settings)
    enable_lora(net, 1, ["block_0/narrow", "block_1/wide"])
    with pytest.raises(ArgumentError, match=r"'block_0/narrow' can't have an adapter: it has LoRA"):
        enable_adapters(net, 2, "block_0")
    with pytest.raises(ArgumentError, match=r"'block_1/wide' can't stay as it is .* has LoRA"):
        enable_adapters(net, 2, "block_1")
    assert len(net.weights) == count + 4
    net = _with()
    with pytest.raises(
        ArgumentError, match=r"'block_1/attention/attention_output' .* has an adapter 'adapter' already"
    ):
        enable_adapters(net, 2, "block_1")
    with pytest.raises(ArgumentError, match="'block_1/attention/query': it is kept as it is below adapters"):
        enable_lora(net, 1, "block_1/attention/query")


def test_on_an_encoder(tmp_path):
    """A BERT of two blocks: in a file of Keras, an export of the set in use, files of their own, with layerwise rates."""
    pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
    pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
    read = load_pretrained(write_folder(tmp_path / "x", hidden_act="gelu"))
    net, ids = build_encoder_classifier(read, 2), read.tokenizer.encode_batch(TEXTS)
    plain, count = net(ids), sum(np.prod(each.shape) for each in net.variables)
    assert len(enable_adapters(net, 3, "transformer_layer_*", name="first")) == 8
    np.testing.assert_array_equal(net(ids), plain)
    save_tuned(_shaken(net, "first"), tmp_path / "first.safetensors")
    first = net(ids)
    enable_adapters(net, 2, "transformer_layer_*", name="second", form="pfeiffer", activation="relu")
    names = save_tuned(_shaken(net, "second", 2), tmp_path / "second.safetensors")
    assert len(names) == 14 and not [name for name in names if "first" in name]
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(ids), net(ids))
    stored = sum(np.prod(each.shape) for each in fold(net).variables(net))
    assert stored == count + 2 * (2 * 8 * 2 + 2 + 8)  # the bottlenecks; a normalisation in place of another
    export_saved_model(net, tmp_path / "served", vocabulary=read.tokenizer, check=False)
    np.testing.assert_allclose(ExportedModel(tmp_path / "served").scores(ids), net(ids), atol=1e-5)
    fresh = build_encoder_classifier(read, 2)
    for name, wanted in (("second", net(ids)), ("first", first), ("second", net(ids))):
        load_tuned(fresh, tmp_path / f"{name}.safetensors")
        np.testing.assert_array_equal(fresh(ids), wanted)
    use_adapters(fresh, "first")
    other = build_encoder_classifier(read, 2)
    enable_adapters(other, 4, "transformer_layer_*", name="first")
    with pytest.raises(EncoderError, match=r"other adapters 'first' .*'size': 3.* Received: .*'size': 4"):
        load_tuned(other, tmp_path / "first.safetensors")
    rates = layerwise_rates(fresh, 0.5, read.layer_groups)
    before = blocks.values(fresh)
    fresh.compile(
        RowWiseAdamW(0.01, learning_rate_multipliers=rates), "sparse_categorical_crossentropy", run_eagerly=True
    )
    fresh.fit(ids, np.arange(len(ids)) % 2, verbose=0)
    moved = {path for path in blocks.moved(fresh, before) if "transformer" in path}
    assert moved and all("/first/" in path for path in moved)
