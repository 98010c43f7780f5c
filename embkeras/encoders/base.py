"""Weights by name, a fingerprint of those that a model took from its base, and models in float32 to compare with it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import keras
import numpy as np

from embkeras.keras_compat.variables import replicas
from embkeras.tables.addresses import own_weights, walk

_Named = TypeVar("_Named")
_LENGTH = 16  # characters of a fingerprint


def values_of(variable: keras.Variable) -> np.ndarray:
    """A variable's values; on several replicas those of the first."""
    return keras.ops.convert_to_numpy(replicas(variable)[0])


def digest(values: np.ndarray) -> str:
    """A fingerprint of type, shape and bytes."""
    described = f"{values.dtype.name} {values.shape} ".encode()
    return hashlib.sha256(described + np.ascontiguousarray(values).tobytes()).hexdigest()[:_LENGTH]


def fingerprint(digests: Mapping[str, str]) -> str:
    """One fingerprint of weights by their names and digests."""
    listed = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()[:_LENGTH]


def mark_base(layer: keras.layers.Layer) -> None:
    """Note that the weights of a layer are those of a pre-trained model."""
    for weight in layer.weights:
        weight.embkeras_base = digest(values_of(weight))


def base_digest(variable: keras.Variable) -> str | None:
    """The digest that a weight had when it was taken from a pre-trained model; None for any other."""
    return getattr(variable, "embkeras_base", None)


@contextmanager
def in_float32() -> Iterator[None]:
    """Within this context new layers compute in float32, whatever the dtype policy is: to compare them with a reference."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def named_layers(model: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The model as "" and all layers inside by their paths, each once; further ones of the same path get a number."""
    return _named([("", model), *walk(model)])


def named_weights(model: keras.layers.Layer) -> dict[str, keras.Variable]:
    """All weights by the path of their layer and their name, each once."""
    return _named(
        (f"{path}/{weight.name}".removeprefix("/"), weight)
        for path, layer in named_layers(model).items()
        for weight in own_weights(layer)
    )


def _named(pairs: Iterable[tuple[str, _Named]]) -> dict[str, _Named]:
    found: dict[str, _Named] = {}
    counts: dict[str, int] = {}
    seen: set[int] = set()
    for path, each in pairs:
        if id(each) not in seen:
            seen.add(id(each))
            counts[path] = counts.get(path, 0) + 1
            found[path if counts[path] == 1 else f"{path} ({counts[path]})"] = each
    return found
