"""The package in CONTRIBUTING.md: a format, an action, a strategy and an architecture from outside work as printed."""

import importlib
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ScheduleError, VectorFileError
from embkeras.experiments.data import Data
from embkeras.experiments.runs import run_strategy
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule import Phase, TrainabilitySchedule
from embkeras.vectors.io import registry
from tests import tiny
from tests.training.resume.test_backup import Dies, Dying

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
_FILE = re.compile(r"^```python\n# (mypackage/\w+\.py).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
WORDS = ["cat", "", "dög", "new york", "1"]
VOCABULARY = ek.Vocabulary(["", "[UNK]", *"abcdefgh"])
VECTORS = ek.KeyedVectors(WORDS, np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Imports a module of the package, which is gone from Python and from the registry of formats afterwards."""
    folder = tmp_path_factory.mktemp("outside")
    for name, code in _FILE.findall(GUIDE.read_text("utf-8")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(registry, "FORMATS", registry.FORMATS)
        yield lambda name: importlib.import_module(f"mypackage.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


@pytest.fixture
def built(package):
    """Builds the same small classifier each time, on the architecture of the package."""
    table = ek.AlignedMatrix(tiny.TABLE, VOCABULARY)

    def build(strategy=None):
        keras.utils.set_random_seed(0)
        layer = ek.build_embedding(table) if strategy is None else strategy.build_embedding(table)
        model = ek.build_classifier(layer, 3, architecture=package("gated").gated_mean)
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", jit_compile=False)
        return model

    return build


class _Rates(Dying):
    """Notes the rate of "dropout" in each epoch, too."""

    def __init__(self, step):
        super().__init__(step)
        self.seen = {}

    def on_epoch_end(self, epoch, logs=None):
        """Note it."""
        self.seen[epoch] = self.model.get_layer("dropout").rate


def test_the_guide_names_files_that_exist():
    """Those of the table of what to touch, and those below it; names in capitals are to be replaced."""
    named = re.findall(r"`((?:embkeras|tests|benchmarks|\.ci)/[\w./-]+)`", GUIDE.read_text("utf-8"))
    missing = [name for name in named if not (GUIDE.parent / name).exists() and not re.search("[A-Z]{4}", name)]
    assert len(named) > 20 and not missing


@pytest.mark.parametrize("name", ["v.piped", "v.piped.gz"])
def test_a_format(package, tmp_path, name):
    """Chosen by the ending, recognised by the contents, bit-identical, and for some of the words."""
    package("piped")
    path = ek.save_vectors(VECTORS, tmp_path / name)
    renamed = path.rename(tmp_path / "other")
    read = ek.load_vectors(renamed)
    assert read.words == WORDS and read.provenance.format == "piped"
    np.testing.assert_array_equal(read.matrix, VECTORS.matrix)
    assert ek.load_vectors(renamed, words=["dög"]).words == ["dög"]
    assert "piped" in [each[0] for each in registry.table_of_formats()]


def test_a_format_refuses_what_is_damaged(package, tmp_path):
    """A last line however it is cut, other lines with their number, and words that would not be read back."""
    package("piped")
    path = ek.save_vectors(VECTORS, tmp_path / "v.piped")
    whole = path.read_bytes()
    for end in range(whole.rindex(b"\n", 0, -1) + 2, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(VectorFileError, match=r"cut off|line 6: expected"):
            ek.load_vectors(path)
    path.write_bytes(b"#piped 3\na|1|2|3\nb|1|2\n")
    with pytest.raises(VectorFileError, match="line 3: expected 3 numbers, found 2"):
        ek.load_vectors(path)
    path.write_bytes(b"a 1 2\n")
    with pytest.raises(VectorFileError, match="line 1: expected '#piped"):
        ek.load_vectors(path, format="piped")
    with pytest.raises(VectorFileError, match=r"can't hold the word 'a\|b'"):
        ek.save_vectors(ek.KeyedVectors(["a|b"], VECTORS.matrix[:1]), path)


def test_an_action(package, built, tmp_path):
    """It begins with its phase and is undone after it; a fit that died in the phase ends with the same bits."""
    drop = package("dropping").DropOut

    def run(folder, step=None):
        net, rates = built(), _Rates(step)
        phases = [Phase(0), Phase(1, drop("dropout", 0.6)), Phase(2)]
        callbacks = [ResumableBackup(folder), TrainabilitySchedule(phases), rates]
        tiny.fit(net, epochs=3, callbacks=callbacks)
        return net, rates.seen

    whole, seen = run(tmp_path / "whole")
    assert seen == {0: 0.3, 1: 0.6, 2: 0.3}
    with pytest.raises(Dies):
        run(tmp_path / "state", step=5)  # in the epoch of the action
    resumed, seen = run(tmp_path / "state")
    assert seen == {1: 0.6, 2: 0.3} and tiny.apart(whole, resumed) == 0
    with pytest.raises(ScheduleError, match="Received: 'gate'"):
        TrainabilitySchedule(Phase(0, drop("gate", 0.6))).apply(built(), 0)


def test_a_strategy(package, built):
    """It runs like the others, with its phases, on a model of the architecture."""
    data = Data(*[(tiny.IDS, tiny.LABELS)] * 3)
    gentle = package("strategies").gentle
    run = run_strategy(built, data, gentle, epochs=3, keep=None)
    assert run.strategy == "gentle" and run.phases[["phase", "first_epoch"]].values.tolist() == [[1, 0], [2, 1], [3, 2]]
    assert run.scores.shape == (12, 3) and np.isfinite(run.history["loss"]).all()


def test_an_architecture(built, tmp_path):
    """Its answers don't depend on padding; trained, a .keras file and an export have them without the package."""
    model = built()
    tiny.fit(model, epochs=1)
    texts = np.array([[2, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(model(texts[:1, :2]), model(texts)[:1], atol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(texts), model(texts))
    folder = ek.export_saved_model(model, tmp_path / "export", vocabulary=VOCABULARY)
    loaded = tf.saved_model.load(str(folder))
    scores = loaded.signatures["serving_default"](token_ids=tf.constant(texts[:2]))["scores"]
    np.testing.assert_allclose(scores, model.predict(texts[:2], verbose=0), atol=1e-6)
