"""change_vocabulary: tokens added to a trained model, or dropped, and everything else kept."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from embkeras.errors import ArgumentError
from embkeras.keras_compat.optimizers import slots_of
from embkeras.keras_compat.variables import mark_unbounded, unbounded_rows
from embkeras.keras_compat.versions import check_versions
from embkeras.tables.addresses import LayerRef, as_refs, match_layer, walk
from embkeras.tables.combined import CombinedEmbedding
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.resize import Resized, take_over
from embkeras.tables.row_io import copy_rows
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.lookup_layers import new_tokens
from embkeras.training.rebuild import all_parts, rebuild_training
from embkeras.vectors.aligned import AlignedMatrix

# layer -> for each change: the fingerprint of the new vocabulary, and which id each token had before (-1: new)
_CHANGES: WeakKeyDictionary[keras.layers.Layer, list[tuple[str, np.ndarray]]] = WeakKeyDictionary()


def change_vocabulary(
    model: keras.Model, layer: LayerRef, *, before: Vocabulary, after: AlignedMatrix | Sequence[AlignedMatrix]
) -> None:
    """Give a trained model the vocabulary of `after`: tokens that it knows keep their rows and optimizer slots.

    Texts whose tokens are in both vocabularies get the same scores as before, whatever their ids are now. Rows of new
    tokens come from `after`, with the slots of a new optimizer; a shared map ("map", "map+rows") moves them at once as it
    moves all rows. In a table of which only some rows train, new tokens missing from the vectors train too. A
    StringLookup, IntegerLookup or TextVectorization of the model that makes the ids (or turns them back into tokens) gets
    the new tokens too. A lookup outside of the model, in a data pipeline, can't be seen: give it the new tokens yourself.

    Args:
        model: the model, which is changed in place. If it is compiled, its training continues where it was.
        layer: a layer from `build_embedding` or `combine_embeddings`: its name, path, a glob that matches it alone, or
            the layer.
        before: the vocabulary that the model was trained with, of V tokens.
        after: what `align` returns for the new vocabulary, from the same vectors; for a layer of `combine_embeddings`,
            one for each of its sources, in their order.

    Raises:
        ArgumentError: another kind of layer, one that is combined with others, a vocabulary of another size than its
            table, vectors of another width, a quantized layer, or another padding id, padding side or number of OOV
            ids. The model is unchanged then.
        UnknownLayerError: the model has no such layer, or several.
        KerasVersionError: this version of Keras lacks a private name that embkeras uses.

    Examples:
        >>> from embkeras.tables.builders import build_classifier, build_embedding
        >>> words = Vocabulary(["", "[UNK]", "cat", "dog"])
        >>> table = AlignedMatrix(np.eye(4, dtype="float32"), words)
        >>> model = build_classifier(build_embedding(table), 2, architecture="mean")
        >>> fewer = AlignedMatrix(np.eye(3, 4, dtype="float32"), Vocabulary(["", "[UNK]", "dog"]))
        >>> change_vocabulary(model, "embedding", before=words, after=fewer)
        >>> model.get_layer("embedding").matrix()[2].tolist()
        [0.0, 0.0, 0.0, 1.0]
    """
    check_versions()
    found = _find(model, layer)
    tables = found.sources if isinstance(found, CombinedEmbedding) else [found]
    aligned = _check_after(before, after, tables)
    sources = _sources(before, aligned[0].vocabulary)
    lookups = new_tokens(model, tables, before, aligned[0].vocabulary)
    with model.distribute_strategy.scope():
        fresh = [
            table.resized(sources, each.values, trains=_new_without_vector(each, sources))
            for table, each in zip(tables, aligned, strict=True)
        ]
        for table, each, rows in zip(tables, fresh, aligned, strict=True):
            each.layer.mark_not_pretrained(_new_without_vector(rows, sources))
            swap_rows(model, table, each)
        if isinstance(found, CombinedEmbedding):
            found.change_tokens(sources, np.stack([each.found for each in aligned], axis=1))
    for lookup in lookups:
        lookup.apply()
    for each in {id(layer): layer for layer in (found, *tables)}.values():
        _CHANGES.setdefault(each, []).append((aligned[0].vocabulary.fingerprint, sources))


def vocabulary_changes(layer: keras.layers.Layer) -> list[np.ndarray]:
    """For each change of a layer's vocabulary so far, the id that each of its tokens had before, or -1 for a new one."""
    return [sources for _, sources in _CHANGES.get(layer, ())]


def has_other_vocabulary(layer: keras.layers.Layer, vocabulary: Vocabulary) -> bool:
    """Whether a layer was changed to another vocabulary than this one, so that its ids mean other tokens."""
    changes = _CHANGES.get(layer, [])
    return bool(changes) and changes[-1][0] != vocabulary.fingerprint


