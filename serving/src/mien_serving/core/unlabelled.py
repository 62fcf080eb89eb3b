"""Requests that name neither a version nor a label: TensorFlow Serving answers them with the highest loaded version."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

NOTICED_S: Final = 3.0
"""Seconds until clients that prefer ``stable`` have noticed that a model now has that label. Before that they send
requests without a label, which are not counted."""

COUNT_HEADER: Final = "mien-unlabelled-requests"
SECONDS_HEADER: Final = "mien-unlabelled-seconds"
"""Trailing metadata of ``GetModelStatus`` answers, read by `mien rollout`: the count and its seconds."""


@dataclass
class _Count:
    since: float
    requests: int = 0


class UnlabelledRequests:
    """Counts these requests for each model from the moment it has the label ``stable``.

    Their callers would get a canary as soon as it is loaded. Safe across threads.
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
        """Return the count and for how many seconds it ran; None for a model without the label."""
        with self._lock:
            count = self._counts.get(model)
            return (count.requests, max(0.0, time.monotonic() - count.since)) if count else None
