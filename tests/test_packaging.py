"""What a release holds: its metadata, every tracked file in the source archive. `.ci/package` builds and checks the real one."""

import re
import shutil
import subprocess
import tomllib
from email import message_from_string
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

import embkeras
from tests.processes import ROOT, run_python, started

pytestmark = pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools isn't installed")


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Path:
    """The folder in which setuptools describes the release: PKG-INFO and SOURCES.txt."""
    folder = tmp_path_factory.mktemp("described")
    run_python("-c", "import setuptools; setuptools.setup()", "-q", "egg_info", "--egg-base", folder)
    return folder / "embkeras.egg-info"


@pytest.fixture(scope="module")
def metadata(described) -> Message:
    """The release's metadata."""
    return message_from_string((described / "PKG-INFO").read_text("utf-8"))


def tracked() -> set[str]:
    """The files that git tracks, or would track once added."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the list of tracked files is git's")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    with started(*command, stdout=subprocess.PIPE) as git:
        listed = git.communicate(timeout=60)[0]
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def test_source_archive_holds_every_tracked_file(described):
    """A new folder at the top needs a line in MANIFEST.in; what git ignores isn't packed."""
    listed = (described / "SOURCES.txt").read_text("utf-8").splitlines()
    packed = {name for name in listed if ".egg-info/" not in name}
    assert packed == tracked()


def test_wheel_holds_the_typing_marker(described):
    """py.typed is package data: without it type checkers ignore the hints."""
    assert (ROOT / "embkeras" / "py.typed").is_file()
    code = "import setuptools; print(*setuptools.setup().get_command_obj('build_py').data_files)"
    assert "py.typed" in run_python("-c", code, "-q", "egg_info", "--egg-base", described.parent).stdout


def test_metadata_name_every_python(metadata):
    """A classifier for each Python from the lower bound on; the version is the package's."""
    pythons = [name for name in metadata.get_all("Classifier") if re.search(r"Python :: 3\.\d+$", name)]
    assert [name.rpartition(" ")[2] for name in pythons] == ["3.11", "3.12", "3.13"]
    assert (metadata["Requires-Python"], metadata["Version"]) == (">=3.11", embkeras.__version__)
    assert {"Typing :: Typed", "Development Status :: 3 - Alpha"} <= set(metadata.get_all("Classifier"))


def test_metadata_invent_nothing(metadata):
    """An author, and no address that doesn't exist."""
    assert metadata["Author"] == "The embkeras authors"
    assert {"Home-page", "Download-URL", "Project-URL", "Author-email"} & set(metadata) == set()


def test_command_is_installed(described):
    """`embkeras` starts `app.cli.main`."""
    assert "embkeras = embkeras.app.cli:main" in (described / "entry_points.txt").read_text("utf-8")


def test_readme_works_on_a_package_index(metadata):
    """The index renders the README without the repository: each link and picture has a full address."""
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]*)\)|(?:src|href)=[\"']([^\"']*)", (ROOT / "README.md").read_text("utf-8"))
    assert not [link for link in map("".join, links) if not link.startswith(("https://", "#"))]


def test_tools_know_the_oldest_python():
    """ruff and mypy check for the Python of the lower bound."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert (tools["ruff"]["target-version"], tools["mypy"]["python_version"]) == ("py311", "3.11")
