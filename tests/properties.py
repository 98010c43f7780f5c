"""Settings and strategies shared by the property tests."""

import contextlib
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import VectorFileError

# The same examples on every run, whatever the speed of the machine; nothing is written beside the tests.
PROPERTY = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Text that UTF-8 can hold: lone surrogates are left out.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def finite_bits(dtype: str = "uint32") -> st.SearchStrategy[np.ndarray]:
    """Tables (rows, width >= 2) of finite float32, drawn by their bits so that they include subnormals and -0.0."""
    bits = st.integers(0, 2**32 - 1).filter(lambda value: value >> 23 & 0xFF != 0xFF)
    shapes = st.tuples(st.integers(1, 6), st.integers(2, 4))
    return shapes.flatmap(
        lambda shape: st.lists(bits, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            lambda values: np.array(values, dtype).view(np.float32).reshape(shape)
        )
    )


def comes_back(words: list[str], matrix: np.ndarray, path: Path, **how) -> KeyedVectors:
    """Save and load bit-identically; returns what was loaded."""
    loaded = load_vectors(save_vectors(KeyedVectors(words, matrix), path), **how)
    assert loaded.words == words
    assert loaded.matrix.tobytes() == matrix.tobytes()
    return loaded


def read_or_refused(path: Path, contents: bytes, start: int, data: st.DataObject, format: str) -> None:
    """Write the contents with some bytes replaced from `start` on, and load them."""
    damaged = bytearray(contents)
    damaged[start : start + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    path.write_bytes(damaged)
    with contextlib.suppress(VectorFileError):
        load_vectors(path, format=data.draw(st.sampled_from([None, format])))
