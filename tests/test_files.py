"""Files appear whole or not at all."""

import os

import pytest

from embkeras._files import check_writable, written_beside
from embkeras.errors import DataError, OutputError


def test_file_is_renamed_when_the_block_ends(tmp_path):
    """What the block wrote is at the target, and nothing else is in the folder."""
    with written_beside(tmp_path / "a.txt") as beside:
        beside.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_folder_is_renamed_when_the_block_ends(tmp_path):
    """The block may make a folder."""
    with written_beside(tmp_path / "model") as beside:
        beside.mkdir()
        (beside / "part").write_text("x")
    assert (tmp_path / "model" / "part").read_text() == "x"


def test_parents_are_created(tmp_path):
    """The folders above the target are made."""
    with written_beside(tmp_path / "a" / "b" / "c.txt") as beside:
        beside.write_text("x")
    assert (tmp_path / "a" / "b" / "c.txt").is_file()


@pytest.mark.parametrize("error", [DataError("no"), KeyboardInterrupt("stop"), ZeroDivisionError("zero")])
def test_failing_block_leaves_the_target_as_it_was(tmp_path, error):
    """An error inside passes through; the old file stays and the half file goes."""
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(type(error), match=str(error)), written_beside(target) as beside:
        beside.write_text("half")
        raise error
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_names_the_target(tmp_path):
    """The system's refusal becomes an error that names the file asked for."""
    with (
        pytest.raises(OutputError, match=r"Cannot write '.*a\.txt': No space left"),
        written_beside(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")


def test_existing_target_is_kept_without_overwrite(tmp_path):
    """overwrite=False refuses a file that is there."""
    target = tmp_path / "a.txt"
    target.write_text("before")
    with (
        pytest.raises(OutputError, match=r"a\.txt': it exists already"),
        written_beside(target, overwrite=False) as beside,
    ):
        beside.write_text("after")
    assert target.read_text() == "before"


def test_path_below_a_file_is_refused(tmp_path):
    """A folder that cannot be made is refused before the block runs."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"Cannot write '.*file/a\.txt'"), written_beside(tmp_path / "file" / "a.txt"):
        pytest.fail("the block ran")


def test_folder_in_place_of_the_file_is_refused(tmp_path):
    """A folder is never replaced by a file."""
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write '.*a\.txt'"), written_beside(tmp_path / "a.txt") as beside:
        beside.write_text("x")
    assert (tmp_path / "a.txt").is_dir()


def test_check_writable_leaves_nothing_behind(tmp_path):
    """A folder that is not there yet is not made: the nearest one above it is tried."""
    check_writable(tmp_path / "new" / "inner")
    assert os.listdir(tmp_path) == []


def test_check_writable_refuses_a_path_below_a_file(tmp_path):
    """The refusal names the folder."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"Cannot write '.*file/inner'"):
        check_writable(tmp_path / "file" / "inner")


@pytest.mark.parametrize("error", [OSError(39, "not empty"), KeyboardInterrupt("stop")])
def test_replaced_folder_comes_back_if_the_rename_fails(tmp_path, monkeypatch, error):
    """It is moved aside first, since no system replaces a folder that holds something."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "part").write_text("old")
    real = os.replace

    def replace(source, destination):
        if destination == target and source.name == "model":
            raise error
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((OutputError, KeyboardInterrupt)), written_beside(target) as beside:
        beside.mkdir()
        (beside / "part").write_text("new")
    assert (target / "part").read_text() == "old" and os.listdir(tmp_path) == ["model"]
