"""The protocol between a client and a transport, in the client's own terms."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Target:
    """Which model is asked: one of its versions, the version with a label, or, with neither, the newest version.

    Attributes:
        model: The model's name.
        version: The version's number.
        label: The version's label, such as ``stable``.
    """

    model: str
    version: int | None = None
    label: str | None = None

    def pinned(self, version: int) -> Target:
        """Return the same model at exactly ``version``."""
        return replace(self, version=version, label=None)

    def __str__(self) -> str:
        if self.version is not None:
            return f"model {self.model!r} version {self.version}"
        if self.label is not None:
            return f"model {self.model!r} label {self.label!r}"
        return f"model {self.model!r}"


class Deadline:
    """A moment, ``timeout`` seconds after this was made.

    Attributes:
        timeout: The seconds from the start to the deadline.
        moment: The deadline, in seconds of `time.monotonic`.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.moment = time.monotonic() + timeout

    def remaining(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self.moment - time.monotonic())


@dataclass(frozen=True, eq=False)
class Request:
    """A request for one model's predictions.

    Attributes:
        target: The model, with the version or the label that is asked for.
        images: uint8 [N, 48, 48].
        output: The output that is asked for: ``probabilities`` or ``keypoints``.
        deadline: When the client stops waiting for the answer.

    Example:
        >>> def answer(request):
        ...     assert request.target.label == "stable" and request.images.shape == (3, 48, 48)
        ...     return Answer(np.full((3, 5), 0.2) if request.model == "emotion" else np.zeros((3, 15, 2)), version=1)
        >>> Client(transport=MockTransport(answer)).analyze(images)
        <Analysis of 3 faces (emotion 1, keypoints 1)>
    """

    target: Target
    images: NDArray[np.uint8]
    output: str
    deadline: Deadline

    @property
    def model(self) -> str:
        """The model's name."""
        return self.target.model


class Answer:
    """A model's predictions.

    Args:
        values: The output that the request asks for: ``probabilities`` [N, 5] or ``keypoints`` [N, 15, 2].
        version: The number of the version that computed them.
        other: With ``probabilities``: [N], the output ``other``; None if the version lacks it.

    Attributes:
        values: The same as float32.
        version: The same.
        other: The same as float32, or None.

    Example:
        >>> Answer(np.zeros((1, 15, 2)), version=1).values.dtype
        dtype('float32')
    """

    __slots__ = ("other", "values", "version")

    def __init__(self, values: ArrayLike, version: int, other: ArrayLike | None = None) -> None:
        self.values: NDArray[np.float32] = np.asarray(values, np.float32)
        self.version = version
        self.other: NDArray[np.float32] | None = None if other is None else np.asarray(other, np.float32)


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model on a server.

    Attributes:
        version: The version's number.
        state: ``START``, ``LOADING``, ``AVAILABLE``, ``UNLOADING`` or ``END``.
        error: Why the version could not be loaded; empty if there was no error.

    Example:
        >>> [status] = client.status()["keypoints"]
        >>> status.version, status.state
        (1, 'AVAILABLE')
    """

    version: int
    state: str
    error: str = ""


class Pending(Protocol[R_co]):
    """A request that was sent. `concurrent.futures.Future` has these three methods."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object:
        """Call ``callback``, with one argument and from any thread, when the request has ended, or at once if it has.

        Args:
            callback: Its argument is not used.
        """

    def result(self) -> R_co:
        """Return the answer. The client calls this only after the request has ended.

        Raises:
            MienError: The request failed. Raise `VersionNotFoundError` with a ``version`` that the request did not
                name to say that this version, which the label stood for, was unloaded meanwhile.
        """

    def cancel(self) -> object:
        """Stop the request if that is possible: its answer is not needed any more."""


class Transport(ABC):
    """Carry requests to one server. To write a transport, subclass this and implement `predict`.

    One protocol is for `Client` and for `AsyncClient`: sending a request does not wait for its answer. Any thread may
    use a transport. To report a failure, raise one of the exceptions of `mien_client`: the client sends a request again
    after `UnavailableError`, and asks another server after `NotServedError` or `ServerError`. Any other exception ends
    the call.

    Attributes:
        endpoint: The server's address, for error messages.

    Example:
        >>> class Counted(Transport):
        ...     '''Count the requests that another transport carries.'''
        ...
        ...     def __init__(self, transport):
        ...         self.transport, self.count = transport, 0
        ...
        ...     def predict(self, request):
        ...         self.count += 1
        ...         return self.transport.predict(request)
        >>> answer = Answer(np.zeros((1, 15, 2)), version=1)
        >>> counted = Counted(MockTransport(lambda request: answer))
        >>> try:
        ...     Client(transport=counted).analyze(images[0])
        ... except UnexpectedResponseError:  # The emotion model answers with probabilities.
        ...     print(counted.count)
        2
    """

    endpoint: str = "the server"

    @abstractmethod
    def predict(self, request: Request) -> Pending[Answer]:
        """Send a request, without waiting for the answer.

        A transport that has only a function that waits runs it in a thread: ``return pool.submit(ask, request)``, with
        a `concurrent.futures.ThreadPoolExecutor`. The request should end at its deadline; the client stops waiting
        a quarter of a second later.

        Args:
            request: The request.

        Returns:
            The pending answer.

        Raises:
            MienError: The request cannot be sent.
        """

    def status(self, model: str, deadline: Deadline) -> Pending[tuple[VersionStatus, ...]]:  # noqa: ARG002
        """Ask for the states of a model's versions, without waiting for the answer.

        Unless a subclass implements this, no version is listed.

        Args:
            model: The model's name.
            deadline: When the client stops waiting.

        Returns:
            The pending states, the highest version first.
        """
        unknown: Future[tuple[VersionStatus, ...]] = Future()
        unknown.set_result(())
        return unknown

    def close(self) -> None:  # noqa: B027  # Many transports have nothing to close.
        """Close the connections. Requests that are under way end with an `UnavailableError`, or with their answer."""
