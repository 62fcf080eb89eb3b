"""The processes that decode pictures and find faces: who gets one next, and when one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from mien_client.contract import IMAGE_SIZE
from numpy.typing import NDArray

from mien_gateway.measures import Measures
from mien_gateway.pictures.frames import packed, receive_frame
from mien_gateway.problems import Problem, unavailable
from mien_gateway.settings import MEBI, Limits

LARGE_PIXELS: Final = 16 * MEBI
"""Pictures of at least so many pixels are read by workers of their own, with low priority: they take seconds."""

_LARGE_BYTES: Final = 8 * MEBI
"""The same for files of at least so many bytes, whatever their header says."""

_PATIENCE: Final = 3
"""How many times as long as its limit on processor time a picture may take by the clock."""

_PAUSE_S: Final = 1.0
"""Seconds before another worker is started after one that could not start."""

_START_S: Final = 60.0

_FACE_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE

_log = logging.getLogger("mien_gateway")


@dataclass(frozen=True)
class Found:
    """The faces in one picture.

    Attributes:
        width: Pixels.
        height: Pixels.
        images: uint8 [N, 48, 48].
        boxes: The square of each face, as `documents.Box` describes it.
        to_picture: float64 [N, 3, 2], the affine map from each image to the picture: (x, y, 1) times it.
    """

    width: int
    height: int
    images: NDArray[np.uint8]
    boxes: list[dict[str, float]]
    to_picture: NDArray[np.float64]


@dataclass(eq=False)
class _Job:
    """A picture that is to be read."""

    content: bytes
    request: dict[str, Any]
    caller: str
    number: int
    ended: asyncio.Future[Found] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, problem: Problem) -> None:
        if not self.ended.done():
            self.ended.set_exception(problem)


class _Lane:
    """Pictures that wait for a worker. The next one is of the caller with the fewest that are being read."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._waiting: list[_Job] = []
        self._arrived = asyncio.Semaphore(0)
        self._reading: Counter[str] = Counter()

    def add(self, job: _Job) -> None:
        self._waiting.append(job)
        self._measures.waiting.inc()
        self._arrived.release()

    async def next(self) -> _Job:
        await self._arrived.acquire()
        job = min(self._waiting, key=lambda job: (self._reading[job.caller], job.number))
        self._waiting.remove(job)
        self._measures.waiting.dec()
        self._reading[job.caller] += 1
        return job

    def done(self, job: _Job) -> None:
        self._reading[job.caller] -= 1
        if not self._reading[job.caller]:
            del self._reading[job.caller]

    def fail_all(self, problem: Problem) -> None:
        for job in self._waiting:
            job.fail(problem)


