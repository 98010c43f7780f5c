"""What a run depends on, in a form that can be compared with that of another process: data, settings, strategies."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from embkeras.errors import ArgumentError
from embkeras.experiments.data import PARTS, Data, is_dataset
from embkeras.experiments.strategies import Strategy
from embkeras.training.schedule.callback import TrainabilitySchedule
from embkeras.vectors.aligned import AlignedMatrix

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the repr of a function, another one in each process


def data_fingerprint(data: Data) -> str:
    """A hash of all three parts.

    Raises:
        ArgumentError: a part is a dataset, which would have to be read to know what is in it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in PARTS:
        part = getattr(data, name)
        if is_dataset(part):
            raise ArgumentError(
                f"A file of results belongs to its data, and those of a dataset aren't known before it is read: pass arrays. "
                f"Received: data.{name}, a {type(part).__name__}."
            )
        for path, leaf in keras.tree.flatten_with_path(tuple(part)):
            digest.update(f"{name} {path}".encode())
            digest.update(_hashed(leaf).encode())
    return digest.hexdigest()


def described(strategy: Strategy) -> dict[str, Any]:
    """What a run of a strategy depends on, as JSON values. Of functions the name counts and not the code; of arrays a hash."""
    return {name: plain(value) for name, value in vars(strategy).items() if name != "few_labels"}


def plain(value: Any) -> Any:
    """A setting as JSON values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return f"array {_hashed(value)}"
    if isinstance(value, AlignedMatrix):
        return f"AlignedMatrix {_hashed(value.values)}"
    if isinstance(value, TrainabilitySchedule):
        return [plain(phase) for phase in value.phases]
    return _ADDRESS.sub("", repr(value))


def _hashed(leaf: Any) -> str:
    array = np.asarray(leaf)
    digest = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    if array.dtype.kind in "OSU":
        digest.update("\0".join(map(repr, array.ravel().tolist())).encode())
    else:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
