"""How long answers have taken lately."""

from __future__ import annotations

import threading
from collections import deque

from mien_client._forks import renew_in_children

KEPT = 200
NEEDED = 20


class Latencies:
    """The latencies of the latest answers to a client. Any thread may use it."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`."""
        self._lock = threading.Lock()

    def note(self, seconds: float) -> None:
        """Record how long an answer took."""
        with self._lock:
            self._seconds.append(seconds)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which ``share`` (0 to 1) of the answers came, or None while there are too few."""
        with self._lock:
            if len(self._seconds) < NEEDED:
                return None
            ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
