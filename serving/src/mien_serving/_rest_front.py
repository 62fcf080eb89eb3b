"""The REST front end: an ASGI application and the HTTP server that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import uvicorn

from mien_serving._rest_api import HttpAnswer, HttpRequest, RestApi, decompressed, error_answer
from mien_serving._servable import NO_DEADLINE
from mien_serving._status import StatusError
from mien_serving._workers import Workers

_KEEP_ALIVE_S: Final = 75
_BACKLOG: Final = 2048

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RestFront:
    """Serves the REST API over HTTP.

    Args:
        api: Answers the requests.
        threads: Requests computed at the same time; more wait for their turn.
        timeout_s: How long a request may take, waiting included; 0 for as long as it takes.
    """

    def __init__(self, api: RestApi, threads: int, timeout_s: float) -> None:
        self._api = api
        self._timeout_s = timeout_s
        self._workers = Workers("rest", threads)
        self._server = _Server(
            uvicorn.Config(
                self._application,
                access_log=False,
                backlog=_BACKLOG,
                interface="asgi3",
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                ws="none",
            )
        )
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None

    def bind(self, port: int) -> int:
        """Takes a port on all interfaces; 0 takes a free one.

        Returns:
            The port.

        Raises:
            OSError: The port is not to be had.
        """
        dual_stack = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual_stack else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, dualstack_ipv6=dual_stack)
        bound: int = self._socket.getsockname()[1]
        return bound

    async def start(self) -> None:
        """Begins to answer."""
        if self._socket is None:
            raise RuntimeError("bind() comes before start()")
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self, grace_s: float) -> None:
        """Refuses new connections, and returns when requests in flight are answered or the time is over."""
        self._server.config.timeout_graceful_shutdown = int(grace_s)
        self._server.should_exit = True
        if self._serving:
            await self._serving
        self._workers.stop()

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        deadline = time.monotonic() + self._timeout_s if self._timeout_s > 0 else NO_DEADLINE
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")

        def compute() -> HttpAnswer:
            body = decompressed(b"".join(chunks), headers)
            return self._api.answer(HttpRequest(scope["method"], target, body, deadline))

        try:
            answer = await self._workers.run(compute)
        except StatusError as error:
            answer = error_answer(error)
        response_headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": response_headers})
        await send({"type": "http.response.body", "body": answer.body})


class _Server(uvicorn.Server):
    """Uvicorn, except that signals are the process's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
