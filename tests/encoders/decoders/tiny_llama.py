"""A tiny decoder with random weights, as a Hugging Face folder and as a GGUF file."""

import json

import numpy as np

MERGES = ["c a", "ca t", "d o", "do g", "Ġ cat", "Ġ dog"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
_INSIDE = {
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (8, 16),
    "self_attn.v_proj": (8, 16),
    "self_attn.o_proj": (16, 16),
    "mlp.gate_proj": (24, 16),
    "mlp.up_proj": (24, 16),
    "mlp.down_proj": (16, 24),
}
_IN_GGUF = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def pieces():
    """The tokens in the order of ids: special ones, every byte, and what is merged."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def tensors(tied=True):
    """Random tensors by their names in a folder."""
    rng, size = np.random.default_rng(3), len(pieces())

    def normal(*shape, around=0.0, scale=0.4):
        return (around + scale * rng.normal(size=shape)).astype(np.float32)

    made = {"model.embed_tokens.weight": normal(size, 16, scale=1)}
    for block in range(2):
        for name, shape in _INSIDE.items():
            made[f"model.layers.{block}.{name}.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.{block}.{name}.weight"] = normal(16, around=1)
    made["model.norm.weight"] = normal(16, around=1)
    if not tied:
        made["lm_head.weight"] = normal(size, 16)
    return made


def write_folder(folder, *, tied=True, change=None, **config):
    """A Hugging Face folder; None leaves a setting out, and `change` is called with the tensors before they are written."""
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    made = tensors(tied)
    if change is not None:
        change(made)
    save_file(made, folder / "model.safetensors")
    settings = CONFIG | {"vocab_size": len(pieces()), "tie_word_embeddings": tied} | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}), "utf-8")
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    tokenizer = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(pieces())}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), "utf-8")
    return folder


def write_gguf(path, *, stored="F32", change=None, tokens=None, **fields):
    """A GGUF file of the same decoder, its rows of query and key reordered as llama.cpp does; None leaves a field out."""
    import gguf

    kind, settings = gguf.GGMLQuantizationType[stored], CONFIG
    made = {}
    for name, value in tensors().items():
        short = name.removeprefix("model.").removesuffix(".weight")
        if short.startswith("layers."):
            _, block, inside = short.split(".", 2)
            if inside.endswith(("q_proj", "k_proj")):
                value = value.reshape(-1, 2, 2, 16).swapaxes(1, 2).reshape(value.shape)
            made[f"blk.{block}.{_IN_GGUF[inside]}.weight"] = value
        else:
            made[{"embed_tokens": "token_embd", "norm": "output_norm"}[short] + ".weight"] = value
    if change is not None:
        change(made)
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {
        "block_count": settings["num_hidden_layers"],
        "context_length": settings["max_position_embeddings"],
        "embedding_length": settings["hidden_size"],
        "feed_forward_length": settings["intermediate_size"],
        "attention.head_count": settings["num_attention_heads"],
        "attention.head_count_kv": settings["num_key_value_heads"],
        "rope.dimension_count": 4,
        "rope.freq_base": settings["rope_theta"],
        "attention.layer_norm_rms_epsilon": settings["rms_norm_eps"],
    } | fields
    for name, value in numbers.items():
        if isinstance(value, float):
            writer.add_float32(f"llama.{name}", value)
        elif isinstance(value, str):
            writer.add_string(f"llama.{name}", value)
        elif value is not None:
            writer.add_uint32(f"llama.{name}", value)
    words = pieces()
    tokenizer = {"model": "gpt2", "pre": "smollm", "tokens": words, "merges": MERGES} | (tokens or {})
    writer.add_tokenizer_model(tokenizer["model"])
    writer.add_tokenizer_pre(tokenizer["pre"])
    writer.add_token_list(tokenizer["tokens"])
    writer.add_token_types([3 if word in SPECIAL else 1 for word in words])
    writer.add_token_merges(tokenizer["merges"])
    if "first" in tokenizer:
        writer.add_bos_token_id(tokenizer["first"])
        writer.add_add_bos_token(True)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in made.items():
        packed = value if value.ndim == 1 or kind.name == "F32" else gguf.quantize(value, kind)
        writer.add_tensor(name, packed, raw_dtype=None if packed is value else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
