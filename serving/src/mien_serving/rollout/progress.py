"""What a verb reports while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what a verb reports. Any thread may call it."""

    def say(self, text: str) -> None:
        """Receive a line on what was done, or will be done."""

    def count(self, done: int, total: int) -> None:
        """Receive how many of the faces of a comparison have been asked about."""
