"""Keras finds our classes in either import order, and other backends are refused."""

from pathlib import Path

import numpy as np
import pytest

import embkeras as ek
from embkeras import _registration
from embkeras.text.vocabulary import Vocabulary
from tests.processes import run_python
from tests.variants import variants


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with one of our layers and our optimizer."""
    matrix = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    model = ek.build_classifier(
        ek.AlignedMatrix(matrix, Vocabulary(["", "[UNK]", "a", "b", "c"])), 2, architecture="cnn"
    )
    model.compile(ek.RowWiseAdam(1e-3), "sparse_categorical_crossentropy")
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


@pytest.mark.parametrize(
    "imports",
    variants(
        ["import embkeras, keras", "import keras, embkeras", "import embkeras, tensorflow, keras"],
        always=["import embkeras, keras"],
    ),
)
def test_load_model_finds_our_classes(saved, imports):
    """Nothing but the two imports is needed before `load_model`."""
    done = run_python("-c", f"{imports}; print(type(keras.saving.load_model({str(saved)!r}).optimizer).__name__)")
    assert done.stdout.strip() == "RowWiseAdam", done.stderr[-500:]


def test_other_backend_is_refused_in_one_line():
    """Using one of our Keras names under another backend says which one is needed."""
    code = "import embkeras\ntry: embkeras.RowWiseAdam\nexcept ImportError as error: print(error)"
    done = run_python("-c", code, env={"KERAS_BACKEND": "numpy"})
    assert done.stdout.strip() == "embkeras runs on Keras with the TensorFlow backend. Received: KERAS_BACKEND='numpy'."


def test_other_backend_may_still_import_us():
    """A program that runs Keras on another backend imports none of our modules."""
    code = """
import sys, types
keras = types.ModuleType("keras")
keras.backend = types.SimpleNamespace(backend=lambda: "jax")
sys.modules["keras"] = keras
import embkeras
from tests.variants import variants
print([name for name in sys.modules if name.startswith("embkeras.tables")])
try: embkeras.RowWiseAdam
except embkeras.errors.BackendError as error: print(error)
"""
    done = run_python("-c", code)
    expected = "[]\nembkeras runs on Keras with the TensorFlow backend. Received: KERAS_BACKEND='jax'."
    assert done.stdout.strip() == expected, done.stderr[-500:]


def test_every_module_with_classes_is_registered():
    """A class that Keras must find is imported with Keras: a new module with classes needs a line in the list."""
    package = Path(_registration.__file__).parent
    holding = {
        ".".join(("embkeras", *path.relative_to(package).with_suffix("").parts))
        for path in package.rglob("*.py")
        if "@keras.saving.register_keras_serializable" in path.read_text("utf-8")
    }
    assert set(_registration._MODULES_WITH_CLASSES) == holding
