"""Forks while gRPC is in use.

Before a fork gRPC prepares itself; otherwise it hangs or crashes in the child. It does so only if no thread is inside
gRPC at that moment, and while requests are under way, one is. So a fork waits until all requests have ended, and new
requests wait for the fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORK_WAITS = 5.0
"""Seconds that a fork waits for requests to end before it cancels them. Their clients send them again."""

_CANCELLING_TAKES = 1.0


class ForkGate:
    """The requests that are under way. Any thread may use it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget everything, in a child."""
        # Condition's own lock is reentrant: a signal handler may interrupt a thread that holds it, and fork.
        self._changed = threading.Condition()
        self._busy = 0
        self._calls: set[Any] = set()
        self._forks = 0

    @contextmanager
    def pass_through(self) -> Iterator[None]:
        """Hold off forks while gRPC is called."""
        with self._changed:
            if self._forks:
                self._changed.wait_for(lambda: not self._forks, FORK_WAITS + _CANCELLING_TAKES)
            self._busy += 1
        try:
            yield
        finally:
            self._leave()

    def hold_until_ended(self, call: Any) -> None:
        """Hold off forks until a call has ended; to be used inside `pass_through`."""
        with self._changed:
            self._busy += 1
            self._calls.add(call)
        call.add_done_callback(self._ended)

    def before_fork(self) -> None:
        """Wait until no request is under way, and let none begin."""
        self._changed.acquire()
        self._forks += 1
        if not self._changed.wait_for(lambda: not self._busy, FORK_WAITS):
            for call in list(self._calls):
                call.cancel()
            self._changed.wait_for(lambda: not self._busy, _CANCELLING_TAKES)

    def after_fork_in_parent(self) -> None:
        """Let requests begin again."""
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def _ended(self, call: Any) -> None:
        with self._changed:
            self._calls.discard(call)
        self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            if not self._busy:
                self._changed.notify_all()


FORK_GATE = ForkGate()

if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(
        before=FORK_GATE.before_fork,
        after_in_parent=FORK_GATE.after_fork_in_parent,
        after_in_child=FORK_GATE.renew,
    )
