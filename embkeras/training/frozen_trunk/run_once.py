"""One pass of the layers below a cut over the data, kept on disk; what is there already is not computed again."""

import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._progress import progress
from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError
from embkeras.keras_compat.arrays import batches_of
from embkeras.keras_compat.graph import mask_of, run_by
from embkeras.training.frozen_trunk.cut import Cut, dropping, run_calls
from embkeras.training.frozen_trunk.fingerprint import fingerprint
from embkeras.training.frozen_trunk.kept import Kept, pack, slots_of

_PART_BYTES, _PART_SECONDS = 64 << 20, 20.0  # a file of kept rows is complete when it has one or took the other

Outputs = list[tuple[tf.Tensor, tf.Tensor | None]]  # a value for each tensor that crosses the cut, and its mask


@dataclass(frozen=True)
class Settings:
    """How outputs are kept.

    Attributes:
        folder: for all passes.
        dtype: "float32" for values as they are, or "float16".
        batch_size: rows in a batch of the pass: the same as in training, because rounding may depend on it.
        bar: whether to show a progress bar; None leaves it to the caller's surroundings.
        say: prints a line, or doesn't.
    """

    folder: Path
    dtype: str
    batch_size: int
    bar: bool | None
    say: Callable[[str], None]


@dataclass
class Pass:
    """What one pass did.

    Attributes:
        layers: names of the layers that ran, from the input on.
        rows: of the data.
        computed: rows that ran now; the others were kept already.
        bytes: on disk, of all rows.
        seconds: of the pass.
        dropping: layers that would have dropped something out in `fit`, and didn't.
        difference: the largest difference between an output and what is kept of it: 0 unless stored in float16.
        folder: where the outputs are.
    """

    layers: list[str]
    rows: int
    computed: int
    bytes: int
    seconds: float
    dropping: list[str]
    difference: float
    folder: str


def keep_outputs(model: keras.Model, graph: Any, cut: Cut, x: Any, settings: Settings) -> tuple[Kept, Pass]:
    """Run the layers below a cut over arrays, unless that is kept, and keep what they put out.

    Raises:
        ArgumentError: a layer below that changes in training or adds a loss.
        OutputError: no room, or a folder that can't be written.
    """
    began = time.monotonic()
    count = len(keras.tree.flatten(x)[0])
    batch_size = min(settings.batch_size, count)
    mode = {"dtype": settings.dtype, "batch_size": batch_size, "jit": bool(model.jit_compile)}
    folder = settings.folder / fingerprint(cut, x, mode)
    kept = Kept.found(folder)
    before = kept.done if kept is not None else 0
    if kept is None or before < count:
        kept = _run(model, graph, cut, batches_of({"x": x}, batch_size=batch_size), count, folder, settings)
    if kept.dropping:
        warnings.warn(
            f"Frozen layers of model {model.name!r} drop nothing out in fit_on_frozen, as they would in model.fit: "
            f"{', '.join(kept.dropping)}. The outputs of a row are the same in every epoch.",
            EmbkerasWarning,
            stacklevel=2,
        )
    size = count * kept.row_size
    names = [layer.name for layer in cut.layers]
    seconds = time.monotonic() - began
    return kept, Pass(names, count, count - before, size, seconds, kept.dropping, kept.difference, str(folder))


def _run(
    model: keras.Model, graph: Any, cut: Cut, batches: tf.data.Dataset, count: int, folder: Path, settings: Settings
) -> Kept:
    """Run the rows that are missing in a folder."""
    outputs = _outputs_function(model, graph, cut)
    probe = _Probe(model, cut, outputs, _compiled(outputs, model, batches), next(iter(batches))["x"])
    kept = Kept.found(folder) or Kept(folder, slots_of(probe.outputs, settings.dtype), count, probe.dropping)
    probe.announce(kept, settings)
    _check_room(kept)
    _fill(kept, probe.compiled, batches, min(settings.batch_size, count), settings)
    return kept


def _outputs_function(model: keras.Model, graph: Any, cut: Cut) -> Callable[..., Outputs]:
    """A function of a batch and `training` that runs the model's call, but only below the cut."""

    def outputs(batch: Any, training: bool) -> Outputs:
        found: Outputs = []

        def run(inputs: Any, operation_fn: Callable[..., Any]) -> list[Any]:
            known = dict(zip(map(id, graph.inputs), inputs, strict=True))
            values = run_calls(cut.below, known, operation_fn)
            found.extend((values[id(tensor)], mask_of(values[id(tensor)])) for tensor in cut.crossing)
            return [value for value, _ in found]

        with run_by(graph, run):
            model(batch, training=training)
        adding = [layer.name for layer in cut.layers if layer.losses]
        if adding:
            raise ArgumentError(
                f"fit_on_frozen can't run frozen layers once that add to the loss in every step: {', '.join(adding)} of "
                f"model {model.name!r}. Take the penalty (add_loss) out of them, or use model.fit."
            )
        return found

    return outputs


def _compiled(
    outputs: Callable[..., Outputs], model: keras.Model, batches: tf.data.Dataset
) -> Callable[[Any], Outputs]:
    """The same without training, compiled as the model's steps are, for batches of any number of rows."""
    if model.run_eagerly:
        return lambda batch: outputs(batch, False)
    spec = batches.element_spec["x"]  # shapes as known as in the model's steps: TensorFlow optimizes by them
    return tf.function(
        lambda batch: outputs(batch, False), [spec], jit_compile=bool(model.jit_compile), autograph=False
    )


