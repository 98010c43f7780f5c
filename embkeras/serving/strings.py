"""Models that take strings, split behind the TextVectorization and StringLookup layers that make ids of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._checks import shown
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.check import TOLERANCE
from embkeras.serving.contract import answers_by_name, structure_of
from embkeras.serving.describe import Slot, slots_of
from embkeras.serving.local import ExportedModel
from embkeras.tables.storage import STORAGE
from embkeras.text.encoding import Encoding
from embkeras.text.tokenizer import WHOLE
from embkeras.text.vocabulary import Vocabulary

_STEPS = 3  # of an input of any length, beside texts


@dataclass(frozen=True, eq=False)
class Split:
    """A model of ids, and what makes them.

    Attributes:
        model: shares the layers of the model of strings.
        vocabulary: that of the layer, or a dictionary by input.
        layers: by the name of the input of strings, the layer behind it.
        whole: the model of strings; None if the model took ids all along.
    """

    model: Any
    vocabulary: Any
    layers: Mapping[str, keras.layers.TextVectorization | keras.layers.StringLookup]
    whole: keras.Model | None = None


class _Given(keras.layers.Layer):
    """Stands where a layer made ids: what comes in are ids already."""

    def call(self, ids: Any) -> Any:
        return ids


def split_strings(model: Any, vocabulary: Any) -> Split:
    """The model behind its TextVectorization layers, and its StringLookup layers of single strings, if it takes strings.

    Args:
        model: any model; one that takes no strings is returned as it is.
        vocabulary: as given to `export_saved_model`. For strings it is that of the layer, and may be left out.

    Raises:
        SavedModelError: it takes strings, and they go elsewhere than into one such layer each.
        ArgumentError: the vocabulary is not that of the layer.
    """
    slots = _slots(model) if isinstance(model, keras.Model) else []
    strings = [slot.name for slot in slots if slot.dtype == "string"]
    if not strings:
        return Split(model, vocabulary, {})
    found = _sequential(model, strings[0]) if isinstance(model, keras.Sequential) else _functional(model, strings)
    if found is None:
        raise _refusal(model, strings)
    ids, layers = found
    own = {
        name: Vocabulary.from_layer(layer, tokenizer=WHOLE if _looks_up(layer) else None)
        for name, layer in layers.items()
    }
    if any(each.tokenizer is None for each in own.values()):
        raise _refusal(model, strings)
    return Split(ids, _vocabularies(vocabulary, own, slots, layers), layers, model)


def _vocabularies(
    given: Any, own: Mapping[str, Encoding], slots: Sequence[Slot], layers: Mapping[str, keras.layers.Layer]
) -> Any:
    """The vocabularies of the layers, and those given for other inputs."""
    ids = [slot.name for slot in slots if slot.name not in own and keras.backend.is_int_dtype(slot.dtype)]
    others = dict(given) if isinstance(given, Mapping) else {}
    if given is not None and not isinstance(given, Mapping):
        others = dict.fromkeys(ids or own, given)
    for name, layer in layers.items():
        other = others.get(name)
        if other is not None and getattr(other, "fingerprint", None) != own[name].fingerprint:
            raise ArgumentError(
                f"The vocabulary of the strings {name!r} is that of layer {layer.name!r}: leave it out. Received: "
                f"{shown(other)}."
            )
    return {**others, **own} if len(slots) > 1 else next(iter(own.values()))


def _refusal(model: keras.Model, strings: Sequence[str]) -> SavedModelError:
    """Why such a model is not exported, with the two lines that split it."""
    kinds = keras.layers.TextVectorization | keras.layers.StringLookup
    name = next((layer.name for layer in model.layers if isinstance(layer, kinds)), "text_vectorization")
    return SavedModelError(
        f"Model {model.name!r} takes strings ({', '.join(strings)}), and an export takes ids. It is split by itself where "
        f"each input of strings leads into one keras.layers.TextVectorization and nowhere else, whose settings are plain "
        f"data, or one StringLookup of single strings, (batch,) or (batch, 1). Split it behind the layer that makes the ids:\n"
        f"    ids = model.get_layer({name!r}).output\n"
        f"    model_of_ids = keras.Model(ids, model.output)\n"
        f"and export that with vocabulary=Vocabulary.from_layer(model.get_layer({name!r})): its signature 'text' takes "
        f"strings, if the vocabulary has a tokenizer."
    )


def check_texts(split: Split, export: ExportedModel) -> None:
    """Compare the answers to texts with those of the model of strings.

    Raises:
        SavedModelError: they differ.
    """
    whole, card = split.whole, export.card
    ids = [each["name"] for each in card["inputs"] if each["kind"] == names.IDS]
    if whole is None or names.TEXT not in export.signatures or len(ids) > len(split.layers):
        return  # another input of ids is asked as text, which the model doesn't take
    outputs = card["outputs"]
    tolerance = max(TOLERANCE[card["precision"]], STORAGE[card["dtype"]].tolerance)
    slots, rng = _slots(whole), np.random.default_rng(0)
    texts = {name: _texts(layer, rng) for name, layer in split.layers.items()}
    for row in range(len(next(iter(texts.values())))):
        values, sent = {}, {}
        for slot in slots:
            size = [1, *(_STEPS if each is None else each for each in slot.shape[1:])]
            if slot.name in texts:
                values[slot.name] = np.full(size, texts[slot.name][row])
                sent[names.TEXT if len(slots) == 1 else slot.name] = np.full(1, texts[slot.name][row])
            else:
                sent[slot.name] = values[slot.name] = np.ones(size, slot.dtype)
        tensors = [tf.constant(value) for value in values.values()]
        wanted = answers_by_name(
            whole(keras.tree.pack_sequence_as(structure_of(whole), tensors), training=False), outputs
        )
        got = export.ask(names.TEXT, **sent)
        for name, scores in wanted.items():
            scores = np.array(scores)
            alike = scores.shape == got[name].shape
            difference = (
                np.abs(scores - got[name]).max(initial=0.0) / np.abs(scores).max(initial=1.0) if alike else np.inf
            )
            if not difference <= tolerance:
                shown_texts = ", ".join(shown(each[row]) for each in texts.values())
                raise SavedModelError(
                    f"The export's signature 'text' has other scores than model {whole.name!r}: {name!r} differs by "
                    f"{difference:.2g} for {shown_texts}."
                )


def _texts(layer: Any, rng: np.random.Generator) -> list[str]:
    """Texts of words that the layer knows, in other spellings, with marks, alone and many, and one that it doesn't know."""
    words = [word for word in layer.get_vocabulary(include_special_tokens=False) if word.strip()]
    some = [str(words[place]) for place in rng.choice(len(words), 12)]
    if _looks_up(layer):
        return [some[0], layer.get_config()["mask_token"] or "", f" {some[1]}", some[2].swapcase(), "zzqqxx"]
    return [
        some[0],
        " ".join(some),
        f"  {some[1].upper()},\t{some[2]}! {some[3].title()}'s\n",
        "zzqqxx",
        f"zzqqxx {some[4]}",
    ]


