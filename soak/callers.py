"""Constant load in a process of its own: every call has a number, and is written down with how it ended.

    python -m soak.callers PLACES.json RECORDS.jsonl CALLS_PER_SECOND

It ends on SIGTERM, once all calls have ended; its last line says how many calls were begun.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from mien_client.contract import STABLE_LABEL

from soak.asking import Answer, Ask, Places, all_ways, answers_of, async_client, is_retryable
from soak.images import image, verdict

LOST_AFTER_S: Final = 60.0
"""A call that fails is made again until it is answered, for this long; then it is lost."""
THREADS: Final = 2
"""Callers of each kind."""
_FACES: Final = (1, 2, 1, 3, 1, 5)
"""Images of the calls, in turn."""
_MOST_FACES: Final = 8


@dataclass
class Record:
    """One call.

    Attributes:
        number: Which one.
        kind: How it was made.
        begun: When, in seconds of the monotonic clock.
        ended: When it was answered, or given up.
        verdict: ``right``, ``wrong``, ``somebody else's``, ``doubled`` (more answers than questions) or ``lost``.
        answers: The versions that answered each model, and the labels by which it was asked.
        failures: When it failed, and why; it was made again after each.
    """

    number: int
    kind: str
    begun: float
    ended: float = 0.0
    verdict: str = "lost"
    answers: list[tuple[dict[str, int], dict[str, str]]] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)


class Callers:
    """All callers."""

    def __init__(self, places: Places, records: IO[str], per_second: float) -> None:
        self._ways = all_ways(places)
        self._places = places
        self._records = records
        self._pause = THREADS * (len(self._ways) + 1) / per_second
        self._number = itertools.count(1)
        self._begun = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Begin no more calls."""
        self._stopped.set()

    def run(self) -> None:
        """Call until told to stop."""
        threads = [
            threading.Thread(target=self._call_on, args=(kind, ask))
            for kind, ask in self._ways.items()
            for _ in range(1 if kind == "stream" else THREADS)  # A stream answers one caller at a time.
        ]
        threads.append(threading.Thread(target=asyncio.run, args=(self._call_on_async(),)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._lock:
            self._records.write(json.dumps({"begun": self._begun}) + "\n")
            self._records.flush()

    def _call_on(self, kind: str, ask: Ask) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            record, numbers = self._begin(kind)
            while True:
                try:
                    self._judge(record, numbers, ask(numbers))
                    break
                except Exception as error:  # Whatever a caller may get is counted.
                    if self._failed(record, error):
                        break
                time.sleep(0.2)
            self._end(record)
            due = max(due + self._pause, time.monotonic() - self._pause)
            self._stopped.wait(max(0.0, due - time.monotonic()))

    async def _call_on_async(self) -> None:
        async with async_client(self._places) as client:

            async def one_caller() -> None:
                due = time.monotonic()
                while not self._stopped.is_set():
                    record, numbers = self._begin("async")
                    images = np.stack([image(number) for number in numbers])
                    while True:
                        try:
                            self._judge(record, numbers, answers_of(await client.analyze(images), STABLE_LABEL))
                            break
                        except Exception as error:
                            if self._failed(record, error):
                                break
                        await asyncio.sleep(0.2)
                    self._end(record)
                    due = max(due + self._pause, time.monotonic() - self._pause)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))

            await asyncio.gather(*(one_caller() for _ in range(THREADS)))

    def _begin(self, kind: str) -> tuple[Record, list[int]]:
        with self._lock:
            number = next(self._number)
            self._begun += 1
        numbers = [number * _MOST_FACES + index for index in range(_FACES[number % len(_FACES)])]
        return Record(number, kind, time.monotonic()), numbers

    def _judge(self, record: Record, numbers: Sequence[int], answers: Sequence[Answer]) -> None:
        record.ended = time.monotonic()
        record.answers = [(one.versions, one.labels) for one in answers]
        if len(answers) != len(numbers):
            record.verdict = "doubled" if len(answers) > len(numbers) else "lost"
            return
        verdicts = {
            verdict(number, one.versions, one.probabilities, one.keypoints)
            for number, one in zip(numbers, answers, strict=True)
        }
        record.verdict = "right" if verdicts == {"right"} else max(verdicts - {"right"})

    def _failed(self, record: Record, error: Exception) -> bool:
        """Note a failure; return whether the call is given up."""
        record.ended = time.monotonic()
        record.failures.append((record.ended, f"{type(error).__name__}: {error}"))
        return not is_retryable(error) or record.ended - record.begun > LOST_AFTER_S

    def _end(self, record: Record) -> None:
        with self._lock:
            self._records.write(json.dumps(asdict(record)) + "\n")
            self._records.flush()


def main() -> None:
    """Call until SIGTERM."""
    places, records, per_second = sys.argv[1:]
    logging.getLogger("mien_client").addHandler(logging.NullHandler())
    document: dict[str, Any] = json.loads(Path(places).read_text(encoding="utf-8"))
    with Path(records).open("a", encoding="utf-8") as stream:
        callers = Callers(Places(**document), stream, float(per_second))
        signal.signal(signal.SIGTERM, lambda *_: callers.stop())
        callers.run()


if __name__ == "__main__":
    main()
