"""The test suite in fresh environments, one for each set of versions that users have; writes benchmarks/results/matrix.json.

    .ci/matrix                          # every entry that has no result for this commit
    .ci/matrix colab-2026-08 --jobs 2   # entries by name, two at once
    .ci/matrix --list
    .ci/matrix colab-2026-01 -- tests/text -k vocabulary    # chosen tests; printed, not written to the file
    .ci/matrix --readme                 # the sentence on tested versions, from the file

Each entry builds a virtual environment with its Python and its pins, installs the wheel of the committed state with the
extra `test`, and runs all tests against the installed package. In an entry with the pins of a Colab image, two things come
first: what `pip install` of the wheel would change in it, which must be nothing, and a notebook cell that installs, trains
and exports in one process (benchmarks/colab_cell.py).
"""

import argparse
import datetime
import fcntl
import glob
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
# What a Colab image holds besides TensorFlow that an extra of ours asks for: releases as old as those of 2026 or older.
AROUND = {"requests": "2.32.4", "matplotlib": "3.10.0", "scipy": "1.16.0", "scikit-learn": "1.6.1", "pyarrow": "18.1.0"}
AROUND |= {"safetensors": "0.5.3", "grpcio": "1.71.0", "rich": "13.9.4"}
ENTRIES = {
    "colab-2026-08": {
        "python": "3.13",
        "colab": True,
        "pins": {
            "tensorflow": "2.20.0",
            "keras": "3.13.2",
            "numpy": "2.1.3",
            "pandas": "2.2.3",
            "h5py": "3.16.0",
            "protobuf": "5.29.6",
        },
    },
    "colab-2026-01": {
        "python": "3.12",
        "colab": True,
        "pins": {
            "tensorflow": "2.19.0",
            "keras": "3.10.0",
            "numpy": "2.0.2",
            "pandas": "2.2.2",
            "h5py": "3.15.0",
            "protobuf": "5.29.5",
        },
    },
    "python-3.13-newest": {"python": "3.13", "colab": False, "pins": {}},
    "python-3.11-newest": {"python": "3.11", "colab": False, "pins": {}},
}
UNCHANGED_EXTRAS = ("", "plots", "serving", "compare", "safetensors")  # an install with any of these swaps nothing
RECORDED = (
    "tensorflow",
    "keras",
    "numpy",
    "pandas",
    "h5py",
    "protobuf",
    "requests",
    "tensorflow-serving-api",
    "grpcio",
)


class StepError(Exception):
    """A step of an entry that failed; the message is for a person."""


