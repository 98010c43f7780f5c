"""check_versions: one error before training or an export begins, if Keras or TensorFlow lacks a private name."""

import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from embkeras.errors import KerasVersionError
from embkeras.keras_compat import arrays, checkpoints, fit, generators, graph, layers, optimizers, variables, workers
from embkeras.keras_compat.private import Private, version_error

_MODULES: tuple[Any, ...] = (arrays, checkpoints, fit, generators, graph, layers, optimizers, variables, workers)


def declared() -> Iterator[Private]:
    """What the modules of this room declare."""
    for module in _MODULES:
        yield from module.PRIVATE


@functools.cache
def check_versions() -> None:
    """Look for every private name that embkeras uses; in a process that has them all, only once.

    Examples:
        >>> check_versions()

    Raises:
        KerasVersionError: some are missing; it names them, the versions that run and those that were tested.
    """
    missing, cause = [], None
    with tf.init_scope():  # an optimizer may be built while the first step is being traced
        for private in declared():
            try:
                sample = private.sample()
            except (AttributeError, KerasVersionError) as error:  # not even what has them is there
                sample, cause = None, error
            missing += [f"{private.owner}.{name}" for name in private.names if not hasattr(sample, name)]
    if missing:
        raise version_error(missing) from cause
