"""An encoder's forward pass in NumPy and float64, from its file alone: what the Keras model is compared with."""

import math
from collections.abc import Callable

import numpy as np

from embkeras.encoders.families import NORM, POSITIONS, PROJECTION, SEGMENTS, WORDS, Architecture
from embkeras.encoders.tensors import Tensors

_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.asarray(_erf(x / math.sqrt(2)), np.float64))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def hidden_states(tensors: Tensors, of: Architecture, ids: np.ndarray) -> np.ndarray:
    """The vectors behind the last block, float64 of shape (batch, time, width); those of padding mean nothing."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scale, shift = (tensors(f"{name}.{kind}", x.shape[-1:]) for kind in ("weight", "bias"))
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + of.epsilon) * scale + shift

    def dense(x: np.ndarray, name: str, width: int) -> np.ndarray:
        kernel = tensors(f"{name}.weight", (width, x.shape[-1])).astype(np.float64)
        return x @ kernel.T + tensors(f"{name}.bias", (width,))

    def by_head(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], of.heads, -1).transpose(0, 2, 1, 3)

    first = of.family.unused_positions
    positions = tensors(f"{POSITIONS}.weight", (of.positions + first, of.embedding_width))
    x = tensors(f"{WORDS}.weight", (of.vocabulary_size, of.embedding_width))[ids].astype(np.float64)
    x += positions[first : first + ids.shape[1]]
    if of.segments:
        x += tensors(f"{SEGMENTS}.weight", (of.segments, of.embedding_width))[0]
    x = norm(x, NORM)
    if of.projected:
        x = dense(x, PROJECTION, of.width)
    kept, act = (ids != of.padding_id)[:, None, None], _ACTIVATIONS[of.activation]
    for block in of.blocks:
        name = {ours: block + theirs for ours, theirs in of.family.tensors.items()}
        q, k, v = (
            by_head(dense(x, name[f"self_attention_layer/{part}"], of.width)) for part in ("query", "key", "value")
        )
        weights = np.where(kept, q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), -np.inf)
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
        attended = dense(mixed, name["self_attention_layer/attention_output"], of.width)
        x = norm(x + attended, name["self_attention_layer_norm"])
        inner = act(dense(x, name["feedforward_intermediate_dense"], of.inner_width))
        x = norm(x + dense(inner, name["feedforward_output_dense"], of.width), name["feedforward_layer_norm"])
    return x
