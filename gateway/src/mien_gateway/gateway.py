"""What all requests to a gateway share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from starlette.requests import HTTPConnection

from mien_gateway.answers import Analyzer
from mien_gateway.backend import Backend
from mien_gateway.bodies import Buffers
from mien_gateway.keys import KeyFile, presented
from mien_gateway.measures import Measures
from mien_gateway.pictures.pool import PicturePool
from mien_gateway.problems import Problem
from mien_gateway.settings import Settings

ANYBODY = "anybody"
"""The caller's name where no keys are asked for."""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: The name of the caller's key.
        operator: Whether it is an operator's key.
    """

    name: str
    operator: bool = False


class Gateway:
    """The parts of a gateway, made before it listens and started in its event loop.

    Args:
        settings: How it is run.

    Raises:
        KeyFileError: A file of keys is unusable.
        mien_client.ConfigurationError: The address of a server is invalid.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.measures = Measures()
        self.buffers = Buffers(settings.limits)
        self._api_keys = KeyFile(settings.api_keys) if settings.api_keys else None
        self._operator_keys = KeyFile(settings.operator_keys) if settings.operator_keys else None
        self.backend = Backend(settings, self.measures)

    async def __aenter__(self) -> Self:
        limits = self.settings.limits
        self.pool = PicturePool(self.settings.workers, limits, self.measures)
        self.analyzer = Analyzer(self.backend, self.pool, limits, self.measures)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()
        await self.backend.close()

    def caller(self, connection: HTTPConnection) -> Caller:
        """Return who asks.

        Raises:
            Problem: A key is needed, and is missing or unknown.
        """
        key = presented(connection)
        if key and self._operator_keys and (name := self._operator_keys.name_of(key)):
            return Caller(name, operator=True)
        if self._api_keys is None:
            return Caller(ANYBODY)
        if key and (name := self._api_keys.name_of(key)):
            return Caller(name)
        told = (
            "The key is not valid" if key else "A key is needed: send it as Authorization: Bearer KEY, or as x-api-key"
        )
        raise Problem(401, told, "AccessDeniedError", headers={"www-authenticate": "Bearer"})

    def operator(self, connection: HTTPConnection) -> Caller:
        """Return which operator asks.

        Raises:
            Problem: It is not an operator.
        """
        if not self._operator_keys:
            raise Problem(501, "This gateway has no operators: start it with --operator_keys FILE", "NotAvailableError")
        if presented(connection) is None:
            raise Problem(
                401,
                "An operator's key is needed: send it as Authorization: Bearer KEY",
                "AccessDeniedError",
                headers={"www-authenticate": "Bearer"},
            )
        caller = self.caller(connection)
        if not caller.operator:
            raise Problem(403, "An operator's key is needed, and this is a caller's", "AccessDeniedError")
        return caller


def gateway_of(connection: HTTPConnection) -> Gateway:
    """Return the gateway that a request or a WebSocket came to."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


# FastAPI would run ordinary functions in threads, which takes longer than they do.
async def caller(connection: HTTPConnection) -> Caller:
    """Return who asks, and note the name for the access log; FastAPI calls this."""
    found = gateway_of(connection).caller(connection)
    connection.state.caller = found.name
    return found


async def operator(connection: HTTPConnection) -> Caller:
    """Return which operator asks, and note the name for the access log; FastAPI calls this."""
    found = gateway_of(connection).operator(connection)
    connection.state.caller = found.name
    return found
