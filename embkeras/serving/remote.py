"""Writing an export to an object store, such as s3://bucket/models/tweets.

The stores are those of fsspec (extra `cloud`, and the package of the store) and those that TensorFlow has registered
(`tf.io.gfile`: gs:// by itself, more with plugins). An export is made on this machine, checked, and then sent.

A store can't rename a folder, so a version doesn't appear at once. `saved_model.pb` is sent last: a server finds either the
whole version or none that it can load. Two writers that start at the same moment may take the same number.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from embkeras._checks import address, shown
from embkeras._checks import path as checked_path
from embkeras._files import written_beside
from embkeras.errors import ArgumentError, EmbkerasError, MissingDependencyError, OutputError

GRAPH_FILE = "saved_model.pb"
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_NOT_WRITTEN = ("file", "http", "https", "ftp", "ftps")  # refused by `_checks.path`, which says what to do


class Store(Protocol):
    """What is needed of an object store; places are addresses, "s3://bucket/name"."""

    def names(self, folder: str) -> list[str]:
        """Names of what is in a folder; none if there is no such folder."""

    def send(self, file: Path, place: str) -> None:
        """Copy a file of this machine."""

    def remove(self, place: str) -> None:
        """Remove a file or a folder with all that is in it."""


@dataclass(frozen=True)
class _Fsspec:
    """A store of fsspec; `root` is an address, and `inside` is what the store calls that place."""

    system: Any
    root: str
    inside: str

    def names(self, folder: str) -> list[str]:
        self.system.invalidate_cache()
        try:
            return [os.path.basename(name.rstrip("/")) for name in self.system.ls(self._inside(folder), detail=False)]
        except FileNotFoundError:
            return []

    def send(self, file: Path, place: str) -> None:
        self.system.put_file(str(file), self._inside(place))

    def remove(self, place: str) -> None:
        self.system.rm(self._inside(place), recursive=True)

    def _inside(self, place: str) -> str:
        return self.inside + place.removeprefix(self.root)


@dataclass(frozen=True)
class _Registered:
    """A store that TensorFlow has registered."""

    def names(self, folder: str) -> list[str]:
        try:
            return [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
        except tf.errors.NotFoundError:
            return []

    def send(self, file: Path, place: str) -> None:
        tf.io.gfile.makedirs(os.path.dirname(place))
        tf.io.gfile.copy(str(file), place, overwrite=True)

    def remove(self, place: str) -> None:
        if not tf.io.gfile.isdir(place):
            tf.io.gfile.remove(place)
            return
        # File by file: for ram://, "assets.extra" lies in "assets" too, and rmtree stops at what isn't there.
        for folder, _, files in tf.io.gfile.walk(place, topdown=False):
            for file in files:
                with contextlib.suppress(tf.errors.NotFoundError):
                    tf.io.gfile.remove(f"{folder}/{file}")
        with contextlib.suppress(tf.errors.NotFoundError):
            tf.io.gfile.rmtree(place)


@dataclass(frozen=True, order=True)
class StoreFolder:
    """A folder of an object store, with as much of the interface of `pathlib.Path` as an export uses.

    Attributes:
        place: its address, without a slash at the end.
        store: where it is.
    """

    place: str
    store: Store = field(compare=False)

    def __str__(self) -> str:
        return self.place

    def __truediv__(self, name: str) -> "StoreFolder":
        return StoreFolder(f"{self.place}/{name}", self.store)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.place.rpartition("/")[2]

    @property
    def parent(self) -> "StoreFolder":
        """The folder around it."""
        return StoreFolder(self.place.rpartition("/")[0], self.store)

    def is_dir(self) -> bool:
        """True: a store has no folders, only names; what isn't there is empty."""
        return True

    def iterdir(self) -> Iterator["StoreFolder"]:
        """What is in it.

        Raises:
            OSError: the store can't be read; its message is that of the store.
        """
        with _as_output_error(f"Cannot list {self.place!r}"):
            found = self.store.names(self.place)
        return (self / name for name in found if name)

    def exists(self) -> bool:
        """Whether there is anything in it."""
        return any(True for _ in self.iterdir())

    def fill(self, source: Path, *, overwrite: bool) -> None:
        """Send all files of a folder of this machine, the graph last; what was sent is removed if one fails.

        Raises:
            OutputError: the store refuses, or there is something already and `overwrite` is false.
        """
        there = self.exists()
        if there and not overwrite:
            raise OutputError(f"Cannot write {self.place!r}: it already exists.")
        files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == GRAPH_FILE)
        with _as_output_error(f"Cannot write {self.place!r}"):
            if there:
                self._clear()
            try:
                for file in files:
                    self.store.send(file, f"{self.place}/{file.relative_to(source).as_posix()}")
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to report
                    self._clear()
                raise

    def _clear(self) -> None:
        """Remove the graph first: without it, no server takes the rest for a model."""
        if GRAPH_FILE in self.store.names(self.place):
            self.store.remove(f"{self.place}/{GRAPH_FILE}")
        if self.store.names(self.place):
            self.store.remove(self.place)


@contextlib.contextmanager
def _as_output_error(what: str) -> Iterator[None]:
    """Turn whatever a store raises into one error that names the address."""
    try:
        yield
    except EmbkerasError:
        raise
    except Exception as error:  # every store has classes of its own
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise OutputError(f"{what}: {type(error).__name__}: {reason}") from error


def destination(path: Any) -> Path | StoreFolder:
    """The folder to write to, on this machine or in a store.

    Raises:
        ArgumentError: not a path, an address without a folder, or of a store that nothing here knows.
        MissingDependencyError: the package of the store is not installed.
    """
    found = address(path)
    if found is None or found[0].lower() in _NOT_WRITTEN:
        return checked_path(path, "path")
    scheme, rest = found[0].lower(), found[1].strip("/")
    if not isinstance(path, str):
        raise ArgumentError(
            f"path must be a string if it is an address: pathlib.Path drops a slash. Received: {shown(path)}."
        )
    if "/" not in rest or ".." in rest.split("/"):
        raise ArgumentError(
            f"path must name a folder in the bucket, such as {scheme}://bucket/models/tweets. Received: {shown(path)}."
        )
    place = f"{scheme}://{rest}"
    return StoreFolder(place, _store_of(scheme, place))


def _store_of(scheme: str, place: str) -> Store:
    """The store of an address: fsspec's, else TensorFlow's."""
    known, reason = False, 'python -m pip install "embkeras[cloud]"'
    try:
        import fsspec

        system, inside = fsspec.core.url_to_fs(place)
        return _Fsspec(system, place, inside)
    except ImportError as error:  # of fsspec, or of the package that the store needs
        known = True
        reason += f" {_PACKAGES[scheme]}" if scheme in _PACKAGES else f" ({error})"
    except ValueError:  # a scheme that fsspec doesn't know
        pass
    if scheme in map(str, tf.io.gfile.get_registered_schemes()):
        return _Registered()
    if known:
        raise MissingDependencyError(f"Writing to {shown(place)} needs another package: {reason}.")
    raise ArgumentError(
        f"path must be a folder on this machine, or an address that fsspec or TensorFlow can write to. Received: "
        f"{shown(place)}, and neither knows {scheme}://."
    )


@contextlib.contextmanager
def written(target: Path | StoreFolder, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder of this machine to write into; it becomes the target if the block succeeds."""
    if isinstance(target, Path):
        with written_beside(target, overwrite=overwrite) as beside:
            yield beside
        return
    with tempfile.TemporaryDirectory() as near:
        beside = Path(near) / target.name
        yield beside
        target.fill(beside, overwrite=overwrite)
