"""States as JSON and arrays: what comes back equals what went in."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ResumeError
from embkeras.training.resume.packing import pack, unpack


def _way(value):
    """Through JSON and back."""
    arrays = []
    return unpack(json.loads(json.dumps(pack(value, arrays, "it"))), arrays)


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.1, float("inf"), "ü", [], {}, (), [1, (2, [3])], {"a": {"b": (1,)}}]
)
def test_plain_values_come_back(value):
    """Tuples stay tuples, and floats are equal to the last bit."""
    assert _way(value) == value


def test_nan_comes_back():
    """A loss that diverged is a history too."""
    assert np.isnan(_way({"loss": [float("nan")]})["loss"][0])


@pytest.mark.parametrize("value", [np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True)])
def test_numpy_numbers_keep_their_type(value):
    """A float32 that came back as a float would change the next comparison."""
    assert type(_way(value)) is type(value) and _way(value) == value


def test_arrays_keep_shape_and_dtype():
    """Also inside lists; they are not copied on the way in."""
    array, arrays = np.arange(6, dtype=np.int16).reshape(2, 3), []
    pack([array], arrays, "it")
    assert arrays[0] is array
    back = _way([array])[0]
    assert back.dtype == np.int16 and np.array_equal(back, array)


@pytest.mark.parametrize("make", [tf.constant, keras.Variable], ids=["tensor", "variable"])
def test_tensors_become_arrays(make):
    """A log may be a tensor."""
    np.testing.assert_array_equal(_way({"x": make([1.0, 2.0])})["x"], [1, 2])


def test_state_of_pythons_generator_comes_back():
    """It holds a tuple of 625 numbers in a tuple."""
    assert _way(random.getstate()) == random.getstate()


@pytest.mark.parametrize(
    ("value", "kind"),
    [({1: 2}, "dict"), ({"__embkeras__": 1}, "dict"), ({1}, "set"), (print, "builtin"), (np.array([None]), "ndarray")],
    ids=["keys", "mark", "set", "function", "objects"],
)
def test_what_cannot_be_kept_is_refused(value, kind):
    """The place in the state is named, and the type."""
    with pytest.raises(ResumeError, match=rf"it\['a'\]\[0\] cannot be saved: .*Received: {kind}"):
        pack({"a": [value]}, [], "it")
