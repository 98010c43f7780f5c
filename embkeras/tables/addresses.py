"""One way to name layers and variables: names, paths, globs, or the objects themselves.

A layer's path consists of layer names: "q/embedding" is the layer `embedding` inside `q`. A variable's path is that of
its layer and its own name: "q/embedding/embeddings". (Keras' own `variable.path` is the same in every tower.)

In a glob, `*`, `?` and `[...]` match within one name ("encoder/block_*"), and `**` matches any number of names
("encoder/**" is everything inside, "**/bias" every bias).
"""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import keras

from embkeras._checks import shown
from embkeras.errors import EmbkerasError, ScheduleError, UnknownLayerError
from embkeras.keras_compat.layers import children

LayerRef: TypeAlias = str | keras.layers.Layer
Paths: TypeAlias = Sequence[tuple[str, keras.layers.Layer]]  # what `walk` yields


def as_refs(
    layers: LayerRef | Sequence[LayerRef], what: str, error: type[EmbkerasError] = ScheduleError
) -> tuple[LayerRef, ...]:
    """One or several names or layers as a tuple.

    Raises:
        EmbkerasError: something that is neither a string nor a layer, or an empty string.
    """
    single = isinstance(layers, str | keras.layers.Layer) or not isinstance(layers, Iterable)
    single = single or getattr(layers, "ndim", 1) == 0  # an array without axes is Iterable, and refuses
    refs = (layers,) if single else tuple(layers)
    for ref in refs:
        if not isinstance(ref, str | keras.layers.Layer) or ref == "":
            raise error(f"{what} must name layers: names, paths, globs or layer objects. Received: {shown(ref)}.")
    return refs


