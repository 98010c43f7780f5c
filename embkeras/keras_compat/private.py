"""How the modules of this room declare the private names that they use, and reach private modules.

Keras and TensorFlow may rename a private name in any release. So each module of this room declares its names in
`PRIVATE`, `versions.check_versions` looks for all of them before training or an export begins, and private modules are
imported only where they are used: embkeras can be imported with any version.
"""

import importlib
from collections.abc import Callable, Sequence
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from embkeras.errors import KerasVersionError

# The oldest and newest releases that passed all tests: benchmarks/results/matrix.json.
TESTED_KERAS = ("3.10.0", "3.15.1")
TESTED_TENSORFLOW = ("2.19.0", "2.21.0")
NAME = "embkeras_sample"  # of whatever a sample creates: without a name Keras would count on the names of the user's layers


class Private(NamedTuple):
    """Private names of one thing in Keras or TensorFlow.

    Attributes:
        owner: what has them, as an error message names it.
        names: the names.
        sample: returns an object with the names as attributes. It must leave random generators and the numbers in
            automatic names alone, or an added check would change a training.
    """

    owner: str
    names: Sequence[str]
    sample: Callable[[], Any]


def private_module(name: str) -> Any:
    """Import a private module.

    Raises:
        KerasVersionError: this version has no such module.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise version_error([name]) from error


def version_error(missing: Sequence[str]) -> KerasVersionError:
    """The one error about private names that this version lacks."""
    return KerasVersionError(
        f"Keras {keras.__version__} with TensorFlow {tf.__version__} lacks private names that embkeras uses: "
        f"{', '.join(dict.fromkeys(missing))}. Tested: Keras {' to '.join(TESTED_KERAS)} and TensorFlow "
        f'{" to ".join(TESTED_TENSORFLOW)}. Install a tested version, such as pip install "keras=={TESTED_KERAS[1]}", or '
        f"a newer embkeras."
    )


def of_module(name: str, *names: str) -> Private:
    """Names in a private module."""
    return Private(name, names, lambda: private_module(name))


def in_code(function: FunctionType) -> SimpleNamespace:
    """Everything that the code of a function names: its local variables, attributes, and the strings in it."""
    code = function.__code__
    strings = [value for value in code.co_consts if isinstance(value, str)]
    return SimpleNamespace(**dict.fromkeys([*code.co_varnames, *code.co_names, *strings]))


def sample_layer() -> keras.layers.Embedding:
    """A built Embedding layer of one number."""
    layer = keras.layers.Embedding(1, 1, embeddings_initializer="zeros", name=NAME)
    layer.build()
    return layer
