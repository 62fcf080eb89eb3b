"""Everything this package raises on purpose.

::

    MienError
    ├── InvalidImageError            (also a ValueError)  refused before anything was sent
    ├── ConfigurationError           (also a ValueError)  an address, a timeout or a version that cannot be meant
    ├── PictureError                                      a file in which no face can be looked for
    ├── DataError                    (also a ValueError)  a file of labelled faces that cannot be used
    ├── ClientClosedError            (also a RuntimeError)  a call of a client after its close()
    ├── UnavailableError             retryable            not reachable, too busy, or gone in mid-call
    ├── DeadlineExceededError        retryable            no answer in time
    ├── NotServedError
    │   ├── ModelNotFoundError                            the server has no such model, or none of its versions
    │   └── VersionNotFoundError                          the model has no such version or label
    ├── BadRequestError                                   the server says that the request makes no sense
    ├── AccessDeniedError                                 the server wants to know who asks, or said no
    ├── ServerError                                       the server failed while answering
    └── UnexpectedResponseError                           an answer that the models of Mien do not give

REST and gRPC raise the same class for the same cause.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MienError(Exception):
    """The root of the tree. Its text is one sentence for people.

    Attributes:
        endpoint: The address that was asked, or None if none was.
        model: The name of the model that was asked.
        version: The version that was asked for, if one was.
        label: The version label that was asked for, if one was.
        attempts: How often the request that failed was sent; 0 if none was.
        retryable: Whether the same call may well succeed a moment later.

    Example:
        >>> try:
        ...     client.analyze(images, emotion_version=99)
        ... except MienError as error:
        ...     print(type(error).__name__, error.model, error.version, error.attempts, error.retryable)
        VersionNotFoundError emotion 99 1 False
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        endpoint: str | None = None,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.model = model
        self.version = version
        self.label = label
        self.attempts = 0
        self._overloaded = False  # Whether a server refused the request because it is full.

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON types: ``type`` (the name of its class), ``message`` and ``retryable``.

        The message names the server's address.

        Example:
            >>> UnavailableError("10.0.0.1:8500 is not available").to_dict()
            {'type': 'UnavailableError', 'message': '10.0.0.1:8500 is not available', 'retryable': True}
        """
        return {"type": type(self).__name__, "message": str(self), "retryable": self.retryable}


class InvalidImageError(MienError, ValueError):
    """The images are not 48x48, one channel, uint8. The text says how to convert them."""


class ConfigurationError(MienError, ValueError):
    """An address, a timeout or a version that cannot be meant."""


class PictureError(MienError):
    """A file is no picture, or is damaged."""


class DataError(MienError, ValueError):
    """A file of labelled faces, or what goes with it, cannot be used; the text says where, and what was expected.

    Files come from strangers: what cannot be printed of them is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


class ClientClosedError(MienError, RuntimeError):
    """The client was closed before the call began. Make a new client."""


class UnavailableError(MienError):
    """The server cannot be reached, is too busy, or went away while it answered."""

    retryable = True


class DeadlineExceededError(MienError):
    """No answer came within the timeout."""

    retryable = True


class NotServedError(MienError):
    """The server is there but has nothing by this name to answer with."""


class ModelNotFoundError(NotServedError):
    """The server has no model of this name, or no version of it is loaded."""


class VersionNotFoundError(NotServedError):
    """The version, or the label, that was asked for is not loaded."""


class BadRequestError(MienError):
    """The server refused the request as malformed: client and model do not fit together."""


class AccessDeniedError(MienError):
    """The server does not let this client ask."""


class ServerError(MienError):
    """The server failed while it worked on the request."""


class UnexpectedResponseError(MienError):
    """The answer is not what Mien's models give: an output missing, a wrong shape or type, numbers that are none."""
