"""What a tuned model has beside its base's layers: which layers have LoRA. Read from one model, put on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from embkeras._checks import shown
from embkeras.encoders import low_rank
from embkeras.encoders.base import named_layers
from embkeras.encoders.lora import enable_lora, why_no_lora
from embkeras.errors import ArgumentError, EncoderError
from embkeras.tables.embedding import PretrainedEmbedding

LORA = "lora"
_SETTINGS = ("alpha", "rank", "train_biases")


def settings(model: keras.Model) -> dict[str, Any]:
    """Of each layer with LoRA, by its path: rank, alpha and whether its bias trains."""
    found = {path: _lora_of(layer) for path, layer in named_layers(model).items()}
    return {LORA: {path: each for path, each in found.items() if each is not None}}


def _lora_of(layer: keras.layers.Layer) -> dict[str, Any] | None:
    if isinstance(layer, low_rank.LowRankKernel):
        return layer.low_rank.settings()
    if isinstance(layer, PretrainedEmbedding) and layer.lora_enabled:
        return {"rank": layer.lora_rank, "alpha": float(layer.lora_alpha), "train_biases": False}
    return None


@dataclass(frozen=True)
class Plan:
    """What a model still needs.

    Attributes:
        shapes: of the weights that it will have more, by name.
        lora: layer -> settings of the LoRA that it gets.
    """

    shapes: Mapping[str, tuple[int, ...]]
    lora: Mapping[keras.layers.Layer, Mapping[str, Any]]

    def carry_out(self, model: keras.Model) -> None:
        """Change the model."""
        groups: dict[tuple[Any, ...], list[keras.layers.Layer]] = {}
        for layer, each in self.lora.items():
            groups.setdefault(tuple(each[name] for name in _SETTINGS), []).append(layer)
        for (alpha, rank, train_biases), layers in groups.items():
            enable_lora(model, rank, layers, lora_alpha=alpha, train_biases=train_biases)


def plan(model: keras.Model, wanted: Any, where: str) -> Plan:
    """What a model needs to have the parts of a file.

    Raises:
        EncoderError: settings that are none, a layer that the model doesn't have, or that has other LoRA.
        ArgumentError: a layer that can't have LoRA.
    """
    lora = _checked(wanted, where)
    layers = named_layers(model)
    if lost := [path for path in lora if path not in layers]:
        raise EncoderError(f"{where!r} has LoRA for layer {lost[0]!r}, which model {model.name!r} doesn't have.")
    shapes: dict[str, tuple[int, ...]] = {}
    new: dict[keras.layers.Layer, dict[str, Any]] = {}
    for path, layer in layers.items():
        before, after = _lora_of(layer), lora.get(path)
        if before == after:
            continue
        if before is not None or after is None:
            raise EncoderError(
                f"Layer {path!r} of model {model.name!r} must have the LoRA of {where!r}, {_said(after)}. Received: "
                f"{_said(before)}. Load it into a newly built model, or merge_lora(model) first."
            )
        if why := why_no_lora(layer):
            raise ArgumentError(f"Layer {path!r} had LoRA in {where!r}, and can't have it here: it {why}.")
        shapes |= {f"{path}/{name}": shape for name, shape in low_rank.new_shapes(layer, after["rank"]).items()}
        new[layer] = after
    return Plan(shapes, new)


def _checked(wanted: Any, where: str) -> dict[str, dict[str, Any]]:
    lora = wanted.get(LORA) if isinstance(wanted, dict) and set(wanted) == {LORA} else None
    sound = isinstance(lora, dict) and all(
        isinstance(each, dict)
        and set(each) == set(_SETTINGS)
        and isinstance(each["rank"], int)
        and isinstance(each["alpha"], int | float)
        and isinstance(each["train_biases"], bool)
        for each in lora.values()
    )
    if not sound or lora is None:
        raise EncoderError(f"The settings of LoRA in {where!r} can't be followed. Received: {shown(wanted)}.")
    return lora


def _said(found: Mapping[str, Any] | None) -> str:
    return "none" if found is None else f"rank {found['rank']} and lora_alpha {found['alpha']:g}"
