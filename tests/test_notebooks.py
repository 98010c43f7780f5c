"""Every notebook runs from its first cell to its last."""

import json
from pathlib import Path

import pytest

from embkeras.app import material
from embkeras.errors import MissingDependencyError

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def material_is_available() -> bool:
    """Whether vectors and tweets can be read without a network."""
    try:
        material.glove_paths()
    except MissingDependencyError:
        return False
    return material.tweets_are_cached()


@pytest.mark.skipif(not material_is_available(), reason="no vectors or tweets: run `embkeras demo --quick` once")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    """The cells run in order, in one namespace."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    namespace: dict = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
    assert namespace["accuracy"] > 0.75
    assert len(namespace["pairs"]) > 0
    assert set(namespace["answers"]["label"]) <= {"positive", "negative"}


def test_there_is_a_notebook():
    """The folder contains a notebook."""
    assert NOTEBOOKS