def walk(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer inside `layer` with its path, such as ("encoder/block_3", layer), parents first."""
    for child in children(layer):
        path = f"{prefix}{child.name}"
        yield path, child
        yield from walk(child, f"{path}/")


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of a layer that belong to none of the layers inside it."""
    inside = {id(weight) for child in children(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inside]


def layer_path(model: keras.Model, layer: keras.layers.Layer) -> str:
    """The path of a layer inside a model; of a shared layer, the first one.

    Raises:
        UnknownLayerError: the layer is not part of the model, even if its name is.
    """
    paths = list(walk(model))
    for path, each in paths:
        if each is layer:
            return path
    raise UnknownLayerError(
        f"The layer {layer.name!r} is not part of model {model.name!r}. {_listed(model, paths)} "
        f"Pass the model's own layer, or its path."
    )


def match_layers(model: keras.Model, refs: Sequence[LayerRef]) -> list[keras.layers.Layer]:
    """The layers that names, paths, globs or layer objects refer to, each once.

    A bare name also finds a layer deeper inside, if it is the only one of that name. A name that a layer has exactly is
    never read as a glob. A glob matches layers that hold weights or are not built yet. Without "/", it matches layers of
    the outermost model or, if there are none, layers deeper inside.

    Raises:
        UnknownLayerError: no such layer, or several for a name that is not a glob, with the paths that exist.
    """
    paths = list(walk(model))
    found = [layer for ref in refs for layer in _match_layer(model, ref, paths)]
    return list({id(layer): layer for layer in found}.values())


def match_layer(model: keras.Model, ref: LayerRef) -> keras.layers.Layer:
    """The only layer that a name, path, glob or layer object refers to.

    Raises:
        UnknownLayerError: no such layer, or several, with the paths that exist.
    """
    found = match_layers(model, [ref])
    if len(found) > 1:
        raise UnknownLayerError(
            f"Model {model.name!r} has {len(found)} layers that match {ref!r}, where one layer is needed: "
            f"{', '.join(layer_path(model, layer) for layer in found)}. Give the path of the one you mean."
        )
    return found[0]


def match_variables(model: keras.Model, address: LayerRef) -> list[tuple[str, keras.Variable]]:
    """The weights that an address refers to, each once, with the first of its paths that matches.

    An address is the path of a variable ("q/embedding/embeddings"), a glob ("**/bias"), or whatever names a layer,
    which means all weights inside it.

    Raises:
        UnknownLayerError: no such layer or variable, or several layers of that name, with the paths that exist.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> [path for path, _ in match_variables(model, "hidden")]
        ['hidden/kernel', 'hidden/bias']
    """
    layers = list(walk(model))
    variables = [
        (f"{path}/{weight.name}".removeprefix("/"), weight)
        for path, layer in [("", model), *layers]
        for weight in own_weights(layer)
    ]
    if not isinstance(address, str) or _names_a_layer(address, layers):
        inside = {id(weight) for weight in _find_layer(model, address, layers).weights}
        found = [pair for pair in variables if id(pair[1]) in inside]
    else:
        found = [pair for pair in variables if path_matches(pair[0], address)]
        if not found and _is_glob(address) and "/" not in address:
            found = [pair for pair in variables if any(fnmatchcase(name, address) for name in pair[0].split("/"))]
        if not found:
            raise UnknownLayerError(
                f"Model {model.name!r} has no layer or variable {address!r}. "
                f"Its variables: {', '.join(path for path, _ in variables)}."
            )
    once: dict[int, tuple[str, keras.Variable]] = {}
    for path, variable in found:
        once.setdefault(id(variable), (path, variable))
    return list(once.values())


def variables_named(model: keras.Model, refs: Sequence[LayerRef]) -> dict[LayerRef, keras.Variable]:
    """Those of the names, paths or layers that are the whole path of a variable, and of no layer, with the variable."""
    layers = list(walk(model))
    paths = {f"{path}/{weight.name}": weight for path, layer in layers for weight in own_weights(layer)}
    return {
        ref: paths[ref] for ref in refs if isinstance(ref, str) and ref in paths and not _names_a_layer(ref, layers)
    }


def path_matches(path: str, address: str) -> bool:
    """Whether an address refers to the variable or layer of this path, or to a layer around it.

    Examples:
        >>> [path_matches("encoder/block_1/dense/bias", each) for each in ("encoder", "**/bias", "encoder/*", "bias")]
        [True, True, True, False]
    """
    if path == address or path.startswith(f"{address}/"):
        return True
    names, patterns = path.split("/"), address.split("/")
    return _is_glob(address) and any(_fits(names[:length], patterns) for length in range(1, len(names) + 1))


def _find_layer(model: keras.Model, ref: LayerRef, paths: Paths) -> keras.layers.Layer:
    if not isinstance(ref, str):
        layer_path(model, ref)  # raises if the layer is not part of the model
        return ref
    found = [layer for path, layer in paths if path == ref] or [layer for _, layer in paths if layer.name == ref]
    if not found:
        raise UnknownLayerError(f"Model {model.name!r} has no layer named {ref!r}. {_listed(model, paths)}")
    distinct = {id(layer) for layer in found}
    if len(distinct) > 1:
        several = ", ".join(path for path, layer in paths if id(layer) in distinct)
        raise UnknownLayerError(
            f"Model {model.name!r} has several layers named {ref!r}: {several}. Give the path of the one you mean."
        )
    return found[0]


def _match_layer(model: keras.Model, ref: LayerRef, paths: Paths) -> list[keras.layers.Layer]:
    if not isinstance(ref, str) or not _is_glob(ref) or _names_a_layer(ref, paths):
        return [_find_layer(model, ref, paths)]
    holding = [(path, layer) for path, layer in paths if layer.weights or not layer.built]
    found = [layer for path, layer in holding if _fits(path.split("/"), ref.split("/"))]
    if not found and "/" not in ref:
        found = [layer for _, layer in holding if fnmatchcase(layer.name, ref)]
    if not found:
        raise UnknownLayerError(
            f"Model {model.name!r} has no layer with weights that matches {ref!r}. {_listed(model, paths)}"
        )
    return found


def _names_a_layer(address: str, paths: Paths) -> bool:
    return any(address in (path, layer.name) for path, layer in paths)


def _listed(model: keras.Model, paths: Paths) -> str:
    """The layers there are, and what to do about those that a model makes only when it is called."""
    names = f"Its layers: {', '.join(path for path, _ in paths)}." if paths else "It has no layers."
    lazy = not model.built or any(not layer.built for _, layer in paths)
    hint = " Layers made in build() or call() exist only after a call: call the model once on a batch before fit."
    return names + (hint if lazy else "")


def _is_glob(address: str) -> bool:
    return not set("*?[").isdisjoint(address)


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Whether the names of a path match the patterns, of which "**" takes any number of names."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[taken:], patterns[1:]) for taken in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])
