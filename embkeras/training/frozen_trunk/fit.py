"""fit_on_frozen: `fit` that runs frozen layers once, and trains the rest on what they put out."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras import _checks
from embkeras._files import check_writable
from embkeras.errors import ArgumentError
from embkeras.keras_compat.arrays import batches_of, forget_validation, split_rows
from embkeras.keras_compat.graph import graph_of, run_by, set_mask
from embkeras.keras_compat.versions import check_versions
from embkeras.tables.addresses import walk
from embkeras.training.frozen_trunk.cut import Cut, find_cut, run_calls
from embkeras.training.frozen_trunk.kept import Kept, unpack
from embkeras.training.frozen_trunk.run_once import Settings, keep_outputs
from embkeras.training.rebuild import is_built
from embkeras.training.schedule.callback import TrainabilitySchedule
from embkeras.training.schedule.movement import checksum

_BATCH, _RECORDS = "embkeras batch", "embkeras records"
_TRAINING, _VALIDATION = "training", "validation"


def fit_on_frozen(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    keep: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    progress: bool | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
) -> keras.callbacks.History:
    """`model.fit`, except that frozen layers run once over the data, and not in every epoch.

    What the frozen layers nearest to the inputs put out for a row never changes. They run once, their outputs are kept
    on disk, and the layers above train on those. When an epoch begins and other layers are frozen than before (a
    `TrainabilitySchedule`, a `DriftMonitor`), the cut moves: the new frozen layers run once, or all layers run in every
    step as usual if none is frozen. One `fit` of your model does it all, so the optimizer, metrics, callbacks and History
    are those of `fit`, and the callbacks see the whole model: what they save, watch or restore is what `fit` would.

    The weights equal those of `model.fit` bit for bit for `dtype="float32"` on a CPU, with `keras.utils.set_random_seed`
    and without dropout below the cut. Otherwise they equal them to rounding (1e-5): on a GPU, with `jit_compile=True`, and
    where TensorFlow merges arithmetic across the cut (a gelu directly below a Dropout). Frozen layers run without dropout,
    where Keras would drop out in every step: a warning names them. A Dropout directly below a layer that trains stays.

    `keep` holds a folder for each combination of frozen layers, their weights, data and settings. The next call with the
    same ones reads it; a changed weight makes a new one, and nothing is removed. An interrupted run goes on after the
    rows that it has finished. The code of your own layers isn't compared: after a change, delete the folder.

    Validation data in arrays are kept as well; others (a Dataset) run through the whole model.

    Args:
        model: compiled; functional, or Sequential with an Input. A nested model is one layer: the cut is below it
            unless all of it is frozen.
        x: arrays of n rows, or a dictionary or list of arrays, as for `fit`.
        y: targets, as for `fit`.
        keep: a folder for the outputs; None for a temporary one that is removed at the end.
        dtype: "float32" keeps outputs as they are; "float16" takes half the space, and `history.frozen` has the largest
            difference.
        progress: whether to show a progress bar while frozen layers run.
        batch_size: as for `fit`, like all further arguments.
        epochs: as for `fit`.
        verbose: as for `fit`; unless it is 0, a line says beforehand what will run once, and the disk space and time.
        callbacks: as for `fit`.
        validation_split: as for `fit`.
        validation_data: as for `fit`.
        shuffle: as for `fit`.
        class_weight: as for `fit`.
        sample_weight: as for `fit`.
        initial_epoch: as for `fit`.
        validation_steps: as for `fit`.
        validation_batch_size: as for `fit`.
        validation_freq: as for `fit`.

    Returns:
        The History of `fit`. Its attribute `frozen` is a list with a dictionary for each time that frozen layers were
        run or found: `epoch`, `data` ("training" or "validation"), `layers`, `rows`, `computed` (rows that weren't kept
        already), `bytes`, `seconds`, `dropping` (layers that would drop out in `fit`), `difference` and `folder`.

    Raises:
        ArgumentError: a model without a graph or with a train step of its own, that is not compiled, or on several
            replicas; no frozen layer below what trains; frozen layers that change or add to the loss in every step; data
            that are not arrays.
        OutputError: `keep` can't be written, or has too little room.

    Examples:
        >>> inputs = keras.Input((3,))
        >>> hidden = keras.layers.Dense(4, trainable=False, name="frozen")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
        >>> model.compile("adam", loss="mse")
        >>> history = fit_on_frozen(model, np.ones((8, 3)), np.zeros((8, 1)), epochs=2, verbose=0)
        >>> [each["layers"] for each in history.frozen]
        [['frozen']]
    """
    check_versions()
    graph = _check_model(model)
    given = _checked_callbacks(callbacks)
    _checks.one_of(dtype, "dtype", ("float32", "float16"))
    batch_size = 32 if batch_size is None else _checks.whole_number(batch_size, "batch_size", least=1)
    if validation_batch_size is not None:
        validation_batch_size = _checks.whole_number(validation_batch_size, "validation_batch_size", least=1)
    _check_arrays(x, "x")
    if validation_split and validation_data is None:
        (x, y, sample_weight), validation_data = split_rows((x, y, sample_weight), validation_split)
    folder = None if keep is None else _checks.path(keep, "keep")
    if folder is not None:
        check_writable(folder)
    with contextlib.ExitStack() as stack:
        where = folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="embkeras-", ignore_cleanup_errors=True))
        )
        trunk = _Trunk(
            model,
            graph,
            where,
            dtype=dtype,
            bar=None if progress is None else _checks.flag(progress, "progress"),
            say=print if verbose else _nothing,
            must_be_frozen_at=None if _freezes_later(given) else initial_epoch,
        )
        data = trunk.batches(_TRAINING, x, y, sample_weight, batch_size, shuffle, class_weight)
        if _are_arrays(validation_data):
            held_x, held_y, held_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
            size = validation_batch_size or batch_size
            validation_data = trunk.batches(_VALIDATION, held_x, held_y, held_weight, size, False, None)
        stack.enter_context(trunk.steps_replaced())
        history = model.fit(
            data,
            epochs=epochs,
            verbose=verbose,
            shuffle=False,  # the batches are shuffled already
            callbacks=[*given, trunk],
            validation_data=validation_data,
            initial_epoch=initial_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )
    history.frozen = trunk.passes
    return history


class _Trunk(keras.callbacks.Callback):
    """The last callback of the fit: when all others have begun an epoch, it knows what is frozen in it."""

    def __init__(
        self,
        model: keras.Model,
        graph: Any,
        folder: Path,
        *,
        dtype: str,
        bar: bool | None,
        say: Callable[[str], None],
        must_be_frozen_at: int | None,
    ):
        super().__init__()
        self.passes: list[dict[str, Any]] = []
        self._trained, self._graph, self._folder, self._dtype = model, graph, folder, dtype
        self._bar, self._say, self._must_be_frozen_at = bar, say, must_be_frozen_at
        self._arrays: dict[str, tuple[Any, int]] = {}
        self._cut: Cut | None = None
        self._checksums: list[int] = []
        self._kept: dict[str, Kept] = {}

    def batches(
        self, part: str, x: Any, y: Any, sample_weight: Any, batch_size: int, shuffle: Any, class_weight: Any
    ) -> tf.data.Dataset:
        """The batches that `fit` would make, each with the records of its rows, if there are any in that epoch.

        The form of a batch is the same in all epochs: what a record consists of is known when the step is traced.
        """
        _check_arrays(x, f"x of the {part} data")
        count = len(keras.tree.flatten(x)[0])
        self._arrays[part] = x, batch_size
        numbered = {"x": x, "rows": np.arange(count)}
        dataset = batches_of(
            numbered, y, sample_weight, batch_size=batch_size, shuffle=shuffle, class_weight=class_weight
        )

        def records(rows: np.ndarray) -> np.ndarray:
            return self._kept[part].records(rows) if part in self._kept else np.empty((len(rows), 0), np.uint8)

        def opened(*element: Any) -> dict[str, Any]:
            numbered, y, weight = keras.utils.unpack_x_y_sample_weight(element if len(element) > 1 else element[0])
            found = tf.numpy_function(records, [numbered["rows"]], tf.uint8, stateful=False)
            found.set_shape((numbered["rows"].shape[0], None))
            return {_BATCH: keras.utils.pack_x_y_sample_weight(numbered["x"], y, weight), _RECORDS: found}

        known = tf.data.experimental.assert_cardinality(-(-count // batch_size))
        return dataset.map(opened).prefetch(2).apply(known)

    @contextlib.contextmanager
    def steps_replaced(self) -> Iterator[None]:
        """Let the model's own steps take these batches, and leave the model as it was at the end."""
        model = self._trained
        train_step, test_step = model.train_step, model.test_step
        model.train_step = lambda data: self._step(train_step, _TRAINING, data)
        model.test_step = lambda data: self._step(test_step, _VALIDATION, data)
        model.train_function = model.test_function = None
        try:
            yield
        finally:
            vars(model).pop("train_step", None)
            vars(model).pop("test_step", None)
            model.train_function = model.test_function = None
            forget_validation(model)

    def _step(self, step: Callable[[Any], Any], part: str, data: Any) -> Any:
        """One step of the model, of which only the upper part runs where records are kept."""
        if not (isinstance(data, dict) and set(data) == {_BATCH, _RECORDS}):
            return step(data)  # evaluate() with data of a callback's own
        batch, kept, cut = data[_BATCH], self._kept.get(part), self._cut
        if kept is None or cut is None or not cut.holds_for(self._trained):
            return step(batch)

        def run(inputs: Any, operation_fn: Callable[..., Any]) -> Any:
            values = dict(zip(map(id, self._graph.inputs), inputs, strict=True))
            for tensor, (value, mask) in zip(cut.crossing, unpack(data[_RECORDS], kept.slots), strict=True):
                value.set_shape([None, *tensor.shape[1:]])
                if mask is not None:
                    set_mask(value, mask)
                values[id(tensor)] = value
            values = run_calls(cut.above, values, operation_fn)
            return keras.tree.pack_sequence_as(
                self._graph.output, [values[id(tensor)] for tensor in self._graph.outputs]
            )

        with run_by(self._graph, run):
            return step(batch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Cut where this epoch can be cut, and run what is frozen unless that is kept."""
        cut = find_cut(self._trained, self._graph)
        if cut is None and epoch == self._must_be_frozen_at:
            raise ArgumentError(_why_no_cut(self._trained, epoch))
        checksums = [checksum(weight) for weight in cut.weights] if cut else []
        if self._cut is None and cut is None:
            return
        if cut is not None and cut.same_place(self._cut) and checksums == self._checksums:
            return
        self._cut, self._checksums, self._kept = cut, checksums, {}
        if cut is not None:
            self._run_once(cut, epoch)
        self._trace_again()

    def on_test_begin(self, logs: Any = None) -> None:
        """Validate with all layers if something has unfrozen one of those below within the epoch."""
        if self._cut is not None and not self._cut.holds_for(self._trained):
            self._cut, self._kept = None, {}
            self._trained.make_test_function(force=True)

    def _run_once(self, cut: Cut, epoch: int) -> None:
        for part, (x, batch_size) in self._arrays.items():
            settings = Settings(self._folder, self._dtype, batch_size, self._bar, self._say)
            self._kept[part], what = keep_outputs(self._trained, self._graph, cut, x, settings)
            self.passes.append({"epoch": epoch, "data": part, **asdict(what)})
            if what.difference:
                self._say(f"Kept in float16: values differ by up to {what.difference:.2g}")

    def _trace_again(self) -> None:
        self._trained.make_train_function(force=True)
        self._trained.make_test_function(force=True)

    def state(self) -> dict[str, Any]:
        """Nothing: what is frozen says where to cut, and the records are on disk."""
        return {}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def _nothing(line: str) -> None:
    """Print nothing."""


def _check_model(model: Any) -> Any:
    """The model's graph, after refusing a model that can't be cut."""
    if not isinstance(model, keras.Model):
        raise ArgumentError(f"fit_on_frozen trains a Keras model. Received: {_checks.shown(model)}.")
    graph = graph_of(model) if is_built(model) else None
    if graph is None:
        raise ArgumentError(
            f"fit_on_frozen needs a functional model, or a Sequential one with an Input: model {model.name!r} "
            f"({type(model).__name__}) has no graph that could be cut above its frozen layers. Use model.fit, or build "
            f"it as keras.Model(inputs, outputs)."
        )
    if not model.compiled:
        raise ArgumentError(f"Model {model.name!r} is not compiled: call model.compile(...) before fit_on_frozen.")
    own = [name for name in ("train_step", "test_step") if getattr(type(model), name) is not getattr(keras.Model, name)]
    if own:
        raise ArgumentError(
            f"fit_on_frozen calls only a part of the model in each step, which the {own[0]} of {type(model).__name__} "
            f"can't know of. Use model.fit. Received: model {model.name!r}."
        )
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise ArgumentError(
            f"fit_on_frozen trains on one replica. Received: model {model.name!r} on {replicas}. Use model.fit."
        )
    return graph


def _checked_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    given = [] if callbacks is None else [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
    if not isinstance(given, list | tuple) or not all(isinstance(each, keras.callbacks.Callback) for each in given):
        raise ArgumentError(f"callbacks must be a list of callbacks. Received: {_checks.shown(callbacks)}.")
    return list(given)


def _are_arrays(data: Any) -> bool:
    if data is None or isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return False
    leaves = keras.tree.flatten(data)
    return all(each is None or len(getattr(each, "shape", ())) > 0 for each in leaves)


def _check_arrays(x: Any, name: str) -> None:
    if x is None or not _are_arrays(x):
        raise ArgumentError(
            f"fit_on_frozen finds the kept outputs of a row by its number, and shuffles itself, so {name} must be arrays (or a "
            f"dictionary or list of arrays). Received: {_checks.shown(x)}. Of batches (x, y) that end and have one shape, such "
            f"as those of a Dataset, make arrays by x, y = map(np.concatenate, zip(*batches))."
        )
    lengths = sorted({len(each) for each in keras.tree.flatten(x)})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ArgumentError(
            f"{name} must be arrays of the same number of rows, at least one. Received: {lengths} rows."
        )


def _freezes_later(callbacks: Sequence[keras.callbacks.Callback]) -> bool:
    """Whether a schedule freezes something in a phase that isn't its first."""
    schedules = [each for each in callbacks if isinstance(each, TrainabilitySchedule)]
    return any(phase.freeze or phase.train is not None for each in schedules for phase in each.phases[1:])


def _why_no_cut(model: keras.Model, epoch: int) -> str:
    trains = {id(variable) for variable in model.trainable_variables}
    if not trains:
        return f"Nothing in model {model.name!r} trains in epoch {epoch} (counted from 0). Unfreeze what should train."
    training = [layer for layer in model.layers if any(id(weight) in trains for weight in layer.weights)]
    why = (
        f"fit_on_frozen found no layer with weights that is frozen below everything that trains, in epoch {epoch} "
        f"(counted from 0) of model {model.name!r}; layers that train: {', '.join(layer.name for layer in training)}. Freeze "
        f"the layers nearest to the inputs (layer.trainable = False, or a schedule such as unfreeze_at), or use model.fit."
    )
    partly = [layer for layer in training if any(inner.weights and not inner.trainable for _, inner in walk(layer))]
    if partly:
        how = " (of a nested model, build on its input and output: keras.Model(inner.input, head(inner.output)))"
        why += (
            f" Frozen in part: {', '.join(layer.name for layer in partly)}. A layer with layers inside counts as one: freeze "
            f"all of it, or put its layers into the model itself{how if _has_model(partly) else ''}."
        )
    return why


def _has_model(layers: Sequence[keras.layers.Layer]) -> bool:
    return any(isinstance(layer, keras.Model) for layer in layers)
