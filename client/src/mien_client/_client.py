"""The client."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Self, overload

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
from mien_client._streaming import BATCHES_IN_FLIGHT, in_batches, stream
from mien_client._threads import in_thread
from mien_client.transports.base import VersionStatus

if TYPE_CHECKING:
    from mien_client._picture_batch import PictureSource


class Client(BaseClient):
    """Ask a TensorFlow Serving server, or ``mien serve``, about faces.

    A client keeps its connections: make one and share it, between threads too. It is a context manager.

    Args:
        address: ``"localhost:8500"`` for gRPC, ``"http://localhost:8501"`` for REST. A list of addresses if several
            servers have the same models: calls take turns between the servers that answer, and no call fails because
            one of them dies or freezes. For gRPC also a name that stands for several servers: ``"dns:///mien:8500"``.
        timeout: Seconds that a call may take, with all its requests and retries.
        max_attempts: How often one request is sent at most. A request is sent again, after a pause, if the server
            could not be reached or went away while it answered. With 1, nothing is sent again. With more, a request
            that finds the server full is sent again until the timeout, in smaller pieces if necessary.
        emotion_model: The served name of the emotion model.
        keypoint_model: The served name of the key point model.
        emotion_version: The version of the emotion model to ask: a number, a label, or ``"latest"`` for the newest
            loaded version, which may be a canary. ``None`` means the label ``"stable"``. A model without the label
            ``stable`` answers with its newest version.
        keypoint_version: The same for the key point model.
        canary: The share of calls, 0 to 1, that ask for the label ``canary`` of each model instead, or ``"auto"`` for
            the share that operators set with ``mien rollout shift``. Of calls with the same ``key``, all do or none
            does, and a larger share adds keys and drops none. A model without that label is asked as usual.
        split: With ``canary="auto"``, where the share is set: a gateway's address, ``"http://localhost:8080"``, or the
            path of ``split.json``, which is beside ``models.config``. A thread follows it, and a change takes effect
            within two seconds. The first call may wait up to a second for it. While a gateway does not answer, the last
            share stays in force; until it has answered once, no call asks for the canary. ``token``, ``api_key`` and
            the files below are used for the gateway, too.
        hedge: When a request takes longer than this share of the latest answers took, 0.95 for example, it is sent a
            second time, to another server if there are several, and the first answer counts. ``None`` disables hedging.
        tls: Whether gRPC is encrypted. It is if one of the files is given. REST is encrypted if its address starts
            with ``https://``.
        ca_file: Certificates (PEM) of the authorities to trust, instead of the system's.
        cert_file: This client's own certificate (PEM), for servers that ask for one.
        key_file: The key of that certificate (PEM, without a password).
        token: Sent with every request as ``authorization: Bearer ...``.
        api_key: Sent with every request as ``x-api-key``. When omitted, these six options default to the environment
            variables ``MIEN_TLS``, ``MIEN_CA_FILE``, ``MIEN_CERT_FILE``, ``MIEN_KEY_FILE``, ``MIEN_TOKEN`` and
            ``MIEN_API_KEY``.
        transport: A `Transport`, or a list of them for several servers, instead of an address: a `MockTransport` in
            tests, for example. The client closes it.

    Raises:
        ConfigurationError: An option is invalid. Whether the server is there shows at the first call.

    Example:
        >>> with Client("localhost:8500") as client:
        ...     analysis = client.analyze(images)
        >>> analysis
        <Analysis of 3 faces (emotion 1, keypoints 1)>
    """

    def analyze(
        self,
        images: NDArray[np.uint8],
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
        partial: bool = False,
    ) -> Analysis:
        """Ask both models, at the same time, about one face or many.

        Args:
            images: uint8 [48, 48] for one face, or uint8 [N, 48, 48] or [N, 48, 48, 1] for many; 0 is black, 255 white.
            emotion_version: A version number, a label or ``"latest"`` for this call, instead of the client's.
            keypoint_version: The same for the key point model.
            timeout: Seconds that this call may take, instead of the client's.
            key: Who the call is for, such as a customer's number, if the client has a ``canary``.
            partial: Whether to return one model's answer even if the other gave none; `Analysis.errors` then says why.

        Returns:
            One `Face` for each image, in the order of the images; a sequence for a single image too. All faces of a
            call are answered by the same version of each model.

        Raises:
            InvalidImageError: The images are not as described above. Nothing was sent.
            MienError: One of the models gave no answer; with ``partial``, neither did. No request is left running.

        Example:
            >>> for face in client.analyze(images):
            ...     assert face.emotion in EMOTIONS and 0 < face.confidence <= 1
        """
        deadline = self._deadline(timeout)
        self._shares.wait(deadline)
        job = self._job(
            images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            deadline=deadline,
            key=key,
            partial=partial,
        )
        for replica in self._replicas.to_probe():
            in_thread(_run, functools.partial(self._health.probe, replica))
        with job:
            return _run(job.flow)

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
        batch = PictureBatch(pictures)
        analysis = self.analyze(
            batch.images,
            emotion_version=emotion_version,
            keypoint_version=keypoint_version,
            timeout=timeout,
            key=key,
            partial=partial,
        )
        return batch.results(analysis)

    def analyze_iter(
        self,
        images: Iterable[NDArray[np.uint8]],
        *,
        batch_size: int = CHUNK_FACES,
        max_in_flight: int = BATCHES_IN_FLIGHT,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
        key: str | bytes | int | None = None,
    ) -> Iterator[Face]:
        """Ask about any number of faces, in batches, several batches at the same time.

        At most ``batch_size * max_in_flight`` images and results are in memory at any time.

        Args:
            images: An iterable of images, each uint8 [48, 48] or [48, 48, 1]. It is read in the caller's thread, as
                results are taken.
            batch_size: Images in one call.
            max_in_flight: Calls at the same time.
            emotion_version: As for `analyze`. While a new version is rolled out, batches may be answered by different
                versions; each `Face` has its own ``versions``.
            keypoint_version: As for `analyze`.
            timeout: Seconds that each batch may take, instead of the client's.
            key: As for `analyze`. Without a key, each batch is chosen for the canary by itself.

        Returns:
            One `Face` for each image, in the order of the images. An error is raised after the results of all batches
            before it.

        Raises:
            InvalidImageError: An image is not as described above. The text says which one.
            MienError: A batch was not answered, as for `analyze`.

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
        batches = in_batches(images, checked_count("batch_size", batch_size))
        return stream(ask, batches, checked_count("max_in_flight", max_in_flight))

    def status(self) -> dict[str, tuple[VersionStatus, ...]]:
        """Return the states of the versions of both models on a server.

        Returns:
            The states by the model's name, the highest version first. Of several servers, one that answers is asked.

        Raises:
            ModelNotFoundError: The server knows no version of one of the models.
            MienError: The server gave no answer.

        Example:
            >>> client.status()["emotion"]
            (VersionStatus(version=1, state='AVAILABLE', error=''),)
        """
        self._check_open()
        return _run(functools.partial(self._health.status, self._timeout))

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until a server answers for both models, in the versions that this client asks for.

        The server is ready when it has answered a prediction of one black face by each model.

        Args:
            timeout: Seconds to wait.

        Raises:
            UnavailableError: No server is ready in time. The text says what is missing.
            MienError: An error that waiting does not cure, such as `AccessDeniedError`. It is raised at once.

        Example:
            >>> client.wait_ready(timeout=10)
        """
        self._check_open()
        _run(functools.partial(self._health.ready, checked_timeout(timeout), self._timeout))

    def close(self) -> None:
        """Close the connections. A call that is still running ends with an `UnavailableError`, or with its answer.

        Example:
            >>> client.close()
            >>> client  # doctest: +ELLIPSIS
            <Client of ... (closed)>
        """
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _run(start: Callable[[Wake], Flow[R]]) -> R:
    """Run a flow; wait in this thread."""
    woken: SimpleQueue[None] = SimpleQueue()
    with closing(start(functools.partial(woken.put, None))) as flow:
        while True:
            try:
                seconds = next(flow)
            except StopIteration as end:
                result: R = end.value
                return result
            with suppress(Empty):
                woken.get(timeout=seconds)
