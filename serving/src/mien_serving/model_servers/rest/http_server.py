"""The HTTP server of the REST front end: uvicorn with limits on slow and large connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD: Final = 1 << 20
"""Limit on the bytes before the body of a request; the connection is closed beyond it."""

KEEP_ALIVE_S: Final = 75.0
"""Seconds that a connection may stay open without a request."""

STALLED_S: Final = 20.0
"""Seconds that the head of a request may take, and each `_MIN_PROGRESS` bytes of a body or an answer."""

_MIN_PROGRESS: Final = 1 << 16


class HttpServer(uvicorn.Server):
    """Uvicorn without its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield


class HttpProtocol(HttpToolsProtocol):
    """A connection that is closed when its request or its answer makes no progress.

    The head of a request is limited in size, since the parser keeps all of it, and in time. The body and the answer
    must make progress, and an idle connection is closed.
    """

    _in_head = True
    _head_size = 0
    _unfinished: asyncio.TimerHandle | None = None
    _received = 0
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of idle connections."""
        super().connection_made(transport)
        self.timeout_keep_alive = KEEP_ALIVE_S  # type: ignore[assignment]
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._finished()
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, within the limits on the head."""
        self._received += len(data)
        if self._in_head:
            if self._unfinished is None:
                self._await_progress(self._received)
            self._head_size += len(data)
            if self._head_size > _MAX_HEAD:
                self.send_400_response("The request's head is too large.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Start the timer of the head."""
        self._in_head, self._head_size = True, 0
        self._await_progress(self._received)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the timer of the body."""
        self._in_head, self._head_size = False, 0
        self._await_progress(self._received)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the timer of the request."""
        self._in_head = True
        self._finished()
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: the request is answered as if it had not asked for another protocol."""

    def _await_progress(self, received: int) -> None:
        self._finished()
        self._unfinished = self.loop.call_later(STALLED_S, self._check_progress, received)

    def _check_progress(self, received: int) -> None:
        """Close the connection if its request has stalled, unless the server itself has paused reading."""
        waits_for_server = self.flow.read_paused or (self._in_head and self.cycle and not self.cycle.response_complete)
        if waits_for_server or (not self._in_head and self._received - received >= _MIN_PROGRESS):
            self._await_progress(self._received)
        elif not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def _finished(self) -> None:
        if self._unfinished is not None:
            self._unfinished.cancel()
            self._unfinished = None

    def pause_writing(self) -> None:
        """Start the timer of the answer: the client reads more slowly than the server writes."""
        self._await_reading()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop the timer of the answer."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _await_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(STALLED_S, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        """Close the connection if its client has stopped reading."""
        if unread - self.transport.get_write_buffer_size() >= _MIN_PROGRESS:
            self._await_reading()
        else:
            self.transport.abort()
