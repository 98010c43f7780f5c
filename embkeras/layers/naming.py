"""Finding layers in a model by name, by path, or as objects.

Private name used: `Layer._layers`, since Keras lists the layers of a model publicly, but not those of a layer.
"""

from collections.abc import Iterable, Iterator, Sequence

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
