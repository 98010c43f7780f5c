"""Check the sections of docstrings with pydoclint: Args as in the signature and in its order, and what is returned.

    python .ci/docstrings.py

A public name, one that a page in docs/reference shows, needs the sections unless its docstring is one short sentence.
Elsewhere a section may be left out; one that is there must be right. pyproject.toml has pydoclint's settings.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_VIOLATION = re.compile(r"(?P<file>\S+\.py):(?P<line>\d+): (?P<code>DOC\d+): [\w/]+ `(?P<name>[^`]+)`")
_ARGS, _RESULT = (
    {"DOC101", "DOC103"},
    {"DOC201", "DOC402"},
)  # arguments, a result or what is yielded: not in the docstring


def public_names(root: Path) -> set[str]:
    """The names that the reference shows; of a module, its path."""
    pages = (page.read_text("utf-8") for page in (root / "docs" / "reference").glob("*.md"))
    names = {name for page in pages for name in re.findall(r"^::: (embkeras[\w.]+)", page, re.MULTILINE)}
    files = {name: f"{name.replace('.', '/')}.py" for name in names}
    return {file if (root / file).exists() else name.removeprefix("embkeras.") for name, file in files.items()}


def has_args(path: Path, name: str, line: int) -> bool:
    """Whether the docstring of a function, or of the class of an `__init__`, has the section Args."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        described = node.name == name.split(".")[-1] and node.lineno <= line <= node.body[0].lineno
        described |= name == f"{node.name}.__init__" and node.lineno <= line <= (node.end_lineno or 0)
        if described and re.search(r"^ *Args:$", ast.get_docstring(node) or "", re.MULTILINE):
            return True
    return False


def counts(violation: re.Match[str], public: set[str], root: Path) -> bool:
    """Whether a violation counts: of a public name, or in a section that is there."""
    file, name, code = violation["file"], violation["name"], violation["code"]
    shown = file in public or name.split(".")[0] in public
    if shown and not name.endswith(".__init__"):
        return True
    return code not in _RESULT and (code not in _ARGS or has_args(root / file, name, int(violation["line"])))


def main(root: Path = ROOT) -> int:
    """Print what counts; the exit status is 1 if there is any."""
    command = ["pydoclint", "--quiet", "--show-filenames-in-every-violation-message", "True", "embkeras"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    lines = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    found = [(line, _VIOLATION.match(line)) for line in lines]
    public = public_names(root)
    # A line that isn't understood counts too, such as an error of pydoclint.
    wrong = [line for line, violation in found if violation is None or counts(violation, public, root)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong) or not public or ended.returncode not in (0, 1))


if __name__ == "__main__":
    sys.exit(main())