class PicturePool:
    """Read pictures in worker processes.

    A picture that takes too much time, or that makes its worker crash, ends with that worker: the picture is refused,
    and another worker is started. Large pictures have a worker of their own, so that they delay nobody else's.

    Args:
        workers: Number of processes for pictures of usual size; there is half as many for large ones, at least one.
        limits: The limits on pictures.
        measures: The metrics.
    """

    def __init__(self, workers: int, limits: Limits, measures: Measures) -> None:
        self._limits = limits
        self._measures = measures
        self._usual, self._large = _Lane(measures), _Lane(measures)
        self._numbers = itertools.count()
        lanes = [self._usual] * workers + [self._large] * max(1, workers // 2)
        self._tasks = [asyncio.create_task(self._work(lane)) for lane in lanes]
        self.ready = asyncio.Event()
        """Set while workers can start."""

    async def find(self, content: bytes, *, format: str | None, detect: str, caller: str) -> Found:  # noqa: A002
        """Return the faces in a picture.

        Args:
            content: The file.
            format: The format that it must have, by Pillow's name; None for any that is accepted.
            detect: ``auto``, ``always`` or ``never``; see `worker.look`.
            caller: Whose picture it is.

        Raises:
            Problem: The picture is refused, or nobody can read it now.
        """
        job = _Job(content, {"format": format, "detect": detect}, caller, next(self._numbers))
        (self._large if len(content) >= _LARGE_BYTES else self._usual).add(job)
        try:
            found = await job.ended
        except Problem as problem:
            self._measures.pictures.labels("refused" if problem.status < 500 else "failed").inc()
            raise
        except asyncio.CancelledError:
            job.ended.cancel()
            self._measures.pictures.labels("abandoned").inc()
            raise
        self._measures.pictures.labels("ok").inc()
        return found

    async def close(self) -> None:
        """End the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in (self._usual, self._large):
            lane.fail_all(unavailable("The gateway is stopping"))

    async def _work(self, lane: _Lane) -> None:
        """Keep one worker running, and give it one picture after the other."""
        worker: _Worker | None = None
        try:
            while True:
                if worker is None:
                    worker = await self._started(takes_large=lane is self._large)
                    continue
                job = await lane.next()
                try:
                    if worker.has_ended:  # While it waited, so that the picture is not the reason.
                        lane.add(job)
                        worker = None
                    elif not job.ended.done() and not await self._read(worker, job):
                        worker = None
                finally:
                    lane.done(job)
        finally:
            if worker is not None:
                await worker.end()

    async def _started(self, *, takes_large: bool) -> _Worker | None:
        options = {
            "pixels": self._limits.pixels,
            "faces": self._limits.faces,
            "large": LARGE_PIXELS,
            "takes_large": takes_large,
            "seconds": self._limits.picture_s,
        }
        worker = _Worker(options, self._limits.faces * _FACE_BYTES)
        try:
            await worker.start()
        except (OSError, ValueError, EOFError, TimeoutError) as error:
            _log.error("A worker for pictures cannot start: %s", error or type(error).__name__)
            await worker.kill()
            self.ready.clear()
            await asyncio.sleep(_PAUSE_S)
            return None
        except asyncio.CancelledError:
            await worker.kill()
            raise
        self.ready.set()
        return worker

    async def _read(self, worker: _Worker, job: _Job) -> bool:
        """Have a worker read a picture; return whether it can read another one."""
        started, reason = time.perf_counter(), "crash"
        try:
            async with asyncio.timeout(self._limits.picture_s * _PATIENCE):
                header, pixels = await worker.ask(job.request, job.content)
            self._ended(job, header, pixels, time.perf_counter() - started, large=worker.takes_large)
            return True
        except TimeoutError:
            reason = "deadline"
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            _log.warning("A worker for pictures died: %s", error)
        except asyncio.CancelledError:
            job.fail(unavailable("The gateway is stopping"))
            await worker.kill()
            raise
        await worker.kill()
        if worker.ran_out_of_time:
            reason = "deadline"
        self._measures.workers_killed.labels(reason).inc()
        told = "The picture cannot be decoded: it crashes the decoder"
        if reason == "deadline":
            told = f"Finding the faces in the picture takes more than {self._limits.picture_s:g} s: send it smaller"
        job.fail(Problem(422, told, "PictureError"))
        return False

    def _ended(self, job: _Job, header: dict[str, Any], pixels: bytes, seconds: float, *, large: bool) -> None:
        if header.get("large"):
            self._large.add(job)
            return
        self._measures.detection.labels("large" if large else "usual").observe(seconds)
        if "status" in header:
            kind = {413: "TooLargeError", 415: "UnsupportedMediaTypeError", 422: "PictureError"}[header["status"]]
            job.fail(Problem(header["status"], str(header["detail"]), kind))
        elif not job.ended.done():
            job.ended.set_result(_found(header, pixels))


def _found(header: dict[str, Any], pixels: bytes) -> Found:
    faces = header["faces"]
    return Found(
        header["width"],
        header["height"],
        np.frombuffer(pixels, np.uint8).reshape(len(faces), IMAGE_SIZE, IMAGE_SIZE),
        [face["box"] for face in faces],
        np.array([face["to_picture"] for face in faces], np.float64).reshape(-1, 3, 2),
    )


class _Worker:
    """One worker process.

    Args:
        options: See `worker`.
        longest: Maximum size of an answer's content in bytes.
    """

    def __init__(self, options: dict[str, Any], longest: int) -> None:
        self.takes_large = bool(options["takes_large"])
        self._options = options
        self._longest = longest
        self._process: asyncio.subprocess.Process | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process is None or self._process.returncode is not None

    @property
    def ran_out_of_time(self) -> bool:
        """Whether the process ended because a picture took too much processor time."""
        return self._process is not None and self._process.returncode == -signal.SIGPROF

    async def start(self) -> None:
        """Start the process, and wait until it can read pictures.

        Raises:
            OSError: It cannot be started.
            ValueError, EOFError, TimeoutError: It did not say that it is ready.
        """
        # Keys of the gateway are not for whoever takes over a decoder.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIEN_")}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "mien_gateway.pictures.worker", json.dumps(self._options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the gateway, which lets them finish.
        )
        async with asyncio.timeout(_START_S):
            await self._answer()

    async def ask(self, request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a picture, and return the answer.

        Raises:
            OSError, ValueError, EOFError: The process has ended, or its answer is not valid.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(packed(request, content))
        self._process.stdin.write(content)
        await self._process.stdin.drain()
        return await self._answer()

    async def _answer(self) -> tuple[dict[str, Any], bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return await receive_frame(self._process.stdout, self._longest)

    async def kill(self) -> None:
        """Kill the process, whatever it does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def end(self) -> None:
        """End the process, which waits for a picture."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(2):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
