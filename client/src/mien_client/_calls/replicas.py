"""The servers that a client asks, and which of them are up."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Collection, Sequence

from mien_client._exceptions import MienError, ModelNotFoundError, UnavailableError
from mien_client._forks import renew_in_children
from mien_client.transports.base import Transport

FIRST_REST = 0.5
LONGEST_REST = 10.0
"""Seconds before a server that failed is probed. They are doubled after each failed probe, up to the second number."""

PROBE_TIMEOUT = 1.0
"""Seconds in which a server that failed must answer before it gets requests again."""

NAMED_SERVERS = 3
"""Servers that a name (``dns:///``) is assumed to stand for: how often a request is sent there after bad answers."""

_log = logging.getLogger("mien_client")


class Replica:
    """One of the servers."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.reset()

    def reset(self) -> None:
        """Forget how the server has answered so far."""
        self.down = False
        self.down_since = -math.inf
        self.last_answer = -math.inf
        self.failures = 0
        self.probe_at = math.inf


class Replicas:
    """Take turns between the servers that are up. Any thread may use it.

    A server is down when it cannot be reached, is full, does not have the model, is silent, or gives a bad answer to
    what another server answers well. It gets requests again once it has answered a probe, a small request that no
    caller waits for. If all servers are down they are asked anyway: one of them may answer.

    Args:
        transports: One for each server.
    """

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._replicas = [Replica(transport) for transport in transports]
        self._turn = itertools.count()
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`. The answers to probes that are under way reach the parent only."""
        self._lock = threading.Lock()
        for replica in self._replicas:
            replica.reset()

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def endpoint(self) -> str:
        """All addresses, for messages."""
        return ", ".join(replica.transport.endpoint for replica in self._replicas)

    @property
    def several(self) -> bool:
        """Whether a request that is sent again may reach another server; a name may stand for several."""
        return len(self) > 1 or self.endpoint.startswith(("dns:", "ipv4:", "ipv6:"))

    @property
    def places(self) -> int:
        """Number of servers that a request can be tried on, as far as is known."""
        return NAMED_SERVERS if self.several and len(self) == 1 else len(self)

    @property
    def transports(self) -> list[Transport]:
        """One for each server, in the order of the addresses."""
        return [replica.transport for replica in self._replicas]

    def pick(self, tried: Collection[Replica] = (), home: Replica | None = None) -> Replica:
        """Return the server to ask: ``home`` if it is up, or the next in turn; servers in ``tried`` come last."""
        turn = next(self._turn) % len(self) if home is None else self._replicas.index(home)
        in_turn = self._replicas[turn:] + self._replicas[:turn]
        return min(in_turn, key=lambda replica: (replica.down, replica in tried))

    def fresh(self, tried: Collection[Replica]) -> bool:
        """Return whether there is a server that is up and not among those ``tried``."""
        return any(not replica.down and replica not in tried for replica in self._replicas)

    def answered(self, replica: Replica, sent_at: float = math.inf) -> None:
        """Record an answer to what was sent at ``sent_at``. If that was before a failure, the server stays down."""
        with self._lock:
            replica.last_answer = time.monotonic()
            recovered = replica.down and sent_at > replica.down_since
            if recovered:
                replica.down, replica.failures = False, 0
        if recovered:
            _log.info("%s answers again", replica.transport.endpoint)

    def failed(self, replica: Replica, error: MienError) -> None:
        """Record that a request to a server failed."""
        if isinstance(error, (UnavailableError, ModelNotFoundError)):
            self._rest(replica, str(error))

    def bad(self, replica: Replica, error: MienError) -> None:
        """Record that a server gave a bad answer to what another server has answered well."""
        if len(self) > 1:
            self._rest(replica, str(error))

    def silent(self, replica: Replica, since: float) -> None:
        """Record that a request has no answer yet. The server is down unless it has answered others after ``since``."""
        if replica.last_answer < since:
            self._rest(replica, f"{replica.transport.endpoint} is silent")

    def to_probe(self) -> list[Replica]:
        """Return the servers to probe now. Report each outcome to `probed`."""
        if len(self) == 1:
            return []
        now = time.monotonic()
        with self._lock:
            rested = [replica for replica in self._replicas if replica.down and replica.probe_at <= now]
            for replica in rested:
                replica.probe_at = math.inf
        return rested

    def probed(self, replica: Replica, error: MienError | None) -> None:
        """Record the outcome of a probe."""
        if error is None:
            self.answered(replica)
        else:
            self._rest(replica, str(error), again=True)

    def _rest(self, replica: Replica, reason: str, *, again: bool = False) -> None:
        with self._lock:
            if again or not replica.down:
                if len(self) > 1 and not replica.failures:
                    _log.warning("%s: it is left alone until it answers again", reason)
                replica.down, replica.down_since = True, time.monotonic()
                replica.probe_at = time.monotonic() + min(LONGEST_REST, FIRST_REST * 2**replica.failures)
                replica.failures += 1
