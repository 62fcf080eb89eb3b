"""Worker threads: where requests are computed, so that the event loop only moves bytes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
        future: Future[T | StatusError]
        if self._refusal is None:
            future = self._executor.submit(_outcome, function)
        else:
            self._take_place()
            future = self._executor.submit(_outcome, function)
            # Not when the caller gives up, but when the thread is free again.
            future.add_done_callback(lambda _: self._free.release())
        return value_of(await asyncio.wrap_future(future))

    async def wait_for(self, answer: Callable[[], Awaitable[T]]) -> T:
        """Waits for what is computed elsewhere; it counts as a thread that is busy.

        Raises:
            StatusError: As for `run`.
        """
        self._take_place()
        try:
            return await answer()
        except StatusError:
            raise
        except Exception as error:
            raise _unforeseen(error) from error
        finally:
            self._free.release()

    def _take_place(self) -> None:
        if not self._free.acquire(blocking=False):
            raise StatusError(Code.RESOURCE_EXHAUSTED, self._refusal or "")

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
        return _unforeseen(error)


def _unforeseen(error: Exception) -> StatusError:
    logger.error("A request failed in a way that it should not", exc_info=error)
    return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")
