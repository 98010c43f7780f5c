"""The random generators that a whole process shares, saved and set: Python's, NumPy's, Keras' and TensorFlow's.

A model's own generators (`keras.random.SeedGenerator` in its layers) are variables of the model and none of these.
Neither these nor those cover TensorFlow's older operations (`tf.random.uniform` and the like, as against
`tf.random.stateless_uniform` and `keras.random`): their state lies inside the operation and cannot be read.

Private names used here: `get_global_attribute` and "global_seed_generator" of Keras, and TensorFlow's module variable
`global_generator`; publicly both are made when asked for. `tests/training/state/test_generators.py` fails when one goes.
"""

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from tensorflow.python.ops import stateful_random_ops

_OF_KERAS = seed_generator.GLOBAL_SEED_GENERATOR


def random_states() -> dict[str, Any]:
    """The states, None for a generator that nobody has used."""
    of_keras = global_state.get_global_attribute(_OF_KERAS)
    of_tensorflow = stateful_random_ops.global_generator
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "keras": None if of_keras is None else keras.ops.convert_to_numpy(of_keras.state),
        "tensorflow": None if of_tensorflow is None else of_tensorflow.state.numpy(),
        "tensorflow_algorithm": None if of_tensorflow is None else int(of_tensorflow.algorithm),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set what `random_states` gave."""
    if states["keras"] is not None:
        seed_generator.global_seed_generator().state.assign(states["keras"])
    if states["tensorflow"] is not None:
        _set_tensorflow(states["tensorflow"], states["tensorflow_algorithm"])
    # Last: making a generator draws a seed from Python's.
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])


def _set_tensorflow(state: np.ndarray, algorithm: int) -> None:
    now = stateful_random_ops.global_generator
    if now is not None and int(now.algorithm) == algorithm:
        now.reset(state)  # in place: a traced function may hold the generator
    else:
        tf.random.set_global_generator(tf.random.Generator.from_state(state, algorithm))
