"""gRPC: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError

from mien_client._exceptions import MienError
from mien_client._forks import leave_alone, renew_in_children
from mien_client._threads import in_thread
from mien_client.protos import GetModelStatusResponse, PredictResponse
from mien_client.security import Security, channel_credentials
from mien_client.transports.base import Answer, Deadline, Pending, Request, Target, Transport, VersionStatus
from mien_client.transports.failures import failure, unexpected
from mien_client.transports.grpc_forks import FORK_GATE
from mien_client.transports.grpc_messages import predict_request, read_answer, status_request, version_statuses

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_CLOSING_TAKES = 2.0
"""Seconds that closing a connection may take."""

_MESSAGE_LIMIT = 64 * 2**20
OPTIONS = [
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    # After a lost connection gRPC waits before it tries again, by default up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A connection on which nothing has been acknowledged for ten seconds, its server's machine being gone, is given up;
    # TCP alone takes a quarter of an hour. The first number switches that on, and servers object to one below 300 s.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Of the servers that a name stands for each gets its share, and those that cannot be reached get nothing.
    ("grpc.lb_policy_name", "round_robin"),
]


R = TypeVar("R")


class GrpcTransport(Transport):
    """Use one channel in each process, to one server or to all servers that a name stands for.

    ``grpc.aio`` is not used, for `AsyncClient` neither: from its first call on, one of its threads stays inside gRPC,
    and gRPC would not work in a forked child any more (see `grpc_forks`).
    """

    def __init__(self, address: str, security: Security) -> None:
        self.endpoint = address
        security.check(address, encrypted=security.tls)
        self._credentials = channel_credentials(security) if security.tls else None
        self._headers = security.headers
        self._closed = False
        self._channel: grpc.Channel | None = None
        self._disconnect()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`."""
        leave_alone(self._channel)
        self._disconnect()

    def predict(self, request: Request) -> Pending[Answer]:
        """See `Transport.predict`."""

        def read(response: bytes) -> Answer:
            message = PredictResponse.FromString(response)
            return read_answer(message, request.output, self.endpoint, request.target)

        body = predict_request(request.target, request.images, request.output)
        return self._send(PREDICT, body, read, request.target, request.deadline)

    def status(self, model: str, deadline: Deadline) -> Pending[tuple[VersionStatus, ...]]:
        """See `Transport.status`."""

        def read(response: bytes) -> tuple[VersionStatus, ...]:
            return version_statuses(GetModelStatusResponse.FromString(response))

        return self._send(STATUS, status_request(model), read, Target(model), deadline)

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            with FORK_GATE.pass_through(), suppress(TimeoutError):
                # Closing waits for all calls to end, and for ever if Ctrl-C interrupted gRPC while it began one.
                in_thread(channel.close).result(_CLOSING_TAKES)

    def _send(
        self, method: str, body: bytes, read: Callable[[bytes], R], target: Target, deadline: Deadline
    ) -> Pending[R]:
        with FORK_GATE.pass_through():
            try:
                call = self._callable(method).future(body, timeout=deadline.remaining(), metadata=self._headers)
            except ValueError:  # The channel is closed.
                code = grpc.StatusCode.CANCELLED.name
                raise failure(
                    code, "the client was closed", endpoint=self.endpoint, target=target, timeout=deadline.timeout
                ) from None
            FORK_GATE.hold_until_ended(call)
        return _Pending(call, read, self.endpoint, target, deadline.timeout)

    def _disconnect(self) -> None:
        self._lock = threading.Lock()
        self._channel = None
        self._methods: dict[str, Any] = {}

    def _callable(self, path: str) -> Any:
        """Return a method of the channel, which is made when it is first needed in this process.

        Raises:
            ValueError: The transport was closed.
        """
        if path not in self._methods:
            with self._lock:
                if self._closed:
                    raise ValueError("closed")
                # Channels with the same options share connections, and an inherited one has its parent's.
                options = [*OPTIONS, ("mien.process", os.getpid())]
                if self._channel is None and self._credentials is not None:
                    self._channel = grpc.secure_channel(self.endpoint, self._credentials, options=options)
                elif self._channel is None:
                    self._channel = grpc.insecure_channel(self.endpoint, options=options)
                self._methods[path] = self._channel.unary_unary(path)
        return self._methods[path]


@dataclass(frozen=True)
class _Pending(Generic[R]):
    """A gRPC call. Its response is read in the thread that asks for the result, not in gRPC's own."""

    call: Any
    read: Callable[[bytes], R]
    endpoint: str
    target: Target
    timeout: float

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self.call.add_done_callback(callback)

    def result(self) -> R:
        try:
            return self.read(self.call.result())
        except (grpc.RpcError, grpc.FutureCancelledError):
            raise self._failure() from None
        except DecodeError:
            raise unexpected("is not a message of this method", endpoint=self.endpoint, target=self.target) from None

    def cancel(self) -> None:
        self.call.cancel()

    def _failure(self) -> MienError:
        code, details = self.call.code().name, self.call.details() or ""
        return failure(code, details, endpoint=self.endpoint, target=self.target, timeout=self.timeout)
