"""Show on a terminal what `mien repository sync` copies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mien_serving.repository.sync.progress import Advance


class PrintedProgress:
    """Prints sentences, and draws a bar for each version if standard error is a terminal."""

    def say(self, text: str) -> None:
        """Print a sentence."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Print a sentence on standard error."""
        sys.stderr.write(f"mien repository: {text}\n")

    @contextmanager
    def transfer(self, version: str, total: int) -> Iterator[Advance]:
        """Draw a bar."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True)
        with Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task(version, total=total)
            yield lambda count: bar.advance(task, count)