def main() -> int:
    """Run what the arguments ask for; 0 if all tests of all entries passed."""
    arguments, chosen = sys.argv[1:], []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, chosen = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(
        prog=".ci/matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help="names of entries; all of them without any")
    parser.add_argument("--list", action="store_true", help="print the entries and their versions")
    parser.add_argument("--readme", action="store_true", help="print the sentence on tested versions")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="entries at once (default: 1)")
    parser.add_argument("--workers", default="auto", metavar="N", help="test processes of an entry (default: auto)")
    parser.add_argument("--again", action="store_true", help="also run entries that have a result for this commit")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the result file (default: {RESULTS.relative_to(ROOT)})"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep environments and logs here")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{name}: {described(entry)}" for name, entry in ENTRIES.items()))
        return 0
    results = options.out or RESULTS
    if options.readme:
        print(sentence(json.loads(results.read_text("utf-8"))))
        return 0
    unknown = sorted(set(options.entries) - set(ENTRIES))
    if unknown:
        parser.error(f"no entry {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    written = None if chosen and options.out is None else results
    with tempfile.TemporaryDirectory(prefix="matrix-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        return run_all(options.entries or list(ENTRIES), options, chosen, written, work)


def run_all(names: list[str], options: argparse.Namespace, chosen: list[str], written: Path | None, work: Path) -> int:
    """Run entries; the number of those that failed."""
    try:
        commit, source = committed(work)
        if written and written.exists() and not options.again:
            done = json.loads(written.read_text("utf-8"))
            names = [name for name in names if done.get(name, {}).get("commit") != commit]
        pythons = {name: interpreter(ENTRIES[name]["python"]) for name in names}
        wheel = built_wheel(source, work)
    except StepError as error:
        print(error, file=sys.stderr)
        return 1

    def one(name: str) -> bool:
        print(f"{name}: {described(ENTRIES[name])}", flush=True)
        try:
            result = run_entry(name, pythons[name], wheel, source, work / name, options.workers, chosen)
        except StepError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            return False
        result = {"commit": commit, **result}
        if written:
            merge(written, name, result)
        counts = ", ".join(f"{result[key]} {key}" for key in ("passed", "skipped", "failed"))
        print(f"{name}: {counts} in {result['seconds']} s" + ("" if written else f"\n{json.dumps(result, indent=1)}"))
        return not (result["failed"] or any(result.get("changed", {}).values()))

    with ThreadPoolExecutor(max(options.jobs, 1)) as pool:
        return list(pool.map(one, names)).count(False)


def described(entry: dict) -> str:
    """Python and pins in one line."""
    pins = ", ".join(f"{name} {version}" for name, version in entry["pins"].items()) or "the newest of everything"
    return f"Python {entry['python']}, {pins}"


def committed(work: Path) -> tuple[str, Path]:
    """The commit, and a copy of its files without the package: what is imported is what the wheel installed."""
    but_results = ["--", ".", ":!benchmarks/results"]  # what a run of this script writes changes no other result
    if changed := shell(["git", "status", "--porcelain", *but_results], ROOT):
        raise StepError(f"The result belongs to a commit, and there are changes that are in none:\n{changed}")
    commit = shell(["git", "log", "-1", "--format=%h", *but_results], ROOT)
    source = work / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    archive = work / "source.tar"
    shell(["git", "archive", "-o", str(archive), "HEAD"], ROOT)
    shutil.unpack_archive(archive, source, filter="data")
    return commit, source


def interpreter(version: str) -> str:
    """A Python of this version: on PATH, from pyenv, or from uv."""
    candidates = [shutil.which(f"python{version}") or ""]
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates += sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"), reverse=True)
    if shutil.which("uv"):
        found = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True)
        candidates.append(found.stdout.strip())
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if answer.stdout.strip() == version:  # a shim of pyenv is on PATH even if it can't run
            return candidate
    raise StepError(
        f"There is no Python {version}: no python{version} on PATH, none in pyenv, none that uv finds. Install it "
        f"(pyenv install {version}, uv python install {version}), or name the entries that you want."
    )


def built_wheel(source: Path, work: Path) -> Path:
    """Build the wheel from a copy of the commit."""
    folder = work / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    shell([sys.executable, "-m", "venv", str(work / "builder")], work)
    pip = [str(work / "builder" / "bin" / "python"), "-m", "pip", "wheel", "--quiet", "--no-deps"]
    shell([*pip, "-w", str(folder), str(source)], work)
    for left in ("build", *(path.name for path in source.glob("*.egg-info"))):
        shutil.rmtree(source / left, ignore_errors=True)
    (wheel,) = folder.glob("embkeras-*.whl")
    return wheel


def run_entry(name: str, python: str, wheel: Path, source: Path, folder: Path, workers: str, chosen: list[str]) -> dict:
    """Build the environment of an entry, run its steps in it, and return its result."""
    entry = ENTRIES[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log = folder / "log.txt"
    shell([python, "-m", "venv", str(folder / "venv")], folder, log)
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    result: dict = {}
    constraints = folder / "pins.txt"
    constraints.write_text("".join(f"{package}=={version}\n" for package, version in entry["pins"].items()), "utf-8")
    if entry["colab"]:
        image = {**entry["pins"], **AROUND}
        shell([*pip, *(f"{package}=={version}" for package, version in image.items())], folder, log)
        result["image"] = image
        result["changed"] = {extra or "core": changes(pip, wheel, extra, folder, log) for extra in UNCHANGED_EXTRAS}
        cell = shell([python, str(source / "benchmarks" / "colab_cell.py"), str(wheel)], folder, log)
        result["colab_cell"] = json.loads(cell.splitlines()[-1])
    shell([*pip, "-c", str(constraints), f"{wheel}[test]"], folder, log)
    tests = folder / "tests"
    shutil.copytree(source, tests, ignore=shutil.ignore_patterns("embkeras"))
    (tests / "embkeras").symlink_to(installed(python, folder))  # the doctests, and tests that look for files
    environment = {"EMBKERAS_CACHE": str(folder.parent / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""}
    shell([python, "-c", "from embkeras.app import material; material.tweets()"], folder, log, environment)
    report = folder / "report.xml"
    began = time.monotonic()
    command = [
        python,
        "-m",
        "pytest",
        "-m",
        "",
        "-q",
        "-rs",
        "-n",
        workers,
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    shell([*command, *chosen], tests, log, environment, codes=(0, 1))
    result |= {"seconds": round(time.monotonic() - began), **counted(report)}
    versions = json.loads(shell([python, "-m", "pip", "list", "--format", "json"], folder, log))
    held = {each["name"].lower(): each["version"] for each in versions}
    exact = shell([python, "-c", "import platform; print(platform.python_version())"], folder, log)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{cores} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": exact, **{package: held[package] for package in RECORDED if package in held}},
        **result,
    }


def changes(pip: list[str], wheel: Path, extra: str, folder: Path, log: Path) -> list[str]:
    """What an install of the wheel with an extra would change in an environment: "name old -> new", none expected."""
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    report = folder / f"dry-run-{extra or 'core'}.json"
    shell([*pip, "--dry-run", "--report", str(report), wanted], folder, log)
    held = json.loads(shell([pip[0], "-m", "pip", "list", "--format", "json"], folder, log))
    before = {canonical(each["name"]): each["version"] for each in held}
    after = [each["metadata"] for each in json.loads(report.read_text("utf-8"))["install"]]
    return [
        f"{each['name']} {before[canonical(each['name'])]} -> {each['version']}"
        for each in after
        if canonical(each["name"]) in before
    ]


def canonical(name: str) -> str:
    """One spelling of a package's name."""
    return name.lower().replace("_", "-").replace(".", "-")


def installed(python: str, folder: Path) -> str:
    """Where the environment has the package."""
    found = shell([python, "-c", "import embkeras; print(embkeras.__path__[0])"], folder)
    if not Path(found).is_relative_to(folder / "venv"):
        raise StepError(f"The package comes from {found}, not from the wheel.")
    return found


def counted(report: Path) -> dict:
    """Counts, the names of failed tests, and the reasons of skipped ones, from pytest's report."""
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case.find("skipped") for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": len(failed),
        "failures": sorted(f"{case.get('classname')}::{case.get('name')}" for case in failed),
        "skips": dict(sorted(Counter(each.get("message") or "" for each in skipped).items())),
    }


def merge(path: Path, name: str, result: dict) -> None:
    """Put the result of an entry into the file, where other runs may do the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(path.read_text("utf-8")) if path.exists() else {}
        results[name] = result
        ordered = {key: results[key] for key in [*ENTRIES, *sorted(set(results) - set(ENTRIES))] if key in results}
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        os.close(lock)


def sentence(results: dict) -> str:
    """The README's statement on tested versions."""
    tested = []
    for each in sorted(results.values(), key=lambda each: numbers(each["versions"]["tensorflow"])):
        python = ".".join(each["versions"]["python"].split(".")[:2])
        tested.append(
            f"TensorFlow {each['versions']['tensorflow']} and Keras {each['versions']['keras']} on Python {python}"
        )
    return f"All tests passed with {'; '.join(dict.fromkeys(tested))}."


def numbers(version: str) -> list[int]:
    """The numbers of a release, to sort by."""
    return [int(part) for part in version.split(".")[:3] if part.isdigit()]


def shell(
    command: list[str],
    cwd: Path,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
    codes: tuple[int, ...] = (0,),
) -> str:
    """Run a command, keep what it prints in the log, and return its output.

    Raises:
        StepError: it returned another code than those expected.
    """
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if log:
        with open(log, "a", encoding="utf-8") as file:
            print("$", *command, file=file)
            print(done.stdout, done.stderr, file=file)
    if done.returncode not in codes:
        tail = (done.stdout + done.stderr)[-3000:]
        raise StepError(
            f"{' '.join(command)} returned {done.returncode}:\n{tail}" + (f"\nAll of it: {log}" if log else "")
        )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
