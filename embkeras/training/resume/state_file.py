"""The file that holds a state of training: an .npz with one entry a variable and a description in JSON.

It is written and read variable by variable, and a table that is read by rows in blocks, so memory does not grow with
the model. Every entry has a checksum, and all are checked before anything of the file is used.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.errors import ResumeError
from embkeras.tables.row_io import fill_table, row_blocks
from embkeras.training.resume.packing import pack, unpack

_FORMAT = 1
_DESCRIPTION = "description.json"
_DAMAGE = (zipfile.BadZipFile, KeyError, IndexError, ValueError, TypeError, EOFError, OSError, NotImplementedError)


def write_state(path: Path, description: Mapping[str, Any], variables: Mapping[str, keras.Variable]) -> None:
    """Write a state beside `path` and rename it, so that there is the state before, or this one, and never half of one.

    Args:
        path: the file; its folder is made.
        description: what `pack` takes.
        variables: the name of an entry -> the variable.

    Raises:
        OutputError: it cannot be written.
        ResumeError: something in `description` cannot be.
    """
    arrays: list[np.ndarray] = []
    packed = {"format": _FORMAT, "content": {key: pack(value, arrays, key) for key, value in description.items()}}
    with written_beside(path) as beside, open(beside, "wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, variable in variables.items():
                with _entry(archive, name) as entry:
                    _write_variable(entry, variable)
            for place, array in enumerate(arrays):
                with _entry(archive, f"array/{place}") as entry:
                    _write_array(entry, array)
            packed["dtypes"] = [array.dtype.name for array in arrays]
            archive.writestr(_DESCRIPTION, json.dumps(packed))
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before the content does


@contextlib.contextmanager
def open_state(path: Path) -> Iterator["State"]:
    """Open a state, all of whose checksums are right.

    Raises:
        ResumeError: the file is damaged, or written by another version.
    """
    with contextlib.ExitStack() as stack:
        with _as_damage(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if archive.testzip() is not None:
                raise zipfile.BadZipFile(f"bad checksum of {archive.testzip()}")
            state = State(path, archive)
        yield state


class State:
    """A state of training in an open file; made by `open_state`.

    Attributes:
        content: the description that was written.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        packed = json.loads(archive.read(_DESCRIPTION))
        if packed["format"] != _FORMAT:
            raise ResumeError(
                f"{str(path)!r} was written by another version of embkeras: delete its folder to begin anew. "
                f"Received: format {packed['format']}, and this version reads {_FORMAT}."
            )
        self.content = unpack(packed["content"], [self._array(*each) for each in enumerate(packed["dtypes"])])

    def fill(self, name: str, variable: keras.Variable) -> None:
        """Assign what was written under `name` to a variable of the same shape and dtype.

        Raises:
            ResumeError: the file holds no such entry.
        """
        with _as_damage(self.path), self._archive.open(f"{name}.npy") as entry:
            shape, dtype = _read_header(entry)
            kind = tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).as_numpy_dtype
            if _by_rows(variable):
                fill_table(variable, _Rows(entry, shape, dtype, kind))
            else:
                variable.assign(_read_array(entry, shape, dtype).view(kind))

    def _array(self, place: int, dtype: str) -> np.ndarray:
        with self._archive.open(f"array/{place}.npy") as entry:
            array = _read_array(entry, *_read_header(entry))
        return array.view(tf.as_dtype(dtype).as_numpy_dtype) if array.dtype.name != dtype else array


class _Rows:
    """Rows of an entry, asked for from top to bottom."""

    def __init__(self, entry: IO[bytes], shape: Sequence[int], dtype: np.dtype, kind: Any):
        self._entry, self._shape, self._dtype, self._kind = entry, tuple(shape), dtype, kind

    def __getitem__(self, rows: slice) -> np.ndarray:
        shape = (rows.stop - rows.start, *self._shape[1:])
        return _read_array(self._entry, shape, self._dtype).view(self._kind)


def _by_rows(variable: keras.Variable) -> bool:
    """Whether a variable is read by rows anyway. Any other must not be: whole reads of it would copy it ever after."""
    return getattr(variable, "row_reads", False) and len(variable.shape) == 2


def _write_variable(entry: IO[bytes], variable: keras.Variable) -> None:
    if not _by_rows(variable):
        _write_array(entry, _value_of(variable))
        return
    kind = np.dtype(tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).as_numpy_dtype)
    _write_header(entry, tuple(variable.shape), _plain(kind))
    for _, rows in row_blocks(variable):
        entry.write(np.ascontiguousarray(rows).view(_plain(kind)).data)


def _value_of(variable: keras.Variable) -> np.ndarray:
    """The value, without the copy that `numpy()` makes where TensorFlow lets us look at its memory."""
    try:
        return np.asarray(memoryview(tf.convert_to_tensor(variable.value)))
    except (TypeError, ValueError, BufferError):  # bfloat16 and its like, and values on several replicas
        return np.asarray(keras.ops.convert_to_numpy(variable))


def _plain(dtype: np.dtype) -> np.dtype:
    """The dtype under which .npy files hold `dtype`: for bfloat16 and its like, which they do not know, the bits."""
    return dtype if dtype.isbuiltin == 1 or dtype.kind in "US" else np.dtype(f"u{dtype.itemsize}")


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(f"{name}.npy", "w", force_zip64=True)


def _write_array(entry: IO[bytes], array: np.ndarray) -> None:
    array = np.asarray(array, order="C")
    plain = _plain(array.dtype)
    _write_header(entry, array.shape, plain)
    if array.size:
        entry.write(array.reshape(-1).view(np.uint8).data)


def _write_header(entry: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(entry, header)


def _read_header(entry: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    np.lib.format.read_magic(entry)
    shape, _, dtype = np.lib.format.read_array_header_2_0(entry)
    return shape, dtype


def _read_array(entry: IO[bytes], shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    array = np.empty(shape, dtype)
    if array.size and entry.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise EOFError("an entry is cut off")
    return array


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into an error that says what to do."""
    try:
        yield
    except ResumeError:
        raise
    except _DAMAGE as error:
        raise ResumeError(
            f"{str(path)!r} is damaged, or not a state that ResumableBackup wrote: delete its folder to begin anew. "
            f"Received: {error}."
        ) from error
