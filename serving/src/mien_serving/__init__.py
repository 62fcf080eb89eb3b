"""Serving: a local model server that behaves as TensorFlow Serving, the model repository, and rollouts."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien_serving.local_model_server import LocalModelServer, LocalModelServerError

__all__ = ["LocalModelServer", "LocalModelServerError", "__version__"]

__version__ = metadata.version("mien-serving")


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line needs none of them and starts faster."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mien_serving import local_model_server

    return getattr(local_model_server, name)
