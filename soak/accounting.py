"""Every call and every fault, and what they say about each other."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from soak.callers import Record
from soak.labels import Labels

DISTURBED_S: Final = 1.0
"""A call that takes longer, or fails, was disturbed."""
_AFTER_S: Final = 10.0
"""How long after its end a fault may still disturb calls, unless another has begun."""
_CACHED_S: Final = {"REST": 2.0, "edge REST": 2.0, "gRPC canary": 2.0}
"""For how long these callers may get what a label named before: documented for labels over REST, and for canaries."""


@dataclass(frozen=True)
class Fault:
    """One fault that happened; moments in seconds of the monotonic clock.

    Attributes:
        kind: Which kind.
        where: What was broken.
        begun: When it began.
        healed: When the cause had gone and every process was ready again.
    """

    kind: str
    where: str
    begun: float
    healed: float


@dataclass(frozen=True)
class Row:
    """What a kind of fault did.

    Attributes:
        kind: Which kind.
        times: How often it happened.
        calls: Calls during these faults.
        failed: Calls of these that failed at least once before they were answered.
        lost: Calls of these that were not answered.
        recovery: For each time, the seconds from its beginning to the end of the last disturbed call.
        whole: For each time, the seconds from its beginning until every process was ready again.
    """

    kind: str
    times: int
    calls: int
    failed: int
    lost: int
    recovery: Sequence[float]
    whole: Sequence[float]


class Ledger:
    """The calls, read from the callers' file as it grows."""

    def __init__(self, path: Path) -> None:
        self.records: list[Record] = []
        self.begun: int | None = None
        self._file = path.open(encoding="utf-8")
        self._rest = ""

    def read(self) -> None:
        """Read what was added to the file."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for document in map(json.loads, lines):
            if "begun" in document and len(document) == 1:
                self.begun = document["begun"]
            else:
                self.records.append(Record(**document))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def counts(self, labels: Mapping[str, Labels]) -> dict[str, int]:
        """Count how calls ended; each must be right.

        Returns:
            The number of calls, of those that failed before they were answered, and of each way to be wrong.
        """
        verdicts = Counter(record.verdict for record in self.records)
        numbers = Counter(record.number for record in self.records)
        missing = self.begun - len(numbers) if self.begun is not None else 0
        return {
            "calls": len(self.records),
            "images": sum(len(record.answers) for record in self.records),
            "failed, then answered": sum(bool(one.failures) and one.verdict == "right" for one in self.records),
            "lost": verdicts["lost"] + missing,
            "doubled": verdicts["doubled"] + sum(count - 1 for count in numbers.values()),
            "somebody else's answer": verdicts["somebody else's"],
            "wrong answer": verdicts["wrong"],
            "version that the label did not name": len(misnamed(self.records, labels)),
        }


def misnamed(records: Iterable[Record], labels: Mapping[str, Labels]) -> list[Record]:
    """Return the calls that were answered by a version that their label did not name at any moment of the call."""
    found = []
    for record in records:
        begin = record.begun - _CACHED_S.get(record.kind, 0.0)
        for versions, asked in record.answers:
            named = {model: labels[model].allowed(asked[model], begin, record.ended) for model in versions}
            if any(version not in named[model] for model, version in versions.items()):
                found.append(record)
                break
    return found


def rows(records: Sequence[Record], faults: Sequence[Fault]) -> list[Row]:
    """Return what each kind of fault did to the calls."""
    begun, ended = (np.array([getattr(record, name) for record in records]) for name in ("begun", "ended"))
    disturbed = np.array([bool(record.failures) for record in records]) | (ended - begun > DISTURBED_S)
    by_kind: dict[str, list[Fault]] = {}
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    found = []
    for kind, times in by_kind.items():
        during, recovery = np.zeros(len(records), bool), []
        for fault in times:
            following = min((one.begun for one in faults if one.begun > fault.begun), default=math.inf)
            met = (begun < fault.healed) & (ended > fault.begun)
            hit = (begun < min(fault.healed + _AFTER_S, following)) & (ended > fault.begun) & disturbed
            during |= met
            recovery.append(float(ended[hit].max() - fault.begun) if hit.any() else 0.0)
        calls = [record for record, one in zip(records, during, strict=True) if one]
        found.append(
            Row(
                kind,
                len(times),
                len(calls),
                sum(bool(record.failures) and record.verdict == "right" for record in calls),
                sum(record.verdict == "lost" for record in calls),
                recovery,
                [fault.healed - fault.begun for fault in times],
            )
        )
    return found


def latencies(records: Iterable[Record]) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds that calls took."""
    seconds = sorted(record.ended - record.begun for record in records)
    return statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
