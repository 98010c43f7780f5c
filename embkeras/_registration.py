"""Registration: Keras finds embkeras's classes when it loads a model, in either import order.

Keras looks up a custom class by its registered name and does not import its module. The classes register when their
modules are imported, which needs Keras and TensorFlow, and `import embkeras` must not import those. So they register now
if Keras is already imported, and otherwise as soon as it is.
"""

import importlib
import os
import sys
from types import ModuleType

from embkeras.errors import BackendError

_MODULES_WITH_CLASSES = (
    "embkeras.encoders.decoders.layers",
    "embkeras.encoders.bottlenecks",
    "embkeras.encoders.layers",
    "embkeras.encoders.remembers",
    "embkeras.tables.combined",
    "embkeras.tables.embedding",
    "embkeras.tables.pooling",
    "embkeras.tables.partial_rows",
    "embkeras.tables.shared_map",
    "embkeras.tables.word_dropout",
    "embkeras.training.optimizers.fine_tuning",
    "embkeras.training.optimizers.rules",
    "embkeras.training.schedule.rates",
    "embkeras.training.workers.model",
)


def register_with_keras() -> None:
    """Register the classes now if Keras is imported, otherwise as soon as it is."""
    if "keras" in sys.modules:
        _register(sys.modules["keras"])
        return
    # TensorFlow depends on wrapt, so it is installed wherever Keras can run these classes.
    from wrapt import register_post_import_hook

    register_post_import_hook(_register, "keras")


def _register(keras: ModuleType) -> None:
    # `import keras` must keep working under another backend; only using these classes is refused there.
    if hasattr(keras, "backend") and keras.backend.backend() == "tensorflow":
        for name in _MODULES_WITH_CLASSES:
            importlib.import_module(name)


def check_backend() -> None:
    """Refuse any Keras backend but TensorFlow.

    Raises:
        BackendError: Keras runs, or is set to run, on another one.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend == "tensorflow" or "keras" in sys.modules:
        backend = importlib.import_module("keras").backend.backend()  # keras.json may name another one
    if backend != "tensorflow":
        raise BackendError(f"embkeras runs on Keras with the TensorFlow backend. Received: KERAS_BACKEND={backend!r}.")
