"""A decoder's forward pass in NumPy and float64, from its file alone: what the Keras model is compared with.

Of a GGUF file it takes the rows of query and key as they are stored, and turns neighbours as llama.cpp does, so that it
doesn't share the reordering with the Keras model.
"""

import numpy as np

from embkeras.encoders.decoders.gguf_files import GgufFile
from embkeras.encoders.decoders.llama import BLOCK, NORM, OUTPUT, WORDS, Llama
from embkeras.encoders.tensors import Tensors


def next_scores(tensors: Tensors | GgufFile, of: Llama, ids: np.ndarray) -> np.ndarray:
    """The scores of every token as the next one, float64 of shape (time, V), for one row of ids (time,)."""
    neighbours, shapes, time = isinstance(tensors, GgufFile), of.shapes(), len(ids)

    def tensor(name: str) -> np.ndarray:
        read = tensors.as_stored if isinstance(tensors, GgufFile) else tensors
        return read(name, shapes[name]).astype(np.float64)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + of.epsilon) * tensor(name)

    angles = np.arange(time)[:, None, None] * np.array(of.frequencies())
    cosines, sines = np.cos(angles), np.sin(angles)

    def turned(x: np.ndarray) -> np.ndarray:
        x = x.reshape(time, -1, of.head_width)
        first, second = (x[..., ::2], x[..., 1::2]) if neighbours else np.split(x, 2, axis=-1)
        pair = first * cosines - second * sines, second * cosines + first * sines
        return np.stack(pair, -1).reshape(x.shape) if neighbours else np.concatenate(pair, -1)

    later = np.triu(np.full((time, time), -np.inf), 1)
    shared = of.heads // of.key_value_heads
    x = tensor(WORDS)[ids]
    for block in range(of.layers):
        name = f"{BLOCK.format(block)}{{}}.weight".format
        y = norm(x, name("input_layernorm"))
        q, k = (turned(y @ tensor(name(f"self_attn.{part}_proj")).T) for part in "qk")
        v = (y @ tensor(name("self_attn.v_proj")).T).reshape(time, -1, of.head_width)
        k, v = k.repeat(shared, axis=1), v.repeat(shared, axis=1)
        weights = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(of.head_width) + later
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(time, -1) @ tensor(name("self_attn.o_proj")).T
        y = norm(x, name("post_attention_layernorm"))
        gate = y @ tensor(name("mlp.gate_proj")).T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ tensor(name("mlp.up_proj")).T)) @ tensor(name("mlp.down_proj")).T
    return np.asarray(norm(x, NORM) @ tensor(WORDS if of.tied else OUTPUT).T)
