"""Matrices in 4 and 8 bits come back, up to their rounding."""

import numpy as np
import pytest

from embkeras.errors import SavedModelError
from embkeras.serving.packed_matrices import pack, unpack


@pytest.mark.parametrize(("bits", "steps"), [(4, 15), (8, 254)])
@pytest.mark.parametrize("columns", [64, 40, 3])
def test_numbers_come_back(bits, steps, columns):
    """Each number is off by at most half a step of its group; packing what was unpacked loses nothing more."""
    matrix = np.random.default_rng(0).normal(size=(5, columns)).astype(np.float32)
    matrix[1] = 0
    parts = pack(matrix, bits, "it")
    found = unpack(parts, columns).numpy()
    padded = np.pad(matrix, ((0, 0), (0, -columns % 32)), mode="edge").reshape(5, -1, 32)
    width = 2 * np.abs(padded).max(axis=2) if bits == 8 else np.ptp(padded, axis=2)
    limit = np.repeat(width / steps * 0.5, 32, axis=1)[:, :columns]
    assert (np.abs(found - matrix) <= limit * 1.02 + 1e-3 * np.abs(matrix)).all()
    assert parts[0].nbytes == 5 * -(-columns // 32) * 32 * bits // 8
    again = pack(found, bits, "it")
    np.testing.assert_allclose(unpack(again, columns).numpy(), found, atol=2e-3)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_1", 4), ("Q8_0", 8)])
def test_matrix_of_a_gguf_file_loses_nothing(kind, bits):
    """What such a file holds is stored bit for bit."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed (extra gguf)")
    matrix = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    stored = gguf.GGMLQuantizationType[kind]
    held = gguf.dequantize(gguf.quantize(matrix, stored), stored)
    np.testing.assert_allclose(unpack(pack(held, bits, "it"), 64).numpy(), held, atol=1e-6)


def test_numbers_beyond_float16_are_refused():
    """A scale is float16."""
    with pytest.raises(SavedModelError, match="it has numbers beyond 65504"):
        pack(np.full((1, 32), 1e6, np.float32), 4, "it")
