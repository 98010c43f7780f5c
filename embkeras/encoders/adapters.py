"""enable_adapters and use_adapters: small layers between those of a pre-trained model, several sets of them by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from embkeras._checks import one_of, shown, whole_number
from embkeras.encoders import bottlenecks
from embkeras.encoders.bottlenecks import Adapted, adapters_of
from embkeras.encoders.lora import check_built_model, thaw, uncompile, with_root
from embkeras.encoders.low_rank import DENSE, LowRankKernel
from embkeras.encoders.remembers import holders, plain_class, remember
from embkeras.errors import ArgumentError
from embkeras.keras_compat.layers import children
from embkeras.tables.addresses import LayerRef, as_refs, match_layers, own_weights, walk

_FORMS = ("houlsby", "pfeiffer")


def enable_adapters(
    model: keras.Model,
    size: int,
    layers: LayerRef | Sequence[LayerRef],
    *,
    name: str = "adapter",
    form: str = "houlsby",
    activation: Any = "gelu",
) -> list[str]:
    """Freeze some blocks and train small layers between theirs: x + up(activation(down(x))).

    "houlsby" puts one behind the attention and one behind the feed-forward of each block, before the sum, and trains the
    block's normalisations (Houlsby et al. 2019). "pfeiffer" puts one at the normalisation behind the feed-forward alone, which
    trains with it (Pfeiffer et al. 2021). `up` begins with zeros: the model's scores don't change.

    All other weights of the blocks stay as they are, to the bit, whatever flag is set on a layer around them, by you or by a
    schedule. The adapters train: layers around them that were frozen are unfrozen. Other layers keep their flags, so freeze first
    what must not move.

    A set has a name, and normalisations of its own. Call this again with another name for a second set on the same blocks;
    `use_adapters` switches. An adapter is a layer: "transformer_layer_0/feedforward_output_dense/adapter/down". `.keras` files
    keep all sets, `export_saved_model` stores the set in use. Compile the model afterwards.

    Args:
        model: any built model.
        size: the width between `down` and `up`.
        layers: names, paths, globs or layers: blocks with an attention and dense layers inside, such as
            "transformer_layer_*", or with the form "houlsby" single dense layers.
        name: of the set; it is in use from now on.
        form: "houlsby" or "pfeiffer".
        activation: behind `down`.

    Returns:
        The paths of the adapters, and of their normalisations.

    Raises:
        ArgumentError: a size below 1, a name that is no identifier or taken, a model that is not built, layers that are no
            blocks, or that can't have adapters: with LoRA, quantized, or of a class of their own. The model is unchanged then.
        UnknownLayerError: no such layer.

    Examples:
        >>> attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
        >>> x = keras.Input((3, 4))
        >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(attention(x, x)))
        >>> enable_adapters(model, 2, "attention", name="tweets")
        ['attention/attention_output/tweets']
    """
    check_built_model(model, "enable_adapters")
    size, form = whole_number(size, "size", least=1), one_of(form, "form", _FORMS)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ArgumentError(f"name must be an identifier, such as 'tweets'. Received: {shown(name)}.")
    try:
        activation = keras.activations.serialize(keras.activations.get(activation))
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"activation must be one of Keras. Received: {shown(activation)}: {error}") from None
    hosts: dict[keras.layers.Layer, Adaptation] = {}
    kept: list[keras.layers.Layer] = []
    for layer in match_layers(model, as_refs(layers, "layers", ArgumentError)):
        own, also = _places(layer, size, form, activation)
        hosts |= own
        kept += also
    put(model, name, hosts, kept)
    adapters = {id(adapters_of(host)[name]) for host in hosts}
    found = {id(layer): path for path, layer in reversed(list(walk(model))) if id(layer) in adapters}
    return list(found.values())[::-1]


def use_adapters(model: keras.Model, name: str | None) -> None:
    """Use the set of adapters of that name from now on, or with None the base as it was. Compile the model afterwards.

    Another model on the same layers that has predicted or trained, and a `tf.function` of your own, still compute what they
    traced: make them again, or compile that model too.

    Args:
        model: a model after `enable_adapters`.
        name: of a set; it trains, and no other does.

    Raises:
        ArgumentError: no such set.

    Examples:
        >>> use_adapters(model, "tweets")  # doctest: +SKIP
    """
    check_built_model(model, "use_adapters")
    hosts = [layer for _, layer in with_root(model) if isinstance(layer, Adapted)]
    names = sorted({known for host in hosts for known in adapters_of(host)})
    if name is not None and name not in names:
        raise ArgumentError(
            f"Model {model.name!r} has no adapters {shown(name)}. "
            + (f"It has: {', '.join(names)}." if names else "Call enable_adapters first.")
        )
    for host in hosts:
        bottlenecks.use(host, name)
    thaw(model, [each for host in hosts if host.used_adapter for each in _all_of(adapters_of(host)[name or ""])])
    uncompile(model)


@dataclass(frozen=True)
class Adaptation:
    """What a layer gets: the width of a bottleneck, or None for a normalisation alone, and its activation."""

    size: int | None
    activation: Any


def put(
    model: keras.Model,
    name: str,
    hosts: Mapping[keras.layers.Layer, Adaptation],
    kept: Sequence[keras.layers.Layer],
) -> None:
    """Give layers adapters of one name, which is in use then, and freeze further layers for good.

    Raises:
        ArgumentError: a layer that can't have it; the model is unchanged.
    """
    check(model, name, hosts, kept)
    with model.distribute_strategy.scope():
        for host, each in hosts.items():
            bottlenecks.put_adapter(host, bottlenecks.new_adapter(host, name, each.size, each.activation))
    for layer in kept:
        bottlenecks.keep(layer)
    use_adapters(model, name)
    for holder in holders(model):
        remember(holder)


def check(
    model: keras.Model,
    name: str,
    hosts: Mapping[keras.layers.Layer, Adaptation],
    kept: Sequence[keras.layers.Layer],
) -> None:
    """Refuse layers that can't have adapters of that name, or that can't be frozen below them."""
    paths = {id(layer): path for path, layer in reversed(with_root(model))}
    for layer in hosts:
        why = bottlenecks.problem(layer)
        if name in adapters_of(layer):
            why = f"has an adapter {name!r} already"
        if why:
            raise ArgumentError(f"Layer {paths[id(layer)]!r} can't have an adapter: it {why}.")
    for layer in kept:
        if isinstance(layer, LowRankKernel):
            raise ArgumentError(
                f"Layer {paths[id(layer)]!r} can't stay as it is below adapters: it has LoRA. Call merge_lora(model) first."
            )


def _places(
    layer: keras.layers.Layer, size: int, form: str, activation: Any
) -> tuple[dict[keras.layers.Layer, Adaptation], list[keras.layers.Layer]]:
    """The layers of a block that get adapters, and all others inside that have weights."""
    inside = _without_adapters(layer)
    if isinstance(layer, keras.layers.MultiHeadAttention):
        found = {_output_of(layer): Adaptation(size, activation)} if form == "houlsby" else {}
    elif isinstance(layer, DENSE):
        found = {layer: Adaptation(size, activation)} if form == "houlsby" else {}
    else:
        attentions = [each for each in inside if isinstance(each, keras.layers.MultiHeadAttention)]
        dense = [each for each in children(layer) if isinstance(each, DENSE)]
        norms = [each for each in inside if plain_class(each) is keras.layers.LayerNormalization]
        outer = [each for each in children(layer) if plain_class(each) is keras.layers.LayerNormalization]
        first = getattr(layer, "normalize_first", False)
        if not attentions or not dense or (form == "pfeiffer" and (not outer or first)):
            needs = "an attention and dense layers directly inside"
            needs += ", and a LayerNormalization behind them" if form == "pfeiffer" else ""
            raise ArgumentError(
                f"Adapters of the form {form!r} go into blocks with {needs}. Received: layer {layer.name!r}, a "
                f"{plain_class(layer).__name__}."
            )
        if form == "pfeiffer":
            found = {outer[-1]: Adaptation(size, activation)}
        else:
            found = {_output_of(each): Adaptation(size, activation) for each in attentions}
            found |= {dense[-1]: Adaptation(size, activation)}
            found |= {each: Adaptation(None, activation) for each in norms}
    if not found:
        raise ArgumentError(f"Adapters of the form 'pfeiffer' go into whole blocks. Received: layer {layer.name!r}.")
    return found, [each for each in inside if each not in found and own_weights(each)]


def _output_of(attention: keras.layers.Layer) -> keras.layers.Layer:
    """The last dense layer of an attention."""
    return next(each for each in children(attention) if each.name == "attention_output")


def _all_of(adapter: keras.layers.Layer) -> list[keras.layers.Layer]:
    return [adapter, *(each for _, each in walk(adapter))]


def _without_adapters(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and those inside, but no adapters."""
    if isinstance(layer, Adapted):
        return [layer]
    return [layer, *(each for child in children(layer) for each in _without_adapters(child))]
