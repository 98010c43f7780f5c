"""A LoRA folder of PEFT, read as the weights and the settings that a model here has.

PEFT (https://huggingface.co/docs/peft) writes adapter_config.json and adapter_model.safetensors. Settings under which the same
tensors mean something else are refused by name, and so is a setting that isn't known.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras._checks import is_whole, shown
from embkeras.encoders.base import base_digest, named_layers, named_weights
from embkeras.encoders.families import FAMILIES, Family
from embkeras.encoders.tensors import read_json, safetensors_package
from embkeras.errors import EncoderError

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Settings that don't change what the tensors mean, or that are followed.
_FOLLOWED = {
    *(
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "task_type",
        "modules_to_save",
        "inference_mode",
    ),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "auto_mapping"),
    *(
        "base_model_name_or_path",
        "revision",
        "peft_version",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
    ),
}
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base's kernels
}
_OFF: tuple[Any, ...] = (None, False, {}, [])
_HEADS = ("scores", "values")  # what the last layers of `embkeras.encoders.heads` are called
# Layers of transformers' heads -> the layer here; None stands for the last one.
_SAVED = {
    "classifier": None,
    "score": None,
    "classifier.out_proj": None,
    "classifier.dense": "pooler",
    "pre_classifier": "pooler",
}


def read_peft(folder: Path, model: keras.Model) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a folder by the names that the model's weights have, and the settings of its LoRA.

    Raises:
        EncoderError: missing or damaged files, settings or tensors that can't be followed, a model that lacks a layer, or
            that has weights beside its base's for which the folder has none.
    """
    config, where = read_json(folder / CONFIG), str(folder / CONFIG)
    _check(config, where)
    stored = _tensors(folder)
    saved = {name: values for name, values in stored.items() if not name.endswith((_A, _B))}
    stems = {name.removesuffix(_A) for name in stored if name.endswith(_A)}
    if stems != {name.removesuffix(_B) for name in stored if name.endswith(_B)} or not stems:
        raise EncoderError(f"{str(folder / FILE)!r} must have a lora_A and a lora_B for each layer, and some of them.")
    layers = named_layers(model)
    found: dict[str, np.ndarray] = {}
    lora = {}
    for stem, name in _names(stems, folder).items():
        path = _path(layers, name, stem, model)
        a, b = stored[f"{stem}{_A}"], stored[f"{stem}{_B}"]
        rank = a.shape[0] if a.ndim == 2 else 0
        if not rank or b.ndim != 2 or b.shape[1] != rank:
            raise EncoderError(f"lora_A and lora_B of {stem!r} must share a rank. Received: {a.shape} and {b.shape}.")
        scale = _alpha(config, stem, where) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        lora[path] = {"rank": rank, "alpha": scale * rank, "train_biases": False}
        found |= {f"{path}/lora_kernel_a": a.T, f"{path}/lora_kernel_b": b.T}
    for name, values in saved.items():
        layer, _, kind = name.rpartition(".")
        if layer not in _SAVED or kind not in ("weight", "bias"):
            raise EncoderError(
                f"{str(folder / FILE)!r} has a tensor that load_tuned can't place: it takes LoRA of dense layers in blocks and "
                f"the classifier. Received: {name}."
            )
        path = _path(layers, _SAVED[layer] or _head(layers, name, model), name, model)
        found[f"{path}/{'kernel' if kind == 'weight' else 'bias'}"] = values.T
    _check_head(config, model, layers, found, where)
    return found, {"lora": lora}


def _check(config: Mapping[str, Any], where: str) -> None:
    """Refuse settings that can't be followed."""
    for name, value in config.items():
        if name in _ONLY:
            if value not in _ONLY[name]:
                raise EncoderError(f"{name} of {where!r} must be {_ONLY[name][0]!r}. Received: {shown(value)}.")
        elif name not in _FOLLOWED and value not in _OFF:
            raise EncoderError(f"load_tuned can't follow {name} of {where!r}. Received: {shown(value)}.")
    if "peft_type" not in config:
        raise EncoderError(f"{where!r} is not an adapter_config.json of PEFT: it has no peft_type.")


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors as float32, without PEFT's prefix."""
    safetensors, path = safetensors_package(), folder / FILE
    if not path.is_file():
        raise EncoderError(f"There is no {FILE} in {str(folder)!r}: write it by PEFT's model.save_pretrained(folder).")
    found = {}
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                found[name.removeprefix(_PREFIX)] = np.asarray(file.get_tensor(name)).astype(np.float32)
    except Exception as error:  # the library's own error has no public parent but Exception
        raise EncoderError(f"{str(path)!r} is not a complete safetensors file: {error}.") from None
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise EncoderError(f"Tensor {name!r} of {str(path)!r} must be finite. Received: NaN or infinity.")
    return found


