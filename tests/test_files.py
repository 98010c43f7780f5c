"""Files appear completely or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embkeras._files import allocate, check_writable, written_beside
from embkeras.errors import ArgumentError, DataError, OutputError
from tests.processes import run_python, started

WRITER = """
import os, signal, sys
from embkeras._files import written_beside
with written_beside(sys.argv[1]) as beside:
    beside.write_text("from the other process")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.readline()
"""


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
    """The system's error becomes an OutputError that names the file."""
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
        pytest.raises(OutputError, match=r"a\.txt': it already exists"),
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
    with pytest.raises(OutputError, match=r"Cannot write '.*file/inner': '.*file' is a file"):
        check_writable(tmp_path / "file" / "inner")


@pytest.mark.parametrize("error", [OSError(39, "not empty"), KeyboardInterrupt("stop")])
def test_replaced_folder_comes_back_if_the_rename_fails(tmp_path, monkeypatch, error):
    """It is moved aside first, since no system replaces a folder that holds something."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "part").write_text("old")
    real = os.replace

    def replace(source, destination):
        if destination == target and source.parent.name != "replaced":
            raise error
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((OutputError, KeyboardInterrupt)), written_beside(target) as beside:
        beside.mkdir()
        (beside / "part").write_text("new")
    assert (target / "part").read_text() == "old" and os.listdir(tmp_path) == ["model"]


def test_sidecars_are_renamed_with_the_target(tmp_path):
    """Those that the block creates; the others stay as they were."""
    sidecars = [tmp_path / "a.json", tmp_path / "a.words"]
    for path in sidecars:
        path.write_text("before")
    with written_beside(tmp_path / "a.npy", sidecars=sidecars) as beside:
        beside.write_text("matrix")
        beside.with_name("a.json").write_text("after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.npy": "matrix",
        "a.json": "after",
        "a.words": "before",
    }


def test_existing_sidecar_is_kept_without_overwrite(tmp_path):
    """Neither file is replaced."""
    (tmp_path / "a.json").write_text("before")
    with (
        pytest.raises(OutputError, match=r"a\.json': it already exists"),
        written_beside(tmp_path / "a.npy", sidecars=[tmp_path / "a.json"], overwrite=False) as beside,
    ):
        beside.write_text("matrix")
        beside.with_name("a.json").write_text("after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "before"}


@pytest.mark.parametrize("path", [None, b"a.txt", 3, "", "a\0b", "a" * 5000])
def test_other_values_than_paths_are_refused(path):
    """Neither function raises an error of Python's."""
    with pytest.raises(ArgumentError, match="Received"), written_beside(path):
        pytest.fail("the block ran")
    with pytest.raises(ArgumentError, match="Received"):
        check_writable(path)


def test_folder_of_a_killed_process_is_removed_by_the_next_write(tmp_path):
    """The target stays as it was, and what the process left is gone after the next write of any file there."""
    (tmp_path / "a.txt").write_text("before")
    run_python("-c", WRITER, tmp_path / "a.txt", "die", returncode=-signal.SIGKILL)
    left = [path.name for path in tmp_path.iterdir() if path.name != "a.txt"]
    assert len(left) == 1 and left[0].startswith(".writing-")
    assert (tmp_path / "a.txt").read_text() == "before"
    with written_beside(tmp_path / "b.txt") as beside:
        beside.write_text("x")
        assert left[0] not in os.listdir(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_replaced_folder_of_a_killed_process_comes_back(tmp_path):
    """Killed between its two renames, a process leaves no folder of that name: the next write gives the old one back."""
    code = "import os, sys; from embkeras._files import written_beside\nreal = os.replace\n"
    code += "def replace(source, target):\n    real(source, target)\n    os._exit(9)\n"
    code += "os.replace = replace\nwith written_beside(sys.argv[1]) as beside: beside.mkdir()"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "part").write_text("old")
    run_python("-c", code, tmp_path / "model", returncode=9)
    assert not (tmp_path / "model").exists()
    with written_beside(tmp_path / "other") as beside:
        beside.write_text("new")
    assert (tmp_path / "model" / "part").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


def test_folder_of_a_live_process_is_left_alone(tmp_path):
    """Another process that is still writing in the same folder finishes its file."""
    command = (sys.executable, "-c", WRITER, tmp_path / "a.txt", "wait")
    with started(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == "writing\n"
        for _ in range(3):
            with written_beside(tmp_path / "b.txt") as beside:
                beside.write_text("x")
        other.communicate("go on\n", timeout=60)
    assert (tmp_path / "a.txt").read_text() == "from the other process"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_own_write_is_left_alone(tmp_path):
    """Two writes of one process, one inside the other."""
    with written_beside(tmp_path / "a.txt") as outer:
        with written_beside(tmp_path / "b.txt") as inner:
            inner.write_text("b")
        outer.write_text("a")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_what_is_not_ours_is_left_alone(tmp_path):
    """Other folders, and files or links under such a name."""
    (tmp_path / ".writing-notes").mkdir()
    (tmp_path / ".writing-embkeras-file").write_text("x")
    (tmp_path / ".writing-embkeras-link").symlink_to(tmp_path / ".writing-notes", target_is_directory=True)
    before = sorted(os.listdir(tmp_path))
    with written_beside(tmp_path / "a.txt") as beside:
        beside.write_text("x")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "a.txt"])


