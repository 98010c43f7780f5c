"""LoRA on the layers of a model: what trains, files, schedules, merging."""

import keras
import numpy as np
import pytest

from embkeras.encoders.adapters import enable_adapters
from embkeras.encoders.heads import build_encoder_classifier
from embkeras.encoders.lora import enable_lora, merge_lora
from embkeras.encoders.reading import load_pretrained
from embkeras.encoders.tuned import load_tuned, save_tuned
from embkeras.errors import ArgumentError, UnknownLayerError
from embkeras.serving.export import export_saved_model
from embkeras.serving.folding import fold
from embkeras.serving.local import ExportedModel
from embkeras.tables.builders import build_embedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.frozen_trunk.fit import fit_on_frozen
from embkeras.training.optimizers.layerwise import layerwise_rates
from embkeras.training.optimizers.rules import RowWiseAdamW
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule import Phase, Train, TrainabilitySchedule, TrainVariables, gradual_unfreeze
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.encoders import blocks
from tests.encoders.folders import TEXTS, write_folder

INSIDE = ["attention/query", "attention/key", "attention/value", "attention/attention_output", "wide", "narrow"]
PATHS = [f"block_1/{path}" for path in INSIDE]


def _trained(net):
    """The names of what trains, as parent/variable."""
    return {"/".join(each.path.split("/")[-2:]) for each in net.trainable_variables}


def test_ordinary_low_rank():
    """Scores are unchanged; 4 x rank numbers each way of a 4 x 4 kernel; the kernels stay to the bit, A and B move."""
    net = blocks.model()
    before = blocks.scores(net)
    for name in ("embedding", "block_0", "block_1"):
        net.get_layer(name).trainable = False
    assert enable_lora(net, 2, "block_[1]/**") == PATHS
    np.testing.assert_array_equal(blocks.scores(net), before)
    assert sum(map(keras.ops.size, net.get_layer("block_1").trainable_variables)) == 4 * 16 + 2 * 14
    weights = blocks.values(net)
    blocks.fit(net, epochs=2)
    moved = blocks.moved(net, weights)
    assert moved == {path for path in weights if "/lora_kernel_" in path or path.startswith("head/")}


def test_biases_train_when_asked():
    """Those of the dense layers; the flags of other layers are the user's."""
    net = blocks.model()
    enable_lora(net, 1, ["block_1", "head"], train_biases=True)
    trained = _trained(net.get_layer("block_1"))
    assert {"query/bias", "wide/bias", "norm/gamma"} <= trained and "wide/kernel" not in trained
    assert _trained(net.get_layer("head")) == {"head/bias", "head/lora_kernel_a", "head/lora_kernel_b"}


def test_layers_around_are_thawed_for_a_and_b_alone():
    """Frozen by you, they let A and B train; their own weights and the other layers inside stay frozen."""

    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.inner, self.other = keras.layers.Dense(4, name="inner"), keras.layers.Dense(4, name="other")
            self.scale = self.add_weight(name="scale", shape=(4,), initializer="ones")
            self.inner.build(shape)
            self.other.build(shape)

        def call(self, x):
            return self.scale * self.other(self.inner(x))

    net = keras.Sequential([keras.Input((4,)), Scaled(name="scaled", trainable=False), keras.layers.Dense(2)])
    net.trainable = False
    enable_lora(net, 1, "scaled/inner")
    assert [each.name for each in net.trainable_variables] == ["lora_kernel_a", "lora_kernel_b"]


def test_a_schedule_cannot_thaw_the_kernels():
    """Thawing the layers around them, and the model from the top, leaves base kernels to the bit."""
    net = blocks.model()
    enable_lora(net, 2, "block_*/**")
    net.get_layer("block_0").norm.trainable = False
    weights = blocks.values(net)
    schedule = gradual_unfreeze(["block_1", "block_0"], every=1, start=1)
    blocks.fit(net, epochs=4, callbacks=[schedule])
    moved = blocks.moved(net, weights)
    assert net.get_layer("block_0").trainable and any("block_0/attention/query/lora" in path for path in moved)
    assert not [path for path in moved if "block" in path and path.endswith(("kernel", "bias"))]
    assert not [path for path in moved if "block_0/norm" in path]


def test_a_schedule_that_held_a_kernel_before():
    """A variable that an earlier schedule froze by itself is not thawed by the next one after LoRA came."""
    net = blocks.model()
    blocks.fit(net, callbacks=[TrainabilitySchedule(Phase(0, TrainVariables("**/bias"), Train("head")))])
    enable_lora(net, 2, "block_1/**")
    kernels = {path: value for path, value in blocks.values(net).items() if path.endswith("kernel")}
    blocks.fit(net, callbacks=[TrainabilitySchedule(Phase(0, train=["block_1", "head"]))])
    assert not [path for path in blocks.moved(net, blocks.values(net) | kernels) if "block_1" in path]


