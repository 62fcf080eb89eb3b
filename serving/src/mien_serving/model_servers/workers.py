"""Worker threads: where requests are computed, so that the event loop only moves bytes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from mien_serving.core.status import Code, StatusError, value_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Workers:
    """A fixed number of threads, with or without a queue in front of them.

    Args:
        name: What the threads are called.
        count: How many there are; with none, and a refusal, every request is refused.
        refusal: If not None, a request that finds every thread busy is refused with this message; otherwise it waits.
    """

    def __init__(self, name: str, count: int, refusal: str | None = None) -> None:
        self._executor = ThreadPoolExecutor(max(count, 1), thread_name_prefix=name)
        self._free = threading.Semaphore(count)
        self._refusal = refusal

    async def run(self, function: Callable[[], T]) -> T:
        """Computes in a thread.

        Raises:
            StatusError: What the function raised; RESOURCE_EXHAUSTED if the request was refused; INTERNAL, with the
                traceback in the log, if the function failed in any other way.
        """
        if self._refusal is not None and not self._free.acquire(blocking=False):
            raise StatusError(Code.RESOURCE_EXHAUSTED, self._refusal)
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T | StatusError] = loop.create_future()
        self._executor.submit(self._work, function, loop, waiting)
        return value_of(await waiting)

    def _work(
        self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, waiting: asyncio.Future[T | StatusError]
    ) -> None:
        outcome = _outcome(function)
        if self._refusal is not None:
            self._free.release()
        with suppress(RuntimeError):  # The loop has ended, and nobody waits.
            loop.call_soon_threadsafe(_settle, waiting, outcome)

    def stop(self) -> None:
        """Ends the threads; requests that run finish, those that wait do not begin."""
        self._executor.shutdown(cancel_futures=True)


def _outcome(function: Callable[[], T]) -> T | StatusError:
    """What a function returns, or the error that it raises.

    A future keeps the error that it raises, and thereby the frames that wait for it with the tensors in them: a cycle
    that only the garbage collector ends. So an error is a value until nobody waits, and leaves its traceback behind.
    """
    try:
        return function()
    except StatusError as error:
        return error.without_traceback()
    except Exception as error:
        logger.exception("Unexpected failure of a request")
        return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _settle(waiting: asyncio.Future[T], outcome: T) -> None:
    if not waiting.done():  # Its caller may have given up.
        waiting.set_result(outcome)
