"""gRPC under asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import MienError
from mien_client.security import Security, channel_credentials
from mien_client.transports import Answer, Deadline, Target, VersionStatus
from mien_client.transports.failures import failure
from mien_client.transports.grpc import OPTIONS, checked_address
from mien_client.transports.grpc_messages import (
    answering_version,
    metadata_request,
    predict_request,
    read_answer,
    signature,
    status_request,
    version_statuses,
)


class AioTransport:
    """One channel, to one server or to all that a name stands for; it belongs to the loop that uses it first."""

    def __init__(self, address: str, security: Security) -> None:
        self.endpoint = checked_address(address)
        security.is_for(address, encrypted=security.tls)
        self._headers = security.headers
        self._credentials = channel_credentials(security) if security.tls else None
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._methods: dict[str, Any] = {}
        self._closed = False

    async def predict(self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline) -> Answer:
        """See `AsyncTransport.predict`."""
        request = predict_request(target, images, output)
        response = await self._ask("PredictionService", "Predict", request, target, deadline)
        return read_answer(response, output, self.endpoint, target)

    async def resolve(self, target: Target, deadline: Deadline) -> int:
        """See `Transport.resolve`."""
        request = metadata_request(target)
        response = await self._ask("PredictionService", "GetModelMetadata", request, target, deadline)
        return answering_version(response, self.endpoint, target)

    async def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """See `Transport.status`."""
        request = status_request(model)
        return version_statuses(await self._ask("ModelService", "GetModelStatus", request, Target(model), deadline))

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def _ask(self, service: str, name: str, request: bytes, target: Target, deadline: Deadline) -> Any:
        if self._closed:
            raise self._failure("CANCELLED", "the client was closed", target, deadline)
        try:
            method = self._method(service, name)
            return await method(request, timeout=deadline.remaining(), metadata=self._headers)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error.code().name, error.details() or "", target, deadline) from None
        except asyncio.CancelledError:
            if not self._closed:
                raise
            raise self._failure("CANCELLED", "the client was closed", target, deadline) from None

    def _method(self, service: str, name: str) -> Any:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:  # Its answers would never arrive in this one.
            raise RuntimeError("this client belongs to another event loop: make one in each")
        if self._channel is None and self._credentials is not None:
            self._channel = grpc.aio.secure_channel(self.endpoint, self._credentials, options=OPTIONS)
        elif self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.endpoint, options=OPTIONS)
        if name not in self._methods:
            path, read = signature(service, name)
            self._methods[name] = self._channel.unary_unary(path, response_deserializer=read)
        return self._methods[name]

    def _failure(self, code: str, text: str, target: Target, deadline: Deadline) -> MienError:
        return failure(code, text, endpoint=self.endpoint, target=target, timeout=deadline.timeout)