def _slots(model: keras.Model) -> list[Slot]:
    """What the model takes, if it says so."""
    return [] if structure_of(model) is None else slots_of(model, {})


def _makes_ids(layer: Any) -> bool:
    """Whether a layer makes rows of ids, (batch, time), of texts, or an id of each string."""
    if not _looks_up(layer) and not isinstance(layer, keras.layers.TextVectorization):
        return False
    config = layer.get_config()
    if config["output_mode"] != "int" or config.get("encoding", "utf-8") != "utf-8":
        return False
    return not (config["invert"] or config.get("salt")) if _looks_up(layer) else not config["ragged"]


def _looks_up(layer: Any) -> bool:
    """Whether a layer takes each string as one token."""
    return isinstance(layer, keras.layers.StringLookup)


def _ids_shape(layer: Any, strings: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    """The shape of the ids of a row, for the shape of its strings: one string looked up is one id; None for several."""
    if _looks_up(layer):
        return () if strings in ((), (1,)) else None
    return (layer.get_config()["output_sequence_length"],)


def _sequential(model: keras.Sequential, name: str) -> tuple[keras.Model, dict[str, Any]] | None:
    """The layers behind the first one."""
    first, *rest = model.layers
    strings = tuple(_slots(model)[0].shape[1:])
    if not _makes_ids(first) or (shape := _ids_shape(first, strings)) is None:
        return None
    if strings == (1,) and shape == ():
        rest = [keras.layers.Reshape((1,), name=f"{first.name}_column"), *rest]
    return keras.Sequential([keras.Input(shape, dtype="int64"), *rest], name=model.name), {name: first}


def _functional(model: keras.Model, strings: Sequence[str]) -> tuple[keras.Model, dict[str, Any]] | None:
    """The same graph of layers, with inputs of ids where strings went into one such layer and nothing else."""
    structure = structure_of(model)
    names_of: dict[int, str] = {}  # by the id of an input of ids, which strings it stands for
    fed: dict[str, list[Any]] = {name: [] for name in strings}
    stands_for: dict[int, Any] = {}
    columns: set[str] = set()  # the strings of shape (batch, 1) that are looked up

    def shared(layer: Any) -> Any:
        if not _makes_ids(layer):
            return layer
        stand_in = _Given(name=layer.name)
        stands_for[id(stand_in)] = layer
        return stand_in

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        given = [names_of[id(each)] for each in keras.tree.flatten((args, kwargs)) if id(each) in names_of]
        for name in given:
            fed[name].append(stands_for.get(id(layer)))
        made = layer(*args, **kwargs)
        if id(layer) in stands_for and columns & {*given}:
            return keras.layers.Reshape((1,), name=f"{layer.name}_{given[0]}_column")(made)
        return made

    inputs = []
    for slot, tensor in zip(_slots(model), model.inputs, strict=True):
        if slot.name not in strings:
            inputs.append(keras.Input(slot.shape[1:], dtype=slot.dtype, name=slot.name))
            continue
        makers = [layer for layer in model.layers if _makes_ids(layer)]
        own = [layer for layer in makers if layer.input is tensor]
        shapes = {_ids_shape(layer, tuple(slot.shape[1:])) for layer in own or makers}
        if len(shapes) != 1 or (shape := shapes.pop()) is None:
            return None
        inputs.append(keras.Input(shape, dtype="int64", name=slot.name))
        if shape == () and len(slot.shape) == 2:
            columns.add(slot.name)
        names_of[id(inputs[-1])] = slot.name
    packed = keras.tree.pack_sequence_as(structure, inputs)
    try:
        ids = keras.models.clone_model(model, input_tensors=packed, clone_function=shared, call_function=called)
    except Exception:  # a layer that takes strings alone, in any way
        return None
    if any(len({id(layer) for layer in layers}) != 1 or layers[0] is None for layers in fed.values()):
        return None
    return ids, {name: layers[0] for name, layers in fed.items()}
