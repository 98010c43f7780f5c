"""Folders of small encoders with random weights, as Hugging Face writes them."""

import json

import numpy as np

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij"), "cat", "dog"]
TEXTS = ["cat dog", "a cab", "dog", "xyz bad fig"]
_SIZES = {
    "vocab_size": 28,
    "max_position_embeddings": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}
_NEW_NAMES = {  # DistilBERT's
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "hidden_act": "activation",
}
# model_type -> (prefix, a block, its tensors: query, key, value, output, norm, inner, outer, norm)
_BLOCK = (
    "encoder.layer.{}.",
    "attention.self.query attention.self.key attention.self.value attention.output.dense attention.output.LayerNorm "
    "intermediate.dense output.dense output.LayerNorm",
)
_BLOCKS = {
    "bert": _BLOCK,
    "roberta": _BLOCK,
    "xlm-roberta": _BLOCK,
    "distilbert": (
        "transformer.layer.{}.",
        "attention.q_lin attention.k_lin attention.v_lin attention.out_lin sa_layer_norm ffn.lin1 ffn.lin2 output_layer_norm",
    ),
    "albert": (
        "encoder.albert_layer_groups.0.albert_layers.{}.",
        "attention.query attention.key attention.value attention.dense attention.LayerNorm ffn ffn_output "
        "full_layer_layer_norm",
    ),
}
# Settings with which keras-hub's converter of the kind reads exactly what the file says.
EXACT_THERE = {
    "bert": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12},
    "roberta": {"hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "xlm-roberta": {"hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "distilbert": {"hidden_act": "gelu"},
    "albert": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12, "embedding_size": 4, "num_hidden_groups": 1,
               "inner_group_num": 1},
}  # fmt: skip


def tensors(kind, config):
    """Random tensors of the kind, by their names without a prefix."""
    rng = np.random.default_rng(7)
    width, inner, narrow = (
        config["hidden_size"],
        config["intermediate_size"],
        config.get("embedding_size", config["hidden_size"]),
    )
    made = {}

    def normal(name, *shape, around=0.0):
        made[name] = (around + 0.3 * rng.normal(size=shape)).astype(np.float32)

    def norm(name, size):
        normal(f"{name}.weight", size, around=1)
        normal(f"{name}.bias", size)

    def dense(name, into, out):
        normal(f"{name}.weight", out, into)
        normal(f"{name}.bias", out)

    normal("embeddings.word_embeddings.weight", config["vocab_size"], narrow)
    normal("embeddings.position_embeddings.weight", config["max_position_embeddings"], narrow)
    if kind != "distilbert":
        normal("embeddings.token_type_embeddings.weight", config["type_vocab_size"], narrow)
    norm("embeddings.LayerNorm", narrow)
    if kind == "albert":
        dense("encoder.embedding_hidden_mapping_in", narrow, width)
    block, names = _BLOCKS[kind]
    for place in range(config.get("inner_group_num", config["num_hidden_layers"])):
        *attention, first_norm, up, down, second_norm = [block.format(place) + name for name in names.split()]
        for name in attention:
            dense(name, width, width)
        dense(up, width, inner)
        dense(down, inner, width)
        norm(first_norm, width)
        norm(second_norm, width)
    if kind in ("bert", "xlm-roberta"):
        dense("pooler.dense", width, width)
    if kind == "albert":
        dense("pooler", width, width)
    return made


def write_tokenizer(path, pieces=PIECES, **settings):
    """A tokenizer.json of word pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({piece: id_ for id_, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.post_processor = processors.BertProcessing(("[SEP]", pieces.index("[SEP]")), ("[CLS]", pieces.index("[CLS]")))
    made.enable_truncation(3)
    made.enable_padding(pad_id=pieces.index("[PAD]"), length=3)
    path.write_text(json.dumps(json.loads(made.to_str()) | settings), "utf-8")
    return path


def write_folder(folder, kind="bert", *, prefix=None, change=None, **config):
    """A folder with config.json, model.safetensors and tokenizer.json.

    Args:
        folder: it is made.
        kind: the model_type.
        prefix: of the tensors' names; by default the kind's.
        change: called with the tensors before they are written.
        **config: settings besides the small sizes; None leaves one out.
    """
    from safetensors.numpy import save_file

    folder.mkdir()
    robertas = kind in ("roberta", "xlm-roberta")
    config = (
        _SIZES | {"pad_token_id": int(robertas), "type_vocab_size": 1 if robertas else 2} | EXACT_THERE[kind] | config
    )
    made = tensors(kind, {**_SIZES, **{name: value for name, value in config.items() if value is not None}})
    if change is not None:
        change(made)
    prefix = {"xlm-roberta": "roberta."}.get(kind, f"{kind}.") if prefix is None else prefix
    save_file({prefix + name: value for name, value in made.items()}, folder / "model.safetensors")
    names = _NEW_NAMES if kind == "distilbert" else {}
    written = {names.get(name, name): value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **written}), "utf-8")
    pieces = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *PIECES[4:]] if robertas else PIECES
    write_tokenizer(folder / "tokenizer.json", pieces)
    return folder
