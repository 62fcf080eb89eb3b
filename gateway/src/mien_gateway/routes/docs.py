"""``GET /docs``: the OpenAPI document for people, with assets from the installed package fastapi-offline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, HTMLResponse

from mien_gateway.problems import Problem

router = APIRouter(include_in_schema=False)

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Mien gateway: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""

_START: Final = (
    'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
)

_ASSETS: Final = ("swagger-ui.css", "swagger-ui-bundle.js")

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI writes its own styles."""


@router.get("/docs")
async def docs() -> Response:
    """Return the page."""
    return HTMLResponse(_PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/start.js")
async def start() -> Response:
    """Return the script that starts Swagger UI."""
    return Response(_START, media_type="text/javascript")


@router.get("/docs/{name}")
async def asset(request: Request, name: str) -> Response:
    """Return one of Swagger UI's files."""
    if name not in _ASSETS:
        raise Problem(404, f"There is nothing at {request.url.path}", "NotFoundError")
    package = find_spec("fastapi_offline")  # Its files are used, and nothing of its code.
    assert package is not None
    assert package.origin is not None
    return FileResponse(Path(package.origin).parent / "static" / name)
