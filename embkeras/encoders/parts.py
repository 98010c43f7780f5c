"""What a tuned model has beside its base's layers: LoRA, and the adapters in use. Read from one model, put on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from embkeras._checks import is_whole, shown
from embkeras.encoders import adapters, bottlenecks, low_rank
from embkeras.encoders.adapters import Adaptation
from embkeras.encoders.base import named_layers, named_weights
from embkeras.encoders.bottlenecks import Adapted, adapters_of
from embkeras.encoders.lora import enable_lora, why_no_lora
from embkeras.errors import ArgumentError, EncoderError
from embkeras.tables.embedding import PretrainedEmbedding

LORA, ADAPTERS = "lora", "adapters"
_KEYS = ("alpha", "rank", "train_biases")


def settings(model: keras.Model) -> dict[str, Any]:
    """Of each layer with LoRA, by its path: rank, alpha and whether its bias trains; and the adapters in use, if any are."""
    layers = named_layers(model)
    lora = {path: _lora_of(layer) for path, layer in layers.items()}
    found: dict[str, Any] = {LORA: {path: each for path, each in lora.items() if each is not None}}
    if name := adapters_in_use(model):
        hosts = {path: adapters_of(layer)[name] for path, layer in layers.items() if name in adapters_of(layer)}
        kept = [
            path
            for path, layer in layers.items()
            if getattr(layer, "kept_for_adapters", False) and not _within(path, layers) and path not in hosts
        ]
        found[ADAPTERS] = {
            "name": name,
            "hosts": {path: bottlenecks.settings_of(adapter) for path, adapter in hosts.items()},
            "kept": kept,
        }
    return found


def adapters_in_use(model: keras.Model) -> str | None:
    """The name of the set of adapters that the model uses."""
    layers = named_layers(model).values()
    return next((each.used_adapter for each in layers if isinstance(each, Adapted) and each.used_adapter), None)


def _within(path: str, layers: Mapping[str, keras.layers.Layer]) -> bool:
    """Whether a layer belongs to an adapter."""
    parts = path.split("/")
    return any(isinstance(layers.get("/".join(parts[:end])), Adapted) for end in range(1, len(parts)))


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
        name: of the adapters that it uses then, or None.
        hosts: layer -> the adapter that it gets.
        kept: layers that never train below them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    lora: Mapping[keras.layers.Layer, Mapping[str, Any]]
    name: str | None
    hosts: Mapping[keras.layers.Layer, Adaptation]
    kept: list[keras.layers.Layer]

    def carry_out(self, model: keras.Model) -> None:
        """Change the model."""
        groups: dict[tuple[Any, ...], list[keras.layers.Layer]] = {}
        for layer, each in self.lora.items():
            groups.setdefault(tuple(each[name] for name in _KEYS), []).append(layer)
        for (alpha, rank, train_biases), layers in groups.items():
            enable_lora(model, rank, layers, lora_alpha=alpha, train_biases=train_biases)
        if self.name is not None:
            adapters.put(model, self.name, self.hosts, self.kept)


def plan(model: keras.Model, wanted: Any, where: str) -> Plan:
    """What a model needs to have the parts of a file.

    Raises:
        EncoderError: settings that are none, a layer that the model doesn't have, or that has other LoRA or adapters.
        ArgumentError: a layer that can't have them.
    """
    lora, adapted = _checked(wanted, where)
    layers = named_layers(model)
    hosts, kept = adapted.get("hosts", {}), adapted.get("kept", [])
    if lost := [path for path in (*lora, *hosts, *kept) if path not in layers]:
        raise EncoderError(f"{where!r} changes layer {lost[0]!r}, which model {model.name!r} doesn't have.")
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
    name = adapted.get("name")
    if name is None and (in_use := adapters_in_use(model)):
        raise EncoderError(
            f"{where!r} has no adapters, and model {model.name!r} uses {in_use!r}. Call use_adapters(model, None) first."
        )
    missing = {}
    for path, layer in layers.items():
        known = adapters_of(layer).get(name or "")
        before, after = None if known is None else bottlenecks.settings_of(known), hosts.get(path)
        if before == after or (after is None and before is None):
            continue
        if before is not None:
            raise EncoderError(
                f"Model {model.name!r} has other adapters {name!r} than {where!r}: layer {path!r} must have {after}. "
                f"Received: {before}."
            )
        missing[layer] = Adaptation(**after)
    adapters.check(model, name or "", missing, [layers[path] for path in kept])
    for layer, each in missing.items():
        path = next(path for path, other in layers.items() if other is layer)
        adapter = bottlenecks.new_adapter(layer, name or "", each.size, each.activation)
        shapes |= {f"{path}/{name}/{kind}": tuple(weight.shape) for kind, weight in named_weights(adapter).items()}
    return Plan(shapes, new, name, missing, [layers[path] for path in kept])


def _checked(wanted: Any, where: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The settings of LoRA by layer, and those of adapters."""
    known = isinstance(wanted, dict) and LORA in wanted and set(wanted) <= {LORA, ADAPTERS}
    lora = wanted[LORA] if known else None
    adapted = wanted.get(ADAPTERS, {}) if known else None
    sound = isinstance(lora, dict) and all(
        isinstance(each, dict)
        and set(each) == set(_KEYS)
        and is_whole(each["rank"])
        and isinstance(each["alpha"], int | float)
        and isinstance(each["train_biases"], bool)
        for each in lora.values()
    )
    if adapted != {}:
        sound = sound and (
            isinstance(adapted, dict)
            and set(adapted) == {"name", "hosts", "kept"}
            and isinstance(adapted["name"], str)
            and isinstance(adapted["kept"], list)
            and all(isinstance(each, str) for each in adapted["kept"])
            and isinstance(adapted["hosts"], dict)
            and all(_is_adapter(each) for each in adapted["hosts"].values())
        )
    if not sound or lora is None or adapted is None:
        raise EncoderError(
            f"The settings of LoRA and adapters in {where!r} can't be followed. Received: {shown(wanted)}."
        )
    return lora, adapted


def _is_adapter(found: Any) -> bool:
    """Whether these are the settings of an adapter."""
    if not isinstance(found, dict) or set(found) != {"size", "activation"}:
        return False
    size = found["size"]
    try:
        keras.activations.get(found["activation"])
    except (ValueError, TypeError):
        return False
    return size is None or (is_whole(size) and size >= 1)


def _said(found: Mapping[str, Any] | None) -> str:
    return "none" if found is None else f"rank {found['rank']} and lora_alpha {found['alpha']:g}"
