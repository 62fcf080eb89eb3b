"""The console: static files, served with a strict content security policy."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Route

_FOLDER = Path(__file__).parent


async def _index(_: object) -> FileResponse:
    return FileResponse(_FOLDER / "index.html", headers={"content-security-policy": "default-src 'none'"})


def routes() -> list[BaseRoute]:
    """Return the routes of the console."""
    return [Route("/", _index)]
