"""Work that has to wait, written once for threads and for asyncio.

A flow is a generator that does everything except waiting: it yields the number of seconds after which to resume it, and
is resumed earlier when its ``wake`` is called. A client knows how to wait, in a thread or in an event loop, and runs
every flow in the same way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mien_client._calls.call import GRACE_SECONDS, Attempt, Call
from mien_client._exceptions import MienError
from mien_client.transports.base import Answer, Deadline, Pending, Request, Target
from mien_client.transports.failures import failure

R = TypeVar("R")

Flow: TypeAlias = Generator[float, None, R]
Wake: TypeAlias = Callable[[], None]
"""Resumes a flow. Any thread may call it, also after the flow has ended."""


def answered(pending: Pending[R], target: Target, endpoint: str, deadline: Deadline, wake: Wake) -> Flow[R]:
    """Wait for the answer to one request.

    Args:
        pending: The request.
        target: The model that is asked, for messages.
        endpoint: The server, for messages.
        deadline: When to give up, a little after the transport should have.
        wake: Resumes the flow.

    Returns:
        The answer.

    Raises:
        MienError: The request failed, or there was no answer in time.
    """
    ended: list[None] = []

    def note(_: object) -> None:
        ended.append(None)
        wake()

    pending.add_done_callback(note)
    try:
        while not ended:
            seconds = deadline.moment + GRACE_SECONDS - time.monotonic()
            if seconds <= 0:
                raise failure("DEADLINE_EXCEEDED", "", endpoint=endpoint, target=target, timeout=deadline.timeout)
            yield seconds
        return pending.result()
    finally:
        if not ended:
            pending.cancel()


def complete(call: Call, images: NDArray[np.uint8], wake: Wake) -> Flow[None]:
    """Send what a call asks for, and bring back what comes of it, until the call has ended.

    Args:
        call: The call.
        images: Its images, uint8 [N, 48, 48].
        wake: Resumes the flow.
    """
    pending: dict[Attempt, Pending[Answer]] = {}
    ended: deque[Attempt] = deque()

    def note(attempt: Attempt, _: object) -> None:
        ended.append(attempt)
        wake()

    call.wake = wake
    try:
        while not call.ended:
            for attempt in call.due():
                chunk, transport = attempt.request, attempt.replica.transport
                request = Request(chunk.target, images[chunk.faces], chunk.output, call.deadline)
                try:
                    pending[attempt] = transport.predict(request)
                except MienError as error:
                    call.failed(attempt, error)
                else:
                    pending[attempt].add_done_callback(partial(note, attempt))
            yield call.pause()
            while ended:
                attempt = ended.popleft()
                answer = pending.pop(attempt)
                if not call.wants(attempt):
                    continue
                try:
                    call.answered(attempt, answer.result())
                except MienError as error:
                    call.failed(attempt, error)
    finally:
        for unanswered in pending.values():
            unanswered.cancel()
