"""A missing private name is one error, when training or an export begins."""

import ast
import random
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from embkeras.errors import KerasVersionError
from embkeras.keras_compat import private, versions
from embkeras.serving.export import export_saved_model
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.change_vocabulary import change_vocabulary
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseSGD
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule.callback import unfreeze_at
from tests import tiny
from tests.processes import run_python
from tests.test_layout import foreign_private_names

DECLARED = [(each, name) for each in versions.declared() for name in each.names]
MODULES = sorted({each.owner for each in versions.declared() if each.owner.startswith(("keras.src", "tensorflow."))})
WORDS = Vocabulary(["", "[UNK]", *"abcdefgh"])


class _Without:
    """An object without one of its attributes, as in a Keras that has renamed it."""

    def __init__(self, whole, name):
        self._whole, self._name = whole, name

    def __getattr__(self, name):
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._whole, name)


@pytest.fixture(autouse=True)
def _ask_again():
    """The answer of this process is kept otherwise."""
    versions.check_versions.cache_clear()
    yield
    versions.check_versions.cache_clear()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Every call that begins a training or an export, by name; none gets further than its beginning."""
    stock, ours = tiny.model("sgd"), tiny.model(RowWiseSGD(0.1), trainable=True)
    folder = tmp_path_factory.mktemp("begun")
    return (
        {
            "optimizer": lambda: tiny.fit(ours, epochs=1),
            "schedule": lambda: tiny.fit(stock, epochs=1, callbacks=[unfreeze_at(1, "embedding")]),
            "monitor": lambda: tiny.fit(stock, epochs=1, callbacks=[DriftMonitor("embedding")]),
            "backup": lambda: tiny.fit(stock, epochs=1, callbacks=[ResumableBackup(folder / "state")]),
            "export": lambda: export_saved_model(stock, folder / "export", vocabulary=WORDS),
            "vocabulary": lambda: change_vocabulary(stock, "embedding", before=WORDS, after=None),
        },
        stock,
        folder,
    )


def _lose(monkeypatch, lost, name):
    """Declare the same names, and let one of them be missing where it is looked for."""
    names = [
        each._replace(sample=lambda: _Without(lost.sample(), name)) if each == lost else each
        for each in versions.declared()
    ]
    monkeypatch.setattr(versions, "declared", lambda: iter(names))


@pytest.mark.parametrize(("lost", "name"), DECLARED, ids=[f"{each.owner}.{name}" for each, name in DECLARED])
def test_every_declared_name_is_missed(lost, name, monkeypatch):
    """By its owner and name, and no other name with it."""
    versions.check_versions()
    versions.check_versions.cache_clear()
    _lose(monkeypatch, lost, name)
    with pytest.raises(KerasVersionError) as caught:
        versions.check_versions()
    assert f": {lost.owner}.{name}. Tested: Keras {private.TESTED_KERAS[0]}" in str(caught.value)


@pytest.mark.parametrize("begins", ["optimizer", "schedule", "monitor", "backup", "export", "vocabulary"])
def test_training_and_export_do_not_begin(begins, begun, monkeypatch):
    """Not a step is trained and no folder is written."""
    calls, model, folder = begun
    lost, name = DECLARED[-1]
    _lose(monkeypatch, lost, name)
    table = model.get_layer("embedding").matrix()
    with pytest.raises(KerasVersionError, match=rf"Keras {keras.__version__} with .*\.{name}\. Tested"):
        calls[begins]()
    np.testing.assert_array_equal(model.get_layer("embedding").matrix(), table)
    assert int(model.optimizer.iterations) == 0 and list(folder.iterdir()) == []


@pytest.mark.parametrize("owner", MODULES)
def test_a_module_that_is_gone_is_missed(owner, monkeypatch):
    """All names that were in it, with the same error."""
    *_, module = (name for name in _prefixes(owner) if name in sys.modules)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(sys.modules[module.rpartition(".")[0]], module.rpartition(".")[2], raising=False)
    with pytest.raises(KerasVersionError, match=rf"lacks .*: .*{owner}\."):
        versions.check_versions()


def _prefixes(name):
    """ "a", "a.b", "a.b.c" of "a.b.c"."""
    words = name.split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def test_all_modules_can_be_imported_without_private_modules():
    """Whatever Keras has moved: `import embkeras` and `import keras` work, and so does a fit without our callbacks."""
    gone = [next(name for name in reversed(_prefixes(owner)) if name in sys.modules) for owner in MODULES]
    code = f"""
        import keras, numpy, pkgutil, sys, importlib
        for name in {gone!r}: sys.modules[name] = None
        import embkeras
        from embkeras.errors import KerasVersionError
        for module in pkgutil.walk_packages(embkeras.__path__, "embkeras."):
            if not module.name.endswith("__main__"): importlib.import_module(module.name)
        table = embkeras.PretrainedEmbedding(4, 2)
        model = keras.Sequential([keras.Input((3,)), table, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(embkeras.RowWiseAdam(), "mse")
        try: model.fit(numpy.ones((2, 3), "int64"), numpy.ones((2, 1)), verbose=0)
        except KerasVersionError as error: print(any(name in str(error) for name in {gone!r}), int(model.optimizer.iterations))
    """
    assert run_python("-c", code).stdout.split() == ["True", "0"]


def test_the_check_changes_no_training():
    """Random generators and the numbers in automatic names stay as they were."""
    keras.backend.clear_session()
    python, of_numpy = random.getstate(), np.random.get_state()[1].copy()
    versions.check_versions()
    assert random.getstate() == python and (np.random.get_state()[1] == of_numpy).all()
    made = keras.layers.Embedding(1, 1), keras.metrics.Accuracy(), keras.optimizers.Adam(), keras.Variable(0.0)
    assert [each.name for each in made] == ["embedding", "accuracy", "adam", "variable"]
    assert keras.Model().name == "model"


def test_every_private_name_is_declared():
    """A private name that a module of this room uses and doesn't declare would be missed in the middle of a training."""
    declared = {name for _, name in DECLARED} | set(vars(private)) | {"_getframe"}
    for path in sorted(Path(private.__file__).parent.glob("*.py")):
        used = {name.rpartition(".")[2] for name in foreign_private_names(ast.parse(path.read_text("utf-8")))}
        assert {name for name in used if name.startswith("_")} <= declared, path.name
