"""What training added to an encoder, in a file of its own: on its base to the bit, or refused."""

import json

import keras
import numpy as np
import pytest

from embkeras.encoders.heads import build_encoder_classifier, build_sentence_encoder
from embkeras.encoders.lora import enable_lora
from embkeras.encoders.reading import load_pretrained
from embkeras.encoders.tuned import _contents, load_tuned, save_tuned
from embkeras.errors import ArgumentError, EncoderError, OutputError
from tests.encoders.folders import TEXTS, write_folder

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A BERT of two narrow blocks."""
    return load_pretrained(write_folder(tmp_path_factory.mktemp("bert") / "x", hidden_act="gelu"))


@pytest.fixture(scope="module")
def ids(read):
    """Ids of the texts."""
    return read.tokenizer.encode_batch(TEXTS)


def _moved(model, names=("scores",)):
    """The model, with random values in the weights that have one of these names in their path."""
    for weight in model.weights:
        if any(name in weight.path for name in names):
            weight.assign(RNG.normal(size=weight.shape) / 4)
    return model


@pytest.fixture(scope="module")
def tuned(read, tmp_path_factory):
    """A model with LoRA of two kinds, and its file."""
    model, path = build_encoder_classifier(read, 2), tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    for layer in model.layers:
        layer.trainable = False
    enable_lora(model, 2, "transformer_layer_1/**/query", lora_alpha=3.0)
    enable_lora(model, 1, ["transformer_layer_0/feedforward_output_dense", "token_embedding"], train_biases=False)
    names = save_tuned(_moved(model, ("scores", "lora_")), path)
    return model, path, names


def test_lora_and_a_frozen_head(read, ids, tuned):
    """Only A, B and the head are in the file; a new model of that base has the same scores, to the bit, twice."""
    model, path, names = tuned
    assert names == [
        *("token_embedding/lora_embeddings_a", "token_embedding/lora_embeddings_b"),
        *(f"transformer_layer_0/feedforward_output_dense/lora_kernel_{each}" for each in "ab"),
        *(f"transformer_layer_1/self_attention_layer/query/lora_kernel_{each}" for each in "ab"),
        *("scores/kernel", "scores/bias"),
    ]
    fresh = build_encoder_classifier(read, 2)
    assert load_tuned(fresh, path) == names
    np.testing.assert_array_equal(fresh(ids), model(ids))
    _moved(fresh, ("scores", "lora_"))
    assert load_tuned(fresh, path) == names
    np.testing.assert_array_equal(fresh(ids), model(ids))


def test_biases_and_a_model_from_a_file(read, ids, tmp_path):
    """What differs is stored, whatever trained; a loaded model needs its base named, and is the same."""
    model = _moved(build_encoder_classifier(read, 2), ("scores", "query/bias"))
    names = save_tuned(model, tmp_path / "a.safetensors")
    assert [name.split("/")[-2:] for name in names] == [["query", "bias"]] * 2 + [
        ["scores", "kernel"],
        ["scores", "bias"],
    ]
    model.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    with pytest.raises(ArgumentError, match="Pass base="):
        save_tuned(loaded, tmp_path / "b.safetensors")
    assert save_tuned(loaded, tmp_path / "b.safetensors", base=read) == names
    other = build_encoder_classifier(read, 2)
    assert save_tuned(loaded, tmp_path / "b.safetensors", base=other, overwrite=True) == names
    load_tuned(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(other(ids), model(ids))


def test_another_base_is_refused(read, tuned, tmp_path):
    """By its fingerprint and the first weight that differs; so is a base that moved, and the model stays as it was."""
    _, path, _ = tuned

    def change(tensors):
        tensors["encoder.layer.1.output.dense.bias"][0] += 1e-6

    folder = write_folder(tmp_path / "other", hidden_act="gelu", change=change)
    other = build_encoder_classifier(load_pretrained(folder), 2)
    before = other.get_weights()
    with pytest.raises(
        EncoderError, match=r"another base.* 1 of \d+ weights differ: 'transformer_layer_1/feedforward_out"
    ):
        load_tuned(other, path)
    for weight, value in zip(other.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    with pytest.raises(EncoderError, match="differ: 'embeddings_layer_norm/gamma'"):
        load_tuned(_moved(build_encoder_classifier(read, 2), ("embeddings_layer_norm/gamma",)), path)
    stored = tmp_path / "norm.safetensors"
    save_tuned(_moved(build_encoder_classifier(read, 2), ("embeddings_layer_norm/gamma",)), stored)
    narrow = load_pretrained(write_folder(tmp_path / "third", hidden_act="gelu", change=_other_norm))
    with pytest.raises(EncoderError, match="differ: 'embeddings_layer_norm/gamma'"):
        load_tuned(build_encoder_classifier(narrow, 2), stored)


def _other_norm(tensors):
    tensors["embeddings.LayerNorm.weight"][0] = 7


def test_another_model_is_refused(read, tuned):
    """Other shapes, weights that one of both lacks, other LoRA: by name, before anything changes."""
    _, path, _ = tuned
    with pytest.raises(EncoderError, match=r"'scores/kernel' .* \(8, 3\).* Received: \(8, 2\)"):
        load_tuned(build_encoder_classifier(read, 3), path)
    with pytest.raises(EncoderError, match="'pooler/kernel', which is with 1 others in model 'classifier'"):
        load_tuned(build_encoder_classifier(read, 2, pool="pooler"), path)
    model = build_sentence_encoder(read)
    count = len(model.weights)
    with pytest.raises(EncoderError, match="no weight 'scores/bias', which is with 1 others in"):
        load_tuned(model, path)
    assert len(model.weights) == count
    model = build_encoder_classifier(read, 2)
    enable_lora(model, 3, "transformer_layer_1/**/query")
    with pytest.raises(EncoderError, match=r"rank 2 and lora_alpha 3\. Received: rank 3 and lora_alpha 3"):
        load_tuned(model, path)
    with pytest.raises(ArgumentError, match="Received: 'model'"):
        load_tuned("model", path)


def test_damaged_files_are_refused(read, tuned, tmp_path):
    """Cut anywhere, changed in a byte, of another kind, or with a tensor less."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    _, path, _ = tuned
    model, data, bad = build_encoder_classifier(read, 2), path.read_bytes(), tmp_path / "bad.safetensors"
    for cut in (0, 5, 100, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:cut])
        with pytest.raises(EncoderError, match="not a complete safetensors file"):
            load_tuned(model, bad)
    bad.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EncoderError, match=r"bad\.safetensors' is damaged: its contents"):
        load_tuned(model, bad)
    tensors = load_file(path)
    save_file(tensors, bad)
    with pytest.raises(EncoderError, match=r"'embkeras tuned 2'\. Received: None"):
        load_tuned(model, bad)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_file({name: each for name, each in tensors.items() if name != "scores/bias"}, bad, metadata)
    with pytest.raises(EncoderError, match="damaged"):
        load_tuned(model, bad)
    save_file(tensors, bad, metadata | {"parts": metadata["parts"].replace('"alpha": 3.0', '"alpha": 7.0')})
    with pytest.raises(EncoderError, match=r"bad\.safetensors' is damaged: its contents"):
        load_tuned(model, bad)
    with pytest.raises(EncoderError, match="no such file"):
        load_tuned(model, tmp_path / "none.safetensors")


