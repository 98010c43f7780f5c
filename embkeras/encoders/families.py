"""The kinds of encoders that can be read: what their config.json says, and what their tensors are called.

All are encoders with absolute positions and a layer norm behind each sum (Devlin et al. 2019 and after). A setting that the
layers here can't follow is refused: it would load, and compute something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embkeras._checks import is_whole, shown
from embkeras.errors import EncoderError

# Hugging Face's `hidden_act` -> the activation that it is; tanh stands for the usual approximation of GELU.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Family:
    """How one `model_type` names its settings and tensors.

    Attributes:
        prefix: what the names of all tensors may begin with.
        settings: our name of a setting -> its key in config.json, where the key isn't `_KEYS`'.
        defaults: settings that a config.json may leave out.
        unused_positions: rows at the start of the table of positions that no token uses.
        blocks: name of a block, with {block} for its number, or {group} and {inner} where blocks share weights.
        tensors: our name of a dense layer or norm inside a block -> its name there.
        segments: whether there is a table of segments.
        pooler: the dense layer behind the first token in the file; None where transformers' classifiers make a new one.
        pooler_activation: its activation.
    """

    prefix: str
    settings: Mapping[str, str]
    defaults: Mapping[str, Any]
    blocks: str
    tensors: Mapping[str, str]
    unused_positions: int = 0
    segments: bool = True
    pooler: str | None = None
    pooler_activation: str = "tanh"


_KEYS = {
    "vocabulary_size": "vocab_size",
    "positions": "max_position_embeddings",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "inner_width": "intermediate_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "segments": "type_vocab_size",
    "padding_id": "pad_token_id",
}
_BERT = Family(
    prefix="bert.",
    settings=_KEYS,
    defaults={"activation": "gelu", "epsilon": 1e-12, "dropout": 0.1, "segments": 2, "padding_id": 0},
    blocks="encoder.layer.{block}.",
    tensors={
        "self_attention_layer/query": "attention.self.query",
        "self_attention_layer/key": "attention.self.key",
        "self_attention_layer/value": "attention.self.value",
        "self_attention_layer/attention_output": "attention.output.dense",
        "self_attention_layer_norm": "attention.output.LayerNorm",
        "feedforward_intermediate_dense": "intermediate.dense",
        "feedforward_output_dense": "output.dense",
        "feedforward_layer_norm": "output.LayerNorm",
    },
    pooler="pooler.dense",
)
_ROBERTA = Family(
    prefix="roberta.",
    settings=_KEYS,
    defaults={**_BERT.defaults, "epsilon": 1e-12, "segments": 2, "padding_id": 1},
    blocks=_BERT.blocks,
    tensors=_BERT.tensors,
    unused_positions=2,
)
FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Family(
        prefix="distilbert.",
        settings={
            **_KEYS,
            "layers": "n_layers",
            "heads": "n_heads",
            "width": "dim",
            "inner_width": "hidden_dim",
            "activation": "activation",
            "dropout": "dropout",
        },
        defaults={"activation": "gelu", "epsilon": 1e-12, "dropout": 0.1, "segments": 0, "padding_id": 0},
        blocks="transformer.layer.{block}.",
        tensors={
            "self_attention_layer/query": "attention.q_lin",
            "self_attention_layer/key": "attention.k_lin",
            "self_attention_layer/value": "attention.v_lin",
            "self_attention_layer/attention_output": "attention.out_lin",
            "self_attention_layer_norm": "sa_layer_norm",
            "feedforward_intermediate_dense": "ffn.lin1",
            "feedforward_output_dense": "ffn.lin2",
            "feedforward_layer_norm": "output_layer_norm",
        },
        segments=False,
        pooler_activation="relu",
    ),
    "albert": Family(
        prefix="albert.",
        settings=_KEYS,
        defaults={"activation": "gelu_new", "epsilon": 1e-12, "dropout": 0.0, "segments": 2, "padding_id": 0},
        blocks="encoder.albert_layer_groups.{group}.albert_layers.{inner}.",
        tensors={
            "self_attention_layer/query": "attention.query",
            "self_attention_layer/key": "attention.key",
            "self_attention_layer/value": "attention.value",
            "self_attention_layer/attention_output": "attention.dense",
            "self_attention_layer_norm": "attention.LayerNorm",
            "feedforward_intermediate_dense": "ffn",
            "feedforward_output_dense": "ffn_output",
            "feedforward_layer_norm": "full_layer_layer_norm",
        },
        pooler="pooler",
    ),
}
WORDS, POSITIONS = "embeddings.word_embeddings", "embeddings.position_embeddings"
SEGMENTS = "embeddings.token_type_embeddings"
NORM, PROJECTION = "embeddings.LayerNorm", "encoder.embedding_hidden_mapping_in"


@dataclass(frozen=True)
class Architecture:
    """What a config.json describes.

    Attributes:
        family: names of tensors.
        positions: rows of the table of positions that tokens use: the most tokens of a text.
        blocks: the blocks in the order in which they are called, by the prefix of their tensors; ALBERT repeats them.
        embedding_width: width of the token table; another than `width` is projected.
        activation: "gelu", "gelu_tanh", "relu" or "silu".
    """

    family: Family
    vocabulary_size: int
    positions: int
    segments: int
    embedding_width: int
    width: int
    inner_width: int
    heads: int
    blocks: tuple[str, ...]
    activation: str
    epsilon: float
    dropout: float
    padding_id: int

    @property
    def projected(self) -> bool:
        """Whether a dense layer stands between the token table and the first block, as in every ALBERT."""
        return "{group}" in self.family.blocks

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors, by their names without the prefix."""
        narrow, width, inner = self.embedding_width, self.width, self.inner_width
        found: dict[str, tuple[int, ...]] = {
            f"{WORDS}.weight": (self.vocabulary_size, narrow),
            f"{POSITIONS}.weight": (self.positions + self.family.unused_positions, narrow),
            f"{NORM}.weight": (narrow,),
            f"{NORM}.bias": (narrow,),
        }
        if self.segments:
            found[f"{SEGMENTS}.weight"] = self.segments, narrow
        if self.projected:
            found |= {f"{PROJECTION}.weight": (width, narrow), f"{PROJECTION}.bias": (width,)}
        for block in dict.fromkeys(self.blocks):
            for ours, theirs in self.family.tensors.items():
                out = inner if ours == "feedforward_intermediate_dense" else width
                into = inner if ours == "feedforward_output_dense" else width
                kernel = (out,) if ours.endswith("_norm") else (out, into)
                found |= {f"{block}{theirs}.weight": kernel, f"{block}{theirs}.bias": (out,)}
        return found


