"""What all workers must have in common when a fit begins: otherwise they train apart, or wait for each other forever.

Each worker sends numbers that stand for what it has, and all workers compare the same numbers, so that all of them raise
the same error.
"""

import random
import zlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from embkeras.errors import DistributionError, ResumeError
from embkeras.keras_compat.fit import FitContext, fit_context
from embkeras.keras_compat.workers import global_seed
from embkeras.training.schedule.movement import checksum

_ROWS = 1000  # of the beginning and of the end of an array, that are compared
_UNKNOWN = -1
_SEED = "the random seed of the shuffle"
_ADVICE = {
    "the weights": "Build, fill and load the model in the same way on every worker. If some found the state of a "
    "ResumableBackup and others an older one or none, copy the newest folder to all of them, or use one that they share.",
    "the optimizer's variables": "Compile and load the model in the same way on every worker.",
    "the first epoch": "Pass the same arguments to fit on every worker.",
    "the number of epochs": "Pass the same arguments to fit on every worker.",
    "batches in an epoch": "Pass all the data to every worker: TensorFlow gives each one its part.",
    "the data": "Pass all the data to every worker: TensorFlow gives each one its part.",
    _SEED: "Call keras.utils.set_random_seed with the same number on every worker, or pass shuffle=False.",
}


def check_agreement(model: keras.Model) -> None:
    """Compare what the workers are about to train with; for the first step of a `fit`, on every worker.

    Raises:
        DistributionError: something differs, with its numbers on each worker.
    """
    own = {
        "the weights": _checksum(model.weights),
        "the optimizer's variables": _checksum(model.optimizer.variables if model.optimizer else ()),
        **_of_fit(),
    }
    everywhere = gathered(model.distribute_strategy, list(own.values()))
    for name, numbers in zip(own, everywhere.T.tolist(), strict=True):
        if len(set(numbers)) > 1 or (name == _SEED and numbers[0] == _UNKNOWN):
            received = "no seed" if len(set(numbers)) == 1 else ", ".join(map(str, numbers))
            raise DistributionError(f"The workers don't have {name} in common. {_ADVICE[name]} Received: {received}.")


def gathered(strategy: tf.distribute.Strategy, numbers: Iterable[int]) -> np.ndarray:
    """The numbers of all replicas, int64 of shape (replicas, numbers), on each of them."""
    return _gather(strategy, tf.constant([list(numbers)], tf.int64)).numpy()


@tf.function(autograph=False)
def _gather(strategy: tf.distribute.Strategy, own: tf.Tensor) -> tf.Tensor:
    return strategy.gather(strategy.run(lambda: own), axis=0)


def _of_fit() -> dict[str, int]:
    try:
        context = fit_context()
    except ResumeError:  # train_on_batch, or a loop of the user's own
        return {}
    found = {"the first epoch": context.initial_epoch, "the number of epochs": context.epochs}
    found["batches in an epoch"] = _UNKNOWN if context.batches is None else context.batches
    found["the data"] = _checksum_of_data(context.data)
    return found | ({_SEED: _seed(context)} if _is_shuffled(context) else {_SEED: 0})


def _is_shuffled(context: FitContext) -> bool:
    return bool(context.shuffle) and _is_indexed(context.data)


def _is_indexed(data: Any) -> bool:
    """Whether Keras itself shuffles the rows or batches of the data."""
    return isinstance(data, keras.utils.PyDataset) or bool(_arrays(data))


def _seed(context: FitContext) -> int:
    seed = global_seed()
    if isinstance(context.data, keras.utils.PyDataset):  # whose batches Keras shuffles with Python's generator
        return zlib.crc32(repr(random.getstate()).encode())
    return _UNKNOWN if seed is None else seed


def _arrays(data: Any) -> list[Any]:
    if isinstance(data, tf.data.Dataset | tf.distribute.DistributedDataset):
        return []
    return [each for each in tree.flatten(data) if hasattr(each, "shape") and len(each.shape)]


def _checksum(variables: Iterable[keras.Variable]) -> int:
    total = 0
    for variable in variables:
        total = zlib.crc32(str(checksum(variable)).encode(), total)
    return total


def _checksum_of_data(data: Any) -> int:
    """Of the first and last rows of arrays, and of the shapes in anything else."""
    if isinstance(data, tf.data.Dataset):
        return zlib.crc32(repr(data.element_spec).encode())
    total = 0
    for array in _arrays(data):
        total = zlib.crc32(f"{tuple(array.shape)} {array.dtype}".encode(), total)
        for rows in (array[:_ROWS], array[-_ROWS:]):
            total = zlib.crc32(np.ascontiguousarray(np.asarray(rows)).tobytes(), total)
    return total
