"""Writing without ever leaving half a file or half a folder: write beside the target, then rename.

Everything is written into a folder `.writing-embkeras-*` beside the target. The process holds a lock on that folder while
it writes, and the system releases the lock when the process ends. So a folder without a lock was left by a process that
was killed, and the next write beside it removes it. On a system without such locks, nothing is removed.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from embkeras import _checks
from embkeras.errors import EmbkerasError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".writing-embkeras-"
_KINDS = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
    stat.S_IFIFO: "it is a pipe",
    stat.S_IFSOCK: "it is a socket",
}
_LOOP = "it is a link that leads back to itself"
_UNWRITABLE = {_LOOP, *_KINDS.values()} - {_KINDS[stat.S_IFDIR]}
_REPLACED = "replaced"  # inside the temporary folder: where a folder waits while another takes its name


def not_a_file(path: Path) -> str | None:
    """Why there is no regular file at a path, such as "it is a folder"; None if there is one."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except FileNotFoundError:
        if path.is_symlink():
            return f"it is a link to {os.readlink(path)!r}, and there is no such file"
        there_is_none = "there is no such file"
        if _checks.HUB_NAME.fullmatch(path.as_posix()) and not path.parent.exists():
            command = _checks.hub_command(path.as_posix())
            return f"{there_is_none}. If it is a model of the Hugging Face Hub, fetch it first: {command}"
        return there_is_none
    except OSError as error:
        if error.errno == errno.ELOOP:
            return _LOOP
        return error.strerror or str(error)


def _end_of_links(path: Path) -> Path:
    """Where to write: what a link leads to, or else the path itself. A pipe, a device and a loop of links are refused."""
    reason = not_a_file(path)
    if reason in _UNWRITABLE:
        raise OutputError(f"Cannot write {str(path)!r}: {reason}.")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def written_beside(
    target: str | os.PathLike[str], *, sidecars: Sequence[Path] = (), overwrite: bool = True
) -> Iterator[Path]:
    """Yield a temporary path of the same name as `target`; rename it to `target` if the block succeeds, else remove it.

    The block may create a file or a folder there. If `target` is a link, it stays, and what it leads to is
    replaced. A process killed inside the block leaves `target` as it was.

    Args:
        target: the file or folder to create.
        sidecars: files beside `target` that belong to it. Those that the block creates, next to the temporary path and
            under the same names, are renamed just before `target` is. A process killed between two of these renames
            leaves files that don't match, so one of them must hold a checksum of the other.
        overwrite: whether to replace the target and its sidecars where they exist.

    Raises:
        ArgumentError: `target` is not a path.
        OutputError: the folder can't be written, `target` is a pipe, a device or a loop of links, or a file exists and
            `overwrite` is false.
    """
    target = _checks.path(target, "path")
    with _as_output_error(target):
        end = _end_of_links(target)
        end.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(end.parent)
        nest, lock = _locked_nest(end.parent)
    try:
        beside = nest / target.name
        with _as_output_error(target):
            yield beside
            finished = [path for path in sidecars if (nest / path.name).exists()]
            for path in () if overwrite else (*finished, target):
                if os.path.lexists(path):
                    raise OutputError(f"Cannot write {str(path)!r}: it already exists.")
            for path in finished:
                _rename(nest / path.name, _end_of_links(path))
            _replace(beside, end, nest / _REPLACED / end.name)
    finally:
        shutil.rmtree(nest, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_nest(folder: Path) -> tuple[Path, int | None]:
    """A new folder inside `folder`, and the open descriptor that holds its lock, or None where locks don't work."""
    while True:
        nest = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        if fcntl is None:
            return nest, None
        descriptor = None
        try:
            descriptor = os.open(nest, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # this file system has no locks, or another process removed the folder
            if nest.exists():
                if descriptor is not None:
                    os.close(descriptor)
                return nest, None
        else:
            if nest.exists():
                return nest, descriptor
        # Another process took the folder for an abandoned one, before it was locked.
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left in `folder`: the temporary folders on which no process holds a lock.

    A folder that such a process had moved aside, and not yet replaced, gets its name back first.
    """
    if fcntl is None:
        return
    for nest in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(nest, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for replaced in (nest / _REPLACED).glob("*"):
                    if not os.path.lexists(folder / replaced.name):
                        os.replace(replaced, folder / replaced.name)
                shutil.rmtree(nest, ignore_errors=True)
            finally:
                os.close(descriptor)


def _rename(path: Path, target: Path) -> None:
    """Rename a file; to another disk, on which a link may lie, it is copied."""
    try:
        os.replace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with written_beside(target) as beside:
            shutil.copyfile(path, beside)


def _replace(beside: Path, target: Path, aside: Path) -> None:
    """Rename `beside` to `target`; a folder in its place moves `aside`, and comes back if anything goes wrong."""
    try:
        if target.is_dir() and beside.is_dir():  # no system replaces a folder that is not empty
            aside.parent.mkdir()
            os.replace(target, aside)
        os.replace(beside, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.replace(aside, target)
        raise


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    """Turn an OSError of the system into an error that names the target."""
    try:
        yield
    except OSError as error:
        if isinstance(error, EmbkerasError):
            raise
        raise OutputError(f"Cannot write {str(target)!r}: {error.strerror or error}.") from error


def allocate(path: Path) -> None:
    """Make sure that the disk has room for all of a file before its memory map is written to: a full one ends the process.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make sure, before long work begins, that its result can be written into `folder`; leaves nothing behind.

    Raises:
        ArgumentError: `folder` is not a path.
        OutputError: the folder can't be written.
    """
    folder = _checks.path(folder, "folder")
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if existing.is_file():
        raise OutputError(
            f"Cannot write {str(folder)!r}: {str(existing)!r} is a file. Choose another folder, or move the file."
        )
    with _as_output_error(folder), tempfile.TemporaryFile(dir=existing):
        pass
