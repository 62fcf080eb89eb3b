"""The HTTP server: uvicorn, with a time limit on the heads of requests, and status 0 after SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from mien_client import ConfigurationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mien_gateway.app import create_app
from mien_gateway.settings import Settings

_HEAD_S: Final = 20.0
"""Seconds that the head of a request may take."""

_KEEP_ALIVE_S: Final = 75
"""Seconds that a connection may stay open without a request."""

_DRAIN_S: Final = 25
"""Seconds that requests in flight have to end after SIGTERM."""

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2, as the edge has them: each is authenticated, and a key that is stolen later opens no old connection."""


@dataclass(frozen=True)
class Listening:
    """Where a gateway listens.

    Attributes:
        host: The address.
        port: The port; 0 takes a free one.
        certificate: A PEM file with the certificate for TLS; None for plain HTTP.
        key: A PEM file with its key.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


class Server(uvicorn.Server):
    """Uvicorn that announces its address.

    Args:
        config: Its configuration.
        address: What it announces.
    """

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and announce the address."""
        await super().startup(sockets=sockets)
        if self.started:
            sys.stdout.write(f"mien gateway is ready on {self._address} (console and API).\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and Ctrl-C. Uvicorn would then end with the signal instead of with status 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Protocol(HttpToolsProtocol):
    """A connection that is closed if the head of a request takes too long."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer."""
        super().connection_made(transport)
        self._await_head()

    def on_message_begin(self) -> None:
        """Start the timer."""
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the timer."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._stop()
        self._head = self.loop.call_later(_HEAD_S, self.transport.close)

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def bound(listening: Listening) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OSError: The address cannot be used.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError:
        opened.close()
        raise
    return opened


def _allow_many_connections() -> None:
    """Raise the limit on open files as far as this process may: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS takes no more than OPEN_MAX, whatever it claims.
    limit = min(hard, 10_240) if sys.platform == "darwin" else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _tls(_: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the TLS of the server: version 1.2 or newer, without renegotiation, whatever the defaults are."""
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def serve(settings: Settings, listening: Listening) -> None:
    """Run a gateway until SIGTERM or Ctrl-C.

    Raises:
        OSError: The address cannot be used.
        KeyFileError: A file of keys is unusable.
        mien_client.ConfigurationError: The address of a server, or a TLS file, is invalid.
    """
    _allow_many_connections()
    app = create_app(settings)
    # The objects of the imports stay for ever: freezing them shortens the pauses of the garbage collector. Requests
    # leave hardly any reference cycles, so it need not run after every 700 new objects.
    gc.freeze()
    gc.set_threshold(20_000)
    options: dict[str, Any] = {}
    if listening.certificate is not None:
        options |= {
            "ssl_certfile": listening.certificate,
            "ssl_keyfile": listening.key,
            "ssl_ciphers": _CIPHERS,
            "ssl_context_factory": _tls,
        }
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="websockets-sansio",
        ws_max_size=settings.limits.request_bytes,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        access_log=False,
        server_header=False,
        log_config=None,
        **options,
    )
    try:
        config.load()
    except ssl.SSLError:
        raise ConfigurationError(
            f"Expected a certificate and its key in PEM form, without a password, in {listening.certificate} and "
            f"{listening.key}"
        ) from None
    with bound(listening) as opened:
        host, port = opened.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if listening.certificate else "http"
        Server(config, f"{scheme}://{shown}:{port}").run(sockets=[opened])
