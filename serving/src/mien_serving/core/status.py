"""The outcome of a call in the terms of TensorFlow, gRPC and HTTP."""

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
    """A call that failed.

    Its text has TensorFlow's form, ``CODE: message``; clients get ``code`` and ``message`` separately.

    Attributes:
        code: The kind of error.
        message: What went wrong, for the caller to read.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[StatusError], tuple[Code, str]]:
        """Return how the error is pickled."""
        return StatusError, (self.code, self.message)

    def without_traceback(self) -> StatusError:
        """Return the same error without its traceback and cause, which keep the tensors of their frames in memory."""
        return StatusError(self.code, self.message)


def invalid_argument(message: str) -> StatusError:
    """Return the error for a request that cannot succeed, however often it is sent."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def value_of(outcome: T | StatusError) -> T:
    """Return an outcome if it is a value; raise it if it is an error.

    Raises:
        StatusError: A copy of the error: the object itself would collect the tracebacks of all callers.
    """
    if isinstance(outcome, StatusError):
        raise outcome.without_traceback()
    return outcome
