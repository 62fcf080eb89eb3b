"""What happens to every request: a place, a time limit, safe headers, metrics, a span and a line in the access log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien_gateway.gateway import Gateway
from mien_gateway.problems import Problem, too_large, unavailable
from mien_gateway.settings import MEBI

access_log: Final = logging.getLogger("mien_gateway.access")
_log: Final = logging.getLogger("mien_gateway")

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Of answers that are not pages; those bring their own.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

_TLS_ONLY: Final = (b"strict-transport-security", b"max-age=63072000")
"""Of answers under TLS: browsers come back with TLS only, for two years."""

_TRANSFER_S: Final = 120.0
"""Seconds that sending a request and reading its answer may take, besides the analysis."""

_ROLLOUT_S: Final = 900.0
"""Seconds that a change of what is served may take."""

_OTHER_BYTES: Final = MEBI
"""Maximum size of a body that has no pictures."""

_ALWAYS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered even if the gateway is full, and not in the access log."""


class Middleware:
    """Surround the application.

    Args:
        app: The application.
        gateway: The gateway.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        record = _Record(scope, receive, send)
        self._in_flight += 1
        self._gateway.measures.in_flight.set(self._in_flight)
        try:
            with _span(scope) as span:
                await self._handle(scope, record)
                span.update_name(f"{record.method} {record.route}".strip())
                span.set_attribute("http.response.status_code", record.status)
        finally:
            self._in_flight -= 1
            self._gateway.measures.in_flight.set(self._in_flight)
            record.finish(self._gateway)

    async def _handle(self, scope: Scope, record: _Record) -> None:
        limits = self._gateway.settings.limits
        path = scope["path"]
        seconds = None if scope["type"] == "websocket" else limits.timeout_s + _TRANSFER_S
        if path.startswith("/v1/rollout/"):
            seconds = _ROLLOUT_S
        try:
            if self._in_flight > limits.requests and path not in _ALWAYS:
                raise unavailable("The gateway has as many requests as it takes: try again later")
            async with asyncio.timeout(seconds):
                await self._app(scope, record.receive, record.send)
        except Problem as problem:
            await record.answer(problem)
        except TimeoutError:  # The caller stopped reading, or sent a byte now and then.
            _log.warning("%s took more than %g s", path, seconds)
            await record.answer(Problem(408, "The request took too long", "SlowRequestError", retryable=True))
        except Exception:
            _log.exception("%s failed", path)
            await record.answer(Problem(500, "The gateway failed; its log says why", "ServerError"))


class _Record:
    """What is known of a request when it has ended.

    Args:
        scope: The request.
        receive: Receives its body.
        send: Sends the answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started = time.perf_counter()
        self.status = 0
        self.method = scope.get("method", "WS")
        self._bytes_in = 0
        self._bytes_out = 0
        scope.setdefault("state", {})

    @property
    def route(self) -> str:
        """The path as the application knows it, without what callers choose; empty if it is not one of the API."""
        return str(getattr(self._scope.get("route"), "path", ""))

    async def receive(self) -> Message:
        """Receive a part of the body, or a message."""
        message = await self._receive()
        self._bytes_in += len(message.get("body") or message.get("bytes") or b"")
        if self._bytes_in > _OTHER_BYTES and self._scope["type"] == "http" and self._scope["path"] != "/v1/analyze":
            raise too_large(f"The body is larger than {_OTHER_BYTES:,} bytes")
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, or a message."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", ())}
            safe = (*_HEADERS, _TLS_ONLY) if self._scope["scheme"] in ("https", "wss") else _HEADERS
            message["headers"] = [
                *message.get("headers", ()),
                *(header for header in safe if header[0] not in present),
            ]
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close" and not self.status:
            self.status = 403
        self._bytes_out += len(message.get("body") or (message.get("text") or "").encode())
        await self._send(message)

    async def answer(self, problem: Problem) -> None:
        """Answer with a problem, unless the answer has begun: then the server closes the connection."""
        if not self.status:
            response = problem.response()
            if self._scope["type"] == "websocket":
                await send_denial(response.status_code, response.raw_headers, bytes(response.body), self.send)
            else:
                await response(self._scope, self.receive, self.send)

    def finish(self, gateway: Gateway) -> None:
        """Count the request, and write its line into the access log."""
        scope, seconds = self._scope, time.perf_counter() - self._started
        if scope["type"] == "http":
            known = self.method if self.method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
            gateway.measures.requests.labels(known, self.route, self.status).observe(seconds)
        if scope["path"] in _ALWAYS:
            return
        state = scope["state"]
        access_log.info(
            "%s",
            json.dumps(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "caller": state.get("caller", ""),
                    "address": (scope.get("client") or ("",))[0],
                    "method": self.method,
                    "path": scope["path"][:200],
                    "status": self.status,
                    "bytes_in": self._bytes_in,
                    "bytes_out": self._bytes_out,
                    "faces": state.get("faces", 0),
                    "milliseconds": round(seconds * 1000, 1),
                }
            ),
        )


async def send_denial(status: int, headers: list[tuple[bytes, bytes]], body: bytes, send: Send) -> None:
    """Answer the request for a WebSocket with an HTTP response."""
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class _NoSpan:
    """Stands in for a span where OpenTelemetry is not installed."""

    def update_name(self, name: str) -> None:
        """Do nothing."""

    def set_attribute(self, name: str, value: object) -> None:
        """Do nothing."""


try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment]


@contextlib.contextmanager
def _span(scope: Scope) -> Iterator[Any]:
    """Open a span for a request, below that of its caller; the client's spans are below it."""
    if trace is None or scope["path"] in _ALWAYS:
        yield _NoSpan()
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    with trace.get_tracer("mien_gateway").start_as_current_span(
        scope.get("method", "WS"), context=propagate.extract(headers), kind=trace.SpanKind.SERVER
    ) as span:
        yield span
