"""The HTTP server under the REST front end: uvicorn, with limits on what a connection may make it remember."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD: Final = 1 << 20
"""Bytes of a request before its body; whoever sends more is hung up on."""


class HttpServer(uvicorn.Server):
    """Uvicorn, except that signals are the process's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


class HttpProtocol(HttpToolsProtocol):
    """One connection; a head that never ends is cut off, since the parser would keep all of it."""

    _in_head = True
    _head_size = 0

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > _MAX_HEAD:
                self.send_400_response("The request's head is too large.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._head_size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its body is next."""
        self._in_head, self._head_size = False, 0
        super().on_headers_complete()
