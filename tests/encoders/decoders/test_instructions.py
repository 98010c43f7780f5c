"""Rows of instruction, input and answer become packed batches, and train a decoder."""

import keras
import numpy as np
import pandas as pd
import pytest

from embkeras.encoders.decoders.generation import generate
from embkeras.encoders.decoders.instructions import PackedRows, encode_instructions, perplexity
from embkeras.encoders.decoders.reading import load_decoder
from embkeras.encoders.lora import enable_lora
from embkeras.encoders.tuned import load_tuned, save_tuned
from embkeras.errors import ArgumentError, DataError, EncoderError
from tests.encoders.decoders.tiny_llama import write_folder

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

ROWS = [
    {"instruction": "a", "input": "cat", "answer": " dog"},
    {"instruction": "b", "answer": "x"},
    {"instruction": "c", "input": None, "answer": " cat cat"},
]
# A template without a message of the system and names of roles: short texts.
SHORT = "{% for m in messages %}{{ m.content + ('<|im_end|>' if m.role == 'assistant' else '') + '\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The tiny decoder with a short template."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    folder = write_folder(tmp_path_factory.mktemp("decoder") / "tiny")
    (folder / "chat_template.jinja").write_text(SHORT, "utf-8")
    return load_decoder(folder)


@pytest.fixture(scope="module")
def model(read):
    """Its model for packed rows, of which LoRA alone trains."""
    made = read.model(packed=True)
    for layer in made.layers:
        layer.trainable = False
    enable_lora(made, 4, f"{read.blocks[1]}/**")
    return made


def test_rows_are_packed_with_the_loss_on_answers(read):
    """Each text is prompt and answer with its end; only the answer has weights, and labels are one ahead."""
    packed = encode_instructions(read, ROWS, 14)
    ids, segments = packed.inputs["token_ids"], packed.inputs["segment_ids"]
    prompts = [read.encode(text) for text in ("a\n\ncat\n", "b\n", "c\n")]
    answers = [[*read.encode(text), 2] for text in (" dog", "x", " cat cat")]
    assert list(map(len, prompts)) == [5, 2, 2]
    wanted = [*prompts[0], *answers[0], *prompts[1], *answers[1]]
    assert ids[0].tolist() == [*wanted, 265, 265, 265]
    assert ids[1, :5].tolist() == [*prompts[2], *answers[2]]
    assert segments[0].tolist() == [1] * 7 + [2] * 4 + [0] * 3
    for row, place in zip(*np.nonzero(packed.weights), strict=True):
        assert packed.labels[row, place] == ids[row, place + 1]
        assert segments[row, place] == segments[row, place + 1] > 0
    assert packed.labels[packed.weights > 0].tolist() == [id_ for answer in answers for id_ in answer]
    assert packed.left_out == []


