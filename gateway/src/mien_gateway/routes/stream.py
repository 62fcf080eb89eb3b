"""``WS /v1/stream``: frames of a camera in, answers out; the newest frame wins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect
from starlette.datastructures import State

from mien_gateway.bodies import Buffers, File
from mien_gateway.encoding import json_bytes
from mien_gateway.gateway import Gateway, gateway_of
from mien_gateway.options import Options, options
from mien_gateway.problems import Problem

router = APIRouter()

SUBPROTOCOL = "mien"
"""The subprotocol that is chosen if the client offers it, as one that sends its key by a subprotocol has to."""


class Newest:
    """A place for one frame: a newer one replaces one that nobody has taken.

    Args:
        buffers: The memory for all frames and bodies; a frame that does not fit into it is dropped.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._frame: tuple[int, bytes] | None = None
        self._arrived = asyncio.Event()
        self._received = 0
        self.dropped = 0

    def put(self, content: bytes) -> None:
        """Replace the frame."""
        self.clear()
        if self._buffers.reserve(len(content)):
            self._frame = self._received, content
            self._arrived.set()
        else:
            self.dropped += 1
        self._received += 1

    def clear(self) -> None:
        """Drop the frame that nobody has taken, if there is one."""
        if self._frame is not None:
            self._buffers.release(len(self._frame[1]))
            self._frame = None
            self._arrived.clear()
            self.dropped += 1

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[tuple[int, bytes]]:
        """Wait for a frame, and take it with its number from 0 for the time of the block."""
        while (frame := self._frame) is None:
            await self._arrived.wait()
        self._frame = None
        self._arrived.clear()
        try:
            yield frame
        finally:
            self._buffers.release(len(frame[1]))


@router.websocket("/v1/stream")
async def stream(socket: WebSocket, options: Annotated[Options, Depends(options)]) -> None:
    """Answer frames, each a JPEG or another picture, until the client leaves."""
    gateway = gateway_of(socket)
    _check_origin(socket, gateway.settings.cors_origins)
    caller = gateway.caller(socket)
    socket.state.caller = caller.name
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None)
    newest = Newest(gateway.buffers)
    tasks = [
        asyncio.create_task(_receive(socket, newest)),
        asyncio.create_task(_answer(socket, gateway, options, caller.name, newest)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with contextlib.suppress(WebSocketDisconnect):
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        newest.clear()


async def _receive(socket: WebSocket, newest: Newest) -> None:
    """Take frames until the client leaves."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        content = message.get("bytes")
        if content is None:
            await socket.close(1003, "Expected binary messages, each a picture")
            return
        newest.put(content)


async def _answer(socket: WebSocket, gateway: Gateway, options: Options, caller: str, newest: Newest) -> None:
    """Answer the newest frame, again and again."""
    while True:
        async with newest.take() as (number, content):
            try:
                if not content:
                    raise Problem(422, "Expected a picture, got an empty frame", "PictureError")
                document = await gateway.analyzer.pictures([File(content)], options, caller)
                outcome = "ok"
                _count(socket.state, len(document["faces"]))
            except Problem as problem:
                document, outcome = problem.document, problem.kind
        gateway.measures.frames.labels(outcome).inc()
        document |= {"frame": number, "dropped": newest.dropped}
        await socket.send_text(json_bytes(document).decode())


def _count(state: State, faces: int) -> None:
    """Count faces for the access log."""
    state.faces = getattr(state, "faces", 0) + faces


def _check_origin(socket: WebSocket, allowed: Collection[str]) -> None:
    """Refuse the pages of other sites: browsers let any page open a WebSocket.

    Raises:
        Problem: The page is not of this host, nor of an origin that is allowed.
    """
    origin = socket.headers.get("origin")
    if origin is None or origin in allowed:
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # Its brackets are not those of an IPv6 address.
        host = None
    if host is None or host != socket.headers.get("host"):
        raise Problem(
            403, "Pages of this origin may not open a stream: name it with --cors_origins", "AccessDeniedError"
        )
