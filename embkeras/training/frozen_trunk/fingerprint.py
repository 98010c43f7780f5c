"""What kept outputs depend on, as one hash: the layers below the cut, their weights, the data and the settings."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.training.frozen_trunk.cut import Cut

_VERSION = 1  # of the form of what is kept
_OWN_TO_A_RUN = {"name", "build_config", "shared_object_id", "trainable"}  # differ between runs that compute the same


def fingerprint(cut: Cut, arrays: Any, settings: Mapping[str, Any]) -> str:
    """A hash that is the same in another process, unless something changes what the layers below would compute.

    The code of layers of your own isn't seen, only their configs.

    Args:
        cut: the layers, how they are connected, and their weights.
        arrays: the data that they read: arrays, or structures of arrays.
        settings: what else matters, as JSON values.
    """
    digest = hashlib.blake2b(digest_size=16)
    versions = [keras.__version__, tf.__version__]
    _add(digest, json.dumps([_VERSION, versions, dict(settings), _graph(cut)], default=repr, sort_keys=True).encode())
    for weight in cut.weights:
        _add_array(digest, keras.ops.convert_to_numpy(weight))
    for path, leaf in keras.tree.flatten_with_path(arrays):
        _add(digest, repr(path).encode())
        _add_array(digest, np.asarray(leaf))
    return digest.hexdigest()


def _graph(cut: Cut) -> list[Any]:
    """The calls below, with tensors by number: automatic names differ from run to run."""
    numbers: dict[int, int] = {}

    def number(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return f"tensor {numbers.setdefault(id(value), len(numbers))}: {value.dtype}"
        return repr(value)

    described = []
    for call in cut.below:
        arguments = keras.tree.map_structure(number, (call.arguments.args, call.arguments.kwargs))
        outputs = [number(tensor) for tensor in call.outputs]
        described.append([_config(call.operation), arguments, outputs])
    return [*described, [number(tensor) for tensor in cut.crossing]]


def _config(operation: Any) -> Any:
    kind = f"{type(operation).__module__}.{type(operation).__qualname__}"
    try:
        config = keras.saving.serialize_keras_object(operation)
    except (NotImplementedError, TypeError, ValueError):  # an operation, or a layer, that can't be saved
        config = {key: value for key, value in vars(operation).items() if key[:1] != "_"}
    tokens = operation.get_vocabulary() if hasattr(operation, "get_vocabulary") else None  # adapted: not in the config
    return [kind, _without_names(config), tokens]


def _without_names(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {str(key): _without_names(value) for key, value in config.items() if key not in _OWN_TO_A_RUN}
    return [_without_names(each) for each in config] if isinstance(config, list | tuple) else config


def _add(digest: Any, content: Any) -> None:
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)


def _add_array(digest: Any, array: np.ndarray) -> None:
    _add(digest, f"{array.dtype} {array.shape}".encode())
    if array.dtype.kind in "OSU":
        _add(digest, "\0".join(map(str, array.ravel())).encode("utf-8", "surrogateescape"))
    else:
        _add(digest, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
