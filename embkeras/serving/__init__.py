"""Ids in, scores out: the exported model and those who ask it."""

from importlib import import_module
from typing import Any

_HOME = {"Encoder": "text_encoder", "ServingClient": "client", "ExportedModel": "local", "request_bytes": "local"}


def __getattr__(name: str) -> Any:
    """The clients, on first use: `Encoder` and `ServingClient` come without TensorFlow."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
