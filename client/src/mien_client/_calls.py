"""One call while it runs: what to send now, what to wait for, and when to send again.

Nothing here does any I/O. A client sends what `Call.due` gives it, waits no longer than `Call.pause`, and brings back
what came of each request, until the call has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from mien_client._exceptions import MienError
from mien_client._merging import Half, Request
from mien_client._retries import Retries
from mien_client._transports import Answer, Deadline
from mien_client._transports.failures import failure

_GRACE_SECONDS = 0.25
"""A transport ends its requests at the deadline by itself, and tells best what happened. If one does not, for a server
that sends a byte now and then, nobody waits for it longer than this."""


class Call:
    """Asks for the halves of a result.

    Args:
        halves: The halves.
        endpoint: Who is asked.
        deadline: When all must be over.
        retries: The client's.
    """

    def __init__(self, halves: Sequence[Half], endpoint: str, deadline: Deadline, retries: Retries) -> None:
        self.deadline = deadline
        self._halves = halves
        self._endpoint = endpoint
        self._retries = retries
        self._in_flight: set[Request] = set()
        self._again: dict[Request, tuple[float, MienError]] = {}

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to send or to wait for."""
        return not self._in_flight and not self._again and not self._next_half()

    def due(self) -> Iterator[Request]:
        """Yields the requests to send now."""
        now = time.monotonic()
        if now >= self.deadline.moment + _GRACE_SECONDS:
            for request in list(self._in_flight):
                self.failed(request, self._late(request))
        for request in [request for request, (moment, _) in self._again.items() if moment <= now]:
            del self._again[request]
            yield self._sent(request)
        while half := self._next_half():
            yield self._sent(half.next_request())

    def pause(self) -> float:
        """Returns for how many seconds nothing is due unless an answer comes."""
        moments = [self.deadline.moment + _GRACE_SECONDS, *(moment for moment, _ in self._again.values())]
        return max(0.0, min(moments) - time.monotonic())

    def answered(self, request: Request, answer: Answer) -> None:
        """Takes the answer to a request."""
        if request in self._in_flight:
            self._in_flight.remove(request)
            self._retries.answered()
            request.half.answered(request, answer)

    def failed(self, request: Request, error: MienError) -> None:
        """Takes the failure of a request."""
        if request not in self._in_flight:
            return
        self._in_flight.remove(request)
        error.attempts = request.attempts
        pause = None
        if request.half.wants(request) and not self._lost():
            pause = self._retries.pause(request.attempts, error, self.deadline.remaining())
        if pause is not None:
            self._again[request] = (time.monotonic() + pause, error)
            return
        request.half.failed(request, error)
        if self._lost():
            for waiting, (_, reason) in self._again.items():
                waiting.half.failed(waiting, reason)
            self._again.clear()

    def _sent(self, request: Request) -> Request:
        request.attempts += 1
        self._in_flight.add(request)
        return request

    def _next_half(self) -> Half | None:
        """Returns a half that has a request to send."""
        return None if self._lost() else next((half for half in self._halves if half.has_next()), None)

    def _lost(self) -> bool:
        # When one half has failed the call will, so the other only waits for the answers that are on their way.
        return any(half.error for half in self._halves)

    def _late(self, request: Request) -> MienError:
        timeout = self.deadline.timeout
        return failure("DEADLINE_EXCEEDED", "", endpoint=self._endpoint, target=request.target, timeout=timeout)