def _new_without_vector(aligned: AlignedMatrix, sources: np.ndarray) -> np.ndarray:
    new = (sources < 0) & ~aligned.found
    if aligned.vocabulary.padding_id is not None:
        new[aligned.vocabulary.padding_id] = False
    return new


def _check_after(before: Any, after: Any, tables: Sequence[PretrainedEmbedding]) -> list[AlignedMatrix]:
    """One AlignedMatrix for each table, all of one vocabulary."""
    aligned = [after] if isinstance(after, AlignedMatrix) or not isinstance(after, Sequence) else list(after)
    if not isinstance(before, Vocabulary) or not all(isinstance(each, AlignedMatrix) for each in aligned):
        raise ArgumentError(
            f"change_vocabulary takes before=Vocabulary and after=AlignedMatrix. "
            f"Received: {type(before).__name__} and {', '.join(type(each).__name__ for each in aligned)}."
        )
    if len(aligned) != len(tables) or len({each.vocabulary.fingerprint for each in aligned}) != 1:
        raise ArgumentError(
            f"after must have one AlignedMatrix for each of the tables {[table.name for table in tables]}, all of one "
            f"vocabulary. Received: {len(aligned)}, of {len({each.vocabulary.fingerprint for each in aligned})} vocabularies."
        )
    for table, each in zip(tables, aligned, strict=True):
        if table.input_dim != len(before) or table.output_dim != each.output_dim:
            raise ArgumentError(
                f"Layer {table.name!r} has a table of {table.input_dim} x {table.output_dim}, which before and after must "
                f"match. Received: before of {len(before)} tokens, after of width {each.output_dim}."
            )
    return aligned


def swap_rows(model: keras.Model, layer: PretrainedEmbedding, fresh: Resized) -> None:
    """Put a resized layer's variables into the model and its optimizer, slots row by row."""
    optimizer = getattr(model, "optimizer", None)
    held = [(part, move, slots_of(part, move[0])) for part in all_parts(model) for move in fresh.moves]
    for old, new, sources in fresh.moves:
        mark_unbounded(new, (sources >= 0) & unbounded_rows(old)[sources])
    take_over(layer, fresh.layer)
    if optimizer is not None:
        rebuild_training(model)
        for part, (_, variable, sources), slots in held:
            after = slots_of(part, variable)
            for name in slots.keys() & after.keys():
                _carry(slots[name], after[name], sources)
    # They were traced with the variables that are gone; Keras builds them again when they are needed.
    model.train_function = model.test_function = model.predict_function = None


def _carry(before: keras.Variable, after: keras.Variable, sources: np.ndarray) -> None:
    """Copy a slot: row by row if it has one entry for each row, else (a count, a mean) as a whole."""
    was, now = tuple(before.shape), tuple(after.shape)
    if now[:1] == (len(sources),) and now[1:] == was[1:]:
        copy_rows(before, after, sources)
    elif was == now:
        after.assign(keras.ops.convert_to_numpy(before))


def _find(model: keras.Model, layer: LayerRef) -> PretrainedEmbedding | CombinedEmbedding:
    found = match_layer(model, as_refs([layer], "layer", ArgumentError)[0])
    combined = isinstance(found, CombinedEmbedding)
    tables = found.sources if combined else [found]
    if not found.built or not all(isinstance(table, PretrainedEmbedding) for table in tables):
        raise ArgumentError(
            f"change_vocabulary takes a built layer from build_embedding or combine_embeddings. "
            f"Received: {type(found).__name__} {found.name!r}."
        )
    for _, other in walk(model):
        if isinstance(other, CombinedEmbedding) and any(source is found for source in other.sources):
            raise ArgumentError(
                f"Combined layers share their ids, so change_vocabulary can't change one of them alone: change the layer "
                f"that combines them. Received: {found.name!r}, which layer {other.name!r} combines."
            )
    return found


def _sources(before: Vocabulary, after: Vocabulary) -> np.ndarray:
    """For each id of `after` the id that its token had, or -1."""
    rules = [(each.padding_id, len(each.oov_ids), each.padding_side, each.drop_unknown) for each in (before, after)]
    if rules[0] != rules[1]:
        raise ArgumentError(
            f"Both vocabularies must have the same padding id and side, number of OOV ids, and way with unknown tokens "
            f"(before.extended(tokens) keeps them). Received: {before!r} before; {after!r} after."
        )
    sources = np.array([before.token_to_id.get(token, -1) for token in after.tokens], np.int64)
    sources[list(after.oov_ids)] = before.oov_ids
    if before.padding_id is not None:
        sources[before.padding_id] = before.padding_id
    return sources
