"""Requests that name neither a version nor a label: TensorFlow Serving gives them the highest loaded version."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

NOTICED_S: Final = 3.0
"""Clients that ask for ``stable`` notice within this time that a model has that label now; until then they ask without
one, and are not counted."""

COUNT_HEADER: Final = "mien-unlabelled-requests"
SECONDS_HEADER: Final = "mien-unlabelled-seconds"
"""What answers about a model's status say of this over gRPC, in their trailing metadata, for `mien rollout`."""


@dataclass
class _Count:
    since: float
    requests: int = 0


class UnlabelledRequests:
    """Counts them for each model that has the label ``stable``, since it has. Any thread may use it.

    Their callers would move to a canary as soon as that is loaded.
    """

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._lock = threading.Lock()

    def set_models(self, models: Collection[str]) -> None:
        """Begin to count for models that are new in ``models``, and forget those that are not in it."""
        since = time.monotonic() + NOTICED_S
        with self._lock:
            self._counts = {model: self._counts.get(model) or _Count(since) for model in models}

    def add(self, model: str) -> None:
        """Count one request for a model."""
        with self._lock:
            count = self._counts.get(model)
            if count and time.monotonic() >= count.since:
                count.requests += 1

    def seen(self, model: str) -> tuple[int, float] | None:
        """Return how many there were and for how many seconds they were counted; None if they are not counted."""
        with self._lock:
            count = self._counts.get(model)
            return (count.requests, max(0.0, time.monotonic() - count.since)) if count else None
