"""The random generators that a whole process shares, saved and restored: Python's, NumPy's, Keras' and TensorFlow's.

A model's own generators (`keras.random.SeedGenerator` in its layers) are variables of the model and not among these.
TensorFlow's older operations (`tf.random.uniform` and others, as opposed to `tf.random.stateless_uniform` and
`keras.random`) are not covered either way: their state is inside the operation and can't be read.

Private names used here: `get_global_attribute` of Keras and its attribute "global_seed_generator", and TensorFlow's module
variable `global_generator`; the public functions create both on first use. And `python_random`, the name under which Keras'
module of seeds imports Python's `random`: each layer and initializer without a seed draws one from it when it is made. It is
replaced while a run is trained, since other threads draw from `random` too, such as those of a Dask worker, and the same seed
would make other weights. `tests/keras_compat/test_generators.py` fails when one of the names goes.
"""

import contextlib
import random
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.keras_compat.private import Private, in_code, of_module, private_module

_STATE = "keras.src.backend.common.global_state"
_SEEDS = "keras.src.random.seed_generator"
_OPERATIONS = "tensorflow.python.ops.stateful_random_ops"
_OF_KERAS = "global_seed_generator"


def _named_in_seed_generator() -> SimpleNamespace:
    module = private_module(_SEEDS)  # from Keras 3.13 on, a constant holds the name
    return SimpleNamespace(
        **{getattr(module, "GLOBAL_SEED_GENERATOR", ""): None}, **vars(in_code(module.global_seed_generator))
    )


PRIVATE = (
    of_module(_STATE, "get_global_attribute"),
    of_module(_SEEDS, "global_seed_generator", "python_random"),
    of_module(_OPERATIONS, "global_generator"),
    Private("the global attributes of Keras", (_OF_KERAS,), _named_in_seed_generator),
)


def random_states() -> dict[str, Any]:
    """The states; None for a generator that has not been used yet."""
    of_keras = private_module(_STATE).get_global_attribute(_OF_KERAS)
    of_tensorflow = private_module(_OPERATIONS).global_generator
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "keras": None if of_keras is None else keras.ops.convert_to_numpy(of_keras.state),
        "tensorflow": None if of_tensorflow is None else of_tensorflow.state.numpy(),
        "tensorflow_algorithm": None if of_tensorflow is None else int(of_tensorflow.algorithm),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore what `random_states` returned."""
    if states["keras"] is not None:
        private_module(_SEEDS).global_seed_generator().state.assign(states["keras"])
    if states["tensorflow"] is not None:
        state, algorithm = states["tensorflow"], states["tensorflow_algorithm"]
        current = private_module(_OPERATIONS).global_generator
        if current is not None and int(current.algorithm) == algorithm:
            current.reset(state)  # in place: a traced function may hold the generator
        else:
            tf.random.set_global_generator(tf.random.Generator.from_state(state, algorithm))
    # Last, because creating a generator draws a seed from Python's.
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])


class _OwnOrShared:
    """In the place of the module `random`: the source of the thread that asks or, if it has none, the module."""

    def __init__(self) -> None:
        self.of_thread, self.lock, self.users = threading.local(), threading.Lock(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self.of_thread, "source", random), name)


_SOURCES = _OwnOrShared()
_SEED = random.seed


def _seed_both(*seed: Any, **settings: Any) -> None:
    """`random.seed`, which `keras.utils.set_random_seed` calls: it seeds the source of the thread that asks too."""
    _SEED(*seed, **settings)
    if (own := getattr(_SOURCES.of_thread, "source", random)) is not random:
        own.seed(*seed, **settings)


@contextlib.contextmanager
def private_seeds(seed: int) -> Iterator[None]:
    """Keras draws the seeds of layers that this thread makes from a source of its own: the numbers of `random.seed(seed)`.

    A `keras.utils.set_random_seed` or `random.seed` of this thread seeds that source anew, as it would the shared one.

    Args:
        seed: as for `keras.utils.set_random_seed`.

    Examples:
        >>> with private_seeds(3):
        ...     first = keras.layers.Dropout(0.5).seed_generator.state.numpy()
        >>> with private_seeds(3):
        ...     number = random.random()
        ...     second = keras.layers.Dropout(0.5).seed_generator.state.numpy()
        >>> (first == second).all()
        np.True_
    """
    module, of_thread = private_module(_SEEDS), _SOURCES.of_thread
    before = getattr(of_thread, "source", random)
    of_thread.source = random.Random(seed)
    with _SOURCES.lock:
        _SOURCES.users += 1
        module.python_random, random.seed = _SOURCES, _seed_both
    try:
        yield
    finally:
        of_thread.source = before
        with _SOURCES.lock:
            _SOURCES.users -= 1
            if not _SOURCES.users:
                module.python_random, random.seed = random, _SEED