def architecture_of(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture that a config.json describes.

    Args:
        config: its contents.
        where: the file, for errors.

    Raises:
        EncoderError: another kind of model, a missing or impossible setting, or one that the layers can't follow.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise EncoderError(
            f"load_pretrained reads encoders of model_type {', '.join(FAMILIES)}. Received: {shown(kind)} in {where}."
        )
    family = FAMILIES[kind]
    _refuse_what_differs(config, where)
    found = {name: _setting(config, family, name, where) for name in _KEYS}
    layers, activation = found.pop("layers"), found.pop("activation")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise EncoderError(
            f"{family.settings['activation']} must be one of {', '.join(ACTIVATIONS)}. "
            f"Received: {shown(activation)} in {where}."
        )
    if found["width"] % found["heads"]:
        raise EncoderError(
            f"{family.settings['width']} must be a multiple of the {found['heads']} heads. "
            f"Received: {found['width']} in {where}."
        )
    if family.unused_positions and found["padding_id"] != family.unused_positions - 1:
        raise EncoderError(
            f"Positions of {kind} are read for pad_token_id {family.unused_positions - 1}. "
            f"Received: {found['padding_id']} in {where}."
        )
    found["positions"] -= family.unused_positions
    if found["positions"] < 1:
        raise EncoderError(f"{where} leaves no position for a token. Received: max_position_embeddings too small.")
    return Architecture(
        family=family,
        blocks=_blocks(config, family, layers, where),
        activation=ACTIVATIONS[activation],
        embedding_width=_number(config.get("embedding_size", found["width"]), "embedding_size", where)
        if kind == "albert"
        else found["width"],
        **found,
    )


def _refuse_what_differs(config: Mapping[str, Any], where: str) -> None:
    """Settings under which the same tensors mean another model."""
    as_expected = {
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({}, []),
        "quantization_config": (),
        "auto_map": (),
    }
    for name, allowed in as_expected.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            rule = f"must be {shown(allowed[0])}" if allowed else "must be absent"
            raise EncoderError(f"{name} {rule}: the model would be another one. Received: {shown(value)} in {where}.")


def _setting(config: Mapping[str, Any], family: Family, name: str, where: str) -> Any:
    key = family.settings[name]
    value = config.get(key)
    if value is None:
        value = family.defaults.get(name)
    if value is None:
        raise EncoderError(f"{where} has no {key}.")
    if name == "activation":
        return value
    if name in ("epsilon", "dropout"):
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not 0 <= value < 1 or (name == "epsilon" and value == 0):
            raise EncoderError(f"{key} must be a number from 0 to 1. Received: {shown(value)} in {where}.")
        return float(value)
    if name == "segments" and not family.segments:
        return 0
    return _number(value, key, where, least=0 if name == "padding_id" else 1)


def _number(value: Any, key: str, where: str, least: int = 1) -> int:
    if not is_whole(value) or value < least:
        raise EncoderError(f"{key} must be an integer >= {least}. Received: {shown(value)} in {where}.")
    return int(value)


def _blocks(config: Mapping[str, Any], family: Family, layers: int, where: str) -> tuple[str, ...]:
    if "{group}" not in family.blocks:
        return tuple(family.blocks.format(block=block) for block in range(layers))
    groups = _number(config.get("num_hidden_groups", 1), "num_hidden_groups", where)
    inner = _number(config.get("inner_group_num", 1), "inner_group_num", where)
    if layers % groups:
        raise EncoderError(
            f"num_hidden_layers must be a multiple of num_hidden_groups={groups}. Received: {layers} in {where}."
        )
    called = [block * groups // layers for block in range(layers)]
    return tuple(family.blocks.format(group=group, inner=place) for group in called for place in range(inner))
