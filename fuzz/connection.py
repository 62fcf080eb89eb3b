"""A connection to an HTTP server in this process: bytes go through its real protocol, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import httptools
import uvicorn
from uvicorn.server import ServerState

from fuzz.target import Fault

_SETTLED_S: Final = 0.02
"""Seconds to wait for an answer before the client leaves: the input may be the beginning of a request only."""

_ENDED_S: Final = 60.0
"""Seconds after which a request whose client has left must have ended."""


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.protocol: Any = None
        self._closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def pause_reading(self) -> None:
        """All is there already."""

    def resume_reading(self) -> None:
        """All is there already."""


class _Errors(logging.Handler):
    """Keeps the exceptions that a server logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


class Server:
    """A server in this process.

    Args:
        runner: The event loop.
        make: Makes the protocol of a connection.
        config: The configuration of uvicorn.
        is_allowed: Whether a status may be answered.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        make: Callable[..., asyncio.Protocol],
        config: uvicorn.Config,
        is_allowed: Callable[[int], bool],
    ) -> None:
        config.load()
        self._runner, self._make, self._config, self._is_allowed = runner, make, config, is_allowed
        self._errors = _Errors()
        self._loggers = [
            logging.getLogger(name) for name in ("uvicorn.error", "asyncio", "mien_gateway", "mien_serving")
        ]
        for logger in self._loggers:
            logger.addHandler(self._errors)
            logger.propagate = False

    def close(self) -> None:
        """Listen to the log no longer."""
        for logger in self._loggers:
            logger.removeHandler(self._errors)
            logger.propagate = True

    def check(self, data: bytes) -> str:
        """Send an input as all bytes of a connection; return the statuses that are answered.

        Raises:
            Fault: A status is not allowed, or a request never ends.
            BaseException: An exception that the server has logged.
        """
        self._errors.found.clear()
        written = self._runner.run(self._talk(data))
        if self._errors.found:
            raise self._errors.found[0]
        statuses = _statuses(written)
        for status in statuses:
            if not self._is_allowed(status):
                raise Fault(f"It was answered {status}: {written[-300:]!r}")
        return " ".join(map(str, statuses)) or "closed"

    async def _talk(self, data: bytes) -> bytes:
        state, transport = ServerState(), _Transport()
        transport.protocol = self._make(config=self._config, server_state=state, app_state={})
        transport.protocol.connection_made(transport)
        transport.protocol.data_received(data)
        while state.tasks:  # Of several requests on a connection, each begins when the one before it has ended.
            done, _ = await asyncio.wait(set(state.tasks), timeout=_SETTLED_S)
            if not done:
                break
        transport.protocol.connection_lost(None)
        if state.tasks:
            _, pending = await asyncio.wait(set(state.tasks), timeout=_ENDED_S)
            if pending:
                raise Fault(f"A request has not ended {_ENDED_S:g} s after its client left")
        await asyncio.sleep(0)
        return bytes(transport.written)


def _statuses(written: bytes) -> list[int]:
    statuses: list[int] = []

    class Reader:
        def on_headers_complete(self) -> None:
            statuses.append(parser.get_status_code())

    parser = httptools.HttpResponseParser(Reader())
    # The frames of a WebSocket may follow, or the answer to HEAD, which has no body.
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(written)
    return statuses
