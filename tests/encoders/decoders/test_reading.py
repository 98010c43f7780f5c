"""Files of decoders become the models that they describe, or are refused by name."""

import json
import re

import keras
import numpy as np
import pytest

from embkeras.encoders.decoders import reading
from embkeras.encoders.decoders.gguf_files import GgufFile
from embkeras.encoders.decoders.reading import load_decoder
from embkeras.encoders.decoders.reference import next_scores
from embkeras.errors import EncoderError, VocabularyError
from tests.encoders.decoders.tiny_llama import MERGES, pieces, write_folder, write_gguf

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

IDS = np.array([[5, 260, 100, 7, 42, 2, 264, 9]])
ROWS, COLUMNS = [0, 3, 7], [0, 1, 50, 263]
# What transformers 5.24 (LlamaForCausalLM) returns for IDS at these rows and columns.
TIED = [
    [-6.88226, -8.87925, 0.3703, -3.64476],
    [-3.04753, -7.24322, 0.6196, -4.35136],
    [1.9123, -1.54274, 3.37131, 10.43596],
]
UNTIED = [
    [0.50376, 0.56308, 0.25057, -1.3745],
    [0.99389, 1.26572, -0.32501, -0.36108],
    [0.41176, 0.69382, -1.60421, 3.00261],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the tiny decoder."""
    return write_folder(tmp_path_factory.mktemp("decoder") / "tiny")


@pytest.fixture(scope="module")
def scores(folder):
    """What its model returns for IDS."""
    return np.asarray(load_decoder(folder).model()(IDS))


def test_scores_are_those_of_transformers(scores):
    """The model of a folder returns what another implementation returned; the padding, one id more, can't be the best."""
    assert scores.shape == (1, 8, len(pieces()) + 1)
    np.testing.assert_allclose(scores[0][ROWS][:, COLUMNS], TIED, atol=1e-4)
    assert (scores[..., -1] == -30000).all()


def test_untied_output_has_a_table_of_its_own(tmp_path):
    """A decoder with `lm_head` scores tokens by it."""
    model = load_decoder(write_folder(tmp_path / "untied", tied=False)).model()
    np.testing.assert_allclose(np.asarray(model(IDS))[0][ROWS][:, COLUMNS], UNTIED, atol=1e-4)


def test_gguf_is_the_same_decoder(scores, folder, tmp_path):
    """A GGUF file, whose rows of query and key have another order, gives the scores, ids and stop ids of the folder."""
    pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    read, same = load_decoder(write_gguf(tmp_path / "tiny.gguf"), verify=True), load_decoder(folder, verify=True)
    np.testing.assert_allclose(np.asarray(read.model()(IDS)), scores, atol=1e-4)
    text = "a cat,  12 dogs<|im_end|>\n"
    assert read.tokenizer.encode(text).tolist() == same.tokenizer.encode(text).tolist()
    assert read.tokenizer.fingerprint == same.tokenizer.fingerprint
    splits = [json.loads(each.tokenizer.tokenizer.definition)["pre_tokenizer"] for each in (read, same)]
    assert splits[0] == splits[1]
    assert read.stop_ids == same.stop_ids == (2,)
    assert read.chat([{"role": "user", "content": "a"}]) == same.chat([{"role": "user", "content": "a"}])
    assert read.tokenizer.tokenizer.text_of(read.tokenizer.encode(text)) == text.replace("<|im_end|>", "")


def test_the_default_of_several_chat_templates(folder, tmp_path):
    """A file may name templates, for tools or documents too; plain messages take the one named "default"."""
    several = write_folder(tmp_path / "several")
    path = several / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": settings["chat_template"]}]
    path.write_text(json.dumps(settings | {"chat_template": named}), "utf-8")
    messages = [{"role": "user", "content": "a"}]
    assert load_decoder(several).chat(messages) == load_decoder(folder).chat(messages)
    path.write_text(json.dumps(settings | {"chat_template": named[:1]}), "utf-8")
    with pytest.raises(EncoderError, match=r"none is named 'default'.*Received: tool_use\."):
        load_decoder(several).chat(messages)


def test_padding_is_no_token_of_the_file(folder):
    """The token that the file names as padding also ends texts: padding gets an id of its own."""
    vocabulary = load_decoder(folder).tokenizer
    assert vocabulary.padding_id == len(pieces()) == len(vocabulary) - 1
    assert vocabulary.encode("cat<|im_end|>").tolist() == [pieces().index("cat"), 2]


def test_first_token_is_put_in_front_once(tmp_path):
    """A file that puts a token in front of every text doesn't double that of a chat template, nor put one inside."""
    pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    read = load_decoder(write_gguf(tmp_path / "first.gguf", tokens={"first": 1}))
    cat = pieces().index("cat")
    assert read.tokenizer.encode("<|im_start|>cat").tolist() == [1, 1, cat]
    assert read.encode("<|im_start|>cat") == read.encode("cat") == [1, cat]
    assert read.encode("cat", inside=True) == [cat]


def test_packed_weights_are_unpacked(tmp_path):
    """Q8_0 weights give the scores of their unpacked values."""
    pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    from embkeras.encoders.decoders.gguf_files import GgufFile

    def wide(made):
        rng = np.random.default_rng(0)
        for name, value in made.items():  # blocks of 32 numbers
            sizes = {16: 64, 24: 96, 8: 32}
            shape = [sizes.get(size, size) for size in value.shape]
            made[name] = (0.2 * rng.normal(size=shape) + (value.ndim == 1)).astype(np.float32)

    sizes = {"embedding_length": 64, "feed_forward_length": 96, "rope.dimension_count": 16}
    path = write_gguf(tmp_path / "q8.gguf", stored="Q8_0", change=wide, **sizes)
    read = load_decoder(path)
    file = GgufFile(path)
    assert set(file.stored.values()) == {"F32", "Q8_0"}
    got = np.asarray(read.model()(IDS))[0, :, :-1]
    np.testing.assert_allclose(got, next_scores(file, read.architecture, IDS[0]), atol=1e-4)


def test_model_is_saved_and_loaded(folder, scores, tmp_path):
    """A .keras file has the layers and scores of the model."""
    model = load_decoder(folder).model()
    model.save(tmp_path / "decoder.keras")
    np.testing.assert_array_equal(np.asarray(keras.models.load_model(tmp_path / "decoder.keras")(IDS)), scores)


def test_padding_and_segments_are_not_seen(folder, scores):
    """Padding on either side, and other texts in the row, leave the scores of a text as they are."""
    read = load_decoder(folder)
    padding = read.tokenizer.padding_id
    padded = np.full((2, 11), padding)
    padded[0, :8] = padded[1, 3:] = IDS[0]
    got = np.asarray(read.model()(padded))
    np.testing.assert_allclose(got[0, :8], scores[0], atol=1e-5)
    np.testing.assert_allclose(got[1, 3:], scores[0], atol=1e-5)
    row = np.array([[7, 9, 3, *IDS[0], padding]])
    segments = np.array([[1] * 3 + [2] * 8 + [0]], "int32")
    got = np.asarray(read.model(packed=True)([row, segments]))
    np.testing.assert_allclose(got[0, 3:11], scores[0], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"model_type": "qwen2"}, "qwen2"),
        ({"attention_bias": True}, "attention_bias must be False.*True"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'.*gelu"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling must be absent.*linear"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type must be 'default'.*llama3"),
        ({"sliding_window": 32}, "sliding_window must be absent.*32"),
        ({"num_key_value_heads": 3}, "multiple.*3"),
        ({"num_hidden_layers": None}, "no num_hidden_layers"),
        ({"num_hidden_layers": 3}, "no tensor 'layers.2.input_layernorm.weight'"),
        ({"num_hidden_layers": 1}, "doesn't describe.*layers.1"),
        ({"intermediate_size": 25}, r"layers.0.mlp.gate_proj.weight.*\(25, 16\).*\(24, 16\)"),
        ({"num_key_value_heads": 4}, r"k_proj.weight.*\(16, 16\).*\(8, 16\)"),
        ({"rms_norm_eps": 0}, "rms_norm_eps.*0"),
        ({"tie_word_embeddings": False}, "no tensor 'lm_head.weight'"),
        ({"eos_token_id": 999}, "below 265.*999"),
        ({"eos_token_id": True}, "integers below 265.*True"),
    ],
)
def test_folder_that_would_mean_another_model_is_refused(settings, received, tmp_path):
    """Settings that the layers don't follow, and tensors that don't fit them, are named before a model is built."""
    with pytest.raises(EncoderError, match=received):
        load_decoder(write_folder(tmp_path / "other", **settings))


