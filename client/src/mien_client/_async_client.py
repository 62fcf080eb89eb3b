"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis, Face, PictureAnalysis
from mien_client._base import (
    BATCHES_IN_FLIGHT,
    POLL_SECONDS,
    PROBE_FACES,
    BaseClient,
    checked_count,
    checked_timeout,
    preferences,
    states,
)
from mien_client._calls import Attempt, Call
from mien_client._exceptions import (
    DeadlineExceededError,
    MienError,
    NotServedError,
    UnavailableError,
    VersionNotFoundError,
)
from mien_client._faces import Found
from mien_client._images import in_batches_async
from mien_client._merging import CHUNK_FACES
from mien_client._replicas import PROBE_TIMEOUT, Replica
from mien_client.transports import Answer, AsyncTransport, Deadline, Target, VersionStatus, open_async_transport

if TYPE_CHECKING:
    from mien_client._faces import PictureSource


class AsyncClient(BaseClient[AsyncTransport]):
    """A `Client` for asyncio, over gRPC: the same arguments, methods, results and errors, to be awaited.

    It is an asynchronous context manager. A call that is cancelled takes its requests with it.

    Example:
        >>> async def ask():
        ...     async with AsyncClient("localhost:8500") as client:
        ...         return await client.analyze(images)
        >>> asyncio.run(ask())
        <Analysis of 3 faces (emotion 1, keypoints 1)>
    """

    _open_transport = staticmethod(open_async_transport)
    _probes: ClassVar[set[asyncio.Task[None]]] = set()  # A task that nothing refers to may vanish.

    async def analyze(
        self,
        images: Any,
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> Analysis:
        """Asks both models, at the same time, about one face or many; see `Client.analyze`.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return await asyncio.gather(client.analyze(images[0]), client.analyze(images[1:]))
            >>> [len(analysis) for analysis in asyncio.run(ask())]
            [1, 2]
        """
        job = self._job(
            images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            timeout=timeout,
            key=key,
            partial=partial,
        )
        for replica in self._replicas.to_probe():
            probe = asyncio.create_task(self._probe(replica))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
        with job:
            await _run(job.call, job.faces)
            return job.result()

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

        Pictures are decoded and searched in a thread, so the event loop goes on meanwhile.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return await client.analyze_pictures("astronaut.jpg")
            >>> asyncio.run(ask())[0].emotion
            'Happy'
        """
        self._check_open()
        found = await asyncio.to_thread(Found, pictures)
        analysis = await self.analyze(
            found.images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            timeout=timeout,
            key=key,
            partial=partial,
        )
        return found.results(analysis)

    async def analyze_iter(
        self,
        images: AsyncIterable[Any] | Iterable[Any],
        *,
        batch_size: int = CHUNK_FACES,
        max_in_flight: int = BATCHES_IN_FLIGHT,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
    ) -> AsyncIterator[Face]:
        """Asks about any number of faces as they come, for ``async for``; see `Client.analyze_iter`.

        The images may come from an asynchronous iterable. Another one is read in the event loop, which waits for it.

        Example:
            >>> async def count():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return len([face async for face in client.analyze_iter(images, batch_size=2)])
            >>> asyncio.run(count())
            3
        """
        self._check_open()
        batches = in_batches_async(images, checked_count("batch size", batch_size))
        checked_count("number of calls", max_in_flight)
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
        """Asks a server about the versions of both models; see `Client.status`.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         return await client.status()
            >>> asyncio.run(ask())["emotion"]
            (VersionStatus(version=1, state='AVAILABLE', error=''),)
        """
        self._check_open()
        deadline = Deadline(self._timeout)
        return {target.model: await self._status(target.model, deadline) for target in self._targets}

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until a server answers for both models; see `Client.wait_ready`.

        Example:
            >>> async def ask():
            ...     async with AsyncClient("localhost:8500") as client:
            ...         await client.wait_ready(timeout=10)
            >>> asyncio.run(ask())
        """
        self._check_open()
        deadline = Deadline(checked_timeout(timeout))
        told: dict[str, Target] = {}
        while True:
            missing: dict[str, Target] = {}
            for transport in self._replicas.transports:
                found = {await self._missing(transport, target, deadline): target for target in self._targets}
                found.pop("", None)
                if not found:
                    return
                missing |= found
            if deadline.remaining() or not told:  # A look that was cut short tells less than the one before.
                told = missing
            if deadline.remaining() <= POLL_SECONDS:
                raise self._not_ready(told, timeout)
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Gives the connections back. A call that is still running ends with an `UnavailableError`, or its answer.

        Example:
            >>> client = AsyncClient("localhost:8500")
            >>> asyncio.run(client.close())
        """
        if not self._closed:
            self._closed = True
            self._retries.close()
            for transport in self._replicas.transports:
                await transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        tried: list[Replica[AsyncTransport]] = []
        while True:
            replica = self._replicas.pick(tried)
            tried.append(replica)
            try:
                return await replica.transport.status(model, deadline)
            except MienError as error:
                self._replicas.failed(replica, error)
                error.attempts = len(tried)
                pause = self._retries.pause(len(tried), error, deadline.remaining())
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _probe(self, replica: Replica[AsyncTransport]) -> None:
        """Finds out whether a server that was down answers a small request to both models again."""
        deadline, transport = Deadline(PROBE_TIMEOUT), replica.transport
        error: MienError | None = None
        for half in self._probing_halves():
            while half.has_next():
                request = half.next_request()
                try:
                    answer = await transport.predict(request.target, PROBE_FACES, request.output, deadline)
                except MienError as problem:
                    half.failed(request, problem)
                    continue
                if wrong := half.check(request, answer, transport.endpoint):
                    half.failed(request, wrong)
                else:
                    half.answered(request, answer)
            error = error or half.error
        self._replicas.probed(replica, error)

    async def _resolve(self, transport: AsyncTransport, target: Target, deadline: Deadline) -> int:
        """Return the version that would answer ``target`` now."""
        for preferred in preferences(target)[:-1]:
            with suppress(VersionNotFoundError):
                return await transport.resolve(preferred, deadline)
        return await transport.resolve(preferences(target)[-1], deadline)

    async def _missing(self, transport: AsyncTransport, target: Target, deadline: Deadline) -> str:
        """Returns why ``target`` cannot be asked now, or an empty text if it can."""
        look = self._look(deadline)
        try:
            await self._resolve(transport, target, look)
        except NotServedError as error:
            try:
                asked = Target(target.model, error.version, error.label)
                return states(asked, await transport.status(target.model, look))
            except MienError:
                return str(error)
        except (UnavailableError, DeadlineExceededError) as error:
            return str(error)
        return ""


async def _run(call: Call[AsyncTransport], faces: NDArray[np.uint8]) -> None:
    """Sends what a call asks for until it has ended."""
    pending: dict[asyncio.Future[Answer], Attempt[AsyncTransport]] = {}
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not woken.done():
            woken.set_result(None)

    def wake() -> None:
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(note)

    call.wake = wake
    try:
        while not call.ended:
            for attempt in call.due():
                request, transport = attempt.request, attempt.replica.transport
                images = faces[request.faces]
                answer = transport.predict(request.target, images, request.output, call.deadline)
                pending[asyncio.create_task(answer)] = attempt
            waiting: list[asyncio.Future[Any]] = [*pending, woken]
            done, _ = await asyncio.wait(waiting, timeout=call.pause(), return_when=asyncio.FIRST_COMPLETED)
            if woken in done:
                done.remove(woken)
                woken = loop.create_future()
            for task in done:
                attempt, error = pending.pop(task), task.exception()
                if not call.wants(attempt):
                    continue
                if error is None:
                    call.answered(attempt, task.result())
                elif isinstance(error, MienError):
                    call.failed(attempt, error)
                else:
                    raise error
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
