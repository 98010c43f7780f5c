"""A LoRA folder that PEFT wrote: on our model its scores; what can't be followed is refused by name."""

import json
import shutil

import numpy as np
import pytest

from embkeras.encoders.heads import build_encoder_classifier, build_encoder_tagger, build_sentence_encoder
from embkeras.encoders.reading import load_pretrained
from embkeras.encoders.tuned import load_tuned, save_tuned
from embkeras.errors import EncoderError
from tests.encoders.folders import write_folder
from tests.encoders.make_peft_lora import FOLDER, IDS

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The BERT for which PEFT wrote the folder."""
    return load_pretrained(write_folder(tmp_path_factory.mktemp("bert") / "x", hidden_act="gelu"))


@pytest.fixture(scope="module")
def model(read):
    """A classifier as transformers builds it."""
    return build_encoder_classifier(read, 2, pool="pooler")


def _written(folder, tensors=lambda found: found, **settings):
    """The folder with other settings and tensors."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    path = folder / "adapter_model.safetensors"
    save_file(tensors(load_file(path)), path)
    return folder


def test_refused_by_name(read, model, tmp_path):
    """Settings and tensors that mean something else, and heads that would stay random."""
    count = len(model.weights)

    def without_head(found):
        return {name: each for name, each in found.items() if "classifier" not in name}

    def with_more(found):
        return found | {
            "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A": np.ones((2, 28), np.float32)
        }

    def without_b(found):
        return {name: each for name, each in found.items() if "layer.1.intermediate.dense.lora_B" not in name}

    def elsewhere(found):
        return {name.replace("self.query", "self.rotary"): each for name, each in found.items()}

    cases = [
        ({"use_dora": True}, None, r"can't follow use_dora .* Received: True"),
        ({"bias": "all"}, None, "bias .* must be 'none'. Received: 'all'"),
        ({"init_lora_weights": "pissa"}, None, "init_lora_weights .* Received: 'pissa'"),
        ({"peft_type": "LOHA"}, None, "peft_type .* Received: 'LOHA'"),
        ({"of_tomorrow": 3}, None, "can't follow of_tomorrow"),
        ({"lora_alpha": "x"}, None, "lora_alpha .* Received: 'x'"),
        ({"alpha_pattern": ["query"]}, None, r"alpha_pattern .* Received: \['query'\]"),
        ({}, without_head, "no weight for 'scores/kernel'"),
        ({}, with_more, "Received: bert.embeddings.word_embeddings.lora_embedding_A"),
        ({}, without_b, "a lora_A and a lora_B for each layer"),
        ({}, elsewhere, "doesn't know.* Received: bert.encoder.layer.0.attention.self.rotary"),
    ]
    for settings, change, match in cases:
        with pytest.raises(EncoderError, match=match):
            load_tuned(model, _written(tmp_path / "x", change or (lambda found: found), **settings))
    assert len(model.weights) == count
    with pytest.raises(EncoderError, match='pool="pooler"'):
        load_tuned(build_encoder_classifier(read, 2, pool="cls"), FOLDER)
    with pytest.raises(EncoderError, match=r"'scores/kernel' .* \(8, 3\)"):
        load_tuned(build_encoder_classifier(read, 3, pool="pooler"), FOLDER)
    with pytest.raises(EncoderError, match="no layer named scores or values"):
        load_tuned(build_sentence_encoder(read, pool="pooler"), FOLDER)
    (tmp_path / "x" / "adapter_model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"no adapter_model\.safetensors"):
        load_tuned(model, tmp_path / "x")


def test_the_scores_of_peft(read, model, tmp_path):
    """Other ranks and alphas of single layers and rank-stabilised scaling are followed; it can be saved by itself then."""
    wanted = json.loads((FOLDER / "scores.json").read_text())
    names = load_tuned(model, FOLDER)
    assert {"pooler/lora_kernel_a", "scores/kernel", "scores/bias"} < set(names) and len(names) == 20
    np.testing.assert_allclose(model(np.array(IDS)), wanted, atol=1e-5)
    save_tuned(model, tmp_path / "own.safetensors")
    again = build_encoder_classifier(read, 2, pool="pooler")
    load_tuned(again, tmp_path / "own.safetensors")
    np.testing.assert_array_equal(again(np.array(IDS)), model(np.array(IDS)))


def test_without_a_head(read, tmp_path):
    """LoRA of features goes on an encoder alone, and not below a head that would stay random."""

    def features(found):
        return {
            name.replace("bert.", ""): each
            for name, each in found.items()
            if "classifier" not in name and "pooler" not in name
        }

    folder = _written(tmp_path / "x", features, task_type="FEATURE_EXTRACTION", modules_to_save=None)
    encoder = read.model()
    assert len(load_tuned(encoder, folder)) == 16
    assert encoder.get_layer("transformer_layer_0").weights
    with pytest.raises(EncoderError, match="no weight for 'scores/kernel'"):
        load_tuned(build_encoder_tagger(read, 2), folder)
