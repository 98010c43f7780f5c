"""What a decoder in the form of Llama is: its settings, from config.json or a GGUF file, and its tensors.

The form is that of Touvron et al. 2023: RMS norms before attention and feed-forward, rotary positions, a gated feed-forward
with SiLU, no biases, and query heads that may share keys and values. Mistral's is the same where no window slides. A setting
that the layers here can't follow is refused: it would load, and compute something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embkeras._checks import is_whole, shown
from embkeras.errors import EncoderError

WORDS, NORM, OUTPUT = "embed_tokens.weight", "norm.weight", "lm_head.weight"
BLOCK = "layers.{}."
# Our name of a dense layer or norm inside a block -> its name at Hugging Face, and in a GGUF file.
INSIDE = {
    "self_attention_layer_norm": ("input_layernorm", "attn_norm"),
    "self_attention_layer/query": ("self_attn.q_proj", "attn_q"),
    "self_attention_layer/key": ("self_attn.k_proj", "attn_k"),
    "self_attention_layer/value": ("self_attn.v_proj", "attn_v"),
    "self_attention_layer/attention_output": ("self_attn.o_proj", "attn_output"),
    "feedforward_layer_norm": ("post_attention_layernorm", "ffn_norm"),
    "feedforward_gate": ("mlp.gate_proj", "ffn_gate"),
    "feedforward_intermediate": ("mlp.up_proj", "ffn_up"),
    "feedforward_output": ("mlp.down_proj", "ffn_down"),
}
_KINDS = ("llama", "mistral")


@dataclass(frozen=True)
class Llama:
    """The settings of a decoder.

    Attributes:
        vocabulary_size: rows of the token table.
        positions: the most tokens of a text that it was trained for.
        layers: its blocks.
        width, inner_width: of the vectors between blocks, and inside the feed-forward.
        heads, key_value_heads: query heads, and the fewer keys and values that they share.
        head_width: width of each head.
        epsilon: of the norms.
        wavelength: the longest wavelength of rotary positions, divided by 2 pi.
        tied: whether the token table scores the tokens too.
    """

    vocabulary_size: int
    positions: int
    layers: int
    width: int
    inner_width: int
    heads: int
    key_value_heads: int
    head_width: int
    epsilon: float
    wavelength: float
    tied: bool

    def frequencies(self) -> tuple[float, ...]:
        """How fast each pair of a head's numbers turns, in radians a position."""
        half = self.head_width // 2
        return tuple(self.wavelength ** (-place / half) for place in range(half))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors, by their names at Hugging Face without "model."; kernels are (out, in)."""
        wide, narrow = self.heads * self.head_width, self.key_value_heads * self.head_width
        sizes = {
            "self_attn.q_proj": (wide, self.width),
            "self_attn.k_proj": (narrow, self.width),
            "self_attn.v_proj": (narrow, self.width),
            "self_attn.o_proj": (self.width, wide),
            "mlp.gate_proj": (self.inner_width, self.width),
            "mlp.up_proj": (self.inner_width, self.width),
            "mlp.down_proj": (self.width, self.inner_width),
        }
        found: dict[str, tuple[int, ...]] = {WORDS: (self.vocabulary_size, self.width), NORM: (self.width,)}
        if not self.tied:
            found[OUTPUT] = self.vocabulary_size, self.width
        for block in range(self.layers):
            for name, _ in INSIDE.values():
                found[f"{BLOCK.format(block)}{name}.weight"] = sizes.get(name, (self.width,))
        return found


def llama_of(config: Mapping[str, Any], where: str) -> Llama:
    """The settings in a config.json.

    Args:
        config: its contents.
        where: the file, for errors.

    Raises:
        EncoderError: another kind of model, a missing or impossible setting, or one that the layers can't follow.
    """
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise EncoderError(
            f"load_decoder reads decoders of model_type {', '.join(_KINDS)}. Received: {shown(kind)} in {where}."
        )
    _refuse_what_differs(config, where)
    read = _Settings(config, where)
    heads, width = read.whole("num_attention_heads"), read.whole("hidden_size")
    return _checked(
        Llama(
            vocabulary_size=read.whole("vocab_size"),
            positions=read.whole("max_position_embeddings"),
            layers=read.whole("num_hidden_layers"),
            width=width,
            inner_width=read.whole("intermediate_size"),
            heads=heads,
            key_value_heads=read.whole("num_key_value_heads", heads),
            head_width=read.whole("head_dim", width // heads),
            epsilon=read.real("rms_norm_eps"),
            wavelength=_wavelength(config, read),
            tied=config.get("tie_word_embeddings") is True,
        ),
        where,
    )


def llama_in_gguf(fields: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], where: str) -> Llama:
    """The settings in the fields of a GGUF file.

    Args:
        fields: their values by name.
        tensors: the shapes of its tensors by name.
        where: the file, for errors.

    Raises:
        EncoderError: another architecture, a missing or impossible setting, or one that the layers can't follow.
    """
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise EncoderError(f"load_decoder reads GGUF files of architecture llama. Received: {shown(kind)} in {where}.")
    for name, allowed in (("expert_count", (0,)), ("rope.scaling.type", ("none",)), ("attention.sliding_window", (0,))):
        value = fields.get(f"llama.{name}")
        if value is not None and value not in allowed:
            raise EncoderError(
                f"llama.{name} must be absent: the model would be another one. Received: {shown(value)} in {where}."
            )
    read = _Settings(fields, where, "llama.")
    heads, width = read.whole("attention.head_count"), read.whole("embedding_length")
    head_width = read.whole("attention.key_length", width // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if read.whole(name, head_width) != head_width:
            raise EncoderError(
                f"llama.{name} must be the width of a head, {head_width}. "
                f"Received: {read.whole(name, head_width)} in {where}."
            )
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise EncoderError(f"{where} has no tokenizer.ggml.tokens.")
    if read.whole("vocab_size", len(tokens)) != len(tokens):
        raise EncoderError(
            f"llama.vocab_size must be the number of tokens, {len(tokens)}. "
            f"Received: {read.whole('vocab_size', 0)} in {where}."
        )
    return _checked(
        Llama(
            vocabulary_size=len(tokens),
            positions=read.whole("context_length"),
            layers=read.whole("block_count"),
            width=width,
            inner_width=read.whole("feed_forward_length"),
            heads=heads,
            key_value_heads=read.whole("attention.head_count_kv", heads),
            head_width=head_width,
            epsilon=read.real("attention.layer_norm_rms_epsilon"),
            wavelength=read.real("rope.freq_base", 10_000.0),
            tied="output.weight" not in tensors,
        ),
        where,
    )


def name_in_gguf(name: str) -> str:
    """The name in a GGUF file of a tensor that Hugging Face calls `name`."""
    if name in (WORDS, NORM, OUTPUT):
        return {WORDS: "token_embd.weight", NORM: "output_norm.weight", OUTPUT: "output.weight"}[name]
    _, block, inside = name.split(".", 2)
    theirs = dict(INSIDE.values())[inside.removesuffix(".weight")]
    return f"blk.{block}.{theirs}.weight"


@dataclass(frozen=True)
class _Settings:
    """Numbers among settings, which name where they are missing or wrong."""

    values: Mapping[str, Any]
    where: str
    prefix: str = ""

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        if not is_whole(value) or value < 1:
            raise EncoderError(
                f"{self.prefix}{name} must be an integer >= 1. Received: {shown(value)} in {self.where}."
            )
        return int(value)

    def real(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise EncoderError(f"{self.prefix}{name} must be a number > 0. Received: {shown(value)} in {self.where}.")
        return float(value)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(f"{self.prefix}{name}")
        value = default if value is None else value
        if value is None:
            raise EncoderError(f"{self.where} has no {self.prefix}{name}.")
        return value


def _wavelength(config: Mapping[str, Any], read: _Settings) -> float:
    """The wavelength of rotary positions: its own key, or inside `rope_parameters`, as newer files have it."""
    inside = config.get("rope_parameters") or {}
    if not isinstance(inside, Mapping):
        raise EncoderError(f"rope_parameters must be an object. Received: {shown(inside)} in {read.where}.")
    return _Settings({"rope_theta": inside.get("rope_theta", config.get("rope_theta"))}, read.where).real(
        "rope_theta", 10_000.0
    )


def _refuse_what_differs(config: Mapping[str, Any], where: str) -> None:
    """Settings under which the same tensors mean another model."""
    inside = config.get("rope_parameters")
    found = {
        **{name: config.get(name) for name in ("attention_bias", "mlp_bias", "sliding_window", "rope_scaling")},
        "rope_type": inside.get("rope_type") if isinstance(inside, Mapping) else None,
        **{name: config.get(name) for name in ("hidden_act", "pretraining_tp", "quantization_config", "auto_map")},
    }
    allowed: dict[str, Any] = {
        "attention_bias": False,
        "mlp_bias": False,
        "rope_type": "default",
        "hidden_act": "silu",
        "pretraining_tp": 1,
    }
    for name, value in found.items():
        if value is not None and value != allowed.get(name):
            rule = f"must be {shown(allowed[name])}" if name in allowed else "must be absent"
            raise EncoderError(f"{name} {rule}: the model would be another one. Received: {shown(value)} in {where}.")


def _checked(of: Llama, where: str) -> Llama:
    """The settings, if they fit each other."""
    if of.heads % of.key_value_heads:
        raise EncoderError(
            f"The {of.heads} heads of {where} must be a multiple of its heads of keys and values. "
            f"Received: {of.key_value_heads}."
        )
    if of.head_width % 2 or of.head_width < 2:
        raise EncoderError(f"The width of a head must be even in {where}. Received: {of.head_width}.")
    return of
