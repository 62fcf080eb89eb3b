"""The client."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

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
from mien_client._calls import GRACE_SECONDS, Attempt, Call
from mien_client._exceptions import (
    DeadlineExceededError,
    MienError,
    NotServedError,
    UnavailableError,
    VersionNotFoundError,
)
from mien_client._faces import Found
from mien_client._images import in_batches
from mien_client._merging import CHUNK_FACES, Request
from mien_client._replicas import PROBE_TIMEOUT, Replica
from mien_client._threads import in_thread
from mien_client.transports import Answer, Deadline, Pending, Target, Transport, VersionStatus, open_transport
from mien_client.transports.failures import failure

if TYPE_CHECKING:
    from mien_client._faces import PictureSource


class Client(BaseClient[Transport]):
    """Asks a TensorFlow Serving server, or ``mien serve``, about faces.

    A client keeps its connections; make one and share it, between threads too. It is a context manager.

    Args:
        address: ``"localhost:8500"`` for gRPC, ``"http://localhost:8501"`` for REST. A list of these if several servers
            have the same models: calls take turns between those that answer, and one that dies or freezes fails no
            call. With gRPC also ``"dns:///mien:8500"``, a name that stands for several servers.
        timeout: Seconds a call may take, with all its requests and whatever of them is sent again.
        max_attempts: How often a request is sent at most. It is sent again, after a pause, if the server could not be
            reached or went away while it answered; 1 is for callers who would rather do that themselves. With more than
            1, a request that finds the server full is sent again, in smaller pieces if need be, until the timeout.
        emotion_model: The served name of the emotion model.
        keypoint_model: The served name of the key point model.
        emotion_version: Which version of it: a number, a label, or ``"latest"`` for the newest loaded version, which
            may be a canary. None means the label ``"stable"``. A model that has no label ``stable`` answers with its
            newest version.
        keypoint_version: The same for the key point model.
        canary: The share of calls, 0 to 1, that ask for the label ``canary`` of each model instead of these; calls with
            the same ``key`` are all among them or none is. A model without that label is asked as usual.
        hedge: If a request has no answer in the time in which this share, 0.95 say, of the latest answers came, it is
            sent a second time, to another server if there are several, and the first answer counts. None for not.
        tls: Whether gRPC is encrypted; it is if one of the files is given. REST is if its address says https://.
        ca_file: Certificates (PEM) that vouch for the servers, if not the usual ones do.
        cert_file: This client's own certificate (PEM), for servers that ask for one.
        key_file: The key of that (PEM, without a password).
        token: Goes with every request as ``authorization: Bearer ...``.
        api_key: Goes with every request as ``x-api-key``. These six are taken from ``MIEN_TLS``, ``MIEN_CA_FILE``,
            ``MIEN_CERT_FILE``, ``MIEN_KEY_FILE``, ``MIEN_TOKEN`` and ``MIEN_API_KEY`` if they are not said.

    Raises:
        ConfigurationError: If one of these cannot be meant. Whether the server is there shows at the first call.

    Example:
        >>> with Client("localhost:8500") as client:
        ...     analysis = client.analyze(images)
        >>> analysis
        <Analysis of 3 faces (emotion 1, keypoints 1)>
    """

    _open_transport = staticmethod(open_transport)

    def analyze(
        self,
        images: Any,
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> Analysis:
        """Asks both models, at the same time, about one face or many.

        Args:
            images: uint8, (48, 48) for one face or (N, 48, 48) or (N, 48, 48, 1) for many; 0 is black, 255 white.
            emotion_version: A version number, a label or ``"latest"`` for this call, instead of the client's.
            keypoint_version: The same for the key point model.
            timeout: Seconds that this call may take, instead of the client's.
            key: Who the call is for, if the client has a ``canary``: a customer's number, say.
            partial: Return what one model answered even if the other did not; `Analysis.errors` says why.

        Returns:
            One `Face` for each image, in their order; a sequence for one image too. All faces of a call are answered
            by the same version of each model.

        Raises:
            InvalidImageError: If the images are not as above. Nothing was sent.
            MienError: If either model did not answer; see `mien_client` for the tree. Both have ended by then.
                With ``partial``, if neither did.

        Example:
            >>> for face in client.analyze(images):
            ...     assert face.emotion in EMOTIONS and 0 < face.confidence <= 1
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
            in_thread(self._probe, replica)
        with job:
            _run(job.call, job.faces)
            return job.result()

    @overload
    def analyze_pictures(  # type: ignore[overload-overlap]  # A str is an iterable of str.
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
    def analyze_pictures(
        self,
        pictures: Iterable[PictureSource],
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> list[PictureAnalysis]: ...
    def analyze_pictures(
        self,
        pictures: PictureSource | Iterable[PictureSource],
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> PictureAnalysis | list[PictureAnalysis]:
        """Find the faces in pictures, and ask both models about them.

        Needs the extra ``pictures``: ``pip install "mien-client[pictures]"``.

        Args:
            pictures: One picture, or an iterable of pictures: each a path, the bytes of a file (PNG, JPEG, WebP, GIF,
                BMP or TIFF) or a PIL image. A picture of 48x48 pixels is taken as one face.
            emotion_version: As for `analyze`.
            keypoint_version: As for `analyze`.
            timeout: Seconds that the models may take for all faces, after they were found.
            key: As for `analyze`.
            partial: As for `analyze`.

        Returns:
            The faces of the one picture, or a list with one such result for each picture, in their order. A picture
            without a face has an empty result.

        Raises:
            PictureError: A picture cannot be read; of several, the text names which. Nothing was sent.
            ImportError: The extra ``pictures`` is not installed.
            MienError: As for `analyze`.

        Example:
            >>> client.analyze_pictures("astronaut.jpg")[0].emotion
            'Happy'
            >>> [len(analysis) for analysis in client.analyze_pictures(["astronaut.jpg", "astronaut.jpg"])]
            [1, 1]
        """
        self._check_open()
        found = Found(pictures)
        analysis = self.analyze(
            found.images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            timeout=timeout,
            key=key,
            partial=partial,
        )
        return found.results(analysis)

    def analyze_iter(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = CHUNK_FACES,
        max_in_flight: int = BATCHES_IN_FLIGHT,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
    ) -> Iterator[Face]:
        """Asks about any number of faces as they come, in batches, several of them at the same time.

        At no time more than ``batch_size * max_in_flight`` images and results are in memory.

        Args:
            images: Yields images, each uint8 (48, 48) or (48, 48, 1); read in the caller's thread, as needed.
            batch_size: Images in one call.
            max_in_flight: Calls at the same time.
            emotion_version: As for `analyze`, instead of the client's. Batches may be answered by different
                versions while versions change; each `Face` tells its own.
            keypoint_version: The same for the key point model.
            timeout: Seconds that each batch may take, instead of the client's.
            key: As for `analyze`. Without one every batch goes to either side.

        Returns:
            One `Face` for each image, in their order. If an image is none, or a call fails, the error comes after the
            results of all batches before it.

        Raises:
            InvalidImageError: If an image is not as above. The text says which.
            MienError: If a batch was not answered, as for `analyze`.

        Example:
            >>> sum(1 for face in client.analyze_iter(images, batch_size=2))
            3
        """
        self._check_open()
        ask = functools.partial(
            self.analyze,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            timeout=timeout,
            key=key,
        )
        batches = in_batches(images, checked_count("batch size", batch_size))
        return _stream(ask, batches, checked_count("number of calls", max_in_flight))

    def status(self) -> dict[str, tuple[VersionStatus, ...]]:
        """Asks a server about the versions of both models.

        Returns:
            For each model's name the states of its versions, the highest version first. Of several servers, one that
            answers is asked.

        Raises:
            ModelNotFoundError: If the server knows no version of one of them.
            MienError: If it could not be asked.

        Example:
            >>> client.status()["emotion"]
            (VersionStatus(version=1, state='AVAILABLE', error=''),)
        """
        self._check_open()
        deadline = Deadline(self._timeout)
        return {target.model: self._status(target.model, deadline) for target in self._targets}

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until a server answers for both models, in the versions that this client asks for.

        Args:
            timeout: Seconds to wait for that.

        Raises:
            UnavailableError: If it does not come to that in time. The text says what is missing.
            MienError: At once, for what does not go away by waiting.

        Example:
            >>> client.wait_ready(timeout=10)
        """
        self._check_open()
        deadline = Deadline(checked_timeout(timeout))
        told: dict[str, Target] = {}
        while True:
            missing: dict[str, Target] = {}
            for transport in self._replicas.transports:
                found = {self._missing(transport, target, deadline): target for target in self._targets}
                found.pop("", None)
                if not found:
                    return
                missing |= found
            if deadline.remaining() or not told:  # A look that was cut short tells less than the one before.
                told = missing
            if deadline.remaining() <= POLL_SECONDS:
                raise self._not_ready(told, timeout)
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Gives the connections back. A call that is still running ends with an `UnavailableError`, or its answer.

        Example:
            >>> client.close()
            >>> client  # doctest: +ELLIPSIS
            <Client of ... (closed)>
        """
        if not self._closed:
            self._closed = True
            self._retries.close()
            for transport in self._replicas.transports:
                transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        tried: list[Replica[Transport]] = []
        while True:
            replica = self._replicas.pick(tried)
            tried.append(replica)
            try:
                return replica.transport.status(model, deadline)
            except MienError as error:
                self._replicas.failed(replica, error)
                error.attempts = len(tried)
                pause = self._retries.pause(len(tried), error, deadline.remaining())
                if pause is None:
                    raise
            time.sleep(pause)

    def _probe(self, replica: Replica[Transport]) -> None:
        """Finds out whether a server that was down answers a small request to both models again."""
        deadline, transport = Deadline(PROBE_TIMEOUT), replica.transport
        error: MienError | None = None
        for half in self._probing_halves():
            while half.has_next():
                request = half.next_request()
                try:
                    answer = _predict(transport, request, deadline)
                except MienError as problem:
                    half.failed(request, problem)
                    continue
                if wrong := half.check(request, answer, transport.endpoint):
                    half.failed(request, wrong)
                else:
                    half.answered(request, answer)
            error = error or half.error
        self._replicas.probed(replica, error)

    def _resolve(self, transport: Transport, target: Target, deadline: Deadline) -> int:
        """Return the version that would answer ``target`` now."""
        for preferred in preferences(target)[:-1]:
            with suppress(VersionNotFoundError):
                return transport.resolve(preferred, deadline)
        return transport.resolve(preferences(target)[-1], deadline)

    def _missing(self, transport: Transport, target: Target, deadline: Deadline) -> str:
        """Returns why ``target`` cannot be asked now, or an empty text if it can."""
        look = self._look(deadline)
        try:
            self._resolve(transport, target, look)
        except NotServedError as error:
            try:
                asked = Target(target.model, error.version, error.label)
                return states(asked, transport.status(target.model, look))
            except MienError:
                return str(error)
        except (UnavailableError, DeadlineExceededError) as error:
            return str(error)
        return ""


def _stream(
    ask: Callable[[NDArray[np.uint8]], Analysis], batches: Iterator[NDArray[np.uint8]], max_in_flight: int
) -> Iterator[Face]:
    running: deque[tuple[NDArray[np.uint8], Future[Analysis]]] = deque()
    process = os.getpid()
    problem: Exception | None = None
    more = True
    while True:
        while more and len(running) < max_in_flight:
            try:
                batch = next(batches)
                running.append((batch, in_thread(ask, batch)))
            except StopIteration:
                more = False
            except Exception as error:  # What comes before it is answered first.
                more, problem = False, error
            if running and running[0][1].done():
                break  # What has been answered is not held back while ever more is read, which may take long.
        if not running:
            break
        yield from running.popleft()[1].result()
        if os.getpid() != process:  # The caller has forked, and the threads are the parent's.
            process = os.getpid()
            running = deque((batch, in_thread(ask, batch)) for batch, _ in running)
    if problem is not None:
        raise problem


def _run(call: Call[Transport], faces: NDArray[np.uint8]) -> None:
    """Sends what a call asks for until it has ended."""
    ended: SimpleQueue[Attempt[Transport] | None] = SimpleQueue()
    pending: dict[Attempt[Transport], Pending] = {}
    call.wake = functools.partial(ended.put, None)
    try:
        while not call.ended:
            for sent in call.due():
                request, notify = sent.request, functools.partial(ended.put, sent)
                transport, images = sent.replica.transport, faces[request.faces]
                try:
                    pending[sent] = transport.predict(request.target, images, request.output, call.deadline, notify)
                except MienError as error:
                    call.failed(sent, error)
            attempt = None
            with suppress(Empty):
                attempt = ended.get(timeout=call.pause())
            if attempt is None:
                continue
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


def _predict(transport: Transport, request: Request, deadline: Deadline) -> Answer:
    """Asks a server about one black face, and waits for the answer."""
    ended = threading.Event()
    pending = transport.predict(request.target, PROBE_FACES, request.output, deadline, ended.set)
    if not ended.wait(deadline.remaining() + GRACE_SECONDS):
        pending.cancel()
        raise failure(
            "DEADLINE_EXCEEDED", "", endpoint=transport.endpoint, target=request.target, timeout=deadline.timeout
        )
    return pending.result()
