"""The thin client of Mien: faces in, emotions and key points out, from TensorFlow Serving, without TensorFlow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mien_client._exceptions import (
    AccessDeniedError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    DataError,
    DeadlineExceededError,
    InvalidImageError,
    MienError,
    ModelNotFoundError,
    NotServedError,
    PictureError,
    ServerError,
    UnavailableError,
    UnexpectedResponseError,
    VersionNotFoundError,
)
from mien_client._version import __version__
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS

if TYPE_CHECKING:
    from mien_client._analysis import Analysis
    from mien_client._async_client import AsyncClient
    from mien_client._client import Client
    from mien_client._face import Face
    from mien_client._picture_analysis import PictureAnalysis, PictureFace
    from mien_client.transports import Answer, MockTransport, Request, Transport, VersionStatus

__all__ = [
    "EMOTIONS",
    "IMAGE_SIZE",
    "KEYPOINTS",
    "AccessDeniedError",
    "Analysis",
    "Answer",
    "AsyncClient",
    "BadRequestError",
    "Client",
    "ClientClosedError",
    "ConfigurationError",
    "DataError",
    "DeadlineExceededError",
    "Face",
    "InvalidImageError",
    "MienError",
    "MockTransport",
    "ModelNotFoundError",
    "NotServedError",
    "PictureAnalysis",
    "PictureError",
    "PictureFace",
    "Request",
    "ServerError",
    "Transport",
    "UnavailableError",
    "UnexpectedResponseError",
    "VersionNotFoundError",
    "VersionStatus",
    "__version__",
]

# These need NumPy, whose import takes longer than everything else here. The verbs of `mien` that do not use arrays, and
# programs that need only the contract or the message classes, do not wait for it.
_WITH_NUMPY = {
    "Analysis": "mien_client._analysis",
    "Answer": "mien_client.transports",
    "AsyncClient": "mien_client._async_client",
    "Client": "mien_client._client",
    "Face": "mien_client._face",
    "MockTransport": "mien_client.transports",
    "PictureAnalysis": "mien_client._picture_analysis",
    "PictureFace": "mien_client._picture_analysis",
    "Request": "mien_client.transports",
    "Transport": "mien_client.transports",
    "VersionStatus": "mien_client.transports",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_NUMPY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_WITH_NUMPY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
