"""The order of the data as a function of the epoch, and what in the data of a fit is none.

A resumed run begins in the middle. It sees the batches of the uninterrupted run only if those of epoch k do not depend
on the epochs before it. `EpochOrder` makes such data; `doubts` looks for what breaks it.

Private names used here: `_inputs`, `_functions`, `_reshuffle_each_iteration`, `_seed` and `_seed2` of tf.data's
datasets, and the names of its classes. `tests/training/state/test_data_order.py` fails when one of them goes.
"""

import types
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from embkeras.keras_compat.fit import FitContext

_DRAWS = {"Multinomial", "ParameterizedTruncatedNormal", "RandomGammaV2", "RandomPoissonV2", "RandomShuffle"}
_DRAWS |= {"RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal"}
_CHANGES_A_VARIABLE = {"AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp", "RngReadAndSkip", "RngSkip"}


class EpochOrder:
    """Datasets that are shuffled anew in each epoch, by a seed and the number of the epoch alone."""

    def __init__(self):
        self._epoch: tf.Variable | None = None
        self.made: dict[int, tuple[tf.data.Dataset, tf.data.Dataset | None]] = {}

    def begin(self, epoch: int) -> None:
        """Let iterators that are asked for their first element from now on give the order of `epoch`."""
        if self._epoch is not None:
            self._epoch.assign(epoch)

    def shuffle(self, dataset: tf.data.Dataset, buffer_size: int, seed: int) -> tf.data.Dataset:
        """`dataset.shuffle(buffer_size)`, by seed and epoch."""
        epoch = self._variable()

        def shuffled(_):
            if not tf.executing_eagerly():  # of this function only: else the order would change with the global seed
                tf.compat.v1.set_random_seed(1)
            drawn = tf.random.stateless_uniform([], _seeds(seed, epoch), 1, 2**31 - 1, tf.int64)
            return dataset.shuffle(buffer_size, drawn, reshuffle_each_iteration=False)

        return self._keep(tf.data.Dataset.range(1).flat_map(shuffled), dataset.cardinality(), dataset)

    def batches(self, arrays: Any, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches of rows of arrays that are equally long, by seed and epoch."""
        epoch = self._variable()
        arrays = tf.nest.map_structure(tf.convert_to_tensor, arrays)
        count = int(tf.nest.flatten(arrays)[0].shape[0])

        def order(_):
            rows = tf.random.experimental.stateless_shuffle(tf.range(count), _seeds(seed, epoch))
            return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)

        def pick(rows):
            return tf.nest.map_structure(lambda array: tf.gather(array, rows), arrays)

        picked = tf.data.Dataset.range(1).flat_map(order).map(pick, num_parallel_calls=tf.data.AUTOTUNE)
        return self._keep(picked.prefetch(tf.data.AUTOTUNE), -(-count // batch_size), None)

    def _variable(self) -> tf.Variable:
        if self._epoch is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
        return self._epoch

    def _keep(self, made: tf.data.Dataset, cardinality: Any, source: tf.data.Dataset | None) -> tf.data.Dataset:
        if int(cardinality) != tf.data.UNKNOWN_CARDINALITY:  # flat_map does not know it, and Keras shows it
            made = made.apply(tf.data.experimental.assert_cardinality(cardinality))
        self.made[id(made)] = (made, source)
        return made


def _seeds(seed: int, epoch: tf.Variable) -> tf.Tensor:
    return tf.stack([tf.constant(seed, tf.int64), epoch.read_value()])


def doubts(context: FitContext, order: EpochOrder) -> list[str]:
    """What in the data of a fit lets a resumed run see other batches, as far as it can be told from outside.

    It cannot be told of what Python code does: `tf.py_function`, `Dataset.from_generator`, `PyDataset.__getitem__`.
    """
    found = [*_of_data(context, order), *_of_steps(context)]
    validation = context.validation_data
    if isinstance(validation, tf.data.Dataset):
        found += [f"in validation_data, {doubt}" for doubt in _of_dataset(validation, order)]
    elif isinstance(validation, types.GeneratorType):
        found.append("validation_data is a generator, and begins anew")
    return list(dict.fromkeys(found))


def _of_data(context: FitContext, order: EpochOrder) -> Iterator[str]:
    data = context.data
    if context.adapter == "ArrayDataAdapter":
        if context.shuffle and not _has_global_seed():
            yield "fit(shuffle=True) draws the order of arrays without a seed (keras.utils.set_random_seed)"
    elif isinstance(data, tf.data.Dataset):
        yield from _of_dataset(data, order)
    elif isinstance(data, keras.utils.PyDataset):
        yield from _of_py_dataset(data, bool(context.shuffle))
    elif isinstance(data, types.GeneratorType):
        yield "a generator begins anew"
    else:
        yield f"the order of a {type(data).__name__} is not known"


def _of_steps(context: FitContext) -> Iterator[str]:
    steps = context.steps_per_epoch
    if steps is not None and steps != context.batches and not isinstance(context.data, types.GeneratorType):
        length = "no known end" if context.batches is None else f"{context.batches} batches"
        yield f"steps_per_epoch={steps} and data of {length} let each epoch go on where the one before left off"


def _of_py_dataset(data: keras.utils.PyDataset, shuffle: bool) -> Iterator[str]:
    for name in ("on_epoch_begin", "on_epoch_end"):
        if getattr(type(data), name) is not getattr(keras.utils.PyDataset, name):
            yield f"{type(data).__name__}.{name} may change the order, and its state is not saved"
    if shuffle and (data.workers > 1 or data.use_multiprocessing):
        yield f"fit(shuffle=True) with {data.workers} workers draws the order of batches at a time of its own"


def _of_dataset(dataset: tf.data.Dataset, order: EpochOrder) -> Iterator[str]:
    if dataset.options().deterministic is False:
        yield "Options.deterministic is False"
    yield from _walk(dataset, order, cached=False)


def _walk(dataset: Any, order: EpochOrder, cached: bool) -> Iterator[str]:
    ours = order.made.get(id(dataset))
    if ours is not None:
        if cached:
            yield "cache() after the shuffle keeps the order of the first epoch that a run sees"
        inputs = [ours[1]] if ours[1] is not None else []
    else:
        yield from _of_node(dataset)
        inputs = dataset._inputs()
    for each in inputs:
        yield from _walk(each, order, cached or type(dataset).__name__ == "CacheDataset")


def _of_node(dataset: Any) -> Iterator[str]:
    kind = type(dataset).__name__
    if kind == "_ShuffleDataset":
        if dataset._reshuffle_each_iteration:
            yield "Dataset.shuffle(...) goes on from the order of the epoch before"
        elif not int(dataset._seed) and not int(dataset._seed2):
            yield "Dataset.shuffle(...) has no seed"
    for function in dataset._functions():
        graph = function.function.graph.as_graph_def()
        for node in [*graph.node, *(node for each in graph.library.function for node in each.node_def)]:
            yield from _of_operation(node, kind)


def _of_operation(node: Any, kind: str) -> Iterator[str]:
    where = kind.strip("_").removesuffix("Dataset")
    if node.op.startswith("ShuffleDataset") and node.attr["reshuffle_each_iteration"].b:
        yield f"Dataset.shuffle(...) inside {where} goes on from the order of the epoch before"
    elif node.op in _DRAWS and not node.attr["seed"].i and not node.attr["seed2"].i:
        yield f"{node.op} inside {where} has no seed"
    elif node.op in _CHANGES_A_VARIABLE or node.op.startswith("Stateful"):
        yield f"{node.op} inside {where} changes a variable that is not saved"


def _has_global_seed() -> bool:
    """Whether operations that draw without a seed of their own repeat themselves, asked of one of them."""
    graph = tf.function(lambda: tf.random.shuffle([0])).get_concrete_function().graph
    drawn = [each for each in graph.get_operations() if each.type == "RandomShuffle"]
    return any(each.get_attr("seed") or each.get_attr("seed2") for each in drawn)