def test_only_a_and_b_by_a_schedule():
    """`TrainVariables` names them as any variable."""
    net = blocks.model()
    enable_lora(net, 2, "block_1/**")
    blocks.fit(net, callbacks=[TrainabilitySchedule(Phase(0, TrainVariables("**/lora_kernel_?"), Train("head")))])
    names = {each.split("/")[-1] for each in _trained(net)}
    assert names == {"lora_kernel_a", "lora_kernel_b", "kernel", "bias"} and "norm/gamma" not in _trained(net)


def test_a_file_and_a_clone(tmp_path):
    """LoRA, what is frozen inside blocks, single weights too, and the optimizer's state: two fits go on alike."""
    net = blocks.model()
    net.get_layer("block_0").trainable = False
    net.get_layer("head").bias.trainable = False
    enable_lora(net, 2, "block_1/**", lora_alpha=3.0)
    net.get_layer("block_1").norm.gamma.trainable = False
    blocks.fit(net)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(blocks.scores(loaded), blocks.scores(net))
    assert _trained(loaded) == _trained(net) >= {"norm/beta", "head/kernel"} and len(net.trainable_variables) == 12 + 3
    blocks.fit(net, epochs=2)
    blocks.fit(loaded, epochs=2)
    np.testing.assert_allclose(blocks.scores(loaded), blocks.scores(net), atol=1e-6)
    clone = keras.models.clone_model(net)
    clone.set_weights(net.get_weights())
    np.testing.assert_array_equal(blocks.scores(clone), blocks.scores(net))
    assert _trained(clone) == _trained(net)
    assert loaded.get_layer("block_1").narrow.low_rank.alpha == 3.0


