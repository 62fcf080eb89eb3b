"""The console: static files, served with a strict content security policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

FOLDER: Final = Path(__file__).parent / "static"
"""The files: a page, its modules and its style, as browsers load them, and sample pictures."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only the gateway's own files, no code in the page, and no way to turn text into code."""

_HEADERS: Final = {
    "content-security-policy": POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Browsers ask whether their copy is still current, so that a new gateway never meets an old page.
    "cache-control": "no-cache",
}


class _Files(StaticFiles):
    """Files with the console's headers."""

    def file_response(self, full_path: os.PathLike[str] | str, *arguments: Any, **options: Any) -> Response:
        """Return a file, or that the browser's copy is current."""
        response = super().file_response(full_path, *arguments, **options)
        response.headers.update(_HEADERS)
        return response


async def _index(_: Request) -> FileResponse:
    """Return the page."""
    return FileResponse(FOLDER / "index.html", headers=_HEADERS)


async def _samples(_: Request) -> FileResponse:
    """Return the list of the sample pictures."""
    return FileResponse(FOLDER / "samples" / "index.json", headers=_HEADERS)


def routes() -> list[BaseRoute]:
    """Return the routes of the console: the page, its files, and the list of sample pictures."""
    return [Route("/", _index), Route("/samples", _samples), Mount("/console", _Files(directory=FOLDER))]