def test_no_token_is_part_of_prompt_and_answer(tmp_path):
    """Where a prompt's end and an answer's beginning would be one token, they stay two, as `generate` sees them."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    folder = write_folder(tmp_path / "close")
    (folder / "chat_template.jinja").write_text(SHORT.replace(" + '\n'", ""), "utf-8")
    read = load_decoder(folder)
    packed = encode_instructions(read, [{"instruction": "a c", "answer": "at"}], 8)
    ids = packed.inputs["token_ids"][0].tolist()
    assert ids == [*read.encode("a c"), *read.encode("at"), 2, *[265] * (5 - len(read.encode("a c")))]
    assert read.encode("a cat")[-1] not in ids
    assert packed.labels[packed.weights > 0].tolist() == [*read.encode("at"), 2]


def test_packed_rows_have_the_loss_of_single_ones(read, model):
    """No text sees another: the perplexity of packed rows is that of rows with one text each."""
    packed, single = (encode_instructions(read, ROWS, length) for length in (14, 9))
    assert [len(packed.labels), len(single.labels)] == [2, 2]
    alone = [encode_instructions(read, [row], 14) for row in ROWS]
    losses = [np.log(perplexity(model, each)) * each.weights.sum() for each in alone]
    total = np.exp(sum(losses) / sum(each.weights.sum() for each in alone))
    assert perplexity(model, packed, batch_size=1) == pytest.approx(total, rel=1e-5)


def test_instruction_tuning_teaches_answers(read, model, tmp_path):
    """LoRA alone trains; perplexity of the answers falls, the decoder gives them, and its file serves a plain model."""
    packed = encode_instructions(read, ROWS, 14)
    before, table = perplexity(model, packed), np.array(model.get_layer("token_embedding").matrix())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=False)
    losses = [model.train_on_batch(packed.inputs, packed.labels, packed.weights) for _ in range(50)]
    assert losses[0] == pytest.approx(np.log(before), rel=1e-4)
    assert perplexity(model, packed) < 1.2 < 10 < before
    np.testing.assert_array_equal(model.get_layer("token_embedding").matrix(), table)
    prompt = read.chat([{"role": "user", "content": "a\n\ncat"}])
    assert generate(model, read, [prompt], max_new_tokens=5, cached=False) == [" dog"]
    names = save_tuned(model, tmp_path / "lora.safetensors")
    assert all(name.startswith("transformer_layer_1/") and "lora" in name for name in names)
    plain = read.model()
    load_tuned(plain, tmp_path / "lora.safetensors")
    ids = packed.inputs["token_ids"][:1, :7]
    np.testing.assert_array_equal(plain(ids), model([ids, np.ones(ids.shape, "int32")]))


def test_chatml_and_data_frames(tmp_path):
    """A ChatML template needs no jinja2; an empty cell of a DataFrame is no input."""
    read = load_decoder(write_folder(tmp_path / "chatml"))
    packed = encode_instructions(read, pd.DataFrame(ROWS[1:]), 64)
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\nx<|im_end|>"
    ids = read.encode(text)
    assert packed.inputs["token_ids"][0, : len(ids) + 1].tolist() == [*ids, 265]
    assert packed.labels[0][packed.weights[0] > 0].tolist() == ids[-2:]
    assert len(packed.labels) == 2


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        ([], "0 rows"),
        ("text", "text"),
        (["text"], "Row 0.*text"),
        ([ROWS[0], {"instruction": "a", "output": "b"}], "Row 1.*answer.*None.*output"),
        ([{"instruction": "", "answer": "b"}], "Row 0.*instruction.*''"),
        ([{"instruction": "a", "input": 3, "answer": "b"}], "Row 0.*input.*3"),
        ([{"instruction": "a", "answer": "b<|im_end|>c"}], "Row 0.*answer.*im_end"),
        ([*ROWS, {"instruction": "a" * 20, "answer": "b"}], "Row 3 has 21 tokens .* 2 of an answer.*length=14"),
    ],
)
def test_wrong_rows_are_refused(read, rows, received):
    """A row that can't be trained on is named."""
    with pytest.raises(DataError, match=received):
        encode_instructions(read, rows, 14)


def test_other_wrong_arguments_are_refused(read, model):
    """Lengths, models and templates are checked."""
    assert encode_instructions(read, [*ROWS, {"instruction": "a" * 20, "answer": "b"}], 14, long_rows="leave_out")[
        3
    ] == [3]
    with pytest.raises(DataError, match="3 rows, 3 of them too long"):
        encode_instructions(read, ROWS, 2, long_rows="leave_out")
    with pytest.raises(ArgumentError, match=r"length.*64.*65"):
        encode_instructions(read, ROWS, 65)
    with pytest.raises(ArgumentError, match=r"load_decoder.*None"):
        encode_instructions(None, ROWS, 14)
    with pytest.raises(ArgumentError, match=r"encode_instructions.*None"):
        perplexity(model, None)
    packed = encode_instructions(read, ROWS, 14)
    assert isinstance(packed, PackedRows)
    with pytest.raises(ArgumentError, match="packed=True"):
        perplexity(read.model(), packed)


def test_template_without_an_end_is_refused(tmp_path):
    """A decoder that is trained on answers without an end would never stop."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    folder = write_folder(tmp_path / "endless")
    (folder / "chat_template.jinja").write_text(SHORT.replace("<|im_end|>", ""), "utf-8")
    with pytest.raises(EncoderError, match=r"never learn to stop.*row 0"):
        encode_instructions(load_decoder(folder), ROWS, 14)
