"""The versions that are tested, those that setup.cfg allows, those of notebook images, and what the README says of them."""

import configparser
import importlib.util
import json

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from embkeras.keras_compat.private import TESTED_KERAS, TESTED_TENSORFLOW
from tests.processes import ROOT

_SPEC = importlib.util.spec_from_file_location("matrix", ROOT / ".ci" / "matrix.py")
matrix = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(matrix)

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
IMAGES = {name: entry for name, entry in matrix.ENTRIES.items() if entry["colab"]} | {
    "colab and kaggle, spring 2026": {
        "python": "3.12",
        "pins": matrix.ENTRIES["colab-2026-08"]["pins"] | {"numpy": "2.0.2", "pandas": "2.2.2"},
    }
}
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="passes"/><testcase classname="tests.a" name="fails"><failure message="no"/></testcase>
<testcase classname="tests.b" name="errs"><error message="no"/></testcase>
<testcase classname="tests.b" name="skips"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def _requirements(extra):
    """What an install asks for: the core, and an extra with the extras in it."""
    lines = SETUP["options"]["install_requires"]
    lines += SETUP["options.extras_require"][extra] if extra else ""
    return [Requirement(line) for line in lines.strip().splitlines()]


def _results():
    if not matrix.RESULTS.exists():
        pytest.skip(".ci/matrix has not been run: there is no benchmarks/results/matrix.json")
    return json.loads(matrix.RESULTS.read_text("utf-8"))


@pytest.mark.parametrize("extra", matrix.UNCHANGED_EXTRAS)
@pytest.mark.parametrize("image", IMAGES)
def test_bounds_take_what_an_image_holds(image, extra):
    """pip swaps nothing there; what the image lacks is named. `.ci/matrix` asks pip itself."""
    held = IMAGES[image]["pins"] | matrix.AROUND
    refused = [
        f"{each} but {held[each.name]}"
        for each in _requirements(extra)
        if each.name in held and held[each.name] not in each.specifier
    ]
    lacking = {each.name for each in _requirements(extra)} - set(held)
    assert refused == [] and lacking <= {"tensorflow-serving-api"}
    assert IMAGES[image]["python"] in SpecifierSet(SETUP["options"]["python_requires"])


def test_messages_of_tensorflow_serving_leave_tensorflow_alone():
    """pip takes their newest allowed version, and all after 2.19.0 ask for a newer TensorFlow than an image may hold."""
    (messages,) = (each for each in _requirements("serving") if each.name == "tensorflow-serving-api")
    assert list(messages.specifier.filter(["2.19.0", "2.19.1", "2.20.0", "2.21.0"])) == ["2.19.0"]


def test_lower_bounds_are_tested():
    """The oldest TensorFlow and Keras that setup.cfg allows are those of an entry, and those that errors name."""
    oldest = {
        package: min((entry["pins"][package] for entry in IMAGES.values()), key=matrix.numbers)
        for package in ("tensorflow", "keras")
    }
    assert (oldest["keras"], oldest["tensorflow"]) == (TESTED_KERAS[0], TESTED_TENSORFLOW[0])
    for each in _requirements(""):
        if each.name in oldest:
            (bound,) = (part.version for part in each.specifier if part.operator == ">=")
            assert matrix.numbers(bound) == matrix.numbers(oldest[each.name])[:2]


def test_every_entry_passed():
    """The committed result has all entries, without a failed test, and an image in which nothing was swapped."""
    results = _results()
    assert list(results) == list(matrix.ENTRIES)
    for name, result in results.items():
        assert (name, result["failures"]) == (name, [])
        assert not any(result.get("changed", {}).values())
        for package, version in matrix.ENTRIES[name]["pins"].items():
            assert result["versions"][package] == version
        if matrix.ENTRIES[name]["colab"]:
            assert result["colab_cell"]["one_process"] and result["changed"].keys() >= {"core", "plots", "serving"}


def test_readme_says_what_was_tested():
    """Word for word what `.ci/matrix --readme` prints; an error about versions names the same."""
    results = _results()
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert matrix.sentence(results) in readme
    for package, tested in (("keras", TESTED_KERAS), ("tensorflow", TESTED_TENSORFLOW)):
        versions = sorted((each["versions"][package] for each in results.values()), key=matrix.numbers)
        assert (versions[0], versions[-1]) == tested


def test_sentence_of_the_readme():
    """By TensorFlow's version; equal entries once."""
    held = [("3.13.0", "2.20.0", "3.13.2"), ("3.11.7", "2.9.0", "3.10.0"), ("3.11.9", "2.9.0", "3.10.0")]
    results = {
        str(place): {"versions": dict(zip(("python", "tensorflow", "keras"), each, strict=True))}
        for place, each in enumerate(held)
    }
    assert matrix.sentence(results) == (
        "All tests passed with TensorFlow 2.9.0 and Keras 3.10.0 on Python 3.11; "
        "TensorFlow 2.20.0 and Keras 3.13.2 on Python 3.13."
    )


def test_counts_of_a_report(tmp_path):
    """Errors count as failures; reasons of skipped tests are kept."""
    (tmp_path / "report.xml").write_text(REPORT, "utf-8")
    counts = matrix.counted(tmp_path / "report.xml")
    assert [counts[key] for key in ("passed", "skipped", "failed")] == [1, 1, 2]
    assert counts["failures"] == ["tests.a::fails", "tests.b::errs"] and counts["skips"] == {"why": 1}


def test_a_result_is_merged(tmp_path):
    """Other entries stay, and all are in the order of the list."""
    path = tmp_path / "results" / "matrix.json"
    first, second = list(matrix.ENTRIES)[:2]
    matrix.merge(path, second, {"passed": 1})
    matrix.merge(path, first, {"passed": 2})
    matrix.merge(path, second, {"passed": 3})
    assert list(json.loads(path.read_text("utf-8")).items()) == [(first, {"passed": 2}), (second, {"passed": 3})]
    assert [each.name for each in path.parent.iterdir()] == ["matrix.json"]


def test_a_missing_python_is_named():
    """With how to get it."""
    with pytest.raises(matrix.StepError, match=r"no Python 2\.0: no python2\.0 on PATH.*pyenv install 2\.0"):
        matrix.interpreter("2.0")


def test_a_failing_step_is_shown(tmp_path):
    """Its command, what it returned and the end of what it printed."""
    command = ["python3", "-c", "import sys; print('broken'); sys.exit(3)"]
    with pytest.raises(matrix.StepError, match=r"returned 3:\nbroken\n[^|]*All of it: .*log\.txt"):
        matrix.shell(command, tmp_path, tmp_path / "log.txt")
    assert "broken" in (tmp_path / "log.txt").read_text("utf-8")
    assert matrix.shell(command, tmp_path, codes=(3,)) == "broken"
