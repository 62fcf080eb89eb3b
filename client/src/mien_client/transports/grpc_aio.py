"""gRPC under asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien_client.security import Security
from mien_client.transports import Answer, Deadline, Target, VersionStatus
from mien_client.transports.grpc import GrpcTransport
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


class AioTransport:
    """A `GrpcTransport` whose calls are awaited, in any event loop.

    It does without ``grpc.aio``, of which a thread stays inside gRPC from the first call on: after that, gRPC would not
    work in a forked child any more (see `grpc_forks`).
    """

    def __init__(self, address: str, security: Security) -> None:
        self._grpc = GrpcTransport(address, security)

    @property
    def endpoint(self) -> str:
        """See `AsyncTransport.endpoint`."""
        return self._grpc.endpoint

    async def predict(self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline) -> Answer:
        """See `AsyncTransport.predict`."""
        response = await self._ask(PREDICT, predict_request(target, images, output), target, deadline)
        return read_answer(response, output, self.endpoint, target)

    async def resolve(self, target: Target, deadline: Deadline) -> int:
        """See `Transport.resolve`."""
        return answering_version(
            await self._ask(METADATA, metadata_request(target), target, deadline), self.endpoint, target
        )

    async def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """See `Transport.status`."""
        return version_statuses(await self._ask(STATUS, status_request(model), Target(model), deadline))

    async def close(self) -> None:
        """See `Transport.close`."""
        self._grpc.close()

    async def _ask(self, method: Method, request: bytes, target: Target, deadline: Deadline) -> Any:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                loop.call_soon_threadsafe(ended.set)

        call = self._grpc.send(method, request, target, deadline)
        call.add_done_callback(wake)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            call.cancel()
            raise
        return self._grpc.result(method, call, target, deadline)
