"""The tensors that a model takes: those of its symbolic inputs, or those that a subclassed model was built with.

A padding mask is one of them that no caller sends: it says which ids are padding, so the export makes it from the ids.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.serving.names import TOKEN_IDS

MASKS = ("padding_mask", "attention_mask")  # as keras-hub and others call it
_IDS = ("token_ids", "input_ids")  # the ids beside it, where several inputs could be them


@dataclass(frozen=True)
class Slot:
    """A place in which a model takes a tensor: name, shape with the batch, dtype; None where a subclassed model takes any."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str | None


def structure_of(model: Any) -> Any:
    """The structure in which a model takes its inputs, a Slot in place of each; None for a subclassed model with one input."""
    if not getattr(model, "inputs", None):
        return _built_structure(model)
    structure = getattr(model, "input", None)  # a Sequential has none
    if structure is None:
        structure = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    tensors = keras.tree.flatten(structure)
    keys = sorted(structure) if isinstance(structure, dict) else [tensor.name for tensor in tensors]
    slots = [
        Slot(key, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for key, tensor in zip(keys, tensors, strict=True)
    ]
    return keras.tree.pack_sequence_as(structure, slots)


def _built_structure(model: Any) -> dict[str, Slot] | list[Slot] | None:
    """A dictionary or list of the tensors that a subclassed model was called with when it was built.

    Keras stores their shapes alone.
    """
    if not isinstance(model, keras.Model):  # a tower
        return None
    shapes = (model.get_build_config() or {}).get("input_shape")
    if isinstance(shapes, Mapping) and all(map(_is_shape, shapes.values())):
        return {key: Slot(key, tuple(shape), None) for key, shape in shapes.items()}
    if isinstance(shapes, list | tuple) and shapes and all(map(_is_shape, shapes)):
        return [Slot(f"input_{place}", tuple(shape), None) for place, shape in enumerate(shapes)]
    return None


def _is_shape(value: Any) -> bool:
    """Whether a value is the shape of one tensor."""
    return isinstance(value, list | tuple) and all(size is None or isinstance(size, int) for size in value)


def slots_of(model: keras.Model, named: Collection[str]) -> list[Slot]:
    """The tensors that a model takes, in its order.

    Args:
        model: a built model.
        named: the inputs that have a vocabulary, which a subclassed model with one input is asked by.
    """
    structure = structure_of(model)
    if structure is None:
        return [Slot(key, (None, None), "int64") for key in list(named) or [TOKEN_IDS]]
    return list(keras.tree.flatten(structure))


def masks_of(slots: Sequence[Slot], ids: Collection[str]) -> dict[str, str]:
    """The padding masks among the tensors that a model takes, and the ids of which each says what is padding.

    It is called "padding_mask" or "attention_mask", "encoder_padding_mask" beside "encoder_token_ids", and has the shape
    of its ids, (batch, time).

    Raises:
        SavedModelError: several inputs of ids could be those.
    """
    found: dict[str, str] = {}
    for slot in slots:
        ending = next((mask for mask in MASKS if slot.name.endswith(mask)), None)
        if ending is None or slot.name in ids or len(slot.shape) != 2:
            continue
        prefix = slot.name.removesuffix(ending)
        alike = [each.name for each in slots if each.name in ids and each.shape[1:] == slot.shape[1:]]
        own = [name for name in alike if name.startswith(prefix)] or alike
        own = [name for name in own if name.removeprefix(prefix) in _IDS] or own
        if len(own) > 1:
            raise SavedModelError(
                f"The input {slot.name!r} says what is padding in {' or '.join(own)}: it isn't clear in which. Name both "
                f"alike: 'encoder_{ending}' beside 'encoder_token_ids'."
            )
        if own:
            found[slot.name] = own[0]
    return found


def mask_of(ids: tf.Tensor, padding_id: int | None, dtype: str) -> tf.Tensor:
    """1 for ids of tokens, 0 for padding."""
    if padding_id is None:
        return tf.ones_like(ids, dtype)
    return tf.cast(ids != tf.cast(padding_id, ids.dtype), dtype)
