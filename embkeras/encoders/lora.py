"""enable_lora and merge_lora: LoRA on the layers of any model, and LoRA written into their kernels."""

from collections.abc import Sequence

import keras

from embkeras._checks import flag, number, shown, whole_number
from embkeras.encoders import low_rank
from embkeras.encoders.low_rank import DENSE, LowRankKernel
from embkeras.encoders.remembers import forget, holders, remember
from embkeras.errors import ArgumentError
from embkeras.tables.addresses import LayerRef, as_refs, match_layers, own_weights, walk
from embkeras.tables.embedding import PretrainedEmbedding

_TAKEN = "Dense and EinsumDense layers (an attention's too) and the layers of build_embedding"


def enable_lora(
    model: keras.Model,
    rank: int,
    layers: LayerRef | Sequence[LayerRef],
    *,
    lora_alpha: float | None = None,
    train_biases: bool = False,
) -> list[str]:
    """Freeze the kernels of some layers and train a low-rank sum to each: kernel + lora_alpha / rank * A @ B.

    A kernel counts as the matrix (in, out) that it is, so A is (in, rank) and B (rank, out); B begins with zeros, and the
    model's scores don't change. Kernels and biases of these layers stay frozen whatever flag is set on a layer around
    them, by you or by a schedule. A and B train: layers around them that were frozen are unfrozen, and everything else in
    them stays as it is. So freeze first what must not move: other layers (normalisations, lower blocks, the head) keep
    their flags.

    `.keras` files keep LoRA, and what is frozen inside of layers, which Keras forgets; single weights too, if they are frozen
    before this call or in a layer with others inside. `export_saved_model` stores kernels with A @ B in them, and nothing
    beside. A layer of `build_embedding` gets the LoRA of its own `enable_lora`. Compile the model afterwards. LoRA is from
    Hu et al. 2022 (Low-Rank Adaptation of Large Language Models).

    Args:
        model: any built model.
        rank: columns of A, rows of B.
        layers: names, paths, globs ("transformer_layer_[345]/**") or layers; a layer stands for all dense layers inside.
        lora_alpha: the sum is scaled by lora_alpha / rank; by default by 1.
        train_biases: the biases of these layers train with A and B.

    Returns:
        The paths of the layers that have LoRA now.

    Raises:
        ArgumentError: a rank below 1, a lora_alpha that isn't a finite number above 0, a model that is not built, an
            address without such layers, or a layer that can't have LoRA: because it is quantized, has LoRA already or a
            constraint, is a class of its own, or has a kernel that is not one matrix. The model is unchanged then.
        UnknownLayerError: no such layer.

    Examples:
        >>> attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
        >>> x = keras.Input((3, 4))
        >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(attention(x, x)))
        >>> enable_lora(model, 1, "attention")
        ['attention/query', 'attention/key', 'attention/value', 'attention/attention_output']
        >>> sum(int(keras.ops.size(each)) for each in attention.trainable_variables)
        32
    """
    check_built_model(model, "LoRA")
    rank = whole_number(rank, "rank", least=1)
    alpha = float(rank) if lora_alpha is None else number(lora_alpha, "lora_alpha", above=0)
    flag(train_biases, "train_biases")
    targets = _targets(model, as_refs(layers, "layers", ArgumentError))
    for path, layer in targets.items():
        if why := why_no_lora(layer):
            raise ArgumentError(f"enable_lora can't use layer {path!r}: it {why}. Give layers= without it.")
    with model.distribute_strategy.scope():  # A and B belong where the kernels are
        for layer in targets.values():
            if isinstance(layer, DENSE):
                low_rank.add(layer, rank, alpha, train_biases)
            else:
                layer.enable_lora(rank, alpha)
    thaw(model, list(targets.values()))
    for holder in holders(model):
        remember(holder)
    uncompile(model)
    return list(targets)


def merge_lora(model: keras.Model) -> list[str]:
    """Write A @ B into the kernels of all layers with LoRA, and make those layers plain again.

    The model's scores stay the same up to rounding; kernels and biases train again, with the layers around them. Of a
    layer of `build_embedding`, A @ B is written into the table, and LoRA stays (its `unmerge_lora` takes it back).
    Compile the model afterwards.

    Args:
        model: a model after `enable_lora`.

    Returns:
        The paths of the layers that had LoRA.

    Raises:
        ArgumentError: no layer has LoRA.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
        >>> enable_lora(model, 1, "head"), merge_lora(model)
        (['head'], ['head'])
    """
    check_built_model(model, "LoRA")
    found: dict[int, tuple[str, keras.layers.Layer]] = {}
    for path, layer in with_root(model):
        if isinstance(layer, LowRankKernel) or (isinstance(layer, PretrainedEmbedding) and layer.lora_enabled):
            found.setdefault(id(layer), (path, layer))
    if not found:
        raise ArgumentError(f"merge_lora: no layer of model {model.name!r} has LoRA. Call enable_lora first.")
    for _, layer in found.values():
        if isinstance(layer, LowRankKernel):
            low_rank.merge(layer)
        else:
            layer.merge_lora()
    for _, layer in with_root(model):
        forget(layer)
    uncompile(model)
    return [path for path, _ in found.values()]


