"""The exceptions of this package.

::

    MienError
    ├── InvalidImageError            (also a ValueError)  invalid images; nothing was sent
    ├── ConfigurationError           (also a ValueError)  an invalid address, timeout, version or other option
    ├── PictureError                                      a file that is not a readable picture
    ├── DataError                    (also a ValueError)  an unusable file of labelled faces
    ├── ClientClosedError            (also a RuntimeError)  a call after the client was closed
    ├── UnavailableError             retryable            the server is unreachable, full, or went away during the call
    ├── DeadlineExceededError        retryable            no answer in time
    ├── NotServedError
    │   ├── ModelNotFoundError                            the server has no such model, or no loaded version of it
    │   └── VersionNotFoundError                          the model has no such version or label
    ├── BadRequestError                                   the server refused the request as invalid
    ├── AccessDeniedError                                 credentials are missing, or were refused
    ├── ServerError                                       the server failed while answering
    └── UnexpectedResponseError                           not an answer of one of the models of Mien

REST and gRPC raise the same class for the same cause.
"""

from __future__ import annotations

from typing import ClassVar

from mien_client.documents import ErrorDocument


class MienError(Exception):
    """The base class of all exceptions here. Its text is one sentence for people.

    Attributes:
        endpoint: The address of the server that was asked, or None.
        model: The name of the model that was asked, or None.
        version: The version number that was asked for, or None.
        label: The version label that was asked for, or None.
        attempts: How often the request that failed was sent; 0 if it was not sent.
        retryable: Whether the same call may succeed a moment later.

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

    def to_dict(self) -> ErrorDocument:
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
    """An address, a timeout, a version or another option is invalid."""


class PictureError(MienError):
    """A file is not a picture of a supported format, is damaged, or is too large."""


class DataError(MienError, ValueError):
    """A file of labelled faces, or a file that goes with it, is invalid. The text says where, and what was expected.

    The text may quote the file, so unprintable characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


class ClientClosedError(MienError, RuntimeError):
    """The client was closed before the call began. Make a new client."""


class UnavailableError(MienError):
    """The server cannot be reached, is full, or went away while it answered."""

    retryable = True


class DeadlineExceededError(MienError):
    """There was no answer within the timeout."""

    retryable = True


class NotServedError(MienError):
    """The server answers, but does not serve what was asked for."""


class ModelNotFoundError(NotServedError):
    """The server has no model of this name, or has loaded no version of it."""


class VersionNotFoundError(NotServedError):
    """The version or label that was asked for does not exist or is not loaded."""


class BadRequestError(MienError):
    """The server refused the request as invalid: the client and the model do not match."""


class AccessDeniedError(MienError):
    """The server, or a proxy before it, denied access to this client."""


class ServerError(MienError):
    """The server failed while it worked on the request."""


class UnexpectedResponseError(MienError):
    """The answer is not one of Mien's models: an output is missing, or has a wrong shape, type or range."""
