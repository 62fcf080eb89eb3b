"""The REST front end: an ASGI application and the HTTP server that runs it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import uvicorn

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import StatusError
from mien_serving.model_servers.listening import listen
from mien_serving.model_servers.options import MAX_REQUEST, RestOptions
from mien_serving.model_servers.rest.http_server import HttpProtocol, HttpServer
from mien_serving.model_servers.rest.json_response import error_body
from mien_serving.model_servers.rest.routes import HttpAnswer, HttpRequest, RestApi, decompressed, error_answer
from mien_serving.model_servers.workers import Workers
from mien_serving.servables.servable import NO_DEADLINE

_BACKLOG: Final = 2048
_TOO_LARGE: Final = HttpAnswer(413, error_body(f"The request's body is larger than {MAX_REQUEST} bytes"))
_CORS_HEADERS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RestFront:
    """Serves the REST API over HTTP.

    Args:
        api: Answers the requests.
        options: Where and how to serve; the deadline of a request includes waiting for a thread.
        metrics: Metrics to serve at the path in the options.
    """

    def __init__(self, api: RestApi, options: RestOptions, metrics: Metrics = NO_METRICS) -> None:
        self._metrics = metrics
        self._api = api
        self._options = options
        self._workers = Workers("rest", options.threads)
        self._server = HttpServer(
            uvicorn.Config(
                self._application,
                access_log=False,
                backlog=_BACKLOG,
                http=HttpProtocol,
                interface="asgi3",
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                server_header=False,
                ws="none",
            )
        )
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None

    def bind(self) -> int:
        """Bind the port and return it.

        Raises:
            OSError: The port cannot be used.
        """
        self._socket = listen(self._options.host, self._options.port)
        bound: int = self._socket.getsockname()[1]
        return bound

    async def start(self) -> None:
        """Start answering."""
        if self._socket is None:
            raise RuntimeError("call bind() before start()")
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self, grace_s: float) -> None:
        """Refuse new connections; return when requests in flight are answered or the grace period is over."""
        self._server.config.timeout_graceful_shutdown = int(grace_s)
        self._server.should_exit = True
        if self._serving:
            await self._serving
        self._workers.stop()
        self._api.close()

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = b"" if _too_large(headers) else await _received(receive)
        if body is None:
            return
        answer = (
            _TOO_LARGE if _too_large(headers) or len(body) > MAX_REQUEST else await self._answer(scope, headers, body)
        )
        response_headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            *(_CORS_HEADERS if self._options.enable_cors_support else ()),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": response_headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        timeout_s = self._options.timeout_s
        deadline = time.monotonic() + timeout_s if timeout_s > 0 else NO_DEADLINE
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")

        def compute() -> HttpAnswer:
            if self._options.enable_cors_support and scope["method"] == "OPTIONS":
                return HttpAnswer(200, b"")
            path = self._options.metrics_path
            if path and target.partition("?")[0] == path:
                if target != path:
                    return HttpAnswer(400, f"Unexpected path: {target}. Should be {path}".encode(), "text/plain")
                return HttpAnswer(200, self._metrics.page(), "text/plain")
            return self._api.answer(HttpRequest(scope["method"], target, decompressed(body, headers), deadline))

        try:
            return await self._workers.run(compute)
        except StatusError as error:
            return error_answer(error)


async def _received(receive: Receive) -> bytes | None:
    """Return the body of a request, cut off once it is too large; None if the client disconnected."""
    chunks, size, more = [], 0, True
    while more and size <= MAX_REQUEST:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large(headers: Mapping[str, str]) -> bool:
    return int(headers.get("content-length", "0")) > MAX_REQUEST
