"""DriftMonitor: how far a table moves during training, and what happens when it has moved too far."""

import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from embkeras._checks import number, one_of, whole_number
from embkeras._checks import path as checked_path
from embkeras._files import check_writable, written_beside
from embkeras.drift.report import row_drift
from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.keras_compat.versions import check_versions
from embkeras.tables.addresses import LayerRef, as_refs, layer_path, match_layer, walk
from embkeras.training.change_vocabulary import vocabulary_changes
from embkeras.training.rebuild import rebuild_training

COLUMNS = ["epoch", "moved", "mean_cosine_distance", "max_cosine_distance", "mean_l2"]


class DriftMonitor(keras.callbacks.Callback):
    """Measure at the end of epochs how far an embedding table has moved since training began.

    Each measured epoch's logs get `drift/<layer>`: the mean cosine distance (0 to 2) between the rows that moved and
    their values at the beginning. If several layers of the model have the same name, it is the layer's path:
    "drift/q/embedding". A measurement costs one pass over the table, and the monitor keeps one copy of it.

    At a bound, it ends the training, or freezes the layer from the next epoch on; a schedule that would unfreeze it again
    doesn't. A table with NaN is beyond every bound. Put a monitor after the schedules in the list of callbacks.

    After `change_vocabulary`, tokens that stay are still compared with their values at the beginning, whatever their ids
    are now, and new tokens with their values when the next `fit` begins.

    Args:
        layer: name, path, glob that matches one layer, or layer; one with `.matrix()`, or a stock
            `keras.layers.Embedding`.
        every: epochs between two measurements.
        bound: mean cosine distance, above 0, at which to act; None for never.
        at_bound: "stop" ends the training, "freeze" freezes the layer.
        snapshots: a folder for the table at each measurement, as LAYER-EPOCH.npy: float32 of shape (V, D).

    Attributes:
        table: DataFrame with `epoch`, `moved` (rows), `mean_cosine_distance`, `max_cosine_distance`, `mean_l2`.
        before: the table when training began, float32 of shape (V, D).
        bound_reached: the first epoch at whose end the drift was at the bound or beyond; None so far.
        snapshots: measured epoch -> its file, of those that exist.

    Raises:
        ArgumentError: `layer` doesn't name a layer, `every` is not an integer >= 1, or an invalid bound; when training
            begins, a layer without a table, or whose table has another shape than in the last fit.
        UnknownLayerError: when training begins, a name that the model doesn't have, or that several layers have.
        OutputError: `snapshots` can't be written.
    """

    def __init__(
        self,
        layer: LayerRef,
        *,
        every: int = 1,
        bound: float | None = None,
        at_bound: str = "stop",
        snapshots: str | os.PathLike[str] | None = None,
    ):
        super().__init__()
        as_refs([layer], "layer", ArgumentError)
        self.layer, self.every = layer, whole_number(every, "every", least=1)
        self.bound = None if bound is None else number(bound, "bound", above=0, most=2)
        self.at_bound = one_of(at_bound, "at_bound", ("stop", "freeze"))
        self._folder = None if snapshots is None else checked_path(snapshots, "snapshots")
        self.before: np.ndarray | None = None
        self.bound_reached: int | None = None
        self._for: keras.Model | None = None
        self._rows: list[dict[str, float]] = []
        self._changes = 0  # changes of the vocabulary that `before` has followed
        self._checksum: int | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row for each measured epoch."""
        return pd.DataFrame(self._rows, columns=COLUMNS)

    @property
    def snapshots(self) -> dict[int, Path]:
        """The file of each measured epoch, of those that exist."""
        files = {row["epoch"]: self._file(int(row["epoch"])) for row in self._rows} if self._folder is not None else {}
        return {int(epoch): file for epoch, file in files.items() if file.exists()}

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep a copy of the table, the first time that this model trains."""
        check_versions()
        model = self.model
        self._layer = match_layer(model, self.layer)
        namesakes = {id(layer) for _, layer in walk(model) if layer.name == self._layer.name}
        name = self._layer.name if len(namesakes) == 1 else layer_path(model, self._layer)
        self._key = f"drift/{name}"
        if self._folder is not None:
            check_writable(self._folder)
        table = _matrix_of(self._layer)
        changes = vocabulary_changes(self._layer)
        if self.before is None or model is not self._for:
            self._for, self._rows, self.before, self.bound_reached = model, [], table, None
        else:
            self.before = _follow(self.before, changes[self._changes :], table, self._layer.name)
        self._changes, self._checksum = len(changes), zlib.crc32(np.ascontiguousarray(self.before).data)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure, if it is time."""
        if (epoch + 1) % self.every or self.before is None:
            return
        table = _matrix_of(self._layer)
        drift = row_drift(self.before, table)
        distance, length = drift["cosine_distance"].to_numpy(), drift["l2"].to_numpy()
        moved = length != 0  # NaN, after training has diverged, shows as NaN in every column
        row = {
            "epoch": epoch,
            "moved": int(moved.sum()),
            "mean_cosine_distance": float(distance[moved].mean()) if moved.any() else 0.0,
            "max_cosine_distance": float(distance.max()),
            "mean_l2": float(length[moved].mean()) if moved.any() else 0.0,
        }
        self._rows.append(row)
        if logs is not None:
            logs[self._key] = row["mean_cosine_distance"]
        if self._folder is not None:
            with written_beside(self._file(epoch)) as beside, beside.open("wb") as file:
                np.save(file, table)
        if self.bound is not None and not row["mean_cosine_distance"] < self.bound:
            self._act(epoch, row["mean_cosine_distance"])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Freeze the layer again, if something has unfrozen it since the bound was reached."""
        if self.bound_reached is not None and self.at_bound == "freeze" and self._layer.trainable:
            self._freeze()

    def _act(self, epoch: int, drift: float) -> None:
        if self.bound_reached is None:
            self.bound_reached = epoch
            what = "training stops" if self.at_bound == "stop" else "it is frozen from here on"
            if self.params.get("verbose"):
                print(f"\nLayer {self._layer.name!r} has drifted by {drift:.4g}, bound {self.bound:g}: {what}")
        if self.at_bound == "stop":
            self.model.stop_training = True
        elif self._layer.trainable:
            self._freeze()

    def _freeze(self) -> None:
        self._layer.trainable = False
        rebuild_training(self.model)

    def _file(self, epoch: int) -> Path:
        name = self._key.removeprefix("drift/").replace("/", ".")
        return (self._folder or Path()) / f"{name}-{epoch:04d}.npy"

    def state(self) -> dict[str, Any]:
        """The rows measured so far, when the bound was reached, and a checksum of the table at the beginning."""
        rows = [dict(row) for row in self._rows]
        return {"rows": rows, "before": self._checksum, "bound_reached": self.bound_reached}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Continue from a `state`. Training must have begun: `before` is the table that the script began with."""
        self._rows = [dict(row) for row in state["rows"]]
        self.bound_reached = state.get("bound_reached")
        if self.bound_reached is not None and self.at_bound == "freeze" and self._layer.trainable:
            self._freeze()
        if state["before"] != self._checksum:
            warnings.warn(
                f"So far, DriftMonitor measured layer {self._layer.name!r} from another table than the one it has now; "
                f"from here on it measures from this one. After an interrupt in a notebook, give fit the same "
                f"DriftMonitor, or build the model again; in a script, fill the table the same way in each run.",
                EmbkerasWarning,
                stacklevel=2,
            )


def _follow(before: np.ndarray, changes: list[np.ndarray], table: np.ndarray, name: str) -> np.ndarray:
    """The table at the beginning under the ids of `table`, whose own rows stay for new tokens only."""
    ids = np.arange(len(before))
    for sources in changes:
        ids = np.where(sources >= 0, ids[sources], -1)
    if (len(ids), before.shape[1]) != table.shape:
        raise ArgumentError(
            f"DriftMonitor began with a table of {len(ids):,} x {before.shape[1]} in layer {name!r}, which is now "
            f"{table.shape[0]:,} x {table.shape[1]}: continue with a new DriftMonitor."
        )
    if not changes:
        return before
    known = ids >= 0
    table[known] = before[ids[known]]
    return table


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
