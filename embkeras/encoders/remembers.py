"""Layers that remember, in their config, what was done to the layers inside them: LoRA, adapters, single frozen weights.

A layer such as an attention makes its dense layers itself and doesn't mention them in its config. Where one of these is
changed in place, by a change of its class, the layer around it keeps the settings in its own config, and puts the change back
when it is loaded. Each kind of change is a `Part` in `PARTS`.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from embkeras.errors import ArgumentError
from embkeras.keras_compat.layers import children, may_train
from embkeras.tables.addresses import own_weights, walk


@dataclass(frozen=True)
class Part:
    """One kind of change to a layer.

    Attributes:
        what: what it is called in errors.
        settings: of a layer, to be stored; None for a layer without it.
        put: makes the change to a layer by its settings; raises ArgumentError if the layer can't have it.
        around: whether a layer that has it holds layers of the change, which the plain layer doesn't.
    """

    what: str
    settings: Callable[[keras.layers.Layer], dict[str, Any] | None]
    put: Callable[[keras.layers.Layer, dict[str, Any]], None]
    around: bool = False


PARTS: dict[str, Part] = {}  # in the order in which they are put back


@keras.saving.register_keras_serializable("embkeras", "LoRA")
class Remembers:
    """Beside a layer's own class: its config also says where inside it a part is, and what is frozen inside it.

    Keras keeps the flag of the layer alone: loaded, a frozen layer says that it is frozen, and the layers inside it train,
    and so do weights that were frozen by themselves. A layer inside is known by its place in the walk through all of them:
    names that Keras gives differ between processes.
    """

    plain_class: type[keras.layers.Layer]
    name: str

    def get_config(self) -> dict[str, Any]:
        """The plain layer, the settings of each part, and the flags of the layers inside, which Keras omits.

        Raises:
            ArgumentError: the layer makes its layers in `call`, so that a part can't be put back before they are called.
        """
        inside, plain = list(_inside(self)), list(_without_parts(self))
        found: dict[str, list[dict[str, Any]]] = {}
        for key, part in PARTS.items():
            settings = [(place, part.settings(layer)) for place, layer in enumerate(plain)]
            found[key] = [{"place": place, **each} for place, each in settings if each is not None]
            places = [each["place"] for each in found[key]]
            if places not in ([], [0]) and self.plain_class.build is keras.layers.Layer.build:
                raise ArgumentError(
                    f"The config of layer {self.name!r} can't say where its {part.what} is: {self.plain_class.__name__} has "
                    f"no build(), so its layers don't exist yet when it is loaded. Build them in build(), or of LoRA, write it "
                    f"into the kernels first: merge_lora(model)."
                )
        flags = {
            "trainable": [layer.trainable for layer in inside],
            "frozen_weights": list(map(_frozen_weights, inside)),
        }
        return {"layer": _plain(self), "inside": len(plain), **found, **flags}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.layers.Layer:
        """The layer with its parts."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        plain, flags = list(_without_parts(layer)), config["trainable"]
        count = config.get("inside", len(flags))
        for key, part in PARTS.items():
            stored = config.get(key, [])
            if stored and not (layer.built and len(plain) == count):
                raise ArgumentError(
                    f"Layer {layer.name!r} had {part.what} inside, and {count} layers. As made from its config, it has "
                    f"{len(plain)}. Has its class {type(layer).__name__} changed since it was saved?"
                )
            for each in stored:
                target = plain[each["place"]]
                if part.settings(target) is None:  # it may have remembered by itself
                    try:
                        part.put(target, {name: value for name, value in each.items() if name != "place"})
                    except ArgumentError as error:
                        raise ArgumentError(
                            f"Layer {target.name!r} inside {layer.name!r} had {part.what}, and now {error}."
                        ) from None
        inside = list(_inside(layer))
        if layer.built and len(inside) == len(flags):
            for each, flag in zip(inside, flags, strict=True):  # parents first: their flag sets those inside
                if each.trainable != flag:
                    each.trainable = flag
            for each, places in zip(inside, config["frozen_weights"], strict=True):
                for place in places:
                    own_weights(each)[place].trainable = False
        remember(layer)
        return layer


def remember(layer: keras.layers.Layer) -> None:
    """Make the layer's config say which parts are inside it, and what is frozen, if there can be either."""
    late = type(layer).build is keras.layers.Layer.build  # there is nothing inside when it is loaded
    has_flags = bool(children(layer) or _frozen_weights(layer)) and not late
    if not isinstance(layer, Remembers) and (_has_parts(layer) or has_flags):
        become(layer, with_class(Remembers, plain_class(layer)))


def forget(layer: keras.layers.Layer) -> None:
    """Give a layer its own class again, unless there is a part inside it."""
    if isinstance(layer, Remembers) and not _has_parts(layer):
        become(layer, layer.plain_class)


def holders(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers of a model whose configs Keras stores; those of a functional or Sequential model inside it too."""
    try:
        listed = isinstance(model, keras.Model) and isinstance(model.get_config().get("layers"), list)
    except NotImplementedError:  # Keras refuses to store it, with LoRA or without
        listed = False
    if not listed:
        yield model
        return
    for child in children(model):
        yield from holders(child)


def plain_class(layer: keras.layers.Layer) -> type:
    """The class of a layer without what was added to it."""
    return layer.plain_class if isinstance(layer, Remembers) else type(layer)


@functools.cache
def with_class(kind: type, plain: type) -> type:
    """The class of a layer with what `kind` adds. All of them share one registered name, and one `from_config`."""
    made = type(plain.__name__, (kind, plain), {"plain_class": plain, "__module__": __name__, "__doc__": plain.__doc__})
    return keras.saving.register_keras_serializable("embkeras", "LoRA")(made)


def become(layer: keras.layers.Layer, kind: type) -> None:
    """Change the class of a layer in place: the models that contain it call it as before."""
    object.__setattr__(layer, "__class__", kind)


def _has_parts(layer: Any) -> bool:
    return any(part.settings(each) is not None for part in PARTS.values() for each in _inside(layer))


def _inside(layer: Any) -> Iterator[keras.layers.Layer]:
    yield layer
    for _, each in walk(layer):
        yield each


def _without_parts(layer: Any) -> Iterator[keras.layers.Layer]:
    """The layers inside as the plain layer has them: without those that a part brought."""
    yield layer
    if not any(part.around and part.settings(layer) is not None for part in PARTS.values()):
        for child in children(layer):
            yield from _without_parts(child)


def _frozen_weights(layer: keras.layers.Layer) -> list[int]:
    """Places of the layer's own weights that were frozen by themselves, while the layer trains."""
    frozen = [
        place for place, weight in enumerate(own_weights(layer)) if not weight.trainable and may_train(layer, weight)
    ]
    return frozen if layer.trainable else []


def _plain(layer: Any) -> dict[str, Any]:
    """What Keras stores of a layer of its own class."""
    store = keras.saving.serialize_keras_object
    named = {key: value for key, value in store(_sample(layer.plain_class)).items() if key != "shared_object_id"}
    config, built = layer.plain_class.get_config(layer), layer.get_build_config()
    return {**named, "config": store(config), **({} if built is None else {"build_config": store(built)})}


@functools.cache  # kept, because Keras knows by their ids what it has stored already
def _sample(plain: type) -> Any:
    """An object of a class with nothing in it, for which Keras stores the name of the class alone."""
    sample: Any = object.__new__(plain)
    nothing = {"get_config": dict, "get_build_config": lambda: None, "get_compile_config": lambda: None}
    object.__setattr__(sample, "__dict__", nothing)
    return sample
