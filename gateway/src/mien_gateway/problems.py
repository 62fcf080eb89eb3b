"""Errors as RFC 9457 describes them: ``application/problem+json``, with the meaning of the client's exceptions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mien_client import (
    AccessDeniedError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidImageError,
    MienError,
    ModelNotFoundError,
    PictureError,
    ServerError,
    UnavailableError,
    UnexpectedResponseError,
    VersionNotFoundError,
)
from starlette.responses import Response

from mien_gateway.encoding import json_bytes

MEDIA_TYPE = "application/problem+json"

_log = logging.getLogger("mien_gateway")

_TITLES = {
    400: "Invalid request",
    401: "Key missing or invalid",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Request too slow",
    409: "Conflict",
    411: "Length required",
    413: "Request too large",
    415: "Unsupported media type",
    422: "Invalid request",
    429: "Too many requests",
    500: "Internal error",
    501: "Not available on this gateway",
    502: "Bad answer from a model server",
    503: "Unavailable",
    504: "Deadline exceeded",
}

_SENTENCES: Mapping[type[MienError], tuple[int, str]] = {
    UnavailableError: (503, "No model server can answer at the moment: try again later"),
    ClientClosedError: (503, "The gateway is stopping: try again on another one"),
    DeadlineExceededError: (504, "The model servers did not answer in time"),
    BadRequestError: (502, "The model server refused what the gateway asked: their versions do not match"),
    AccessDeniedError: (502, "The model server does not accept the gateway's credentials"),
    ServerError: (502, "The model server failed while it answered"),
    UnexpectedResponseError: (502, "The answer of the model server is not one of Mien's models"),
}
"""What callers are told. The exceptions' own texts name addresses, which are not for them; they are logged."""


class Problem(Exception):
    """The end of a request without an answer.

    Args:
        status: The HTTP status.
        detail: One sentence for people.
        kind: The last part of the problem's ``type``: the name of an exception of the client where there is one.
        retryable: Whether the same request may succeed a moment later.
        headers: More headers of the response.
        facts: More members of the document, such as ``model`` and ``version``.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str = "BadRequestError",
        *,
        retryable: bool = False,
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})
        if retryable:
            self.headers.setdefault("retry-after", "1")
        self.document: dict[str, Any] = {
            "type": f"urn:mien:problem:{kind}",
            "title": _TITLES.get(status, "Error"),
            "status": status,
            "detail": detail,
            "retryable": retryable,
            **{name: fact for name, fact in facts.items() if fact is not None},
        }

    def response(self) -> Response:
        """Return the response."""
        return Response(json_bytes(self.document), self.status, self.headers, MEDIA_TYPE)


def problem(error: MienError) -> Problem:
    """Return what a caller is told of an error of the client. What a caller is not told is logged."""
    kind = type(error).__name__
    facts: dict[str, Any] = {"model": error.model, "version": error.version, "label": error.label}
    if isinstance(error, (InvalidImageError, PictureError, ConfigurationError)):
        return Problem(422, str(error), kind)
    if isinstance(error, VersionNotFoundError):
        which = f"version {error.version}" if error.version is not None else f"version with the label {error.label!r}"
        return Problem(404, f"The model {error.model!r} has no loaded {which}", kind, **facts)
    if isinstance(error, ModelNotFoundError):
        return Problem(404, f"The model {error.model!r} is not served", kind, **facts)
    status, sentence = _SENTENCES.get(type(error), (502, "The model server gave no usable answer"))
    _log.warning("%s: %s", kind, error)
    return Problem(status, sentence, kind, retryable=error.retryable, **facts)


def too_large(detail: str) -> Problem:
    """Return the problem of a request that exceeds a limit."""
    return Problem(413, detail, "TooLargeError")


def unavailable(detail: str) -> Problem:
    """Return the problem of a gateway that is full or cannot work now."""
    return Problem(503, detail, UnavailableError.__name__, retryable=True)
