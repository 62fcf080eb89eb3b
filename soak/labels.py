"""What the labels of each model named at any moment, so that each answer's version can be judged."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

Named = dict[str, frozenset[int]]
"""The versions that each label may name. A label that names none is asked as ``stable``."""


@dataclass
class Labels:
    """The history of the labels of one model. While a rollout moves a label, it may name the version before and after.

    Attributes:
        history: Moments, and what the labels may have named from then on.
    """

    history: list[tuple[float, Named]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def moving(self, after: Mapping[str, int]) -> None:
        """Note that the labels may name what they named so far, or these versions, from now on."""
        with self._lock:
            before, expected = self.history[-1][1], _named(after)
            either = {label: versions | expected[label] for label, versions in before.items()}
            self.history.append((time.monotonic(), either))

    def moved(self, after: Mapping[str, int]) -> None:
        """Note that the labels name exactly these versions from now on."""
        with self._lock:
            self.history.append((time.monotonic(), _named(after)))

    def allowed(self, label: str, begin: float, end: float) -> frozenset[int]:
        """Return the versions that a label may have named at some moment of a period."""
        with self._lock:
            first = max(0, bisect_right(self.history, begin, key=itemgetter(0)) - 1)
            after = bisect_right(self.history, end, key=itemgetter(0))
            return frozenset[int]().union(*(named[label] for _, named in self.history[first:after]))


def _named(labels: Mapping[str, int]) -> Named:
    stable = frozenset({labels[STABLE_LABEL]})
    canary = frozenset({labels[CANARY_LABEL]}) if CANARY_LABEL in labels else stable
    return {STABLE_LABEL: stable, CANARY_LABEL: canary}
