"""Which share of a client's calls asks for the canary: a fixed one, or the one that operators have set."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from mien_client._exceptions import ConfigurationError
from mien_client._forks import renew_in_children
from mien_client._options import checked_canary
from mien_client.security import Security
from mien_client.split import SPLIT_FILE, Split, SplitFile
from mien_client.transports.addresses import rest_address
from mien_client.transports.base import Deadline

AUTO: Final = "auto"
"""Given instead of a share: the one that operators have set."""

FIRST_SECONDS: Final = 1.0
"""Seconds for which the first calls wait until the split is known, at most."""


class Shares(Protocol):
    """The canary's share of the calls, by model."""

    @property
    def known(self) -> bool:
        """Whether `wait` returns at once."""

    def wait(self, deadline: Deadline) -> None:
        """Wait until the shares are known, or for a part of the time that a call has."""

    def share(self, model: str) -> float:
        """Return the canary's share of the calls to a model, 0 to 1. This never waits."""

    def close(self) -> None:
        """Follow the shares no longer."""


class FixedShares:
    """The same share for all models, for as long as the client lives."""

    known = True

    def __init__(self, share: float) -> None:
        self._share = share

    def wait(self, deadline: Deadline) -> None:
        """See `Shares.wait`."""

    def share(self, model: str) -> float:  # noqa: ARG002 -- as the protocol has it
        """See `Shares.share`."""
        return self._share

    def close(self) -> None:
        """See `Shares.close`."""


class Source(Protocol):
    """Where the split is.

    Attributes:
        seconds: The time between two looks. A change takes effect within two seconds.
    """

    seconds: float

    def read(self) -> Split:
        """Return the split now. This never raises an error."""

    def close(self) -> None:
        """Close the connections."""


class FileSource:
    """``split.json``, in a file system that this machine has.

    Args:
        path: The file.
    """

    seconds = 0.5

    def __init__(self, path: str) -> None:
        self._file = SplitFile(path)

    def read(self) -> Split:
        """See `Source.read`."""
        return self._file.read()

    def close(self) -> None:
        """See `Source.close`."""


class FollowedShares:
    """The shares that operators have set, looked up by a thread of its own.

    The thread ends when the client is closed or collected. In a forked child, the first call starts another one; until
    that has looked, the split is the parent's last one.

    Args:
        source: Where the split is. The thread closes it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._split = Split()
        self._known, self._closed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._following = False
        renew_in_children(self)
        self._follow()

    def renew(self) -> None:
        """See `Renewable.renew`. The parent's thread does not exist here."""
        self._known, self._closed = _copy(self._known), _copy(self._closed)
        self._lock = threading.Lock()
        self._following = False

    @property
    def known(self) -> bool:
        """See `Shares.known`."""
        return self._known.is_set()

    def wait(self, deadline: Deadline) -> None:
        """See `Shares.wait`."""
        if not self.known:
            self._follow()
            self._known.wait(min(FIRST_SECONDS, deadline.remaining() / 2))

    def share(self, model: str) -> float:
        """See `Shares.share`."""
        if not self._following:
            self._follow()
        return self._split.share(model)

    def know(self, split: Split) -> None:
        """Take note of the split."""
        self._split = split
        self._known.set()

    def close(self) -> None:
        """See `Shares.close`."""
        self._closed.set()
        self._known.set()

    def _follow(self) -> None:
        with self._lock:
            if self._following or self._closed.is_set():
                return
            self._following = True
            # The thread knows the shares only weakly, so that a client that nobody closes can be collected.
            arguments = (weakref.ref(self), self._source, self._closed)
            threading.Thread(target=_follow, args=arguments, name="mien-split", daemon=True).start()


def _follow(followed: weakref.ref[FollowedShares], source: Source, closed: threading.Event) -> None:
    """Look the split up until the shares are closed or collected."""
    while not closed.is_set():
        split = source.read()
        shares = followed()
        if shares is None:
            break
        shares.know(split)
        del shares
        closed.wait(source.seconds)
    source.close()


def _copy(event: threading.Event) -> threading.Event:
    """Return an event in the same state, whose lock nobody holds."""
    copy = threading.Event()
    if event.is_set():
        copy.set()
    return copy


def open_shares(canary: float | str, split: str | os.PathLike[str] | None, security: Callable[[], Security]) -> Shares:
    """Return the shares that the options of a client ask for.

    Args:
        canary: A share of the calls, 0 to 1, or ``"auto"``.
        split: With ``"auto"``, a gateway's address or the path of ``split.json``.
        security: Returns the security options of a connection to the gateway.

    Raises:
        ConfigurationError: An option is invalid, missing, or not for this ``canary``.
    """
    if canary != AUTO:
        if split is not None:
            raise ConfigurationError(f"Expected canary='auto' with split, got canary={canary!r}")
        return FixedShares(checked_canary(canary))
    expected = f"Expected a gateway's address such as 'http://localhost:8080', or the path of a {SPLIT_FILE}, for split"
    if split is None:
        raise ConfigurationError(f"{expected}, because canary is 'auto'; got neither")
    where = os.fspath(split)
    if isinstance(where, str) and where.lower().startswith(("http://", "https://")):
        from mien_client._gateway_source import GatewaySource  # It needs requests, which gRPC does not.

        address = rest_address(where)
        assert address is not None
        return FollowedShares(GatewaySource(address, security()))
    if not isinstance(where, str) or not where.endswith(".json"):
        raise ConfigurationError(f"{expected}, got {where!r}")
    return FollowedShares(FileSource(where))