def test_folder_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    """Between making the folder and locking it, another process may take it for an abandoned one."""
    fcntl = pytest.importorskip("fcntl", reason="locks of files are POSIX's")
    real, swept = fcntl.flock, []

    def flock(descriptor, operation):
        if operation == fcntl.LOCK_EX and not swept:
            swept.extend(tmp_path.glob(".writing-*"))
            swept[0].rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with written_beside(tmp_path / "a.txt") as beside:
        beside.write_text("x")
    assert len(swept) == 1 and os.listdir(tmp_path) == ["a.txt"]


def test_file_system_without_locks(tmp_path, monkeypatch):
    """Files are still written; nothing is removed, since no one can tell whether it is in use."""
    fcntl = pytest.importorskip("fcntl", reason="locks of files are POSIX's")

    def flock(descriptor, operation):
        raise OSError(95, "Operation not supported")

    (tmp_path / ".writing-embkeras-old").mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    with written_beside(tmp_path / "a.txt") as beside:
        beside.write_text("x")
    assert sorted(os.listdir(tmp_path)) == [".writing-embkeras-old", "a.txt"]


def test_links_are_written_through(tmp_path):
    """The link stays; what it leads to is replaced, in its own folder, and so are links among the sidecars."""
    (tmp_path / "data").mkdir()
    for name in ("a.npy", "a.json"):
        (tmp_path / "data" / name).write_text("before")
        (tmp_path / name).symlink_to(f"data/{name}")
    (tmp_path / "data" / "a.npy").unlink()  # a link may lead to a file that is not there yet
    with written_beside(tmp_path / "a.npy", sidecars=[tmp_path / "a.json"]) as beside:
        beside.write_text("matrix")
        beside.with_name("a.json").write_text("words")
    assert all((tmp_path / name).is_symlink() for name in ("a.npy", "a.json"))
    files = {path.name: path.read_text() for path in (tmp_path / "data").iterdir()}
    assert files == {"a.npy": "matrix", "a.json": "words"} and len(os.listdir(tmp_path)) == 3


def test_a_link_to_a_folder_is_written_through(tmp_path):
    """As for a file."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "latest").symlink_to("v1")
    with written_beside(tmp_path / "latest") as beside:
        beside.mkdir()
        (beside / "part").write_text("x")
    assert os.readlink(tmp_path / "latest") == "v1" and os.listdir(tmp_path / "v1") == ["part"]


def test_sidecar_on_another_disk(tmp_path, monkeypatch):
    """It can't be renamed there, so it is copied into its folder first."""
    real = os.replace

    def replace(source, target):
        if Path(target).name == "a.json" and Path(source).parent.parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    (tmp_path / "other").mkdir()
    (tmp_path / "a.json").symlink_to("other/a.json")
    monkeypatch.setattr(os, "replace", replace)
    with written_beside(tmp_path / "a.npy", sidecars=[tmp_path / "a.json"]) as beside:
        beside.write_text("matrix")
        beside.with_name("a.json").write_text("words")
    assert (tmp_path / "a.json").is_symlink() and os.listdir(tmp_path / "other") == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "words" and (tmp_path / "a.npy").read_text() == "matrix"


def _fifo(path):
    os.mkfifo(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no devices in the file system")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("/dev/full"), "it is a device"),
        (_fifo, "it is a pipe"),
        (lambda path: path.symlink_to(path), "it is a link that leads back to itself"),
    ],
)
def test_what_can_not_be_replaced(tmp_path, make, reason):
    """A device or a pipe would be gone after the rename."""
    make(tmp_path / "x")
    with pytest.raises(OutputError, match=rf"Cannot write '.*x': {reason}"), written_beside(tmp_path / "x"):
        pytest.fail("the block ran")
    assert os.path.lexists(tmp_path / "x") and os.listdir(tmp_path) == ["x"]


def test_check_writable_names_a_loop_of_links(tmp_path):
    """It is not taken for a folder that is still to be made."""
    (tmp_path / "x").symlink_to(tmp_path / "x")
    with pytest.raises(OutputError, match=r"Cannot write '.*x': Too many levels of symbolic links"):
        check_writable(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system can't reserve room")
def test_room_is_allocated(tmp_path):
    """A file that is all holes gets its blocks, and stays what it was."""
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 20)
    allocate(tmp_path / "a")
    assert os.stat(tmp_path / "a").st_blocks * 512 >= 1 << 20 and (tmp_path / "a").read_bytes() == bytes(1 << 20)
