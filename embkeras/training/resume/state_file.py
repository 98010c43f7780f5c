"""The file that holds a state of training: an .npz with one entry per variable, and a description in JSON.

It is written and read variable by variable, and tables that are read by rows in blocks, so memory does not grow with the
model. Every entry has a checksum, and all of them are checked before anything in the file is used. In the description,
tuples and NumPy's numbers, which JSON doesn't have, are marked, and arrays become entries of their own.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.errors import ResumeError
from embkeras.keras_compat.variables import reads_rows
from embkeras.tables.row_io import fill_table, row_blocks

_FORMAT = 2
_MARK = "__embkeras__"
_PLAIN = (str, bool, int, float, type(None))
_DESCRIPTION = "description.json"
_DAMAGE = (zipfile.BadZipFile, KeyError, IndexError, ValueError, TypeError, EOFError, OSError, NotImplementedError)


def write_state(path: Path, description: Mapping[str, Any], variables: Mapping[str, keras.Variable]) -> None:
    """Write a state beside `path` and rename it: a process killed here leaves the previous state, never half of one.

    Args:
        path: the file; its folder is created.
        description: values that `pack` takes, by name.
        variables: by entry name.

    Raises:
        OutputError: the file can't be written.
        ResumeError: something in `description` can't be saved.
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
    """Open a state and verify all its checksums.

    Raises:
        ResumeError: the file is damaged, or was written by another version.
    """
    with contextlib.ExitStack() as stack:
        with _as_damage(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
            state = State(path, archive)
        yield state


class State:
    """A state of training in an open file, as `open_state` yields it.

    Attributes:
        path: the file.
        content: the description that was written.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        packed = json.loads(archive.read(_DESCRIPTION))
        if packed["format"] != _FORMAT:
            raise ResumeError(
                f"{str(path)!r} was written by another version of embkeras. Use that version, or delete the folder to "
                f"start over. Received: format {packed['format']}; this version reads {_FORMAT}."
            )
        self.content = unpack(packed["content"], [self._array(*each) for each in enumerate(packed["dtypes"])])

    def fill(self, name: str, variable: keras.Variable) -> None:
        """Assign what was written under `name` to a variable of the same shape and dtype.

        Raises:
            ResumeError: there is no such entry in the file.
        """
        with _as_damage(self.path), self._archive.open(f"{name}.npy") as entry:
            if _by_rows(variable):
                fill_table(variable, _Rows(entry, _dtype_of(variable)))
            else:
                variable.assign(np.lib.format.read_array(entry).view(_dtype_of(variable)))

    def _array(self, place: int, dtype: str) -> np.ndarray:
        with self._archive.open(f"array/{place}.npy") as entry:
            array = np.lib.format.read_array(entry)
        return array.view(tf.as_dtype(dtype).as_numpy_dtype) if array.dtype.name != dtype else array


class _Rows:
    """The rows of an entry, read from top to bottom."""

    def __init__(self, entry: IO[bytes], dtype: np.dtype):
        np.lib.format.read_magic(entry)
        (_, width), _, _ = np.lib.format.read_array_header_2_0(entry)
        self._entry, self._width, self._dtype = entry, width, dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        size = (rows.stop - rows.start) * self._width * self._dtype.itemsize
        return np.frombuffer(self._entry.read(size), self._dtype).reshape(-1, self._width)


def _by_rows(variable: keras.Variable) -> bool:
    """Whether a variable is read by rows anyway. Any other must not be: after that, TensorFlow copies it on whole reads."""
    return reads_rows(variable) and len(variable.shape) == 2


def _dtype_of(variable: keras.Variable) -> np.dtype:
    return np.dtype(tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).as_numpy_dtype)


def _write_variable(entry: IO[bytes], variable: keras.Variable) -> None:
    if not _by_rows(variable):
        _write_array(entry, _value_of(variable))
        return
    descr = np.lib.format.dtype_to_descr(_plain(_dtype_of(variable)))
    header = {"descr": descr, "fortran_order": False, "shape": tuple(variable.shape)}
    np.lib.format.write_array_header_2_0(entry, header)
    for _, rows in row_blocks(variable):
        entry.write(rows.tobytes())


def _value_of(variable: keras.Variable) -> np.ndarray:
    """The value, without the copy that `numpy()` makes where TensorFlow exposes its memory."""
    try:
        return np.asarray(memoryview(tf.convert_to_tensor(variable.value)))
    except (TypeError, ValueError, BufferError):  # bfloat16 and similar dtypes, and values on several replicas
        return np.asarray(keras.ops.convert_to_numpy(variable))


def _plain(dtype: np.dtype) -> np.dtype:
    """The dtype that a .npy file declares: for bfloat16 and others unknown to NumPy, the bits as unsigned integers."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.isbuiltin == 2 else dtype


def _write_array(entry: IO[bytes], array: np.ndarray) -> None:
    np.lib.format.write_array(entry, array.view(_plain(array.dtype)), version=(2, 0))


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(f"{name}.npy", "w", force_zip64=True)


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Turn any error from a damaged file into one that says what to do."""
    try:
        yield
    except ResumeError:
        raise
    except _DAMAGE as error:
        raise ResumeError(
            f"{str(path)!r} is damaged, or was not written by ResumableBackup: {error}. Delete the folder to start over."
        ) from error


def pack(value: Any, arrays: list[np.ndarray], what: str) -> Any:
    """`value` as JSON values; its arrays are appended to `arrays`.

    Args:
        value: numbers, text, None, arrays, and lists, tuples and dictionaries (with text as keys) of these.
        arrays: receives the arrays, not copied.
        what: name of the value in the error.

    Raises:
        ResumeError: it contains something else.

    Examples:
        >>> arrays = []
        >>> packed = pack({"best": 0.5, "weights": (np.zeros(2), 1)}, arrays, "EarlyStopping")
        >>> unpack(packed, arrays)
        {'best': 0.5, 'weights': (array([0., 0.]), 1)}
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict) and all(type(key) is str for key in value) and _MARK not in value:
        return {key: pack(each, arrays, f"{what}[{key!r}]") for key, each in value.items()}
    if type(value) in (list, tuple):
        items = [pack(each, arrays, f"{what}[{place}]") for place, each in enumerate(value)]
        return items if isinstance(value, list) else {_MARK: "tuple", "items": items}
    if keras.ops.is_tensor(value) or isinstance(value, np.ndarray | np.generic | keras.Variable):
        array = np.asarray(value if isinstance(value, np.ndarray | np.generic) else keras.ops.convert_to_numpy(value))
        if not array.dtype.hasobject:
            arrays.append(array)
            kind = "scalar" if isinstance(value, np.generic) else "array"
            return {_MARK: kind, "place": len(arrays) - 1}
    raise ResumeError(
        f"{what} can't be saved: a state may hold numbers, text, None, arrays, and lists, tuples and dictionaries of "
        f"them, with text as keys. Received: {type(value).__name__}."
    )


def unpack(packed: Any, arrays: Any) -> Any:
    """The value that was passed to `pack`, from what it returned (also read from JSON) and its arrays in their order."""
    if isinstance(packed, list):
        return [unpack(each, arrays) for each in packed]
    if not isinstance(packed, dict):
        return packed
    kind = packed.get(_MARK)
    if kind is None:
        return {key: unpack(each, arrays) for key, each in packed.items()}
    if kind == "tuple":
        return tuple(unpack(each, arrays) for each in packed["items"])
    array = arrays[packed["place"]]
    return array[()] if kind == "scalar" else array
