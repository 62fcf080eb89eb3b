"""How many faces a client has under way at servers that are full.

At first there is no limit. When a server refuses a request because it is full, the limit becomes about what servers
have accepted. From then on it grows slowly with each answer and shrinks with each refusal, as TCP's window does.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable

from mien_client._forks import renew_in_children

SMALLEST_REQUEST = 16
"""Faces in one request. A server that refuses even these is asked again after pauses."""

KEPT_SHARE = 0.7
"""The share of the limit that remains after a refusal."""

GROWTH = 64
"""Faces by which the limit grows while as many faces as it allows are answered."""

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds in which nothing is sent after a refusal, doubled up to the second number until there is an answer."""


class Turn:
    """One call's place in the line: older calls are served first.

    Args:
        wake: Called, from any thread, when it may be this call's turn.
    """

    _numbers = itertools.count()

    def __init__(self, wake: Callable[[], object]) -> None:
        self.number = next(self._numbers)
        self.wake = wake
        self.again_at = math.inf
        """When to try again to take faces, if not woken before."""


class Pacer:
    """Limit the faces under way, for all calls of one client. Any thread may use it."""

    def __init__(self) -> None:
        self._limit = math.inf
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`. The requests under way are the parent's."""
        self._lock = threading.Lock()
        self._on_their_way = 0
        self._line: dict[int, Turn] = {}
        self._resume_at = 0.0
        self._shrunk_at = -math.inf
        self._refusals = 0

    def take(self, turn: Turn, wanted: int) -> int:
        """Return how many of the ``wanted`` faces may be sent now. With 0, the call waits in line from now on."""
        with self._lock:
            now, count = time.monotonic(), wanted
            if wanted > self._limit:  # A power of two, as servers' batch sizes are.
                count = 1 << int(self._limit).bit_length() - 1
            fits = not self._on_their_way or self._on_their_way + count <= self._limit
            first = all(turn.number <= number for number in self._line)
            if not (fits and first and now >= self._resume_at):
                self._line[turn.number] = turn
                turn.again_at = self._resume_at if now < self._resume_at else math.inf
                return 0
            self._line.pop(turn.number, None)
            self._on_their_way += count
            following = self._first_in_line()
        if following:
            following.wake()
        return count

    def answered(self, count: int) -> None:
        """Record the answer to a request of ``count`` faces."""
        with self._lock:
            self._refusals = 0
            if self._on_their_way + count > self._limit:
                self._limit += GROWTH * count / self._limit
        self.ended(count)

    def refused(self, count: int, sent_at: float) -> None:
        """Record that a server was too full for a request of ``count`` faces that was sent at ``sent_at``."""
        with self._lock:
            now = time.monotonic()
            if sent_at > self._shrunk_at:
                self._shrunk_at = now
                self._limit = min(self._limit, self._on_their_way) * KEPT_SHARE
                longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._refusals, 30))
                self._resume_at = now + random.uniform(longest / 2, longest)  # noqa: S311
                self._refusals += 1
            else:  # Others that were sent with it have been refused already; the rest of them were accepted.
                self._limit = min(self._limit, max(self._on_their_way - count, count * KEPT_SHARE))
            self._limit = max(self._limit, SMALLEST_REQUEST)
        self.ended(count)

    def ended(self, count: int) -> None:
        """Record that a request of ``count`` faces has ended, in whatever way."""
        with self._lock:
            self._on_their_way = max(0, self._on_their_way - count)
            following = self._first_in_line()
        if following:
            following.wake()

    def leave(self, turn: Turn) -> None:
        """Take a call out of the line."""
        with self._lock:
            following = self._first_in_line() if self._line.pop(turn.number, None) else None
        if following:
            following.wake()

    def _first_in_line(self) -> Turn | None:
        return self._line[min(self._line)] if self._line and self._on_their_way < self._limit else None
