"""Folders of encoders become the models that they describe, or are refused by name."""

import json

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.encoders.reference import hidden_states
from embkeras.encoders.tensors import opened
from embkeras.errors import ArgumentError, EncoderError, VocabularyError
from embkeras.tables.pooling import MaskedMean
from tests.encoders.folders import EXACT_THERE, TEXTS, write_folder

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")


def vectors_of(read, ids):
    """What the Keras model returns, and what NumPy does with the file."""
    from embkeras.encoders.families import architecture_of

    architecture = architecture_of(read.config, "config.json")
    with opened(read.folder, architecture.family) as tensors:
        wanted = hidden_states(tensors, architecture, ids)
    return np.asarray(read.model()(ids)), wanted


STOCK = pytest.mark.skipif(
    tuple(map(int, keras_hub.__version__.split(".")[:2])) < (0, 32), reason="older keras-hub has fewer converters"
)


@STOCK
@pytest.mark.parametrize("kind", EXACT_THERE)
def test_equals_keras_hub_where_its_converter_is_exact(kind, tmp_path):
    """Vectors are those of keras-hub's own conversion, and those of the forward pass in NumPy."""
    zeros = {"embeddings.token_type_embeddings.weight": 0} if kind == "roberta" else {}  # its converter leaves them out

    def change(tensors):
        for name, factor in zeros.items():
            tensors[name] *= factor

    read = ek.load_pretrained(write_folder(tmp_path / kind, kind, change=change))
    ids = read.tokenizer.encode_batch(TEXTS)
    feeds = {"token_ids": ids, "padding_mask": ids != read.tokenizer.padding_id, "segment_ids": np.zeros_like(ids)}
    stock = keras_hub.models.Backbone.from_preset(str(read.folder))
    wanted = stock({name: value.astype("int32") for name, value in feeds.items() if name in stock.input})
    wanted = np.asarray(wanted["sequence_output"] if isinstance(wanted, dict) else wanted)
    got, reference = vectors_of(read, ids)
    words = ids != read.tokenizer.padding_id
    np.testing.assert_allclose(got[words], wanted[words], atol=5e-6)
    np.testing.assert_allclose(got[words], reference[words], atol=5e-6)


@STOCK
def test_segments_of_pairs(tmp_path):
    """They are found at the separators, and are those that the tokenizers library gives to keras-hub's model."""
    from tokenizers import Tokenizer

    read = ek.load_pretrained(write_folder(tmp_path / "x"))
    ids = read.tokenizer.encode_pairs(["cat", "dog cab", "a"], ["dog", "b", ""])
    library = Tokenizer.from_file(str(read.folder / "tokenizer.json"))
    library.no_truncation()
    library.enable_padding(pad_id=0)
    segments = np.array([each.type_ids for each in library.encode_batch([("cat", "dog"), ("dog cab", "b"), ("a", "")])])
    stock = keras_hub.models.Backbone.from_preset(str(read.folder))
    feeds = {"token_ids": ids, "padding_mask": ids != 0, "segment_ids": segments}
    wanted = np.asarray(stock({name: value.astype("int32") for name, value in feeds.items()})["sequence_output"])
    symbolic = keras.Input((None,), dtype="int64")
    got = np.asarray(keras.Model(symbolic, read.vectors(symbolic, pairs=True)[0])(ids))
    np.testing.assert_allclose(got[ids != 0], wanted[ids != 0], atol=5e-6)
    assert np.abs(np.asarray(read.model()(ids)) - got)[ids != 0].max() > 0.01


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("bert", {"hidden_act": "gelu", "layer_norm_eps": 1e-2, "type_vocab_size": 3}),
        ("bert", {"hidden_act": "relu", "layer_norm_eps": None, "type_vocab_size": None}),
        ("roberta", {"hidden_act": "silu", "layer_norm_eps": 1e-2}),
        ("albert", {"hidden_act": "gelu", "num_hidden_layers": 3, "inner_group_num": 2}),
    ],
)
def test_settings_that_keras_hub_ignores_are_followed(kind, config, tmp_path):
    """Activation, epsilon and segments are those of config.json, also without the prefix and a pooler."""

    def change(tensors):
        for name in [name for name in tensors if name.startswith("pooler")]:
            del tensors[name]

    read = ek.load_pretrained(write_folder(tmp_path / "x", kind, prefix="", change=change, **config), verify=True)
    ids = read.tokenizer.encode_batch(TEXTS)
    got, wanted = vectors_of(read, ids)
    words = ids != read.tokenizer.padding_id
    np.testing.assert_allclose(got[words], wanted[words], atol=5e-6)