def _names(stems: set[str], folder: Path) -> dict[str, str]:
    """The names here of layers with LoRA, by their names there."""
    for family in FAMILIES.values():
        found = {stem: _name(stem, family) for stem in stems}
        if all(found.values()):
            return {stem: name for stem, name in found.items() if name}
    strange = sorted(stem for stem in stems if not any(_name(stem, family) for family in FAMILIES.values()))
    raise EncoderError(
        f"{str(folder / FILE)!r} has LoRA for layers that load_tuned doesn't know: it takes dense layers in the blocks of "
        f"{', '.join(FAMILIES)}. Received: {', '.join((strange or sorted(stems))[:3])}."
    )


def _name(stem: str, family: Family) -> str | None:
    stem = stem.removeprefix(family.prefix)
    if stem == family.pooler:
        return "pooler"
    if "{block}" not in family.blocks:  # blocks that share weights
        return None
    before, behind = map(re.escape, family.blocks.split("{block}"))
    match = re.fullmatch(rf"{before}(\d+){behind}(.+)", stem)
    ours = {theirs: ours for ours, theirs in family.tensors.items() if not ours.endswith("_norm")}
    return f"transformer_layer_{int(match[1])}/{ours[match[2]]}" if match and match[2] in ours else None


def _path(layers: Mapping[str, keras.layers.Layer], name: str, theirs: str, model: keras.Model) -> str:
    """The path of a layer of the model, which may be inside another model."""
    found = [path for path in layers if path == name or path.endswith(f"/{name}")]
    if len(found) != 1:
        raise EncoderError(
            f"Model {model.name!r} has {len(found)} layers {name!r}, where {theirs} needs one."
            + (' Build it with pool="pooler".' if name == "pooler" and not found else "")
        )
    return found[0]


def _head(layers: Mapping[str, keras.layers.Layer], theirs: str, model: keras.Model) -> str:
    for name in _HEADS:
        if any(path == name or path.endswith(f"/{name}") for path in layers):
            return name
    raise EncoderError(f"Model {model.name!r} has no layer named {' or '.join(_HEADS)}, where {theirs} needs one.")


def _alpha(config: Mapping[str, Any], stem: str, where: str) -> float:
    """lora_alpha of a layer, as PEFT finds it in `alpha_pattern`."""
    alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise EncoderError(f"alpha_pattern of {where!r} must be an object. Received: {shown(patterns)}.")
    for pattern, value in patterns.items():
        try:
            fits = re.match(rf"(.*\.)?({pattern})$", stem)
        except re.error:
            raise EncoderError(f"alpha_pattern of {where!r} has no regular expression {pattern!r}.") from None
        if fits:
            alpha = value
            break
    if not (is_whole(alpha) or isinstance(alpha, float)) or not 0 < alpha < math.inf:
        raise EncoderError(f"lora_alpha of {where!r} must be a number > 0. Received: {shown(alpha)} for {stem}.")
    return float(alpha)


def _check_head(
    config: Mapping[str, Any],
    model: keras.Model,
    layers: Mapping[str, keras.layers.Layer],
    found: Mapping[str, np.ndarray],
    where: str,
) -> None:
    """Refuse a model that computes something else behind the last block, or of which the folder lacks weights."""
    if config.get("task_type") == "SEQ_CLS" and not any(path.split("/")[-1] == "pooler" for path in layers):
        raise EncoderError(
            f"{where!r} is for a classifier whose first token goes through one more dense layer: build the model with "
            f'pool="pooler". Received: model {model.name!r} without a layer "pooler".'
        )
    weights = named_weights(model)
    if not any(base_digest(weight) for weight in weights.values()):
        raise EncoderError(
            f"A folder of PEFT is loaded into a model that was built in this process on what load_pretrained returned, so that "
            f"weights without a value are known. Received: model {model.name!r}."
        )
    if lost := [name for name, weight in weights.items() if name not in found and base_digest(weight) is None]:
        raise EncoderError(
            f"The folder of {where!r} has no weight for {lost[0]!r} of model {model.name!r}, which would stay as it was drawn at "
            f"random. PEFT saves a head that modules_to_save names. For LoRA alone, load it into read.model(), and put a head "
            f"on that."
        )
