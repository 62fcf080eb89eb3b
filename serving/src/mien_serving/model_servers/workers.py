"""Worker threads, which compute requests, so that the event loop only moves bytes."""

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
        name: The name of the threads.
        count: Number of threads; with 0 and a refusal, every request is refused.
        refusal: The message with which requests are refused while all threads are busy; None lets them wait.
    """

    def __init__(self, name: str, count: int, refusal: str | None = None) -> None:
        self._executor = ThreadPoolExecutor(max(count, 1), thread_name_prefix=name)
        self._free = threading.Semaphore(count)
        self._refusal = refusal

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread and return what it returns.

        Raises:
            StatusError: What the function raised; RESOURCE_EXHAUSTED if all threads are busy; INTERNAL, with the
                traceback in the log, if the function raised anything else.
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
        with suppress(RuntimeError):  # The loop has ended, so nobody waits.
            loop.call_soon_threadsafe(_settle, waiting, outcome)

    def stop(self) -> None:
        """End the threads; running requests finish, waiting ones never start."""
        self._executor.shutdown(cancel_futures=True)


def _outcome(function: Callable[[], T]) -> T | StatusError:
    """Return what a function returns, or the error that it raises, without its traceback.

    A future that raises an error keeps it, with the frames that wait for it and their tensors: a cycle that only the
    garbage collector breaks. So errors are values until they reach the caller.
    """
    try:
        return function()
    except StatusError as error:
        return error.without_traceback()
    except Exception as error:
        logger.exception("Unexpected failure of a request")
        return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _settle(waiting: asyncio.Future[T], outcome: T) -> None:
    if not waiting.done():  # The caller may have given up.
        waiting.set_result(outcome)
