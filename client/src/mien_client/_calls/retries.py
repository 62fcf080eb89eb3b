"""When a request is sent again: only if that may help, after a pause, and within a budget that spares dying servers."""

from __future__ import annotations

import random
import threading

from mien_client._exceptions import MienError, UnavailableError
from mien_client._forks import renew_in_children

MAX_ATTEMPTS = 5
"""How often one request is sent, the first time included."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Longest pauses, in seconds, before a request is sent for the second time, and for any time; in between they double. A
pause is a random part of that, which spreads the clients that a server has failed at the same moment."""

BUDGET = 100.0
EARNED = 0.2
"""A client may send this many requests again, and one more for every five answers. That covers a short failure for all
callers of a busy client, while a server that answers nothing gets hardly more requests than without retries."""


class Retries:
    """The retries of all calls of one client. Any thread may use it.

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
        """Send nothing again from now on."""
        self._closed = True

    def answered(self) -> None:
        """Record an answer."""
        with self._lock:
            self._budget = min(BUDGET, self._budget + EARNED)

    def pause(self, attempts: int, error: MienError, remaining: float) -> float | None:
        """Return the seconds to wait before a request is sent again, or None if it is not sent again.

        Args:
            attempts: How often it was sent.
            error: How the last one ended.
            remaining: Seconds until its deadline.
        """
        # Requests have no effects, so that all could be sent again safely; but only these may end differently.
        if not isinstance(error, UnavailableError) or attempts >= self.max_attempts:
            return None
        pause = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempts - 1)))  # noqa: S311
        return pause if pause < remaining and self.take() else None

    def take(self) -> bool:
        """Take one request out of the budget; return False if it is used up."""
        with self._lock:
            if self._closed or self._budget < 1:
                return False
            self._budget -= 1
            return True
