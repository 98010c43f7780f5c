"""Layers with other rows: for a vocabulary that grew or shrank, and room for more rows that train.

Private name used here: `_embeddings`, the variable of the stock layer.
"""

from dataclasses import dataclass

import keras
import numpy as np

from embkeras.errors import ArgumentError
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.partial_rows import RowEmbedding
from embkeras.tables.row_io import blocks, read_rows, write_rows
from embkeras.tables.takeover import fresh_like


@dataclass(frozen=True)
class Resized:
    """A fresh layer, and from which rows of which variable before each trainable variable of it comes (-1: new)."""

    layer: PretrainedEmbedding
    moves: list[tuple[keras.Variable, keras.Variable, np.ndarray]]


def resized(
    layer: PretrainedEmbedding,
    sources: np.ndarray,
    values: np.ndarray | None = None,
    trains: np.ndarray | None = None,
    room: int = 0,
) -> Resized:
    """A layer like this one with other rows.

    Args:
        layer: a built layer of ours.
        sources: for each id to be the id before, or -1.
        values: rows for the new ids, shape (len(sources), width); others are not read.
        trains: of a table of which only some rows train, which of the new ids join them.
        room: further rows that are to find room among those that train.

    Raises:
        ArgumentError: a quantized layer.
    """
    if layer.quantization_mode is not None:
        raise ArgumentError(f"A quantized table cannot take other rows: layer {layer.name!r}. Do it before quantize.")
    if isinstance(layer, RowEmbedding):
        return _resized_split(layer, sources, values, trains, room)
    fresh = fresh_like(layer, input_dim=len(sources))
    _copy_rows(layer._embeddings, fresh._embeddings, sources, values)
    if not layer.lora_enabled:
        return Resized(fresh, [(layer._embeddings, fresh._embeddings, sources)])
    a, b = layer.lora_embeddings_a, layer.lora_embeddings_b
    _copy_rows(a, fresh.lora_embeddings_a, sources, np.zeros((len(sources), layer.lora_rank), np.float32))
    fresh.lora_embeddings_b.assign(b)
    same = np.arange(layer.lora_rank)
    return Resized(fresh, [(a, fresh.lora_embeddings_a, sources), (b, fresh.lora_embeddings_b, same)])


def _resized_split(
    layer: RowEmbedding, sources: np.ndarray, values: np.ndarray | None, trains: np.ndarray | None, room: int
) -> Resized:
    places = _places_of_moving(layer, sources)
    joins = np.zeros(len(sources), bool) if trains is None else trains & (sources < 0)
    # Those that trained before keep their order, so that the same rows keep their places.
    ids = np.flatnonzero(places >= 0)
    ids = np.concatenate([ids[np.argsort(places[ids], kind="stable")], np.flatnonzero(joins)])
    free = layer.trainable_rows - int(layer.trainable_mask.sum())
    count = len(ids) + max(room, free)
    kept, row_of = _kept_rows(layer, sources)
    fresh = fresh_like(layer, input_dim=len(sources), trainable_rows=count, stored_rows=len(kept))
    if len(kept) < len(sources):
        fresh._base.share(row_of, kept)
        fresh._base.givers = None  # which id gave a row before is not known
    fresh._base.take(layer._base, sources[kept], values, kept)
    if not count:
        return Resized(fresh, [])
    every = np.full(len(sources), count, np.int32)
    every[ids] = np.arange(len(ids))
    fresh._places.assign(every)
    before = np.concatenate([places[ids], np.full(count + 1 - len(ids), -1)])
    rows = np.zeros((count + 1, layer.output_dim), np.float32)
    new = np.flatnonzero(before[: len(ids)] < 0)
    if len(new):
        rows[new] = values[ids[new]]
    if layer._moving is None:
        fresh._moving.assign(rows)
        return Resized(fresh, [])
    _copy_rows(layer._moving, fresh._moving, before, rows)
    return Resized(fresh, [(layer._moving, fresh._moving, before)])


def _places_of_moving(layer: RowEmbedding, sources: np.ndarray) -> np.ndarray:
    """For each id to be its place among the rows that train, or -1."""
    places = np.full(len(sources), -1)
    if layer.trainable_rows:
        known = np.flatnonzero(sources >= 0)
        places[known] = read_rows(layer._places, sources[known])
        places[places == layer.trainable_rows] = -1
    return places


def _kept_rows(layer: RowEmbedding, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The id that gives each row of the base to be, and the row of each id; without sharing, id and row are the same."""
    stored = layer._base.places_of(np.maximum(sources, 0))
    keys = np.where(sources >= 0, stored, layer.stored_rows + np.arange(len(sources)))
    kept, row_of = np.unique(keys, return_index=True, return_inverse=True)[1:]
    return (kept, row_of) if len(kept) < len(sources) else (np.arange(len(sources)), np.arange(len(sources)))


def _copy_rows(before: keras.Variable, after: keras.Variable, sources: np.ndarray, values: np.ndarray | None) -> None:
    """Write each row from its source, or from `values` where it has none."""
    for start, stop in blocks((len(sources), after.shape[1])):
        part, places = sources[start:stop], np.arange(start, stop)
        known, new = places[part >= 0], places[part < 0]
        write_rows(after, known, read_rows(before, part[part >= 0]))
        if len(new):
            write_rows(after, new, values[new])
