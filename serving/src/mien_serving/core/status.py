"""The outcome of a call, as TensorFlow, gRPC and HTTP each name it."""

from __future__ import annotations

import enum
from typing import Final, TypeVar

T = TypeVar("T")


class Code(enum.IntEnum):
    """The canonical error codes that TensorFlow and gRPC share."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS: Final = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""The HTTP status that TensorFlow Serving answers for each code."""


class StatusError(Exception):
    """A call that did not end in OK.

    Its text is TensorFlow's own, ``CODE: message``; clients get ``code`` and ``message`` separately.

    Attributes:
        code: What kind of error.
        message: What went wrong, for the caller to read.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[StatusError], tuple[Code, str]]:
        """How it goes to another process."""
        return StatusError, (self.code, self.message)

    def without_traceback(self) -> StatusError:
        """The same error, which does not keep the frames that it came through, nor what it came from."""
        return StatusError(self.code, self.message)


def invalid_argument(message: str) -> StatusError:
    """The error for a request that can never succeed as it is."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def value_of(outcome: T | StatusError) -> T:
    """Returns a value, or raises the error that is there in its place.

    Raises:
        StatusError: The error; not the object itself, which whoever holds it would keep with the frames of all callers.
    """
    if isinstance(outcome, StatusError):
        raise outcome.without_traceback()
    return outcome
