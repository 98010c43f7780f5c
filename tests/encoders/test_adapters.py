"""Adapters in the blocks of a model: what trains, several sets, files, schedules, exports."""

import keras
import numpy as np
import pytest

from embkeras.encoders.adapters import enable_adapters, use_adapters
from embkeras.encoders.lora import enable_lora
from embkeras.encoders.tuned import load_tuned, save_tuned
from embkeras.errors import ArgumentError, EncoderError, UnknownLayerError
from embkeras.training.frozen_trunk.fit import fit_on_frozen
from embkeras.training.optimizers.layerwise import layerwise_rates
from embkeras.training.optimizers.rules import RowWiseAdamW
from embkeras.training.schedule import Phase, TrainabilitySchedule, gradual_unfreeze
from tests.encoders import blocks

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
    rates = layerwise_rates(net, 0.5, ["block_0", "block_1"])
    optimizer = RowWiseAdamW(0.05, weight_decay=0.1, learning_rate_multipliers=rates)
    net.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
    blocks.fit(net, epochs=4, callbacks=[gradual_unfreeze(["block_1", "block_0"], every=1, start=1)])
    net.trainable = True
    moved = blocks.moved(net, weights)
    assert {id(each) for each in net.get_layer("block_1").trainable_variables} == {
        id(each) for each in net.get_layer("block_1").weights if "/second/" in each.path
    }
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
    net = _with(_with(name="in_use"), name="second", form="pfeiffer")
    net.get_layer("block_0").trainable = False
    _shaken(_shaken(net, "in_use"), "second")
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
    blocks.fit(net)
    blocks.fit(loaded)
    np.testing.assert_allclose(blocks.scores(loaded), blocks.scores(net), atol=1e-6)
    for name in ("in_use", None):
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


def test_in_files_of_their_own(tmp_path):
    """The set in use is saved; both go on one model of the base, other sizes and a base in use are refused."""
    net, base = _with(name="first"), blocks.model()
    save_tuned(_shaken(net, "first"), tmp_path / "first.safetensors", base=base)
    first = blocks.scores(net)
    _shaken(_with(net, name="second", form="pfeiffer", activation="relu"), "second", 2)
    names = save_tuned(net, tmp_path / "second.safetensors", base=base)
    assert sorted({name.split("/second/")[0] for name in names}) == ["block_1/norm", "head/bias", "head/kernel"]
    fresh = blocks.model()
    for name, wanted in (("second", blocks.scores(net)), ("first", first), ("second", blocks.scores(net))):
        load_tuned(fresh, tmp_path / f"{name}.safetensors")
        np.testing.assert_array_equal(blocks.scores(fresh), wanted)
    assert not [w.path for w in fresh.get_layer("block_1").trainable_variables if "/second/" not in w.path]
    other = blocks.model()
    enable_adapters(other, 4, "block_1", name="first")
    with pytest.raises(EncoderError, match=r"other adapters 'first' .*'size': 2.* Received: .*'size': 4"):
        load_tuned(other, tmp_path / "first.safetensors")
    save_tuned(_shaken(blocks.model(), "none"), tmp_path / "head.safetensors", base=base)
    with pytest.raises(EncoderError, match=r"has no adapters, and model .* uses 'first'"):
        load_tuned(other, tmp_path / "head.safetensors")
