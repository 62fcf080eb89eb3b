"""What a copy reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[int], object]
"""Called with the number of bytes that were transferred; negative if they have to be transferred again."""


class SyncProgress(Protocol):
    """Receives what is copied."""

    def say(self, text: str) -> None:
        """Receive a sentence about what was done."""

    def warn(self, text: str) -> None:
        """Receive a sentence about a version that was not copied."""

    def transfer(self, version: str, total: int) -> AbstractContextManager[Advance]:
        """Return a context in which ``total`` bytes of a version are transferred."""
