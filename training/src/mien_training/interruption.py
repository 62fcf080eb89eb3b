"""Being asked to stop, and stopping where nothing is lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """Training was asked to stop, and its state is on disk."""


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; the second one of a kind kills as usual."""
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