def check_built_model(model: keras.Model, what: str) -> None:
    """Refuse what is not a built model."""
    if not isinstance(model, keras.Model):
        raise ArgumentError(f"{what} takes a keras.Model. Received: {shown(model)}.")
    if not model.built:
        raise ArgumentError(f"Model {model.name!r} is not built: call it once on a batch. {what} takes a built model.")


def with_root(model: keras.Model) -> list[tuple[str, keras.layers.Layer]]:
    """The model itself and all layers inside, by their paths."""
    return [("", model), *walk(model)]


def _targets(model: keras.Model, refs: Sequence[LayerRef]) -> dict[str, keras.layers.Layer]:
    """The layers with a kernel or a table that the addresses name, or that are inside of what they name, by path."""
    wanted: set[int] = set()
    for ref in refs:
        named = match_layers(model, [ref])
        inside = [each for layer in named for each in (layer, *(inner for _, inner in walk(layer)))]
        found = {id(each) for each in inside if isinstance(each, (*DENSE, keras.layers.Embedding))}
        if not found:
            kinds = ", ".join(sorted({type(each).__name__ for each in inside}))
            raise ArgumentError(f"enable_lora takes {_TAKEN}. {ref!r} has none of them: {kinds}.")
        wanted |= found
    targets: dict[int, tuple[str, keras.layers.Layer]] = {}
    for path, layer in walk(model):
        if id(layer) in wanted:
            targets.setdefault(id(layer), (path, layer))
    paths = [path for path, _ in targets.values()]
    return {  # layers inside a layer can share a path
        path if paths.count(path) == 1 else f"{path} ({place + 1} of the layers)": layer
        for place, (path, layer) in enumerate(targets.values())
    }


def why_no_lora(layer: keras.layers.Layer) -> str | None:
    """Why a layer can't have LoRA, as the end of a sentence about it."""
    if isinstance(layer, DENSE):
        return low_rank.problem(layer)
    if not isinstance(layer, keras.layers.Embedding):
        return f"is a {type(layer).__name__}, and LoRA takes {_TAKEN}"
    if not isinstance(layer, PretrainedEmbedding):
        return "is a stock Embedding, of which LoRA would move every row; build_embedding makes one of which it doesn't"
    if type(layer).enable_lora is not PretrainedEmbedding.enable_lora:
        return "trains in a way of its own: a shared map, or some of its rows"
    for refused, why in (
        (not layer.built, "is not built: call the model once on a batch"),
        (layer.lora_enabled, "has LoRA already"),
        (layer.quantization_mode is not None, f"is quantized ({layer.quantization_mode})"),
        (layer.embeddings_constraint is not None, "has an embeddings_constraint"),
    ):
        if refused:
            return why
    return None


def thaw(model: keras.Model, targets: Sequence[keras.layers.Layer]) -> None:
    """Thaw these layers and those around them, but of these no weights of their own; the others keep their flags."""
    chosen, places = {id(layer) for layer in targets}, with_root(model)
    flags: dict[int, bool] = {}  # a layer inside a frozen one is frozen, whatever its own flag says
    for _, layer in places:
        flags.setdefault(id(layer), layer.trainable)
        if not flags[id(layer)]:
            flags.update((id(each), False) for _, each in walk(layer))
    around = {id(layer) for _, layer in places if not chosen.isdisjoint(id(each) for _, each in walk(layer))}
    for _ in range(2):  # a layer shared by two others is set again by the second
        for _, layer in places:  # parents first: their flag sets those of the layers inside
            wanted = flags[id(layer)] or id(layer) in chosen | around
            if layer.trainable != wanted:
                layer.trainable = wanted
    for _, layer in places:
        for weight in own_weights(layer) if id(layer) in around - chosen and not flags[id(layer)] else ():
            weight.trainable = False


def uncompile(model: keras.Model) -> None:
    """Make Keras ask for compile(): what it traced trains other variables, and computes without LoRA."""
    model.train_function = model.test_function = model.predict_function = None
    model.compiled = False
