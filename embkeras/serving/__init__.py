"""Exporting a model that takes token ids, and asking it."""

from importlib import import_module
from typing import Any

_MODULES = {
    "ExportedModel": "local",
    "ServingClient": "client",
    "TextEncoder": "text_encoder",
    "request_bytes": "local",
}


def __getattr__(name: str) -> Any:
    """The clients, on first use: `TextEncoder` and `ServingClient` don't import TensorFlow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
