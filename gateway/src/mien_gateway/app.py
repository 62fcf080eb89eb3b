"""The application: routes, the answers to errors, and what surrounds every request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from mien_gateway import __version__, console, documents
from mien_gateway.gateway import Gateway
from mien_gateway.middleware import Middleware, send_denial
from mien_gateway.problems import Problem
from mien_gateway.routes import analyze, docs, operations, rollout, stream
from mien_gateway.settings import Settings

_DESCRIPTION = """\
Pictures in, faces out: the emotion and the key points of every face, read by Mien's two models.

Errors are `application/problem+json`; `retryable` says whether the same request may succeed a moment later. The
WebSocket `/v1/stream` takes the same query as `/v1/analyze`: send each frame as a binary message, and receive the same
answer as text, with `frame`, its number, and `dropped`, how many frames were left out because a newer one had come.
"""


def create_app(settings: Settings) -> FastAPI:
    """Return the application of a gateway.

    Args:
        settings: How the gateway is run.

    Raises:
        KeyFileError: A file of keys is unusable.
        mien_client.ConfigurationError: The address of a server is invalid.

    Example:
        ```python
        app = create_app(Settings(servers=["localhost:8500"]))
        uvicorn.run(app)
        ```
    """
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway:
            yield

    app = FastAPI(title="Mien gateway", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.gateway = gateway
    for module in (analyze, stream, operations, rollout, docs):
        app.include_router(module.router)
    app.include_router(operations.keyed)
    app.router.routes.extend(console.routes())
    app.openapi = lambda: _openapi(app, settings)  # type: ignore[method-assign]
    for error, handler in {
        Problem: _problem,
        HTTPException: _http_error,
        RequestValidationError: _invalid,
        WebSocketRequestValidationError: _invalid,
    }.items():
        app.add_exception_handler(error, handler)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
        )
    app.add_middleware(Middleware, gateway=gateway)
    return app


async def _problem(connection: Any, error: Exception) -> Any:
    """Answer a problem, also where a WebSocket was asked for."""
    assert isinstance(error, Problem)
    response = error.response()
    if isinstance(connection, WebSocket):
        await send_denial(response.status_code, response.raw_headers, bytes(response.body), connection._send)
        return None
    return response


async def _http_error(request: Any, error: Exception) -> Any:
    """Answer what the framework refuses: an unknown path, or another method."""
    assert isinstance(error, HTTPException)
    details = {
        404: f"There is nothing at {request.scope['path'][:200]}",
        405: f"{request.scope.get('method')} is not allowed here",
    }
    kinds = {404: "NotFoundError", 405: "MethodNotAllowedError"}
    detail = details.get(error.status_code, str(error.detail))
    kind = kinds.get(error.status_code, "BadRequestError")
    return await _problem(request, Problem(error.status_code, detail, kind, headers=error.headers))


async def _invalid(connection: Any, error: Exception) -> Any:
    """Answer a request whose options or JSON are invalid, with what is expected of the first of them."""
    assert isinstance(error, (RequestValidationError, WebSocketRequestValidationError))
    first = error.errors()[0]
    status = 400 if first["type"] == "json_invalid" else 422
    where = " ".join(str(part) for part in first["loc"])
    return await _problem(connection, Problem(status, f"{where}: {first['msg']}", "ConfigurationError"))


def _openapi(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=_DESCRIPTION,
            routes=app.routes,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        )
        _, extra = models_json_schema(
            [(documents.Pictures, "validation"), (documents.Problem, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= extra["$defs"]
        schemes = {
            "key": {"type": "http", "scheme": "bearer", "description": "A caller's or an operator's key"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document["components"]["securitySchemes"] = schemes
        for path, methods in document["paths"].items():
            if path.startswith("/v1/rollout/"):
                keys: list[dict[str, list[str]]] = [{"key": []}]
            elif path.startswith("/v1/") and settings.api_keys:
                keys = [{"key": []}, {"header": []}]
            else:
                continue
            for operation in methods.values():
                operation["security"] = keys
        app.openapi_schema = document
    return app.openapi_schema
