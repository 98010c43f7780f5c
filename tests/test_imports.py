"""What an import brings in: few packages for those who only ask a server, and every module can come first."""

import ast
import functools
import os

import pytest

from tests.processes import ROOT, run_python
from tests.variants import THOROUGH

GOLDEN = ROOT / "saved_models" / "golden"
HEAVY = {
    "tensorflow",
    "keras",
    "pandas",
    "h5py",
    "scipy",
    "sklearn",
    "matplotlib",
    "pyarrow",
    "grpc",
    "google.protobuf",
}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import embkeras", HEAVY | {"numpy", "requests", "urllib3"}),
        ("from embkeras import Tokenizer, Vocabulary", HEAVY | {"requests", "urllib3"}),
        (f"import embkeras; embkeras.TextEncoder({str(GOLDEN)!r}).encode(['good'])", HEAVY | {"requests", "urllib3"}),
        (f"import embkeras; embkeras.ServingClient('http://127.0.0.1:1', encoder={str(GOLDEN)!r})", HEAVY),
    ],
    ids=["embkeras", "Vocabulary", "TextEncoder", "ServingClient"],
)
def test_asking_takes_few_packages(statement, absent):
    """None of the packages that cost time and memory (`benchmarks/import_cost.py`) is imported."""
    code = f"import sys; {statement}; print(sorted({absent!r} & set(sys.modules)))"
    assert run_python("-c", code).stdout.strip() == "[]"


@functools.cache
def top_imports() -> dict[str, set[str]]:
    """Module -> the modules that importing it imports: at its top, and the packages around it."""
    found = {}
    for path in sorted((ROOT / "embkeras").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imported = {name.rpartition(".")[0]} - {""}
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = imported
    return found


def needs_tensorflow(name: str) -> bool:
    """Whether importing a module imports TensorFlow, which takes seconds."""
    seen: set[str] = set()
    found = {name}
    while found:
        seen |= found
        found = {other for module in found for other in top_imports().get(module, ())} - seen
    return any(module.split(".")[0] in ("tensorflow", "keras") for module in seen)


# Before each import it forgets our modules, so that each is the first of them; what is not ours stays.
_ALONE_WITHOUT = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [other for other in sys.modules if other.split(".")[0] in ("embkeras", "planted", "tensorflow")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
        if "tensorflow" in sys.modules:
            print(f"{name}: imports TensorFlow")
    except Exception as error:
        print(f"{name}: {error}")
"""


def test_module_without_tensorflow_imports_alone(tmp_path):
    """Each before any other module of ours, and none brings TensorFlow in; the same process notices one that does."""
    (tmp_path / "tensorflow.py").write_text("")  # an empty one is found as soon
    (tmp_path / "planted.py").write_text("import tensorflow")
    names = sorted(name for name in top_imports() if not needs_tensorflow(name))
    assert {"embkeras", "embkeras.text.vocabulary", "embkeras.vectors.store", "embkeras.app.cli"} <= set(names)
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    printed = run_python("-c", _ALONE_WITHOUT, *names, "planted", env={"PYTHONPATH": path}).stdout.splitlines()
    assert printed == ["planted: imports TensorFlow"]


# A process for each module would start TensorFlow 60 times. This one starts it once. Before each import it forgets our modules
# and `keras`, not its parts: so `keras` is imported when a fresh process would import it, and calls our hook at its end.
_ALONE = """
import importlib, sys
import tensorflow, keras
for name in sys.argv[1:]:
    for loaded in [other for other in sys.modules if other == "keras" or other.split(".")[0] in ("embkeras", "circle")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""
# A package whose hook imports, with Keras, a module that needs the one which imported Keras.
_CIRCLE = {
    "__init__": "import importlib, wrapt\n"
    "wrapt.register_post_import_hook(lambda keras: importlib.import_module('circle.layer'), 'keras')",
    "layer": "from circle.low import VALUE",
    "low": "import keras\nVALUE = 1",
}


@THOROUGH
def test_module_with_tensorflow_imports_alone(tmp_path):
    """Each before any other module of ours, and before Keras; the same process notices a circle through Keras."""
    (tmp_path / "circle").mkdir()
    for name, code in _CIRCLE.items():
        (tmp_path / "circle" / f"{name}.py").write_text(code)
    names = sorted(name for name in top_imports() if needs_tensorflow(name))
    assert {"embkeras.keras_compat.layers", "embkeras.tables.embedding", "embkeras.app.pipeline"} <= set(names)
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    failed = run_python("-c", _ALONE, *names, "circle.low", env={"PYTHONPATH": path}).stdout.splitlines()
    assert [line.partition(":")[0] for line in failed] == ["circle.low"], failed
    assert "cannot import name 'VALUE' from partially initialized module" in failed[0]
