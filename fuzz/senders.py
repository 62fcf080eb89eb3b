"""What sends malformed requests to a port: processes of their own, so that the callers beside them are not delayed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import websockets.exceptions
import websockets.sync.client

Address = tuple[str, int]
Send = Callable[[Sequence[bytes]], None]

PATIENCE_S: Final = 60.0
_SERVICE: Final = "/tensorflow.serving"
METHODS: Final = (
    *(f"{_SERVICE}.PredictionService/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference")),
    f"{_SERVICE}.PredictionService/GetModelMetadata",
    f"{_SERVICE}.ModelService/GetModelStatus",
)
_HEALTH: Final = "/grpc.health.v1.Health/Check"
_UPGRADE: Final = (
    b"GET /v1/stream HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_PROCESSES: Final = 4
_AT_ONCE: Final = 5
"""Calls of gRPC that one process has under way."""


def flood(send: Send, payloads: Sequence[bytes], count: int) -> None:
    """Send requests again and again, from several processes at the same time.

    Args:
        send: One of the functions below with its address; a process receives it pickled.
        payloads: The requests.
        count: How many to send in all.
    """
    endless = itertools.cycle(payloads)
    size = max(1, count // 100)
    parts = [list(itertools.islice(endless, min(size, count - start))) for start in range(0, count, size)]
    list(_processes().map(send, parts))


@functools.cache
def _processes() -> ProcessPoolExecutor:
    """Return the processes that send, at the lowest priority: a stranger's machine has processors of its own."""
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork.
    return ProcessPoolExecutor(_PROCESSES, context, initializer=os.nice, initargs=(19,))


def send_each(address: Address, payloads: Sequence[bytes], *, authority: Path | None = None) -> None:
    """Send each payload on a connection of its own, and read whatever is answered.

    Args:
        address: Host and port.
        payloads: What to send.
        authority: The certificate authority of the port; None sends without TLS.
    """
    tls = ssl.create_default_context(cafile=authority) if authority else None
    for payload in payloads:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
            if tls:
                connection = stack.enter_context(tls.wrap_socket(connection, server_hostname="localhost"))
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def send_messages(address: Address, payloads: Sequence[bytes]) -> None:
    """Send messages with calls of gRPC; one in ten as bytes that gRPC does not expect, on a connection of its own."""
    channel = _channel(address)
    calls: list[Any] = []
    for number, payload in enumerate(payloads):
        if number % 10 == 0:
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if number % 20 else b""
            send_each(address, [preface + payload])
            continue
        if number % 10 == 1:
            method: str = f"{_SERVICE}.ModelService/HandleReloadConfigRequest"
            payload = b"\xff" + payload
        else:
            method = _HEALTH if number % 10 == 2 else METHODS[payload[0] % len(METHODS) if payload else 0]
        call: Any = channel.unary_unary(method)
        calls.append(call.future(payload[1:], timeout=PATIENCE_S))
        if len(calls) >= _AT_ONCE:
            calls.pop(0).exception()
    for call in calls:
        call.exception()


@functools.cache
def _channel(address: Address) -> grpc.Channel:
    return grpc.insecure_channel("{}:{}".format(*address))


def send_frames(address: Address, payloads: Sequence[bytes]) -> None:
    """Send pictures that are none over WebSockets, each after the last answer; one in ten breaks the protocol."""
    for start in range(0, len(payloads), 10):
        broken, *pictures = payloads[start : start + 10]
        send_each(address, [_UPGRADE + broken])
        with (
            contextlib.suppress(websockets.exceptions.ConnectionClosed),
            websockets.sync.client.connect("ws://{}:{}/v1/stream".format(*address)) as stream,
        ):
            for picture in pictures:
                stream.send(picture)
                stream.recv(PATIENCE_S)
