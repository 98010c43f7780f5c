"""The package holds to the design: floors, public names, small modules, no TensorFlow before it is needed."""

import ast
import functools
import re
from pathlib import Path

import pytest

import embkeras
from tests.processes import run_python

PACKAGE = Path(embkeras.__file__).parent
FLOORS = {  # a wing, or a module at the top -> its floor
    "errors": 0,
    "_checks": 1,
    "_files": 2,
    "_arrays": 2,
    "keras_compat": 2,
    "text": 3,
    "vectors": 4,
    "drift": 4,
    "tables": 5,
    "encoders": 6,
    "training": 7,
    "serving": 7,
    "experiments": 8,
    "app": 9,
    "__main__": 10,
}
DESIGN_NAMES = {
    "AlignedMatrix KeyedVectors Vocabulary align load_vectors save_vectors",
    "build_embedding build_classifier unfreeze_at gradual_unfreeze TrainabilitySchedule Phase RowWiseAdam",
    "DriftMonitor drift_report propagate_drift compare_strategies export_saved_model check_saved_model errors",
    "plot_drift plot_comparison plot_coverage",
}
LATER = {"propagate_drift"}  # named in the design, not built yet
BESIDES = {"DriftReport", "ExportedModel", "PretrainedEmbedding", "Tokenizer", "plot_training"}
BESIDES |= {
    "Encoder",
    "ServingClient",
    "Strategy",
    "WordDropout",
    "change_vocabulary",
    "combine_embeddings",
    "share_rows",
    "unfreeze_rows",
}
BESIDES |= {"ResumableBackup", "RowWiseAdagrad", "RowWiseAdamW", "RowWiseSGD"}
HEAVY = {"tensorflow", "keras", "matplotlib"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Dotted name below embkeras -> its syntax tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imports_of(tree: ast.Module) -> set[str]:
    """Dotted names below embkeras that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "embkeras":
            below = node.module.removeprefix("embkeras").removeprefix(".")
            found |= {below} if below else {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("embkeras.") for alias in node.names if alias.name.startswith("embkeras.")
            }
    return found


def wing(module: str) -> str:
    """The first part of a dotted name: what the floors are given for."""
    return module.split(".")[0]


def test_every_module_is_on_a_floor():
    """A new module or wing has to be placed in the order."""
    assert {wing(name) for name in modules()} <= set(FLOORS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name):
    """A module imports from lower floors and from its own wing only."""
    for imported in imports_of(modules()[name]):
        pair = wing(name), wing(imported)
        assert pair[0] == pair[1] or FLOORS[pair[1]] < FLOORS[pair[0]], f"{name} imports {imported}"


def test_imports_make_no_circle():
    """Modules can be put in an order in which each imports only earlier ones."""
    left = {name: imports_of(tree) & set(modules()) - {name} for name, tree in modules().items()}
    while left:
        ready = [name for name, needs in left.items() if not needs & set(left)]
        assert ready, f"a circle among {sorted(left)}"
        for name in ready:
            del left[name]


@pytest.mark.parametrize("name", sorted(name for name in modules() if wing(name) in ("text", "vectors", "drift")))
def test_lower_wings_do_without_tensorflow(name):
    """Vectors and drift import neither TensorFlow nor Keras; matplotlib stays in drift.plots."""
    roots = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert not roots & (HEAVY - ({"matplotlib"} if name == "drift.plots" else set()))


def test_public_names_are_those_of_the_design():
    """`__all__` is the design's list, less what is still to come, plus the classes that those names return."""
    design = {name for line in DESIGN_NAMES for name in line.split()}
    assert set(embkeras.__all__) == design - LATER | BESIDES


@pytest.mark.parametrize("name", embkeras.__all__)
def test_public_name_is_there_and_documented(name):
    """Every public name can be reached and has a docstring."""
    assert getattr(embkeras, name).__doc__


def test_unknown_name_is_an_attribute_error():
    """A misspelt name is refused as Python does."""
    with pytest.raises(AttributeError, match="module 'embkeras' has no attribute 'load_vector'"):
        _ = embkeras.load_vector


@pytest.mark.parametrize("statement", ["import embkeras", "from embkeras.app import cli; cli._parser().format_help()"])
def test_import_and_help_load_no_tensorflow(statement):
    """`import embkeras` and `--help` stay light: measured by what is loaded, not by time."""
    code = f"import sys; {statement}; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert run_python("-c", code).stdout.strip() == "[]"


def test_tests_start_processes_in_one_place():
    """A process without a time limit hangs the suite; a forked one may, once TensorFlow has been imported."""
    bare = re.compile(
        r"\bsubprocess\.(run|Popen|call|check_\w+)\(|\bos\.(fork|posix_spawn|system)|\bpreexec[_]fn|import[ ]multiprocessing"
    )
    tests = Path(__file__).parent
    found = {path.relative_to(tests).as_posix() for path in tests.rglob("*.py") if bare.search(path.read_text("utf-8"))}
    assert found == {"processes.py", "test_processes.py"}