def test_settings_that_cannot_be_followed(read, tuned, tmp_path):
    """Refused, whatever they are, though the digests fit; the model stays as it was."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    model, path = build_encoder_classifier(read, 2), tmp_path / "bad.safetensors"
    lora, host = {"rank": 2, "alpha": 2.0, "train_biases": False}, {"size": 2, "activation": "gelu"}
    adapters = {"name": "first", "hosts": {"transformer_layer_0/feedforward_layer_norm": host}, "kept": []}
    tensors = load_file(tuned[1])
    with safe_open(tuned[1], "numpy") as file:
        metadata = file.metadata()
    count = len(model.weights)
    for wrong in (
        {"lora": {"scores": {"rank": "2"}}},
        {"lora": {"scores": lora | {"rank": True}}},
        {"lora": {}, "adapters": []},
        {"lora": {}, "adapters": adapters | {"kept": [{}]}},
        *(
            {"lora": {}, "adapters": adapters | {"hosts": {"scores": host | {"size": size}}}}
            for size in (0, True, 1.5, "2")
        ),
        *(
            {"lora": {}, "adapters": adapters | {"hosts": {"scores": host | {"activation": each}}}}
            for each in ("x", 3, [])
        ),
    ):
        settings = json.dumps(wrong)
        save_file(tensors, path, metadata | {"parts": settings, "contents": _contents(tensors, settings)})
        with pytest.raises(EncoderError, match="settings of LoRA and adapters"):
            load_tuned(model, path)
    assert len(model.weights) == count


def test_a_file_of_an_earlier_state(read, ids, tuned, tmp_path):
    """Its digest covers the tensors alone."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    model, path, names = tuned
    tensors = load_file(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() | {"format": "embkeras tuned 1", "contents": _contents(tensors, "")}
    save_file(tensors, tmp_path / "earlier.safetensors", metadata)
    fresh = build_encoder_classifier(read, 2)
    assert set(load_tuned(fresh, tmp_path / "earlier.safetensors")) == set(names)
    np.testing.assert_array_equal(fresh(ids), model(ids))


def test_what_is_not_written(read, tuned, tmp_path):
    """A file that exists, NaN, a base of other layers."""
    model, path, _ = tuned
    with pytest.raises(OutputError, match="overwrite=True"):
        save_tuned(model, path)
    broken = build_encoder_classifier(read, 2)
    broken.get_layer("scores").bias.assign([np.nan, 0])
    with pytest.raises(EncoderError, match="'scores/bias'"):
        save_tuned(broken, tmp_path / "nan.safetensors")
    half = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16", name="half")])
    before = keras.models.clone_model(half)
    before.set_weights(half.get_weights())
    half.get_layer("half").bias.assign([np.nan, 0])
    with pytest.raises(EncoderError, match="'half/bias'"):
        save_tuned(half, tmp_path / "nan.safetensors", base=before)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="other")])
    with pytest.raises(ArgumentError, match="base has none of the weights"):
        save_tuned(model, tmp_path / "x.safetensors", base=dense)
    assert not list(tmp_path.iterdir())