def test_older_names_of_norms(tmp_path):
    """LayerNorm.gamma and .beta, as checkpoints that came from TensorFlow have."""

    def change(tensors):
        for name in [name for name in tensors if "LayerNorm" in name]:
            tensors[name.replace("weight", "gamma").replace("bias", "beta")] = tensors.pop(name)

    ek.load_pretrained(write_folder(tmp_path / "x", change=change), verify=True)


def test_what_was_read(tmp_path):
    """The encoder says how long texts may be, how they are pooled and what its layers are called."""
    folder = write_folder(tmp_path / "x", "roberta", hidden_dropout_prob=0.25)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    read = ek.load_pretrained(str(folder))
    assert (read.max_length, read.width, read.pool, read.tokenizer.padding_id) == (14, 8, "mean", 1)
    assert read.blocks == ("transformer_layer_0", "transformer_layer_1")
    assert "2 blocks, width 8, 28 pieces" in repr(read)
    model = read.model()
    trains = [layer.name for layer in model.layers if layer.trainable_weights]
    assert trains == [name for group in read.layer_groups for name in group]
    np.testing.assert_allclose(read.model().get_weights()[-1], model.get_weights()[-1])
    assert model.get_layer("transformer_layer_0").dropout == model.get_layer("embeddings_dropout").rate == 0.25
    assert isinstance(ek.build_encoder_classifier(read, 2).get_layer("pool"), MaskedMean)
    assert read.model().layers[-1] is not model.layers[-1]


def test_trimmed_to_the_pieces_of_texts(tmp_path):
    """Vectors of these texts are the same to the bit, and the token table has the rows of their pieces alone."""
    read = ek.load_pretrained(write_folder(tmp_path / "x"))
    small = read.trimmed(["cat dog"])
    assert "cat" in small.tokenizer and len(small.tokenizer) == 26
    assert "cat" not in read.trimmed(["dog"]).trimmed(["a"]).tokenizer
    ids, other = read.tokenizer.encode_batch(["cat dog", "dog"]), small.tokenizer.encode_batch(["cat dog", "dog"])
    np.testing.assert_array_equal(read.model()(ids), small.model()(other))
    again = read.trimmed(["dog"]).trimmed(["dog"])
    assert again.model().get_layer("token_embedding").input_dim == len(again.tokenizer) == 25
    ids, other = read.tokenizer.encode_batch(["dog a"]), again.tokenizer.encode_batch(["dog a"])
    np.testing.assert_array_equal(read.model()(ids), again.model()(other))


def test_verification_is_in_float32(tmp_path, mixed):
    """Under mixed precision too, where a model's rounding would look like an error; the policy stays."""
    ek.load_pretrained(write_folder(tmp_path / "x"), verify=True)
    assert keras.config.dtype_policy().name == mixed


