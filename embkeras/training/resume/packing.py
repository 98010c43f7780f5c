"""Values of callbacks and random generators as JSON, with their arrays beside it: what comes back equals what went in.

JSON alone knows neither tuples nor NumPy's numbers, and callbacks hold both. Each is kept under a mark of its own, and
arrays are put aside, to be written as they are.
"""

from typing import Any

import keras
import numpy as np

from embkeras.errors import ResumeError

_MARK = "__embkeras__"
_PLAIN = (str, bool, int, float, type(None))


def pack(value: Any, arrays: list[np.ndarray], what: str) -> Any:
    """`value` as JSON knows it; the arrays in it are appended to `arrays`.

    Args:
        value: numbers, text, None, arrays, and lists, tuples and dictionaries (with text as keys) of these.
        arrays: takes the arrays; not copied.
        what: what the message calls the value.

    Raises:
        ResumeError: something else is in it.

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
        f"{what} cannot be saved: a state holds numbers, text, None, arrays, and lists, tuples and dictionaries of them. "
        f"Received: {type(value).__name__}."
    )


def unpack(packed: Any, arrays: Any) -> Any:
    """The value that `pack` was given.

    Args:
        packed: what `pack` returned, also after a way through JSON.
        arrays: the arrays, by their place.
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
