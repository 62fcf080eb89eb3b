"""The seam between the client and the network.

A transport asks one server about one model at a time. It keeps the server's errors and its own library's to itself
and raises those of `mien_client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import ConfigurationError
from mien_client.transports.addresses import rest_address

if TYPE_CHECKING:
    from mien_client.security import Security


@dataclass(frozen=True)
class Target:
    """Which model is asked: a version of it, what a label names, or with neither the latest."""

    model: str
    version: int | None = None
    label: str | None = None

    def pinned(self, version: int) -> Target:
        """Returns the same model at exactly ``version``."""
        return replace(self, version=version, label=None)

    def __str__(self) -> str:
        if self.version is not None:
            return f"model {self.model!r} version {self.version}"
        if self.label is not None:
            return f"model {self.model!r} label {self.label!r}"
        return f"model {self.model!r}"


@dataclass(frozen=True)
class Answer:
    """What a model said: the output that was asked for, and the version that computed it."""

    values: NDArray[np.float32]
    version: int


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model on a server.

    Attributes:
        version: Its number.
        state: ``START``, ``LOADING``, ``AVAILABLE``, ``UNLOADING`` or ``END``.
        error: Why it came to its end, or an empty text.

    Example:
        >>> [status] = client.status()["keypoints"]
        >>> status.version, status.state
        (1, 'AVAILABLE')
    """

    version: int
    state: str
    error: str = ""


class Deadline:
    """A ``moment``, by the monotonic clock, ``timeout`` seconds from now."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.moment = time.monotonic() + timeout

    def remaining(self) -> float:
        """Returns the seconds until then, at least 0."""
        return max(0.0, self.moment - time.monotonic())


class Pending(Protocol):
    """A predict request that was sent."""

    def result(self) -> Answer:
        """Returns the answer. To be called once the request has ended.

        Raises:
            MienError: If it failed. A `VersionNotFoundError` with a version that the request did not name says that
                this version has gone since the transport found out that it is the right one.
        """

    def cancel(self) -> object:
        """Ends the request if that is possible; nobody wants its answer any more."""


class Transport(Protocol):
    """Asks one server. Any thread may use it. Requests end at their deadline, or soon after."""

    @property
    def endpoint(self) -> str:
        """The server's address, fit to be shown."""

    def predict(
        self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline, ended: Callable[[], object]
    ) -> Pending:
        """Sends ``images``, uint8 [n, 48, 48], to a model, and calls ``ended``, from any thread, when that is over.

        The numbers of the answer can be any, in any shape.
        """

    def resolve(self, target: Target, deadline: Deadline) -> int:
        """Returns the version that would answer ``target`` now."""

    def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """Returns the states of all versions of a model, the highest version first."""

    def close(self) -> None:
        """Gives the connections back."""


class AsyncTransport(Protocol):
    """A `Transport` for asyncio."""

    @property
    def endpoint(self) -> str:
        """The server's address, fit to be shown."""

    async def predict(self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline) -> Answer:
        """Returns what a model says to ``images``, uint8 [n, 48, 48]; see `Pending.result`."""

    async def resolve(self, target: Target, deadline: Deadline) -> int:
        """Returns the version that would answer ``target`` now."""

    async def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """Returns the states of all versions of a model, the highest version first."""

    async def close(self) -> None:
        """Gives the connections back."""


def open_transport(address: str, security: Security) -> Transport:
    """Returns the transport that ``address`` asks for. Nothing is sent yet.

    Each one's libraries are imported here: together they take longer than everything else in this package.
    """
    if (rest := rest_address(address)) is not None:
        from mien_client.transports.rest import RestTransport

        return RestTransport(rest, security)
    from mien_client.transports.grpc import GrpcTransport

    return GrpcTransport(address, security)


def open_async_transport(address: str, security: Security) -> AsyncTransport:
    """Returns the asyncio transport that ``address`` asks for. Nothing is sent yet."""
    if rest_address(address) is not None:
        raise ConfigurationError(
            f"Expected an address for gRPC such as 'localhost:8500', which AsyncClient uses, got {address!r} for REST"
        )
    from mien_client.transports.grpc_aio import AioTransport

    return AioTransport(address, security)
