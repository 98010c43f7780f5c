"""Writing without ever leaving half a file or half a folder: write beside the target, then rename."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from embkeras.errors import EmbkerasError, OutputError


@contextlib.contextmanager
def written_beside(target: str | os.PathLike, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `target`; rename it to `target` when the block ends well, else remove it.

    The block may create a file or a folder there. A process killed inside the block leaves `target` as it was.

    Raises:
        OutputError: the folder cannot be written, or `target` exists and `overwrite` is false.
    """
    target = Path(target)
    with _as_output_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        nest = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        beside = nest / target.name
        with _as_output_error(target):
            yield beside
            if not overwrite and target.exists():
                raise FileExistsError(17, "it exists already")
            _replace(beside, target, nest / "replaced")
    finally:
        shutil.rmtree(nest, ignore_errors=True)


def _replace(beside: Path, target: Path, aside: Path) -> None:
    """Rename `beside` to `target`; a folder in its place goes `aside`, and comes back if anything goes wrong."""
    try:
        if target.is_dir() and beside.is_dir():  # no system replaces a folder that holds something
            os.replace(target, aside)
        os.replace(beside, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.replace(aside, target)
        raise


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an error that names the target."""
    try:
        yield
    except OSError as error:
        if isinstance(error, EmbkerasError):
            raise
        raise OutputError(f"Cannot write {str(target)!r}: {error.strerror or error}.") from error


def check_writable(folder: str | os.PathLike) -> None:
    """Make sure, before long work begins, that its result can be written into `folder`; leaves nothing behind.

    Raises:
        OutputError: it cannot.
    """
    folder = Path(folder)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    with _as_output_error(folder), tempfile.TemporaryFile(dir=there):
        pass
