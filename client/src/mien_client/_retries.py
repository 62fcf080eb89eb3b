"""When a request is sent again: only if that is safe, not at once, and not by everybody when a server is dying."""

from __future__ import annotations

import random
import threading

from mien_client._exceptions import MienError, UnavailableError
from mien_client._forks import renew_in_children

MAX_ATTEMPTS = 5
"""How often one request is sent, the first time included."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds before a request is sent for the second time, doubled each time after that up to this; both on average half
as long, for chance spreads the clients that a server has failed at the same moment."""

BUDGET = 100.0
EARNED = 0.2
"""A client may repeat this many requests, and one more for every five that are answered. So a hiccup is bridged for
every caller of a busy client, and a server that answers nobody gets hardly more requests than it would without."""


class Retries:
    """What a client's calls share about sending again. Any thread may use it.

    Args:
        max_attempts: How often one request is sent at most.
    """

    def __init__(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self._budget = BUDGET
        self._lock = threading.Lock()
        self._closed = False
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """From now on nothing is sent again."""
        self._closed = True

    def answered(self) -> None:
        """Takes note of an answer."""
        with self._lock:
            self._budget = min(BUDGET, self._budget + EARNED)

    def pause(self, attempts: int, error: MienError, remaining: float) -> float | None:
        """Returns how many seconds to wait before a request is sent again, or None if it shall not be.

        Args:
            attempts: How often it was sent.
            error: How the last one ended.
            remaining: Seconds that are left for it.
        """
        # The request has no effects, so any failure could be repeated; but only these may end otherwise.
        if not isinstance(error, UnavailableError) or attempts >= self.max_attempts:
            return None
        pause = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempts - 1)))  # noqa: S311
        return pause if pause < remaining and self.take() else None

    def take(self) -> bool:
        """Takes one repetition out of the budget; False if there is none left."""
        with self._lock:
            if self._closed or self._budget < 1:
                return False
            self._budget -= 1
            return True
