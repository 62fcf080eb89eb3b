"""The HTTP server under the REST front end: uvicorn, with limits on what a connection may make it remember."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD: Final = 1 << 20
"""Bytes of a request before its body; whoever sends more is hung up on."""

KEEP_ALIVE_S: Final = 75.0
"""How long a connection may stay open without a request."""

STALLED_S: Final = 20.0
"""How long the head of a request may take to arrive, and each `_MIN_PROGRESS` of a body or of an answer to pass."""

_MIN_PROGRESS: Final = 1 << 16


class HttpServer(uvicorn.Server):
    """Uvicorn, except that signals are the process's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


class HttpProtocol(HttpToolsProtocol):
    """One connection, which is closed when its request or its answer makes no progress.

    The head of a request must not be too large, since the parser keeps all of it, and must be complete in time. The
    body and the answer must make progress, and a connection without either is closed.
    """

    _in_head = True
    _head_size = 0
    _unfinished: asyncio.TimerHandle | None = None
    _received = 0
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.timeout_keep_alive = KEEP_ALIVE_S  # type: ignore[assignment]
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whoever it was."""
        self._finished()
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
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
        """A request begins."""
        self._in_head, self._head_size = True, 0
        self._await_progress(self._received)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its body is next."""
        self._in_head, self._head_size = False, 0
        self._await_progress(self._received)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has arrived."""
        self._in_head = True
        self._finished()
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Is not logged: the request is answered as if it had not asked for another protocol."""

    def _await_progress(self, received: int) -> None:
        self._finished()
        self._unfinished = self.loop.call_later(STALLED_S, self._check_progress, received)

    def _check_progress(self, received: int) -> None:
        """Closes the connection if its request has stalled, unless the server itself does not read on."""
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
        """The client does not read as fast as it is answered."""
        self._await_reading()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _await_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(STALLED_S, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        """Closes the connection if its client has stopped to read."""
        if unread - self.transport.get_write_buffer_size() >= _MIN_PROGRESS:
            self._await_reading()
        else:
            self.transport.abort()
