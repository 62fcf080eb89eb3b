"""All servers of a deployment."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from mien_client.security import security

from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.fleet.server import FleetError, Server, View

_AT_ONCE: Final = 16
"""Servers that are called at the same time."""

T = TypeVar("T")


class Fleet:
    """All servers of a deployment, called in parallel.

    Args:
        addresses: ``host:port`` each; a name that resolves to several addresses stands for all of them.
        timeout: Seconds that a server may take to answer.

    Attributes:
        servers: The servers.
        timeout: Seconds that a server may take to answer.

    Raises:
        RolloutError: An address is not valid, or its name cannot be resolved.
    """

    def __init__(self, addresses: Sequence[str], timeout: float) -> None:
        connection = security()
        found: dict[str, str] = {}
        for address in addresses:
            found.update(_resolved(address))
        self.servers = [Server(address, connection, host) for address, host in found.items()]
        self.timeout = timeout
        self._pool = ThreadPoolExecutor(min(len(self.servers), _AT_ONCE))

    def __len__(self) -> int:
        return len(self.servers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for server in self.servers:
            server.close()

    def view(self, model: str, labels: Collection[str] = (), without: Collection[str] = ()) -> dict[str, View]:
        """Return what every server has of a model, by address.

        Args:
            model: The model's name.
            labels: The labels to resolve.
            without: Servers to leave out.
        """
        return self._each(lambda server: server.view(model, labels, self.timeout), without)

    def views(self, wanted: Mapping[str, Collection[str]]) -> dict[str, dict[str, View]]:
        """Return what every server has of several models; a server that does not answer is called only once.

        Args:
            wanted: The labels to resolve, by model.

        Returns:
            The views by model and address.
        """

        def all_of(server: Server) -> dict[str, View]:
            found: dict[str, View] = {}
            failed = None
            for model, labels in wanted.items():
                found[model] = failed or server.view(model, labels, self.timeout)
                failed = found[model] if found[model].error else None
            return found

        answers = self._each(all_of)
        return {model: {address: found[model] for address, found in answers.items()} for model in wanted}

    def reload(self, config_for: Callable[[str], Any], without: Collection[str] = ()) -> dict[str, FleetError]:
        """Make every server take a configuration.

        Args:
            config_for: Returns the ``ModelServerConfig`` for the server with an address.
            without: Servers to leave out.

        Returns:
            The errors of the servers that did not take it, by address.
        """

        def one(server: Server) -> FleetError | None:
            try:
                server.reload(config_for(server.address), self.timeout)
            except FleetError as error:
                return error
            return None

        return {address: error for address, error in self._each(one, without).items() if error is not None}

    def _each(self, ask: Callable[[Server], T], without: Collection[str] = ()) -> dict[str, T]:
        servers = [server for server in self.servers if server.address not in without]
        return dict(zip([server.address for server in servers], self._pool.map(ask, servers), strict=True))


def _resolved(address: str) -> dict[str, str]:
    """Return every address that a name resolves to, each with the name; empty if the address is the name itself."""
    host, colon, port = address.removeprefix("dns:///").rpartition(":")
    if not colon or not port.isdecimal() or not host or "://" in address.removeprefix("dns:///"):
        raise RolloutError(f"Expected a gRPC address such as localhost:8500, got {address!r}")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise RolloutError(f"The name {host} cannot be resolved: {error.strerror or error}") from None
    # A machine with addresses of both kinds is one server, not two.
    family = socket.AF_INET if any(one[0] == socket.AF_INET for one in found) else socket.AF_INET6
    numbers = list(dict.fromkeys(str(one[4][0]) for one in found if one[0] == family))
    if len(numbers) == 1:
        return {f"{host}:{port}": ""}
    return {f"[{number}]:{port}" if ":" in number else f"{number}:{port}": host for number in sorted(numbers)}
