"""change_vocabulary: tokens added to a trained model, or dropped, and everything else kept.

Private names used here, because Keras offers no public way: `_trainable_variables` and `_var_key` of optimizers.
`tests/training/test_vocabularies.py` fails when one of them goes.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from embkeras.errors import ArgumentError
from embkeras.layers.embedding import PretrainedEmbedding
from embkeras.layers.naming import LayerRef, find_layers
from embkeras.layers.resizing import Resized, resized
from embkeras.layers.takeover import take_over
from embkeras.training.rebuild import parts, rebuild_training, slots_of
from embkeras.vectors.alignment import AlignedMatrix
from embkeras.vectors.vocabulary import Vocabulary


def change_vocabulary(model: keras.Model, layer: LayerRef, *, before: Vocabulary, after: AlignedMatrix) -> None:
    """Give a trained model the vocabulary of `after`: rows of tokens that it knew stay, with their optimizer slots.

    Texts get the same scores as before, as far as their tokens are in both vocabularies, whatever their ids are now.
    Rows of new tokens come from `after`, with the slots of a new optimizer. Of a table of which only some rows train,
    new tokens that the vectors did not give join those.

    Args:
        model: the model; it is changed in place. If it is compiled, it trains on where it was.
        layer: name or path of an embedding layer of ours, or the layer.
        before: the vocabulary that the model was trained with, of V tokens.
        after: what `align` gives for the vocabulary to be, from the same vectors.

    Raises:
        ArgumentError: another kind of layer, a vocabulary of another size than its table, vectors of another width,
            a quantized layer, or special tokens (padding, OOV) that are not the same in number.
        UnknownLayerError: the model has no such layer.

    Example:
        >>> from embkeras.layers.builders import build_classifier, build_embedding
        >>> words = Vocabulary(["", "[UNK]", "cat", "dog"])
        >>> table = AlignedMatrix(np.eye(4, dtype="float32"), words)
        >>> model = build_classifier(build_embedding(table), 2, architecture="mean")
        >>> fewer = AlignedMatrix(np.eye(3, 4, dtype="float32"), Vocabulary(["", "[UNK]", "dog"]))
        >>> change_vocabulary(model, "embedding", before=words, after=fewer)
        >>> model.get_layer("embedding").matrix()[2].tolist()
        [0.0, 0.0, 0.0, 1.0]
    """
    found = _find(model, layer)
    if not isinstance(before, Vocabulary) or not isinstance(after, AlignedMatrix):
        raise ArgumentError(
            f"change_vocabulary takes before=Vocabulary and after=AlignedMatrix. "
            f"Received: {type(before).__name__} and {type(after).__name__}."
        )
    if found.input_dim != len(before) or found.output_dim != after.output_dim:
        raise ArgumentError(
            f"Layer {found.name!r} has a table of {found.input_dim} x {found.output_dim}. "
            f"Received: before of {len(before)} tokens, after of width {after.output_dim}."
        )
    sources = _sources(before, after.vocabulary)
    padding = after.vocabulary.padding_id
    new = (sources < 0) & ~after.found
    if padding is not None:
        new[padding] = False
    with model.distribute_strategy.scope():
        swap_rows(model, found, resized(found, sources, after.values, new))


def swap_rows(model: keras.Model, layer: PretrainedEmbedding, fresh: Resized) -> None:
    """Put a resized layer's variables into the model and its optimizer, slots row by row."""
    optimizer = getattr(model, "optimizer", None)
    held = list(_slots(optimizer, fresh)) if optimizer is not None else []
    take_over(layer, fresh.layer)
    if optimizer is not None:
        rebuild_training(model)
        for part, name, before, (_, variable, sources) in held:
            slot = slots_of(part).get(name, {}).get(part._var_key(variable))
            if slot is not None:
                slot.assign(_by_rows(before, np.array(slot), len(sources), sources))
    # Each was traced with the variables that are gone, and is made again when it is asked for.
    model.train_function = model.test_function = model.predict_function = None


def _slots(optimizer: Any, fresh: Resized) -> Iterator[tuple[Any, str, np.ndarray, Any]]:
    """Every slot of the variables that go, with the optimizer that holds it, as NumPy."""
    for part in parts(optimizer):
        for name, slots in slots_of(part).items():
            for move in fresh.moves:
                slot = slots.get(part._var_key(move[0]))
                if slot is not None:
                    yield part, name, keras.ops.convert_to_numpy(slot), move


def _by_rows(before: np.ndarray, new: np.ndarray, rows: int, sources: np.ndarray) -> np.ndarray:
    """A slot with one entry a row takes those that it had; one of another kind (a count, a mean) is kept whole."""
    if new.ndim and new.shape[0] == rows and new.shape[1:] == before.shape[1:]:
        known = sources >= 0
        new[known] = before[sources[known]]
        return new
    return before if before.shape == new.shape else new


def _find(model: keras.Model, layer: LayerRef) -> PretrainedEmbedding:
    found = find_layers(model, [layer])[0]
    if not isinstance(found, PretrainedEmbedding) or not found.built:
        raise ArgumentError(
            f"change_vocabulary takes a built layer that build_embedding made. Received: {type(found).__name__} {found.name!r}."
        )
    return found


def _sources(before: Vocabulary, after: Vocabulary) -> np.ndarray:
    """For each id of `after` the id that its token had, or -1."""
    if len(before.oov_ids) != len(after.oov_ids) or before.padding_id != after.padding_id:
        raise ArgumentError(
            f"Both vocabularies need the same padding id and as many OOV ids. Received: padding_id={before.padding_id}, "
            f"oov_ids={before.oov_ids} before; padding_id={after.padding_id}, oov_ids={after.oov_ids} after."
        )
    sources = np.array([before.token_to_id.get(token, -1) for token in after.tokens], np.int64)
    sources[list(after.oov_ids)] = before.oov_ids
    if after.padding_id is not None:
        sources[after.padding_id] = before.padding_id
    return sources
