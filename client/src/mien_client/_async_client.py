"""The client for asyncio."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self, overload

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._base import READY_TIMEOUT, BaseClient
from mien_client._calls.flow import Flow, R, Wake
from mien_client._calls.halves import CHUNK_FACES
from mien_client._face import Face
from mien_client._options import checked_count, checked_timeout
from mien_client._picture_analysis import PictureAnalysis
from mien_client._picture_batch import PictureBatch
from mien_client._streaming import BATCHES_IN_FLIGHT, in_batches_async
from mien_client.transports.base import VersionStatus

if TYPE_CHECKING:
    from mien_client._picture_batch import PictureSource


class AsyncClient(BaseClient):
    """A `Client` for asyncio, with the same arguments, methods, results and errors. Its methods are awaited.

    It is an asynchronous context manager. Cancelling a call cancels its requests. Over gRPC it uses no threads of its
    own, except one with ``canary="auto"``; over REST each request that is under way occupies a thread.

    Example:
        >>> async def ask():
        ...     async with AsyncClient("localhost:8500") as client:
        ...         return await client.analyze(images)
        >>> asyncio.run(ask())
        <Analysis of 3 faces (emotion 1, keypoints 1)>
    """

    _probes: ClassVar[set[asyncio.Task[None]]] = set()  # A task that nothing refers to may vanish.

    async def analyze(
        self,
        images: NDArray[np.uint8],
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> Analysis:
        """Ask both models, at the same time, about one face or many; see `Client.analyze`.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return await asyncio.gather(client.analyze(images[0]), client.analyze(images[1:]))
            >>> [len(analysis) for analysis in asyncio.run(ask())]
            [1, 2]
        """
        deadline = self._deadline(timeout)
        if not self._shares.known:
            await asyncio.to_thread(self._shares.wait, deadline)
        job = self._job(
            images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            deadline=deadline,
            key=key,
            partial=partial,
        )
        for replica in self._replicas.to_probe():
            probe = asyncio.create_task(_run(functools.partial(self._health.probe, replica)))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
        with job:
            return await _run(job.flow)

    @overload
    async def analyze_pictures(  # type: ignore[overload-overlap]  # A str is an iterable of str.
        self,
        pictures: PictureSource,
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> PictureAnalysis: ...
    @overload
    async def analyze_pictures(
        self,
        pictures: Iterable[PictureSource],
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> list[PictureAnalysis]: ...
    async def analyze_pictures(
        self,
        pictures: PictureSource | Iterable[PictureSource],
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> PictureAnalysis | list[PictureAnalysis]:
        """Find the faces in pictures, and ask both models about them; see `Client.analyze_pictures`.

        Pictures are decoded and searched in a thread, so that the event loop is not blocked.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return await client.analyze_pictures("astronaut.jpg")
            >>> asyncio.run(ask())[0].emotion
            'Happy'
        """
        self._check_open()
        batch = await asyncio.to_thread(PictureBatch, pictures)
        analysis = await self.analyze(
            batch.images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            timeout=timeout,
            key=key,
            partial=partial,
        )
        return batch.results(analysis)

    async def analyze_iter(
        self,
        images: AsyncIterable[NDArray[np.uint8]] | Iterable[NDArray[np.uint8]],
        *,
        batch_size: int = CHUNK_FACES,
        max_in_flight: int = BATCHES_IN_FLIGHT,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
    ) -> AsyncGenerator[Face, None]:
        """Ask about any number of faces, for ``async for``; see `Client.analyze_iter`.

        The images may come from an asynchronous iterable. An ordinary iterable is read in the event loop and blocks it.

        Example:
            >>> async def count():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return len([face async for face in client.analyze_iter(images, batch_size=2)])
            >>> asyncio.run(count())
            3
        """
        self._check_open()
        batches = in_batches_async(images, checked_count("batch_size", batch_size))
        checked_count("max_in_flight", max_in_flight)
        running: deque[asyncio.Task[Analysis]] = deque()
        reading: asyncio.Future[NDArray[np.uint8] | None] | None = None
        problem: BaseException | None = None
        more = True
        try:
            while True:
                if more and reading is None and len(running) < max_in_flight:
                    reading = asyncio.ensure_future(anext(batches, None))
                waiting = [task for task in (reading, *running) if task][:2]  # The next batch and the first answer.
                if not waiting:
                    break
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reading and reading.done():
                    problem = reading.exception()
                    batch = None if problem else reading.result()
                    more, reading = batch is not None, None
                    if batch is not None:
                        call = self.analyze(
                            batch,
                            emotion_version=emotion_version,
                            keypoint_version=keypoint_version,
                            timeout=timeout,
                            key=key,
                        )
                        running.append(asyncio.create_task(call))
                elif running[0].done():
                    for face in running.popleft().result():
                        yield face
            if problem is not None:  # What came before it has been answered first.
                raise problem
        finally:
            unfinished = [task for task in (reading, *running) if task]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            await batches.aclose()

    async def status(self) -> dict[str, tuple[VersionStatus, ...]]:
        """Return the states of the versions of both models on a server; see `Client.status`.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return await client.status()
            >>> asyncio.run(ask())["emotion"]
            (VersionStatus(version=1, state='AVAILABLE', error=''),)
        """
        self._check_open()
        return await _run(functools.partial(self._health.status, self._timeout))

    async def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until a server answers for both models; see `Client.wait_ready`.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         await client.wait_ready(timeout=10)
            >>> asyncio.run(ask())
        """
        self._check_open()
        await _run(functools.partial(self._health.ready, checked_timeout(timeout), self._timeout))

    async def close(self) -> None:
        """Close the connections. A call that is still running ends with an `UnavailableError`, or with its answer.

        Example:
            >>> client = AsyncClient("localhost:8500")
            >>> asyncio.run(client.close())
        """
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _run(start: Callable[[Wake], Flow[R]]) -> R:
    """Run a flow; wait in the event loop."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # The loop is closed, and no flow waits any more.
            loop.call_soon_threadsafe(woken.set)

    with closing(start(wake)) as flow:
        while True:
            woken.clear()
            try:
                seconds = next(flow)
            except StopIteration as end:
                result: R = end.value
                return result
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await woken.wait()
