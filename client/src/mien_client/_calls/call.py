"""One call while it runs: what to send now and to which server, and when to send it again.

`flow.complete` sends what `Call.due` yields, waits at most `Call.pause`, and reports the outcome of each attempt, until
the call has ended.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mien_client._calls.halves import Half, Request
from mien_client._calls.latencies import Latencies
from mien_client._calls.pacing import Pacer, Turn
from mien_client._calls.replicas import Replica, Replicas
from mien_client._calls.retries import Retries
from mien_client._calls.telemetry import Telemetry
from mien_client._exceptions import (
    AccessDeniedError,
    MienError,
    NotServedError,
    ServerError,
    UnexpectedResponseError,
)
from mien_client.transports.base import Answer, Deadline, Target
from mien_client.transports.failures import failure

GRACE_SECONDS = 0.25
"""A transport ends its requests at the deadline by itself, with the best error message. If it does not, for example
because a server sends a byte now and then, the call waits for this many seconds more."""

PATIENCE_SECONDS = 1.0
PATIENCE_SHARE = 1 / 3
"""With several servers, a request that has no answer after this many seconds, or after this share of the timeout, is
sent to another one too: the first may be frozen. The first answer counts."""

_MOST_COPIES = 3
"""Servers that have one request at the same time: two may be frozen. A single server gets two copies at most."""

_log = logging.getLogger("mien_client")


@dataclass(eq=False)
class Attempt:
    """A request on its way to one server."""

    request: Request
    replica: Replica
    sent_at: float


@dataclass(eq=False)
class _Progress:
    """The state of a request: the servers that have it now, those that had it before, and when to send it again."""

    copies: list[Attempt] = field(default_factory=list)
    tried: list[Replica] = field(default_factory=list)
    again_at: float = math.inf
    error: MienError | None = None
    bad: list[tuple[Replica, MienError]] = field(default_factory=list)


_BAD_ANSWERS = (AccessDeniedError, ServerError, UnexpectedResponseError)
"""What a broken server answers. Another server may answer well, and asking it is safe: predictions have no effects."""


class Call:
    """Decide which requests to send for the two halves of a result.

    All requests of a call go to the same server as long as it answers, so that the same version is likely to answer.

    Args:
        halves: The halves.
        replicas: The client's servers.
        deadline: The deadline of the call.
        retries: The client's retries.
        pacer: The client's pacer.
        latencies: The client's latencies.
        telemetry: The telemetry of this call.
        partial: Whether one half is enough.
        hedge: A request is sent to another server too when it takes longer than this share of the latest answers took.
    """

    def __init__(
        self,
        halves: Sequence[Half],
        replicas: Replicas,
        deadline: Deadline,
        retries: Retries,
        pacer: Pacer,
        latencies: Latencies,
        telemetry: Telemetry,
        *,
        partial: bool,
        hedge: float | None,
    ) -> None:
        self.deadline = deadline
        self._halves = halves
        self._replicas = replicas
        self._retries = retries
        self._pacer = pacer
        self._turn = Turn(lambda: self.wake())
        self._stands_in_line = False
        self.wake: Callable[[], object] = lambda: None
        """Called, from any thread, when something may be due before `pause` has passed."""
        self._enough = any if partial else all
        self._home = replicas.pick()
        self._open: dict[Request, _Progress] = {}
        self._latencies = latencies
        self._telemetry = telemetry
        self._silence = math.inf
        if replicas.several:
            self._silence = min(PATIENCE_SECONDS, deadline.timeout * PATIENCE_SHARE)
        expected = None if hedge is None else latencies.quantile(hedge)
        self._patience = self._silence if expected is None else min(expected, self._silence)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to send or to wait for."""
        return not self._open and not self._next_half()

    def due(self) -> Iterator[Attempt]:
        """Yield the attempts to send now."""
        now = time.monotonic()
        if now >= self.deadline.moment + GRACE_SECONDS:
            self._give_up()
        if now >= self.deadline.moment:
            for model in self._halves:
                model.give_up(self._late(model.target, self._home))
        for request, progress in list(self._open.items()):
            # A request can fail at once, and then the rest is not sent.
            if request in self._open and progress.again_at <= now and self._may_send(request, progress):
                yield self._send(request, progress)
        self._stands_in_line = False
        while (half := self._next_half()) is not None:
            faces = self._pacer.take(self._turn, half.next_faces)
            if not faces:
                self._stands_in_line = True
                break
            request = half.next_request(faces)
            self._open[request] = _Progress()
            yield self._send(request, self._open[request])
        if not self._stands_in_line:
            self._pacer.leave(self._turn)

    def close(self) -> None:
        """Give up the requests that have not ended."""
        for request in list(self._open):
            self._end(request)
        self._pacer.leave(self._turn)

    def pause(self) -> float:
        """Return the number of seconds in which nothing is due unless an answer arrives."""
        if not self._open and not self._stands_in_line:
            return 0.0  # All requests have failed at once.
        now = time.monotonic()
        moments = [self.deadline.moment + GRACE_SECONDS, *(progress.again_at for progress in self._open.values())]
        if self._stands_in_line:
            moments += [self.deadline.moment, self._turn.again_at]
        return max(0.0, min(moments) - now)

    def wants(self, attempt: Attempt) -> bool:
        """Return whether the answer to ``attempt`` is still needed."""
        progress = self._open.get(attempt.request)
        return progress is not None and attempt in progress.copies

    def answered(self, attempt: Attempt, answer: Answer) -> None:
        """Take the answer to an attempt that is still needed."""
        endpoint = attempt.replica.transport.endpoint
        if (wrong := attempt.request.half.check(attempt.request, answer, endpoint)) is not None:
            self.failed(attempt, wrong)
            return
        self._telemetry.ended(attempt, None, answer.version)
        self._replicas.answered(attempt.replica, attempt.sent_at)
        for replica, error in self._open[attempt.request].bad:
            self._replicas.bad(replica, error)
        self._latencies.note(time.monotonic() - attempt.sent_at)
        self._retries.answered()
        del self._open[attempt.request]
        self._pacer.answered(attempt.request.size)
        attempt.request.half.answered(attempt.request, answer)
        self._drop_waiting()

    def failed(self, attempt: Attempt, error: MienError) -> None:
        """Take the failure of an attempt that is still needed."""
        request, progress = attempt.request, self._open[attempt.request]
        if error.endpoint is None:
            error.endpoint, error.model = attempt.replica.transport.endpoint, request.target.model
        progress.copies.remove(attempt)
        self._telemetry.ended(attempt, error)
        self._replicas.failed(attempt.replica, error)
        error.attempts = request.attempts
        progress.error = error
        elsewhere_may_answer = isinstance(error, (NotServedError, *_BAD_ANSWERS))
        if isinstance(error, _BAD_ANSWERS):
            progress.bad.append((attempt.replica, error))
        # Another server has the request already. For a server that is down, a definite answer does not wait.
        waits_for = [copy for copy in progress.copies if error.retryable or not copy.replica.down]
        if waits_for and (error.retryable or elsewhere_may_answer):
            return
        elsewhere = request.attempts < len(self._replicas) and self._replicas.fresh(progress.tried)
        if isinstance(error, _BAD_ANSWERS) and len(self._replicas) == 1:
            elsewhere = request.attempts < self._replicas.places  # Behind a name, servers take turns.
        waits = error._overloaded and self._may_wait(request)
        if waits and not elsewhere:
            self._wait(attempt, error)
            return
        pause = None
        if request.half.wants(request) and not self._lost():
            if elsewhere_may_answer and elsewhere:
                pause = 0.0  # Servers get and lose versions one after the other, and one of them may be broken.
            else:
                pause = self._retries.pause(request.attempts, error, self.deadline.remaining())
        if pause is None and waits:
            self._wait(attempt, error)
        elif pause is None:
            self._settle(request, error)
        else:
            # The pause spares a server in trouble; another server need not be spared.
            progress.again_at = time.monotonic() + (0.0 if elsewhere else pause)
            _log.info("%s: sent again after attempt %d", error, request.attempts)

    def _may_wait(self, request: Request) -> bool:
        """Return whether to send a request again, when there is room, that found a server full."""
        return self._retries.max_attempts > 1 and request.half.wants(request) and not self._lost()

    def _wait(self, attempt: Attempt, error: MienError) -> None:
        del self._open[attempt.request]
        self._pacer.refused(attempt.request.size, attempt.sent_at)
        attempt.request.half.refused(attempt.request, error)
        _log.info("%s: sent again when there is room", error)

    def _may_send(self, request: Request, progress: _Progress) -> bool:
        """Return whether to send a request again whose time to be sent again has come."""
        if not progress.copies:
            return True
        self._note_silence(progress)
        progress.again_at = time.monotonic() + self._silence
        most = _MOST_COPIES if self._replicas.several else 2
        useful = request.half.wants(request) and not self._lost() and len(progress.copies) < most
        return useful and request.attempts < self._retries.max_attempts and self._retries.take()

    def _send(self, request: Request, progress: _Progress) -> Attempt:
        self._home = self._replicas.pick(progress.tried, self._home)
        attempt = Attempt(request, self._home, time.monotonic())
        progress.copies.append(attempt)
        if len(progress.tried) == len(self._replicas):
            progress.tried.clear()
        progress.tried.append(self._home)
        progress.again_at = attempt.sent_at + self._patience
        request.attempts += 1
        self._telemetry.sent(attempt, request.target.model, self._home.transport.endpoint, request.attempts)
        return attempt

    def _give_up(self) -> None:
        for request, progress in list(self._open.items()):
            if request in self._open:
                self._note_silence(progress)
                self._settle(request, self._late(request.target, progress.tried[-1]))

    def _note_silence(self, progress: _Progress) -> None:
        now = time.monotonic()
        for attempt in progress.copies:
            if now - attempt.sent_at >= self._silence:
                # A server that is frozen, not slow, has not answered other requests lately either.
                self._replicas.silent(attempt.replica, since=(attempt.sent_at + now) / 2)

    def _end(self, request: Request) -> None:
        del self._open[request]
        self._pacer.ended(request.size)

    def _settle(self, request: Request, error: MienError) -> None:
        self._end(request)
        error.attempts = request.attempts
        request.half.failed(request, error)
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        """Drop the requests that wait to be sent again, once the call has failed."""
        if self._lost():
            for request, progress in list(self._open.items()):
                if not progress.copies and progress.error:
                    self._end(request)
                    request.half.failed(request, progress.error)

    def _next_half(self) -> Half | None:
        """Return a half that has a request to send, or None."""
        # Each model is asked even if the other has failed already: a model may lack a label, and must then be asked
        # again for another version.
        lost = self._lost()
        return next((half for half in self._halves if half.has_next() and not (lost and half.begun)), None)

    def _lost(self) -> bool:
        # A call that is going to fail only waits for the answers that are under way.
        return not self._enough(half.error is None for half in self._halves)

    def _late(self, target: Target, replica: Replica) -> MienError:
        endpoint, timeout = replica.transport.endpoint, self.deadline.timeout
        return failure("DEADLINE_EXCEEDED", "", endpoint=endpoint, target=target, timeout=timeout)
