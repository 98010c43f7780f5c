"""Finding layers in a model by name, by path, by glob, or as objects.

Private name used: `Layer._layers`, since Keras lists the layers of a model publicly, but not those of a layer.
"""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import keras

from embkeras.errors import ScheduleError, UnknownLayerError

LayerRef = str | keras.layers.Layer


def as_refs(layers: LayerRef | Sequence[LayerRef], what: str) -> tuple[LayerRef, ...]:
    """One or several names or layers as a tuple.

    Raises:
        ScheduleError: something that is neither a name nor a layer.
    """
    one = isinstance(layers, str | keras.layers.Layer) or not isinstance(layers, Iterable)
    refs = (layers,) if one else tuple(layers)
    for ref in refs:
        if not isinstance(ref, str | keras.layers.Layer):
            raise ScheduleError(f"{what} takes names of layers or layers. Received: {ref!r}.")
    return refs


def walk(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer inside `layer` with its path, such as ("encoder/block_3", layer), parents first."""
    children = layer.layers if isinstance(layer, keras.Model) else layer._layers
    for child in children:
        path = f"{prefix}{child.name}"
        yield path, child
        yield from walk(child, f"{path}/")


def match_layers(model: keras.Model, refs: Sequence[LayerRef]) -> list[keras.layers.Layer]:
    """The layers that names, paths, layer objects or globs stand for, each once.

    A name that a layer bears exactly is never read as a glob. In a glob, `*`, `?` and `[...]` stay within one name of
    a path ("encoder/block_*"), and `**` stands for any number of names ("encoder/**": all that is inside). A glob
    without "/" means layers of the outermost model or, if none matches, layers deeper inside. It stands for those
    layers that hold weights, or are not built yet.

    Raises:
        UnknownLayerError: there is no such layer, with the paths that exist, or there are several of one name.
    """
    paths = list(walk(model))
    found = [layer for ref in refs for layer in _match(model, ref, paths)]
    return list({id(layer): layer for layer in found}.values())


def find_layers(model: keras.Model, refs: Sequence[LayerRef]) -> list[keras.layers.Layer]:
    """The layers that names, paths ("encoder/block_3") or layer objects stand for.

    A bare name may also stand for one layer deeper inside, if it is the only one of that name.

    Raises:
        UnknownLayerError: there is no such layer, with the paths that exist, or there are several.
    """
    paths = list(walk(model))
    return [_find_layer(model, ref, paths) for ref in refs]


def _find_layer(model: keras.Model, ref: LayerRef, paths: list[tuple[str, keras.layers.Layer]]) -> keras.layers.Layer:
    if isinstance(ref, str):
        found = [layer for path, layer in paths if path == ref] or [layer for _, layer in paths if layer.name == ref]
    else:
        found = [layer for _, layer in paths if layer is ref]
    distinct = {id(layer): layer for layer in found}
    if len(distinct) == 1:
        return found[0]
    name = ref if isinstance(ref, str) else ref.name
    if not isinstance(ref, str) and any(layer.name == name for _, layer in paths):
        raise UnknownLayerError(
            f"The layer {name!r} given is not part of model {model.name!r}, which has another of that name."
        )
    problem = "several layers" if distinct else "no layer"
    raise UnknownLayerError(
        f"Model {model.name!r} has {problem} named {name!r}. Its layers: {', '.join(path for path, _ in paths)}."
    )


def _match(model: keras.Model, ref: LayerRef, paths: list[tuple[str, keras.layers.Layer]]) -> list[keras.layers.Layer]:
    exact = not isinstance(ref, str) or any(ref in (path, layer.name) for path, layer in paths)
    if exact or not set(ref) & set("*?["):
        return [_find_layer(model, ref, paths)]
    holding = [(path, layer) for path, layer in paths if layer.weights or not layer.built]
    found = [layer for path, layer in holding if _fits(path.split("/"), ref.split("/"))]
    if not found and "/" not in ref:
        found = [layer for path, layer in holding if fnmatchcase(path.rsplit("/", 1)[-1], ref)]
    if not found:
        raise UnknownLayerError(
            f"Model {model.name!r} has no layer with weights that fits {ref!r}. "
            f"Its layers: {', '.join(path for path, _ in paths)}."
        )
    return found


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Whether the names of a path fit the patterns, of which "**" takes any number of names."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[taken:], patterns[1:]) for taken in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])