@pytest.mark.parametrize(
    ("fields", "received"),
    [
        ({"expert_count": 2}, "expert_count.*2"),
        ({"rope.scaling.type": "yarn"}, "rope.scaling.type.*yarn"),
        ({"rope.dimension_count": 2}, "rope.dimension_count.*4.*2"),
        ({"block_count": None}, "no llama.block_count"),
        ({"block_count": 3}, "no tensor 'blk.2.attn_norm.weight'"),
        ({"feed_forward_length": 25}, r"blk.0.ffn_gate.weight.*\(25, 16\).*\(24, 16\)"),
        ({"vocab_size": 7}, "265.*7"),
        ({"change": lambda made: made.update({"rope_freqs.weight": np.ones(2, np.float32)})}, "rope_freqs.weight"),
    ],
)
def test_gguf_that_would_mean_another_model_is_refused(fields, received, tmp_path):
    """So are fields and tensors of a GGUF file."""
    pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    with pytest.raises(EncoderError, match=received):
        load_decoder(write_gguf(tmp_path / "other.gguf", **fields))


@pytest.mark.parametrize("received", [[2], "x", 1.5])
def test_fields_of_another_type_are_refused(received, tmp_path, monkeypatch):
    """An id that ends texts, and a way to split them."""
    pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    path = write_gguf(tmp_path / "other.gguf")
    tokenizer = GgufFile(path).tokenizer()
    monkeypatch.setattr(GgufFile, "tokenizer", lambda file: tokenizer)
    monkeypatch.setattr(GgufFile, "stop_ids", lambda file: [2, received])
    with pytest.raises(EncoderError, match=re.escape(f"below 265. Received: {received!r}")):
        load_decoder(path)
    monkeypatch.undo()
    file = GgufFile(path)
    file.fields["tokenizer.ggml.eot_token_id"] = file.fields["tokenizer.ggml.pre"] = received
    assert file.stop_ids() == [2, received]
    with pytest.raises(VocabularyError, match=re.escape(f"'gpt2' and {received!r}")):
        file.tokenizer()


