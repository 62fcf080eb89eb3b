"""The gateway: one HTTP API for every language on top of `mien_client`, and the web console.

From the command line down:

* `command` turns flags into `settings.Settings` and runs `server`, which is uvicorn with limits on slow connections.
* `app` puts the application together from the `routes`. A route reads a request (`bodies`, `options`, `keys`), calls
  the `Gateway`, and returns a document (`documents`, `answers`) or raises a `problems.Problem`.
* `gateway.Gateway` is what all routes share: the `backend` asks the model servers, and the pool of `pictures` decodes
  pictures and finds faces, in worker processes.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien_gateway.app import create_app
    from mien_gateway.settings import Limits, Settings

__all__ = ["Limits", "Settings", "__version__", "create_app"]

__version__ = metadata.version("mien-gateway")


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the help of the command needs none of them and is there at once."""
    if name == "create_app":
        from mien_gateway.app import create_app

        return create_app
    if name in ("Limits", "Settings"):
        from mien_gateway import settings

        return getattr(settings, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
