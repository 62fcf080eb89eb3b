"""The client."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._calls import Attempt, Call
from mien_client._exceptions import (
    ConfigurationError,
    DeadlineExceededError,
    MienError,
    NotServedError,
    UnavailableError,
)
from mien_client._images import as_images
from mien_client._merging import Half, merge, nothing
from mien_client._replicas import PROBE_TIMEOUT, Replica, Replicas
from mien_client._retries import MAX_ATTEMPTS, Retries
from mien_client._transports import Deadline, Pending, Target, Transport, VersionStatus, open_transport
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL, KEYPOINTS_OUTPUT, PROBABILITIES_OUTPUT

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call may take."""

_POLL_SECONDS = 0.1


class Client:
    """Asks a TensorFlow Serving server, or ``mien serve``, about faces.

    A client keeps its connections; make one and share it, between threads too. It is a context manager.

    Args:
        address: ``"localhost:8500"`` for gRPC, ``"http://localhost:8501"`` for REST. A list of these if several servers
            have the same models: calls take turns between those that answer, and one that dies or freezes fails no
            call. With gRPC also ``"dns:///mien:8500"``, a name that stands for several servers.
        timeout: Seconds a call may take, with all its requests and whatever of them is sent again.
        max_attempts: How often a request is sent at most. It is sent again, after a pause, if the server could not be
            reached, was too busy, or went away while it answered; 1 is for callers who would rather do that themselves.
        emotion_model: The served name of the emotion model.
        keypoint_model: The served name of the key point model.
        emotion_version: Which version of it: a number, a label such as ``"stable"``, or None for the latest.
        keypoint_version: The same for the key point model.

    Raises:
        ConfigurationError: If one of these cannot be meant. Whether the server is there shows at the first call.

    Example:
        >>> with Client("localhost:8500") as client:  # doctest: +SKIP
        ...     [face] = client.analyze(image)
        ...     print(face.emotion, face.confidence, face.keypoint("nose_tip"))
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_attempts: int = MAX_ATTEMPTS,
        emotion_model: str = EMOTION_MODEL,
        keypoint_model: str = KEYPOINT_MODEL,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
    ) -> None:
        self._timeout = _checked_timeout(timeout)
        self._emotion = _target(emotion_model, emotion_version)
        self._keypoint = _target(keypoint_model, keypoint_version)
        self._retries = Retries(_checked_attempts(max_attempts))
        self._replicas: Replicas[Transport] = Replicas([open_transport(one) for one in _addresses(address)])
        self._closed = False

    def analyze(
        self,
        images: Any,
        *,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        timeout: float | None = None,
    ) -> Analysis:
        """Asks both models, at the same time, about one face or many.

        Args:
            images: uint8, (48, 48) for one face or (N, 48, 48) or (N, 48, 48, 1) for many; 0 is black, 255 white.
            emotion_version: A version number or label for this call, instead of the client's.
            keypoint_version: The same for the key point model.
            timeout: Seconds that this call may take, instead of the client's.

        Returns:
            One `Face` for each image, in their order; a sequence for one image too. All faces of a call are answered
            by the same version of each model.

        Raises:
            InvalidImageError: If the images are not as above. Nothing was sent.
            MienError: If either model did not answer; see `mien_client` for the tree. Both have ended by then.
        """
        self._check_open()
        faces = as_images(images)
        deadline = Deadline(self._timeout if timeout is None else _checked_timeout(timeout))
        emotion = self._emotion if emotion_version is None else _target(self._emotion.model, emotion_version)
        keypoint = self._keypoint if keypoint_version is None else _target(self._keypoint.model, keypoint_version)
        if not len(faces):
            return nothing()
        halves = [
            Half(emotion, PROBABILITIES_OUTPUT, len(faces)),
            Half(keypoint, KEYPOINTS_OUTPUT, len(faces)),
        ]
        for replica in self._replicas.to_probe():
            Thread(target=self._probe, args=[replica], daemon=True).start()
        _run(Call(halves, self._replicas, deadline, self._retries), faces)
        return merge(halves)

    def status(self) -> dict[str, tuple[VersionStatus, ...]]:
        """Asks a server about the versions of both models.

        Returns:
            For each model's name the states of its versions, the highest version first. Of several servers, one that
            answers is asked.

        Raises:
            ModelNotFoundError: If the server knows no version of one of them.
            MienError: If it could not be asked.
        """
        self._check_open()
        deadline = Deadline(self._timeout)
        return {model: self._status(model, deadline) for model in (self._emotion.model, self._keypoint.model)}

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until a server answers for both models, in the versions that this client asks for.

        Args:
            timeout: Seconds to wait for that.

        Raises:
            UnavailableError: If it does not come to that in time. The text says what is missing.
            MienError: At once, for what does not go away by waiting.
        """
        self._check_open()
        deadline = Deadline(_checked_timeout(timeout))
        while True:
            missing: dict[str, Target] = {}
            for transport in self._replicas.transports:
                found = {self._missing(transport, target, deadline): target for target in self._targets}
                found.pop("", None)
                if not found:
                    return
                missing |= found
            if deadline.remaining() <= _POLL_SECONDS:
                target = next(iter(missing.values()))
                raise UnavailableError(
                    f"{self._replicas.endpoint} is not ready after {timeout:g} s: {'; '.join(missing)}",
                    endpoint=self._replicas.endpoint,
                    model=target.model,
                    version=target.version,
                    label=target.label,
                )
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Gives the connections back. A call that is still running ends with an `UnavailableError`, or its answer."""
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

    def __repr__(self) -> str:
        return f"<Client of {self._replicas.endpoint}{' (closed)' if self._closed else ''}>"

    @property
    def _targets(self) -> tuple[Target, Target]:
        return self._emotion, self._keypoint

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed: make a new one")

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
        """Finds out whether a server that was down has both models again."""
        deadline = Deadline(PROBE_TIMEOUT)
        try:
            for target in self._targets:
                replica.transport.resolve(Target(target.model), deadline)
        except MienError as error:
            self._replicas.probed(replica, error)
        else:
            self._replicas.probed(replica, None)

    def _missing(self, transport: Transport, target: Target, deadline: Deadline) -> str:
        """Returns why ``target`` cannot be asked now, or an empty text if it can."""
        longest = PROBE_TIMEOUT if len(self._replicas) > 1 else self._timeout
        seconds = max(_POLL_SECONDS, min(longest, deadline.remaining()))
        try:
            transport.resolve(target, Deadline(seconds))
        except NotServedError as error:
            try:
                versions = transport.status(target.model, Deadline(seconds))
            except MienError:
                return str(error)
            states = (f"version {v.version} is {v.state}{v.error and f' ({v.error})'}" for v in versions)
            return f"{target}: {', '.join(states)}"
        except (UnavailableError, DeadlineExceededError) as error:
            return str(error)
        return ""


def _run(call: Call[Transport], faces: NDArray[np.uint8]) -> None:
    """Sends what a call asks for until it has ended."""
    ended: SimpleQueue[Attempt[Transport]] = SimpleQueue()
    pending: dict[Attempt[Transport], Pending] = {}
    try:
        while not call.ended:
            for attempt in call.due():
                request, notify = attempt.request, partial(ended.put, attempt)
                transport, images = attempt.replica.transport, faces[request.faces]
                try:
                    pending[attempt] = transport.predict(request.target, images, request.output, call.deadline, notify)
                except MienError as error:
                    call.failed(attempt, error)
            try:
                attempt = ended.get(timeout=call.pause())
            except Empty:
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


def _addresses(address: str | Sequence[str]) -> Sequence[str]:
    if isinstance(address, (list, tuple)):
        if not address:
            raise ConfigurationError("there is no address in the list: say at least one, such as 'localhost:8500'")
        return address
    return [address]  # type: ignore[list-item]  # Whatever else it is, opening it says what is wrong.


def _target(model: str, version: int | str | None) -> Target:
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"{model!r} is no model's name")
    if version is None:
        return Target(model)
    if isinstance(version, str) and version:
        return Target(model, label=version)
    try:
        number = operator.index(version)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise ConfigurationError(f"{version!r} is no version of a model: say a number, or a label such as 'stable'")
    return Target(model, version=number)


def _checked_timeout(timeout: float) -> float:
    if not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
        raise ConfigurationError(f"{timeout!r} is no timeout: say a number of seconds above 0")
    return float(timeout)


def _checked_attempts(attempts: int) -> int:
    if not isinstance(attempts, int) or attempts < 1:
        raise ConfigurationError(f"{attempts!r} is no number of attempts: say a whole number above 0")
    return attempts