def test_an_interrupted_fit_goes_on(tmp_path):
    """A and B are part of the saved state of a training."""
    whole, part, again = (_with_lora() for _ in range(3))
    blocks.fit(whole, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        blocks.fit(part, epochs=2, callbacks=[ResumableBackup(tmp_path), _Interrupted(1)])
    blocks.fit(again, epochs=2, callbacks=[ResumableBackup(tmp_path), _Interrupted(None)])
    np.testing.assert_array_equal(blocks.scores(again), blocks.scores(whole))


def test_on_kept_outputs(tmp_path):
    """`fit_on_frozen` runs what is below the LoRA once, and trains as `fit` does."""
    nets = [_with_lora() for _ in range(2)]
    for net, fitting in zip(nets, ({}, {"keep": tmp_path}), strict=True):
        for name in ("embedding", "block_0"):
            net.get_layer(name).trainable = False
        net.compile(RowWiseAdamW(0.05), keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
        (fit_on_frozen if fitting else keras.Model.fit)(
            net, blocks.IDS, blocks.LABELS, epochs=2, shuffle=False, verbose=0, **fitting
        )
    np.testing.assert_allclose(blocks.scores(nets[1]), blocks.scores(nets[0]), atol=1e-6)
    assert list(tmp_path.iterdir()) and np.abs(blocks.scores(nets[1]) - blocks.scores(_with_lora())).max() > 1e-3


class _Interrupted(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt

    def state(self):
        """None."""
        return {}

    def restore(self, model, state):
        """Nothing."""


def _with_lora():
    net = blocks.model()
    enable_lora(net, 2, "block_1/**")
    return net


def test_merging():
    """The scores stay up to rounding, the layers are those of Keras again, and everything trains."""
    net = blocks.model()
    enable_lora(net, 2, "block_1/**")
    blocks.fit(net)
    before, count = blocks.scores(net), len(blocks.model().trainable_variables)
    assert merge_lora(net) == PATHS
    np.testing.assert_allclose(blocks.scores(net), before, atol=1e-6)
    block = net.get_layer("block_1")
    assert (type(block), type(block.narrow)) == (blocks.Block, keras.layers.Dense)
    assert len(net.trainable_variables) == len(net.weights) == count
    with pytest.raises(ArgumentError, match=r"no layer of model .* has LoRA"):
        merge_lora(net)


def test_a_table_has_its_own_lora():
    """The layers of `build_embedding` are among those that an address names."""
    net = tiny.model("sgd", trainable=True)
    assert enable_lora(net, 2, "**") == ["embedding", "head"]
    assert net.get_layer("embedding").lora_rank == 2
    net.get_layer("embedding").lora_embeddings_a.assign(np.ones((10, 2)))
    before = np.asarray(net(tiny.IDS))
    assert merge_lora(net) == ["embedding", "head"]
    np.testing.assert_allclose(net(tiny.IDS), before, atol=1e-6)


def test_keras_asks_for_compile():
    """What was traced before trains other variables."""
    net = tiny.model("sgd")
    net.predict(tiny.IDS, verbose=0)
    enable_lora(net, 1, "head")
    net.get_layer("head").low_rank.b.assign(np.ones((1, 3)))
    np.testing.assert_allclose(net.predict(tiny.IDS, verbose=0), net(tiny.IDS), atol=1e-6)
    with pytest.raises(ValueError, match="compile"):
        net.fit(tiny.IDS, tiny.LABELS, verbose=0)


def test_a_refusal_changes_nothing():
    """What can't be done is named, and the model is as it was."""
    net = blocks.model()
    names = [weight.path for weight in net.weights]
    for layers, error, match in (
        ("block_1/norm", ArgumentError, "'block_1/norm' has none of them: LayerNormalization"),
        ("block_7", UnknownLayerError, "block_7"),
        (3, ArgumentError, "Received: 3"),
    ):
        with pytest.raises(error, match=match):
            enable_lora(net, 2, layers)
    enable_lora(net, 1, "block_0")
    with pytest.raises(ArgumentError, match="'block_0/attention/query': it has LoRA already"):
        enable_lora(net, 2, ["block_1", "block_0"])
    assert [weight.path for weight in net.weights if "lora" not in weight.path and "block_0" not in weight.path] == [
        name for name in names if "block_0" not in name
    ]
    stock = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(4, 2, name="rows"), keras.layers.Dense(2)])
    with pytest.raises(ArgumentError, match="can't use layer 'rows': it is a stock Embedding"):
        enable_lora(stock, 2, "**")
    aligned = AlignedMatrix(tiny.TABLE, Vocabulary(["", *"abcdefghi"], oov_ids=()))
    some = build_embedding(aligned, trainable=np.arange(10) > 5, name="some")
    frozen = keras.Sequential([keras.Input((3,), dtype="int64"), some, keras.layers.Dense(2, trainable=False)])
    with pytest.raises(ArgumentError, match="can't use layer 'some': it trains in a way of its own"):
        enable_lora(frozen, 2, "**")
    assert not frozen.layers[1].trainable and len(frozen.layers[1].weights) == 2
    with pytest.raises(ArgumentError, match="rank must be"):
        enable_lora(net, 0, "block_1")
    with pytest.raises(ArgumentError, match=r"keras\.Model\. Received: 'net'"):
        enable_lora("net", 1, "block_1")


def test_on_an_encoder(tmp_path):
    """A BERT of two blocks: LoRA in the upper one, adapters in the lower one, prompts in front; then biases alone.

    From a file of Keras, one of its own, and in an export, whose kernels have LoRA, and which has the adapters in use alone.
    """
    pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
    pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
    read = load_pretrained(write_folder(tmp_path / "x", hidden_act="gelu"))
    net, ids = build_encoder_classifier(read.with_prompts(2, start="cat"), 2), read.tokenizer.encode_batch(TEXTS)
    count, before = sum(np.prod(each.shape) for each in net.variables), net(ids)
    for layer in net.layers[:-1]:
        layer.trainable = False
    assert len(enable_lora(net, 2, "transformer_layer_[1]/**")) == 6
    assert len(enable_adapters(net, 3, "transformer_layer_0", name="first")) == 4
    enable_adapters(net, 2, "transformer_layer_0", name="second", form="pfeiffer")
    np.testing.assert_array_equal(net(ids), before)
    for weight in net.trainable_variables:
        weight.assign(np.random.default_rng(3).normal(size=weight.shape) / 4)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(ids), net(ids))
    assert len(loaded.trainable_variables) == len(net.trainable_variables) == 14 + 6
    bottleneck = 2 * 8 * 2 + 2 + 8  # its normalisation is in place of another
    assert sum(np.prod(each.shape) for each in fold(net).variables(net)) == count + bottleneck
    save_tuned(net, tmp_path / "net.safetensors")
    fresh = build_encoder_classifier(read.with_prompts(2), 2)
    load_tuned(fresh, tmp_path / "net.safetensors")
    np.testing.assert_array_equal(fresh(ids), net(ids))
    export_saved_model(net, tmp_path / "served", vocabulary=read.tokenizer, check=False)
    np.testing.assert_allclose(ExportedModel(tmp_path / "served").scores(ids), net(ids), atol=1e-5)
    plain, biases = build_encoder_classifier(read, 2), Phase(0, TrainVariables("**/bias"), Train("scores"))
    values = blocks.values(plain)
    rates = layerwise_rates(plain, 0.8, read.layer_groups)
    plain.compile(
        RowWiseAdamW(0.01, learning_rate_multipliers=rates), "sparse_categorical_crossentropy", run_eagerly=True
    )
    plain.fit(ids, np.arange(len(ids)) % 2, verbose=0, callbacks=[TrainabilitySchedule(biases)])
    assert {path.split("/")[-1] for path in blocks.moved(plain, values) if "scores" not in path} == {"bias"}
