"""How far a run moved what it began with, as one number: of an embedding table, or of an encoder's weights."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from embkeras.drift.report import row_drift
from embkeras.encoders.low_rank import LowRankKernel
from embkeras.errors import UnknownLayerError
from embkeras.experiments.strategies import Strategy
from embkeras.keras_compat.variables import stock_kernel
from embkeras.serving.folding import embeddings_of
from embkeras.tables.addresses import match_layers, walk

_Arrays = dict[str, np.ndarray]


def layers_named(strategies: Iterable[Strategy]) -> tuple[str, ...]:
    """The layers that any of the strategies freezes or adds LoRA to, each once: those of an encoder."""
    return tuple(dict.fromkeys(name for each in strategies for name in (*each.freeze, *each.lora_layers)))


class Moved(keras.callbacks.Callback):
    """Keeps a copy of what training begins with, to measure afterwards how far it moved.

    Args:
        layers: names, paths or globs of an encoder's layers. Where the model has none but tables of these, its tables count.
    """

    def __init__(self, layers: Sequence[str] = ()):
        super().__init__()
        self._names, self._before = layers, _Arrays()

    def on_train_begin(self, logs: Any = None) -> None:
        """Copy them."""
        self._before = self._before or self._found()

    def drift(self) -> float:
        """How far they moved.

        Of tables the mean cosine distance (0 to 2) between the rows that moved and what they were. Of an encoder the length
        of the step of all its weights, over their length before; LoRA counts as what it adds to its kernels. NaN without
        either, or where `fit` has called no callback.
        """
        if not self._before:
            return math.nan
        after = self._found()
        if self._encoder():
            steps = sum(_squares(after[name] - before) for name, before in self._before.items())
            return math.sqrt(steps / (sum(map(_squares, self._before.values())) or math.nan))
        drifts = [row_drift(before, after[name]) for name, before in self._before.items()]
        distances = np.concatenate([each["cosine_distance"].to_numpy()[each["l2"].to_numpy() != 0] for each in drifts])
        return float(distances.mean()) if len(distances) else 0.0

    def _found(self) -> _Arrays:
        encoder = self._encoder()
        if encoder:
            return {f"{place}": array for place, array in enumerate(_weights_of(encoder))}
        return _tables_of(self.model)

    def _encoder(self) -> list[keras.layers.Layer]:
        """The layers of an encoder, or nothing."""
        found = []
        for name in self._names:
            try:
                found += match_layers(self.model, [name])
            except UnknownLayerError:  # of another strategy, whose model has other layers
                continue
        layers = list({id(each): each for each in found}.values())
        tables = {id(each) for each in embeddings_of(self.model).values()}
        return layers if any(each.weights and id(each) not in tables for each in layers) else []


def _tables_of(model: keras.Model) -> _Arrays:
    ours = embeddings_of(model)
    if ours:
        return {path: layer.matrix() for path, layer in ours.items()}
    stock = {path: layer for path, layer in walk(model) if isinstance(layer, keras.layers.Embedding) and layer.built}
    return {path: np.array(layer.embeddings, np.float32) for path, layer in stock.items()}


def _weights_of(layers: Iterable[keras.layers.Layer]) -> Iterator[np.ndarray]:
    """The weights of layers and of those inside, in a fixed order; a kernel with A @ B in it, without these."""
    inside = {id(each): each for layer in layers for each in (layer, *(inner for _, inner in walk(layer)))}
    tables = [each for each in inside.values() if isinstance(each, keras.layers.Embedding) and hasattr(each, "matrix")]
    adapted = [each for each in inside.values() if isinstance(each, LowRankKernel)]
    yield from (np.array(each.matrix()) for each in tables)
    yield from (np.array(each.kernel) for each in adapted)
    known = {id(weight) for each in tables for weight in each.weights}
    known |= {id(weight) for each in adapted for weight in (stock_kernel(each), each.low_rank.a, each.low_rank.b)}
    for layer in inside.values():
        for weight in layer.weights:
            if id(weight) not in known and keras.backend.is_float_dtype(weight.dtype):
                known.add(id(weight))
                yield np.array(weight)


def _squares(array: np.ndarray) -> float:
    return float(np.square(array, dtype=np.float64).sum())
