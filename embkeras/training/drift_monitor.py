"""DriftMonitor: drift measured as training goes."""

import warnings
import zlib
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras.drift.report import row_drift
from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.tables.addresses import LayerRef, as_refs, find_layers


class DriftMonitor(keras.callbacks.Callback):
    """Measure at the end of epochs how far an embedding table has moved since training began.

    Each measured epoch's logs get `<layer>_drift`: the mean cosine distance (0 to 2) between the rows that moved and
    themselves at the beginning. It costs one copy of the table, and one pass over it each time.

    Args:
        layer: name, path or layer; one with `.matrix()`, or a stock `keras.layers.Embedding`.
        every: epochs between two measurements.

    Attributes:
        table: DataFrame with `epoch`, `moved` (rows), `mean_cosine_distance`, `max_cosine_distance`, `mean_l2`.
        before: the table when training began, float32 of shape (V, D).

    Raises:
        ArgumentError: `every` is not an integer >= 1; when training begins, a layer without a table.
        UnknownLayerError: when training begins, a name that the model does not have.
    """

    def __init__(self, layer: LayerRef, *, every: int = 1):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ArgumentError(f"every must be a number of epochs: an integer >= 1. Received: {every!r}.")
        self.layer, self.every = layer, every
        self.before: np.ndarray | None = None
        self._for: keras.Model | None = None
        self._rows: list[dict[str, float]] = []
        self._checksum: int | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row a measured epoch."""
        columns = ["epoch", "moved", "mean_cosine_distance", "max_cosine_distance", "mean_l2"]
        return pd.DataFrame(self._rows, columns=columns)

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep a copy of the table, the first time that this model trains."""
        (self._layer,) = find_layers(self.model, as_refs(self.layer, "DriftMonitor"))
        if self.model is not self._for:
            self._for, self._rows = self.model, []
            self.before = _matrix_of(self._layer)
            self._checksum = zlib.crc32(self.before)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure, if it is time."""
        if (epoch + 1) % self.every:
            return
        drift = row_drift(self.before, _matrix_of(self._layer))
        distance, length = drift["cosine_distance"].to_numpy(), drift["l2"].to_numpy()
        moved = length != 0  # NaN, after a training that diverged, shows as NaN in every column
        some = bool(moved.any())
        row = {
            "epoch": epoch,
            "moved": int(moved.sum()),
            "mean_cosine_distance": float(distance[moved].mean()) if some else 0.0,
            "max_cosine_distance": float(distance.max()),
            "mean_l2": float(length[moved].mean()) if some else 0.0,
        }
        self._rows.append(row)
        if logs is not None:
            logs[f"{self._layer.name}_drift"] = row["mean_cosine_distance"]

    def state(self) -> dict[str, Any]:
        """The rows measured so far. Of the table at the beginning, which the script gives again, only a checksum."""
        return {"rows": [dict(row) for row in self._rows], "before": self._checksum}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Go on from what `state` gave. Training must have begun: `before` is the table that the script began with."""
        self._rows = [dict(row) for row in state["rows"]]
        if state["before"] != self._checksum:
            warnings.warn(
                f"DriftMonitor has measured up to here from another table than the one that layer {self._layer.name!r} "
                f"begins with now, from which it goes on. After an interrupt in a notebook, give fit the same "
                f"DriftMonitor, or make the model anew; in a script, fill the table alike in each run.",
                EmbkerasWarning,
                stacklevel=2,
            )


def _matrix_of(layer: keras.layers.Layer) -> np.ndarray:
    if not hasattr(layer, "matrix") and not isinstance(layer, keras.layers.Embedding):
        raise ArgumentError(f"DriftMonitor needs an embedding layer. Received: {type(layer).__name__} {layer.name!r}.")
    if not layer.built:
        raise ArgumentError(
            f"DriftMonitor needs a table to start from, and layer {layer.name!r} is not built yet: "
            f"give the model an Input, or call it once before fit."
        )
    if hasattr(layer, "matrix"):
        return layer.matrix()
    return np.array(keras.ops.convert_to_numpy(layer.embeddings), np.float32)
