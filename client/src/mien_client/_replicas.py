"""The servers that a client asks, and which of them is fit to be asked."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from mien_client._exceptions import MienError, ModelNotFoundError, UnavailableError
from mien_client._forks import renew_in_children

FIRST_REST = 0.5
LONGEST_REST = 10.0
"""Seconds for which a server that failed is left alone before it is tried, doubled up to the second one while that
fails too."""

PROBE_TIMEOUT = 1.0
"""Seconds in which a server that failed must answer before it gets requests again."""

NAMED_SERVERS = 3
"""Servers that a name (``dns:///``) is assumed to stand for: so often is a request sent there after a bad answer."""

_log = logging.getLogger("mien_client")


class HasEndpoint(Protocol):
    """Anything that asks one server."""

    @property
    def endpoint(self) -> str:
        """The server's address, fit to be shown."""


T = TypeVar("T", bound=HasEndpoint)


class Replica(Generic[T]):
    """One of the servers."""

    def __init__(self, transport: T) -> None:
        self.transport = transport
        self.reset()

    def reset(self) -> None:
        """Forgets how the server has answered so far."""
        self.down = False
        self.down_since = -math.inf
        self.last_answer = -math.inf
        self.failures = 0
        self.probe_at = math.inf


class Replicas(Generic[T]):
    """Takes turns between the servers that answer. Any thread may use it.

    A server that cannot be reached, is too busy, does not have the model, is silent, or answers badly what another one
    answers well, is down: it is left alone, and gets requests again when it has answered a small request that no caller
    waits for. If all are down they are asked nevertheless: one of them may answer.

    Args:
        transports: One for each server.
    """

    def __init__(self, transports: Sequence[T]) -> None:
        self._replicas = [Replica(transport) for transport in transports]
        self._turn = itertools.count()
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`. A server that was being probed would never be heard of here."""
        self._lock = threading.Lock()
        for replica in self._replicas:
            replica.reset()

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def endpoint(self) -> str:
        """All addresses, fit to be shown."""
        return ", ".join(replica.transport.endpoint for replica in self._replicas)

    @property
    def several(self) -> bool:
        """Whether a request that is sent again may come to another server; a name may stand for many."""
        return len(self) > 1 or self.endpoint.startswith(("dns:", "ipv4:", "ipv6:"))

    @property
    def places(self) -> int:
        """Number of servers that a request can be tried on, as far as they can be told."""
        return NAMED_SERVERS if self.several and len(self) == 1 else len(self)

    @property
    def transports(self) -> list[T]:
        """One for each server, in the order of the addresses."""
        return [replica.transport for replica in self._replicas]

    def pick(self, tried: Collection[Replica[T]] = (), home: Replica[T] | None = None) -> Replica[T]:
        """Returns whom to ask: ``home`` if that is fit, or whose turn it is; those ``tried`` come after the others."""
        turn = next(self._turn) % len(self) if home is None else self._replicas.index(home)
        in_turn = self._replicas[turn:] + self._replicas[:turn]
        return min(in_turn, key=lambda replica: (replica.down, replica in tried))

    def fresh(self, tried: Collection[Replica[T]]) -> bool:
        """Whether there is a server that is up and not among those ``tried``."""
        return any(not replica.down and replica not in tried for replica in self._replicas)

    def answered(self, replica: Replica[T], sent_at: float = math.inf) -> None:
        """Takes note of an answer to what was sent at ``sent_at``; if that was before the failure it proves nothing."""
        with self._lock:
            replica.last_answer = time.monotonic()
            recovered = replica.down and sent_at > replica.down_since
            if recovered:
                replica.down, replica.failures = False, 0
        if recovered:
            _log.info("%s answers again", replica.transport.endpoint)

    def failed(self, replica: Replica[T], error: MienError) -> None:
        """Takes note that a server has not answered as it should."""
        if isinstance(error, (UnavailableError, ModelNotFoundError)):
            self._rest(replica, str(error))

    def bad(self, replica: Replica[T], error: MienError) -> None:
        """Takes note that a server answered badly what another server has answered well."""
        if len(self) > 1:
            self._rest(replica, str(error))

    def silent(self, replica: Replica[T], since: float) -> None:
        """Takes note that a request has no answer yet: the server is down unless others had theirs after ``since``."""
        if replica.last_answer < since:
            self._rest(replica, f"{replica.transport.endpoint} is silent")

    def to_probe(self) -> list[Replica[T]]:
        """Returns the servers that have rested. What comes of asking them goes to `probed`."""
        if len(self) == 1:
            return []
        now = time.monotonic()
        with self._lock:
            rested = [replica for replica in self._replicas if replica.down and replica.probe_at <= now]
            for replica in rested:
                replica.probe_at = math.inf
        return rested

    def probed(self, replica: Replica[T], error: MienError | None) -> None:
        """Takes note of how a server that has rested answered."""
        if error is None:
            self.answered(replica)
        else:
            replica.down = False
            self._rest(replica, str(error))

    def _rest(self, replica: Replica[T], reason: str) -> None:
        with self._lock:
            if not replica.down:
                if len(self) > 1 and not replica.failures:
                    _log.warning("%s: it is left alone until it answers again", reason)
                replica.down, replica.down_since = True, time.monotonic()
                replica.probe_at = time.monotonic() + min(LONGEST_REST, FIRST_REST * 2**replica.failures)
                replica.failures += 1