class _Probe:
    """The first batch, run to learn what the outputs are, how long they take, and what training would change."""

    def __init__(
        self,
        model: keras.Model,
        cut: Cut,
        outputs: Callable[..., Outputs],
        compiled: Callable[[Any], Outputs],
        batch: Any,
    ):
        self.compiled, self.outputs = compiled, compiled(batch)
        self._rows = len(keras.tree.flatten(batch)[0])
        for value, mask in self.outputs:
            if any(each is not None and (not each.shape or each.shape[0] != self._rows) for each in (value, mask)):
                raise ArgumentError(
                    f"fit_on_frozen keeps a row of outputs for each row of data, and a frozen layer of model "
                    f"{model.name!r} makes {value.shape[0] if value.shape else 'a single'} of {self._rows}: one of "
                    f"{', '.join(layer.name for layer in cut.layers)}. Leave it out of what is frozen, or use model.fit."
                )
        began = time.perf_counter()
        compiled(batch)
        self._seconds = time.perf_counter() - began
        self._below = cut.layers
        self.dropping = self._differences_in_training(model, cut, outputs, batch)

    def _differences_in_training(
        self, model: keras.Model, cut: Cut, outputs: Callable[..., Outputs], batch: Any
    ) -> list[str]:
        """Names of the layers that put out something else in training, after refusing those that change themselves."""
        variables = {id(each): each for layer in cut.layers for each in layer.variables}.values()
        before = [np.array(keras.ops.convert_to_numpy(each)) for each in variables if not _is_large(each)]
        in_training = outputs(batch, True)
        weights = {id(weight) for weight in cut.weights}
        changed = []
        for variable, value in zip((each for each in variables if not _is_large(each)), before, strict=True):
            if not np.array_equal(value, keras.ops.convert_to_numpy(variable), equal_nan=value.dtype.kind == "f"):
                variable.assign(value)
                changed += [variable.path] if id(variable) in weights else []
        if changed:
            raise ArgumentError(
                f"fit_on_frozen can't run a frozen layer once that changes its weights in every step of training, "
                f"although they are frozen: {', '.join(changed)} of model {model.name!r}. Use model.fit."
            )
        pairs = zip(self.outputs, in_training, strict=True)
        if all(_close(one[0].numpy(), other[0].numpy()) for one, other in pairs):
            return []
        return dropping(cut.layers) or [layer.name for layer in cut.layers]

    def announce(self, kept: Kept, settings: Settings) -> None:
        """Say what will be run, what it takes, and what is left out."""
        left = kept.count - kept.done
        first, last = self._below[0].name, self._below[-1].name
        settings.say(
            f"Frozen layers {first!r} to {last!r} run once over {left:,} rows: {_size(left * kept.row_size)} in "
            f"{str(kept.folder)!r}, about {self._seconds * left / self._rows:.1f} s"
            + (f"; {kept.done:,} rows are kept from before" if kept.done else "")
        )


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal but for rounding, which differs between a compiled function and an eager call."""
    if one.dtype.kind in "biu":
        return np.array_equal(one, other)
    first, second = one.astype(np.float64), other.astype(np.float64)
    rounding = 1e-4 if one.dtype.itemsize > 2 else 1e-2
    return np.allclose(
        first, second, rtol=rounding, atol=rounding * float(np.max(np.abs(first), initial=0.0)), equal_nan=True
    )


def _is_large(variable: keras.Variable) -> bool:
    """Whether it is a matrix of a size that no layer updates by itself in training: copying it would cost too much."""
    return len(variable.shape) > 1 and int(np.prod(variable.shape)) > 1 << 24


def _check_room(kept: Kept) -> None:
    kept.describe()  # makes the folder, or says why it can't be written
    needed, free = (kept.count - kept.done) * kept.row_size, shutil.disk_usage(kept.folder).free
    if needed > free:
        raise OutputError(
            f"The outputs of the frozen layers take {_size(needed)}, and {str(kept.folder)!r} has room for {_size(free)}. "
            f"Pass another folder as keep, dtype='float16', or freeze up to a layer with smaller outputs."
        )


def _fill(kept: Kept, outputs: Callable[[Any], Outputs], batches: Any, batch_size: int, settings: Settings) -> None:
    """Run the rows that are missing. Files end at the ends of batches, so that each row runs in the same batch."""
    waiting: list[np.ndarray] = []
    began = time.monotonic()
    with progress("running the frozen layers once", settings.bar) as report:
        for batch in batches.skip(kept.done // batch_size):
            records, difference = pack(outputs(batch["x"]), kept.slots)
            if not np.isfinite(difference):
                raise ArgumentError(
                    f"An output of the frozen layers is too large for float16 or not a number, in rows "
                    f"{kept.done + sum(map(len, waiting)):,} to {kept.done + sum(map(len, waiting)) + len(records) - 1:,}. "
                    f"Keep the outputs as they are: dtype='float32'."
                )
            kept.difference = max(kept.difference, difference)
            waiting.append(records)
            rows = sum(map(len, waiting))
            report(kept.done + rows, kept.count)
            full = rows * kept.row_size >= _PART_BYTES or time.monotonic() - began >= _PART_SECONDS
            if full or kept.done + rows == kept.count:
                kept.add(waiting)
                waiting, began = [], time.monotonic()


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