def test_verification_notices_another_model(tmp_path, monkeypatch):
    """A block with another activation than the file's is refused."""
    from embkeras.encoders import reading

    folder = write_folder(tmp_path / "x")
    monkeypatch.setattr(reading, "gelu_tanh", "gelu")
    with pytest.raises(EncoderError, match=r"differ by .*e-0"):
        ek.load_pretrained(folder, verify=True)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "electra"}, "model_type .*bert.*'electra'"),
        ({"model_type": None}, "model_type .*None"),
        ({"hidden_act": "quick_gelu"}, "hidden_act .*'quick_gelu'"),
        ({"hidden_act": ["gelu"]}, r"hidden_act .*\['gelu'\]"),
        ({"layer_norm_eps": 0}, "layer_norm_eps .*: 0 "),
        ({"hidden_dropout_prob": True}, "hidden_dropout_prob .*True"),
        ({"num_attention_heads": 3}, "hidden_size .*3 heads.*: 8 "),
        ({"num_attention_heads": "2"}, "num_attention_heads .*'2'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type .*relative_key"),
        ({"is_decoder": True}, "is_decoder"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"vocab_size": 29}, r"word_embeddings.weight.*\(29, 8\).*\(28, 8\)"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention"),
        ({"num_hidden_layers": 1}, "doesn't describe.*encoder.layer.1."),
        ({"intermediate_size": 11}, r"intermediate.dense.weight.*\(11, 8\)"),
        ({"max_position_embeddings": 8}, "position_embeddings.weight"),
        ({"pad_token_id": 3}, "padding.*id 0 and pad_token_id 3"),
    ],
)
def test_a_config_of_another_model_is_refused(config, match, tmp_path):
    """The error names the setting or tensor, what was received, and the file."""
    folder = write_folder(tmp_path / "x")
    data = json.loads((folder / "config.json").read_text())
    data = {name: value for name, value in (data | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(EncoderError, match=match) as caught:
        ek.load_pretrained(folder)  # before a model is built
    assert str(folder) in str(caught.value)


def test_damaged_folders(tmp_path):
    """Each missing or damaged file is named."""
    with pytest.raises(EncoderError, match="no folder"):
        ek.load_pretrained(tmp_path / "none")
    with pytest.raises(EncoderError, match=r"snapshot_download.*'organisation/name'"):
        ek.load_pretrained("organisation/name")
    with pytest.raises(EncoderError, match=r"config\.json'.* takes the folder"):
        ek.load_pretrained(tmp_path)
    for wrong in (3, "", b"x", "https://host/x"):
        with pytest.raises(ArgumentError, match="folder"):
            ek.load_pretrained(wrong)
    with pytest.raises(ArgumentError, match="verify"):
        ek.load_pretrained(tmp_path, verify=1)
    folder = write_folder(tmp_path / "x")
    tensors = (folder / "model.safetensors").read_bytes()
    for size in (0, 7, 100, len(tensors) - 1):
        (folder / "model.safetensors").write_bytes(tensors[:size])
        with pytest.raises(EncoderError, match=r"model\.safetensors"):
            ek.load_pretrained(folder)
    with pytest.raises(EncoderError, match=r"safetensors' is a file"):
        ek.load_pretrained(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(EncoderError, match="git lfs pull"):
        ek.load_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"no model.safetensors .*pytorch_model.bin"):
        ek.load_pretrained(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(tensors)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(VocabularyError, match=r"no tokenizer\.json"):
        ek.load_pretrained(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(EncoderError, match=r"config.json.* not JSON"):
        ek.load_pretrained(folder)


def test_several_files_and_half_precision(tmp_path):
    """Tensors in several files with an index, in half precision, give the model of one file."""
    import ml_dtypes
    from safetensors.numpy import load_file, save_file

    folder = write_folder(tmp_path / "x")
    tensors = {
        name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "model.safetensors")
    read = ek.load_pretrained(folder)
    wanted = read.model()(np.arange(4, 16)[None])
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(ek.load_pretrained(folder).model()(np.arange(4, 16)[None]), wanted)
    (folder / "b.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"b\.safetensors"):
        ek.load_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(EncoderError, match="no weight_map"):
        ek.load_pretrained(folder)


def test_an_index_with_a_name_that_no_file_can_have(tmp_path):
    """Half a surrogate pair: refused like any file that isn't there."""
    folder = write_folder(tmp_path / "x")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "\\ud800.safetensors"}}')
    with pytest.raises(EncoderError, match=r"ud800.*not a complete safetensors file"):
        ek.load_pretrained(folder)


def test_integers_are_no_weights(tmp_path):
    """Quantized tensors are refused."""

    def change(tensors):
        tensors["encoder.layer.0.output.dense.weight"] = tensors["encoder.layer.0.output.dense.weight"].astype(np.int8)

    with pytest.raises(EncoderError, match=r"output.dense.weight.*int8"):
        ek.load_pretrained(write_folder(tmp_path / "x", change=change)).model()


def test_two_encoders_in_a_file(tmp_path):
    """It isn't clear which to read."""

    def change(tensors):
        tensors["other.embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"]

    with pytest.raises(EncoderError, match=r"one encoder.*other"):
        ek.load_pretrained(write_folder(tmp_path / "x", change=change))


def test_nan_in_a_tensor(tmp_path):
    """NaN is refused with the tensor's name."""

    def change(tensors):
        tensors["encoder.layer.1.output.dense.bias"][3] = np.nan

    read = ek.load_pretrained(write_folder(tmp_path / "x", change=change))
    with pytest.raises(EncoderError, match=r"bert.encoder.layer.1.output.dense.bias.*NaN"):
        read.model()
