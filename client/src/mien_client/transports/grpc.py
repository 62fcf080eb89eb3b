"""gRPC: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import ConfigurationError, MienError
from mien_client.security import Security, channel_credentials
from mien_client.transports import Answer, Deadline, Pending, Target, VersionStatus
from mien_client.transports.failures import failure
from mien_client.transports.grpc_messages import (
    answering_version,
    metadata_request,
    predict_request,
    read_answer,
    signature,
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


def checked_address(address: str) -> str:
    """Returns ``address`` if it names a port."""
    if ":" not in address:
        raise ConfigurationError(f"{address!r} names no port: TensorFlow Serving's gRPC port is '{address}:8500'")
    return address


class GrpcTransport:
    """One channel, to one server or to all that a name stands for."""

    def __init__(self, address: str, security: Security) -> None:
        self.endpoint = checked_address(address)
        security.is_for(address, encrypted=security.tls)
        if security.tls:
            self._channel = grpc.secure_channel(address, channel_credentials(security), options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._headers = security.headers
        self._predict = self._method("PredictionService", "Predict")
        self._metadata = self._method("PredictionService", "GetModelMetadata")
        self._status = self._method("ModelService", "GetModelStatus")

    def predict(
        self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline, ended: Callable[[], object]
    ) -> Pending:
        """See `Transport.predict`."""
        call = self._send(self._predict, predict_request(target, images, output), target, deadline)
        call.add_done_callback(lambda _: ended())
        return _Pending(self, call, target, output, deadline)

    def resolve(self, target: Target, deadline: Deadline) -> int:
        """See `Transport.resolve`."""
        request = metadata_request(target)
        return answering_version(self._ask(self._metadata, request, target, deadline), self.endpoint, target)

    def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """See `Transport.status`."""
        target = Target(model)
        return version_statuses(self._ask(self._status, status_request(model), target, deadline))

    def close(self) -> None:
        """See `Transport.close`."""
        self._channel.close()

    def result(self, call: Any, target: Target, deadline: Deadline) -> Any:
        """Waits for the response of a call."""
        try:
            return call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            raise self._failure(call.code(), call.details(), target, deadline) from None

    def _method(self, service: str, name: str) -> Any:
        path, read = signature(service, name)
        return self._channel.unary_unary(path, response_deserializer=read)

    def _send(self, method: Any, request: bytes, target: Target, deadline: Deadline) -> Any:
        try:
            return method.future(request, timeout=deadline.remaining(), metadata=self._headers)
        except ValueError:  # The channel is closed.
            raise self._failure(grpc.StatusCode.CANCELLED, "the client was closed", target, deadline) from None

    def _ask(self, method: Any, request: bytes, target: Target, deadline: Deadline) -> Any:
        return self.result(self._send(method, request, target, deadline), target, deadline)

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
        response = self.transport.result(self.call, self.target, self.deadline)
        return read_answer(response, self.output, self.transport.endpoint, self.target)

    def cancel(self) -> None:
        self.call.cancel()