def test_damaged_files_are_refused(tmp_path):
    """A path without a file, another file, a cut one, NaN, and another kind of tokenizer."""
    pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    with pytest.raises(EncoderError, match=r"There is no .*nothing\.gguf"):
        load_decoder(tmp_path / "nothing.gguf")
    (tmp_path / "text.gguf").write_bytes(b"hello world")
    with pytest.raises(EncoderError, match=r"no GGUF file.*b'hell'"):
        load_decoder(tmp_path / "text.gguf")
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    for size in (20, len(whole) // 2, len(whole) - 500):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(EncoderError, match="not a complete GGUF file"):
            load_decoder(tmp_path / "cut.gguf")
    path = write_gguf(tmp_path / "nan.gguf", change=lambda made: made["blk.1.attn_k.weight"].fill(np.nan))
    with pytest.raises(EncoderError, match=r"blk.1.attn_k.weight.*NaN"):
        load_decoder(path).model()
    with pytest.raises(VocabularyError, match="'llama' and 'default'"):
        load_decoder(write_gguf(tmp_path / "spm.gguf", tokens={"model": "llama", "pre": "default"}))
    with pytest.raises(VocabularyError, match="7 merges"):
        load_decoder(write_gguf(tmp_path / "merge.gguf", tokens={"merges": [*MERGES, "abc"]}))


def test_verify_is_in_float32(folder, mixed):
    """Under mixed precision too, where a model's rounding would look like an error; the policy stays."""
    load_decoder(folder, verify=True)
    assert keras.config.dtype_policy().name == mixed


def test_a_damaged_template_is_refused(tmp_path):
    """With the file that isn't text."""
    folder = write_folder(tmp_path / "x")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(EncoderError, match=r"chat_template\.jinja.*utf-8"):
        load_decoder(folder)


def test_verify_refuses_a_wrong_conversion(folder, monkeypatch):
    """A model that computes something else than the file says is refused."""
    monkeypatch.setattr(reading, "_fill_block", lambda *_: None)
    with pytest.raises(EncoderError, match="scores differ by"):
        load_decoder(folder, verify=True)
