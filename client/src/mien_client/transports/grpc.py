"""gRPC: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from mien_client._exceptions import MienError
from mien_client._forks import leave_alone, renew_in_children
from mien_client.security import Security, channel_credentials
from mien_client.transports import Answer, Deadline, Pending, Target, VersionStatus
from mien_client.transports.failures import failure, unexpected
from mien_client.transports.grpc_forks import FORK_GATE
from mien_client.transports.grpc_messages import (
    METADATA,
    PREDICT,
    STATUS,
    Method,
    answering_version,
    metadata_request,
    predict_request,
    read_answer,
    status_request,
    version_statuses,
)

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


class GrpcTransport:
    """One channel in each process, to one server or to all that a name stands for."""

    def __init__(self, address: str, security: Security) -> None:
        self.endpoint = address
        security.is_for(address, encrypted=security.tls)
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

    def predict(
        self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline, ended: Callable[[], object]
    ) -> Pending:
        """See `Transport.predict`."""
        call = self.send(PREDICT, predict_request(target, images, output), target, deadline)
        call.add_done_callback(lambda _: ended())
        return _Pending(self, call, target, output, deadline)

    def resolve(self, target: Target, deadline: Deadline) -> int:
        """See `Transport.resolve`."""
        call = self.send(METADATA, metadata_request(target), target, deadline)
        return answering_version(self.result(METADATA, call, target, deadline), self.endpoint, target)

    def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """See `Transport.status`."""
        target = Target(model)
        call = self.send(STATUS, status_request(model), target, deadline)
        return version_statuses(self.result(STATUS, call, target, deadline))

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            with FORK_GATE.pass_through():
                channel.close()

    def send(self, method: Method, request: bytes, target: Target, deadline: Deadline) -> Any:
        """Begins a call, whose end `result` waits for."""
        with FORK_GATE.pass_through():
            try:
                call = self._callable(method).future(request, timeout=deadline.remaining(), metadata=self._headers)
            except ValueError:  # The channel is closed.
                closed = grpc.StatusCode.CANCELLED
                raise self._failure(closed, "the client was closed", target, deadline) from None
            FORK_GATE.hold_until_ended(call)
        return call

    def result(self, method: Method, call: Any, target: Target, deadline: Deadline) -> Any:
        """Waits for the response of a call."""
        try:
            return method.read(call.result())
        except (grpc.RpcError, grpc.FutureCancelledError):
            raise self._failure(call.code(), call.details(), target, deadline) from None
        except DecodeError:
            raise unexpected("is not a message of this method", endpoint=self.endpoint, target=target) from None

    def _disconnect(self) -> None:
        self._lock = threading.Lock()
        self._channel = None
        self._methods: dict[str, Any] = {}

    def _callable(self, method: Method) -> Any:
        """Returns a method of the channel, which is made when it is first needed in this process.

        Raises:
            ValueError: If the client was closed.
        """
        if method.path not in self._methods:
            with self._lock:
                if self._closed:
                    raise ValueError("closed")
                # Channels with the same options share connections, and an inherited one has its parent's.
                options = [*OPTIONS, ("mien.process", os.getpid())]
                if self._channel is None and self._credentials is not None:
                    self._channel = grpc.secure_channel(self.endpoint, self._credentials, options=options)
                elif self._channel is None:
                    self._channel = grpc.insecure_channel(self.endpoint, options=options)
                self._methods[method.path] = self._channel.unary_unary(method.path)
        return self._methods[method.path]

    def _failure(self, code: grpc.StatusCode, details: str | None, target: Target, deadline: Deadline) -> MienError:
        return failure(code.name, details or "", endpoint=self.endpoint, target=target, timeout=deadline.timeout)


@dataclass(frozen=True)
class _Pending:
    transport: GrpcTransport
    call: Any
    target: Target
    output: str
    deadline: Deadline

    def result(self) -> Answer:
        response = self.transport.result(PREDICT, self.call, self.target, self.deadline)
        return read_answer(response, self.output, self.transport.endpoint, self.target)

    def cancel(self) -> None:
        self.call.cancel()
