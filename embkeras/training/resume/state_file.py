"""The file that holds a state of training: an .npz with one entry per variable, and a description in JSON.

It is written and read variable by variable, and tables that are read by rows in blocks, so memory does not grow with the
model. Every entry has a checksum, and all of them are checked before anything in the file is used.

The description holds values of callbacks and random generators. JSON has neither tuples nor NumPy's numbers, and callbacks
hold both: each is marked, and arrays become entries of their own. What comes back equals what went in.
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
from embkeras.keras_compat.variables import reads_rows
from embkeras.tables.row_io import fill_table, row_blocks

_FORMAT = 1
_MARK = "__embkeras__"
_PLAIN = (str, bool, int, float, type(None))
_DESCRIPTION = "description.json"
_DAMAGE = (zipfile.BadZipFile, KeyError, IndexError, ValueError, TypeError, EOFError, OSError, NotImplementedError)


def write_state(path: Path, description: Mapping[str, Any], variables: Mapping[str, keras.Variable]) -> None:
    """Write a state beside `path` and rename it: a process killed here leaves the previous state, never half of one.

    Args:
        path: the file; its folder is created.
        description: values that `pack` takes, by name.
        variables: entry name -> variable.

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

    Args:
        path: the file.

    Raises:
        ResumeError: the file is damaged, or was written by another version.
    """
    with contextlib.ExitStack() as stack:
        with _as_damage(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if archive.testzip() is not None:
                raise zipfile.BadZipFile(f"bad checksum of {archive.testzip()}")
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

        Args:
            name: the entry.
            variable: where its value goes.

        Raises:
            ResumeError: there is no such entry in the file.
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
    """The rows of an entry, read from top to bottom."""

    def __init__(self, entry: IO[bytes], shape: Sequence[int], dtype: np.dtype, kind: Any):
        self._entry, self._shape, self._dtype, self._kind = entry, tuple(shape), dtype, kind

    def __getitem__(self, rows: slice) -> np.ndarray:
        shape = (rows.stop - rows.start, *self._shape[1:])
        return _read_array(self._entry, shape, self._dtype).view(self._kind)


def _by_rows(variable: keras.Variable) -> bool:
    """Whether a variable is read by rows anyway. Any other must not be: after that, TensorFlow copies it on whole reads."""
    return reads_rows(variable) and len(variable.shape) == 2


def _write_variable(entry: IO[bytes], variable: keras.Variable) -> None:
    if not _by_rows(variable):
        _write_array(entry, _value_of(variable))
        return
    kind = np.dtype(tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).as_numpy_dtype)
    _write_header(entry, tuple(variable.shape), _plain(kind))
    for _, rows in row_blocks(variable):
        entry.write(np.ascontiguousarray(rows).view(_plain(kind)).data)


def _value_of(variable: keras.Variable) -> np.ndarray:
    """The value, without the copy that `numpy()` makes where TensorFlow exposes its memory."""
    try:
        return np.asarray(memoryview(tf.convert_to_tensor(variable.value)))
    except (TypeError, ValueError, BufferError):  # bfloat16 and similar dtypes, and values on several replicas
        return np.asarray(keras.ops.convert_to_numpy(variable))


def _plain(dtype: np.dtype) -> np.dtype:
    """The dtype that a .npy file declares: for bfloat16 and others unknown to it, the bits as unsigned integers."""
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


def _read_array(entry: Any, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    array = np.empty(shape, dtype)
    if array.size and entry.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise EOFError("an entry is truncated")
    return array


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

    Example:
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
    """The value that was passed to `pack`.

    Args:
        packed: what `pack` returned, or the same read from JSON.
        arrays: the arrays, in their order.
    """
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
