"""Presets of keras-hub, read as the Hugging Face folder of the same model: settings, tensors and tokenizer.

keras-hub itself reads the weights. Activation, epsilon and dropout are those that its layers have.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from embkeras._checks import shown
from embkeras.encoders.families import FAMILIES, NORM, POSITIONS, PROJECTION, SEGMENTS, WORDS, Family
from embkeras.encoders.layers import gelu_tanh
from embkeras.encoders.tensors import Tensors, read_json
from embkeras.errors import EncoderError
from embkeras.text.pieces import byte_pieces, word_pieces
from embkeras.text.sentence_pieces import albert_pieces, xlm_roberta_pieces
from embkeras.text.vocabulary import Vocabulary

KINDS = {
    "BertBackbone": "bert",
    "DistilBertBackbone": "distilbert",
    "RobertaBackbone": "roberta",
    "AlbertBackbone": "albert",
    "XLMRobertaBackbone": "xlm-roberta",
}
_BELOW = {
    "token_embedding": WORDS,
    "position_embedding": POSITIONS,
    "segment_embedding": SEGMENTS,
    "embeddings_layer_norm": NORM,
    "embedding_projection": PROJECTION,
    "pooled_dense": "pooler.dense",
}
_ACTIVATIONS = {"gelu": keras.activations.gelu, "gelu_new": gelu_tanh, "relu": keras.ops.relu, "silu": keras.ops.silu}
_SENTENCE_PIECES = "vocabulary.spm"
_KINDS_OF_WEIGHTS = {"embeddings": "weight", "kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}


def _backbone(folder: Path, *, load_weights: bool = True) -> Any:
    """The backbone, as keras-hub reads it in float32."""
    name = str(read_json(folder / "config.json")["registered_name"]).split(">")[-1]
    if name not in KINDS:
        raise EncoderError(
            f"load_pretrained reads presets of keras-hub with a {', '.join(KINDS)}; other encoders from their Hugging Face "
            f"folder. Received: {shown(name)} in {str(folder)!r}."
        )
    try:
        import keras_hub

        return keras_hub.models.Backbone.from_preset(str(folder), load_weights=load_weights, dtype="float32")
    except Exception as error:  # of whatever reads its files
        raise EncoderError(f"keras-hub can't read the preset {str(folder)!r}: {error}") from error


def preset_config(folder: Path) -> dict[str, Any]:
    """The settings of a preset, as a config.json of Hugging Face has them.

    Raises:
        EncoderError: a preset of another kind, or damaged; an activation that isn't known, or norms of different epsilons.
    """
    backbone = _backbone(folder, load_weights=False)
    own, kind = backbone.get_config(), KINDS[type(backbone).__name__]
    norm = backbone.get_layer("embeddings_layer_norm")
    block = backbone.get_layer("group_0_inner_layer_0" if kind == "albert" else "transformer_layer_0")
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    activation = [name for name, other in _ACTIVATIONS.items() if np.abs(block.activation(x) - other(x)).max() < 1e-6]
    if not activation or norm.epsilon != block.layer_norm_epsilon:
        raise EncoderError(
            f"The blocks of a preset must have one of the activations {', '.join(_ACTIVATIONS)}, and one epsilon in all norms. "
            f"Received: {block.activation}, {norm.epsilon} and {block.layer_norm_epsilon}."
        )
    family = FAMILIES[kind]
    found = {
        "vocabulary_size": own["vocabulary_size"],
        "positions": own["max_sequence_length"] + family.unused_positions,
        "layers": own["num_layers"],
        "heads": own["num_heads"],
        "width": own["hidden_dim"],
        "inner_width": own["intermediate_dim"],
        "activation": activation[0],
        "epsilon": norm.epsilon,
        "dropout": own["dropout"],
        "segments": own.get("num_segments", 1),
    }
    config = {"model_type": kind, **{family.settings[name]: value for name, value in found.items()}}
    if kind == "albert":
        names = {
            "embedding_dim": "embedding_size",
            "num_groups": "num_hidden_groups",
            "num_inner_repetitions": "inner_group_num",
        }
        config |= {name: own[theirs] for theirs, name in names.items()}
    return config


def preset_tensors(folder: Path, family: Family) -> Tensors:
    """The tensors of a preset by their Hugging Face names."""
    backbone = _backbone(folder)
    found: dict[str, np.ndarray] = {}
    for weight in backbone.weights:
        *layers, kind = weight.path.split("/")
        value = keras.ops.convert_to_numpy(weight)
        try:
            if layers[-1] in _BELOW:
                name = _BELOW[layers[-1]]
            else:
                numbers, inside = re.findall(r"\d+", layers[0]), "/".join(layers[1:])
                places = dict(zip(("group", "inner") if len(numbers) == 2 else ("block",), numbers, strict=True))
                name = family.blocks.format(**places) + family.tensors[inside]
            if kind == "kernel":  # of an attention, heads have an axis of their own
                outputs = value.shape[-1:] if layers[-1] == "attention_output" else value.shape[1:]
                value = value.reshape(-1, int(np.prod(outputs))).T
            found[f"{name}.{_KINDS_OF_WEIGHTS[kind]}"] = value.reshape(-1) if kind == "bias" else value
        except (KeyError, ValueError):
            raise EncoderError(
                f"The preset {str(folder)!r} has a weight that load_pretrained doesn't know. Received: {weight.path}."
            ) from None
    rows = found[f"{POSITIONS}.weight"]
    found[f"{POSITIONS}.weight"] = np.pad(rows, ((family.unused_positions, 0), (0, 0)))
    if family.segments:
        found.setdefault(f"{SEGMENTS}.weight", np.zeros((1, rows.shape[1]), np.float32))
    file = SimpleNamespace(get_tensor=found.__getitem__)
    return Tensors({name: (file, name) for name in found}, str(folder))


def preset_states(folder: Path, ids: np.ndarray, padding_id: int) -> np.ndarray:
    """What the backbone itself returns for ids: the vectors behind the last block, (batch, time, width)."""
    backbone = _backbone(folder)
    feeds = {"token_ids": ids, "padding_mask": ids != padding_id, "segment_ids": np.zeros_like(ids)}
    states = backbone({name: feeds[name].astype("int32") for name in backbone.input})
    return np.asarray(states["sequence_output"] if isinstance(states, Mapping) else states)


def preset_tokenizer(folder: Path, kind: str, size: int) -> Vocabulary:
    """The pieces of a preset's tokenizer.

    Args:
        folder: the preset.
        kind: its model_type.
        size: how many rows the token table has.

    Raises:
        EncoderError: no tokenizer, or settings that can't be followed.
        VocabularyError: damaged files.
    """
    assets = folder / "assets" / "tokenizer"
    name = {"roberta": "merges.txt", "albert": _SENTENCE_PIECES, "xlm-roberta": _SENTENCE_PIECES}.get(
        kind, "vocabulary.txt"
    )
    file = assets / name
    if not file.is_file():
        raise EncoderError(
            f"The preset {str(folder)!r} has no tokenizer that can be read: no {name} in assets/tokenizer. keras-hub writes it "
            f"there by tokenizer.save_to_preset(folder)."
        )
    settings = read_json(folder / "tokenizer.json").get("config") or {}
    if name == _SENTENCE_PIECES:
        tokenizer = (albert_pieces if kind == "albert" else xlm_roberta_pieces)(file)
    elif name == "merges.txt":
        tokenizer = byte_pieces(assets / "vocabulary.json", file, bool(settings.get("add_prefix_space", False)))
    else:
        expected = {"split": True, "split_on_cjk": True, "suffix_indicator": "##", "oov_token": "[UNK]"}
        other = {name: settings[name] for name, value in expected.items() if settings.get(name, value) != value}
        if other:
            raise EncoderError(f"A tokenizer of word pieces with {other} can't be read. Received: {str(folder)!r}.")
        tokenizer = word_pieces(
            file,
            {"do_lower_case": settings.get("lowercase", False), "strip_accents": settings.get("strip_accents", False)},
        )
    with tempfile.TemporaryDirectory() as beside:
        path = Path(beside) / "tokenizer.json"
        path.write_text(tokenizer.definition, "utf-8")
        return Vocabulary.from_tokenizer(path, size=size)
