"""The share of calls that go to the canary, as ``mien rollout shift`` sets it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from mien_client.split import SPLIT_FILE, Split, SplitFile

POLL_S: Final = 0.5
"""Seconds between two looks at the file."""


class FollowedSplit:
    """The split in ``split.json`` next to ``models.config``, read in a thread whenever it changes.

    Args:
        config: The file ``models.config``; without it, no call goes to a canary.

    Attributes:
        now: The split.
    """

    def __init__(self, config: Path | None) -> None:
        self._file = SplitFile(config.with_name(SPLIT_FILE)) if config else None
        self.now = self._file.read() if self._file else Split()

    async def follow(self) -> None:
        """Follow the file until this is cancelled."""
        while self._file is not None:
            await asyncio.sleep(POLL_S)
            self.now = await asyncio.to_thread(self._file.read)
