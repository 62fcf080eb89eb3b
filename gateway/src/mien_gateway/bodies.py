"""The bodies of requests: read within limits, and taken apart."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from mien_client.contract import IMAGE_SIZE
from mien_client.reading import parse_json
from numpy.typing import NDArray
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mien_gateway.problems import Problem, too_large, unavailable
from mien_gateway.settings import MEBI, Limits

FACE_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE

FORMATS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/gif": "GIF",
}
"""Pillow's name of each kind of picture that is accepted."""

CROPS: Final = "application/octet-stream"
JSON: Final = "application/json"
FORM: Final = "multipart/form-data"

_STALLED_S: Final = 20.0
"""Seconds in which a body must go on."""

_DRAINED_S: Final = 5.0
"""Seconds for which the rest of a body that is refused is read, since a client that still sends sees no answer."""

_ONE_BY_ONE: Final = MEBI
"""JSON of at least this size is parsed in a thread."""


@dataclass(frozen=True)
class File:
    """A picture's file, and the format that it must have, by Pillow's name; None for any that is accepted."""

    content: bytes
    format: str | None = None


class Buffers:
    """The memory for the bodies of all requests.

    Args:
        limits: The limits on bodies.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._used = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body of a request; its memory is counted for the time of the block.

        Raises:
            Problem: It is too large, is compressed, or does not arrive in time.
        """
        used = 0
        try:
            if request.headers.get("content-encoding", "identity") != "identity":
                raise Problem(
                    415, "Expected a body without Content-Encoding: send it uncompressed", "UnsupportedMediaTypeError"
                )
            chunks = []
            async for chunk in _chunks(request):
                if max(used + len(chunk), _announced(request)) > self._limits.request_bytes:
                    await _drain(request)
                    raise too_large(f"The body is larger than {self._limits.request_bytes:,} bytes")
                if not self.reserve(len(chunk)):
                    await _drain(request)
                    raise unavailable("The gateway has too many large requests at the moment: try again later")
                used += len(chunk)
                chunks.append(chunk)
            yield b"".join(chunks)
        finally:
            self.release(used)

    def reserve(self, size: int) -> bool:
        """Reserve memory for so many bytes; return False, and reserve nothing, if that would exceed the limit."""
        if self._used + size > self._limits.buffered_bytes:
            return False
        self._used += size
        return True

    def release(self, size: int) -> None:
        """Count bytes that are not kept any more."""
        self._used -= size


def _announced(request: Request) -> int:
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else 0


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(_STALLED_S):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Problem(
                408, f"No more of the body arrived for {_STALLED_S:g} s", "SlowRequestError", retryable=True
            ) from None
        except ClientDisconnect:
            raise Problem(400, "The body ended too early") from None
        if chunk is None:
            return
        yield chunk


async def _drain(request: Request) -> None:
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # The last: it has ended.
        async with asyncio.timeout(_DRAINED_S):
            async for _ in request.stream():
                pass


def media_type(headers: Headers) -> str:
    """Return the media type of a body, in lower case and without parameters."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp"}.get(kind, kind)


def crops(body: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the crops in a body, uint8 [N, 48, 48].

    Raises:
        Problem: The body does not hold whole crops, or too many.
    """
    count, rest = divmod(len(body), FACE_BYTES)
    if rest or not count:
        raise Problem(
            422,
            f"Expected crops of {IMAGE_SIZE}×{IMAGE_SIZE} pixels, {FACE_BYTES:,} bytes each, one after the other; got "
            f"{len(body):,} bytes",
            "InvalidImageError",
        )
    if count > limits.faces:
        raise too_large(f"Expected at most {limits.faces:,} crops, got {count:,}")
    return np.frombuffer(body, np.uint8).reshape(count, IMAGE_SIZE, IMAGE_SIZE)


async def files(body: bytes, headers: Headers, limits: Limits) -> list[File]:
    """Return the pictures in a body of any other kind.

    Raises:
        Problem: The body is not of a kind that is accepted, or is not as that kind demands, or has too many pictures.
    """
    kind = media_type(headers)
    if kind in FORMATS:
        found = [File(body, FORMATS[kind])]
    elif kind == FORM:
        found = await _from_form(body, headers, limits)
    elif kind == JSON:
        found = await asyncio.to_thread(_from_json, body) if len(body) >= _ONE_BY_ONE else _from_json(body)
    else:
        raise Problem(
            415,
            f"Expected the content type {', '.join(FORMATS)}, {FORM}, {JSON} or {CROPS}, got {kind[:100] or 'none'}",
            "UnsupportedMediaTypeError",
        )
    if len(found) > limits.pictures:
        raise too_large(f"Expected at most {limits.pictures} pictures, got {len(found)}")
    for number, file in enumerate(found):
        if not file.content:
            which = "the body" if len(found) == 1 else f"picture {number} (from 0)"
            raise Problem(422, f"Expected a picture, but {which} is empty", "PictureError")
    return found


def _from_json(body: bytes) -> list[File]:
    try:
        document = parse_json(body)
    except ValueError as error:
        raise Problem(400, f"The body is not valid JSON: {error}") from None
    images: Any = document.get("images") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise Problem(422, 'Expected {"images": ["…"]} with one base64 text or more, and nothing else')
    found = []
    for number, image in enumerate(images):
        try:
            found.append(File(base64.b64decode(image, validate=True)))
        except (binascii.Error, ValueError):
            raise Problem(422, f"Expected base64 in images[{number}], without a line break or a data: prefix") from None
    return found


class _InMemory(MultiPartParser):
    """A parser that never writes a part, which may show somebody's face, to a file."""

    spool_max_size = 2**62


async def _from_form(body: bytes, headers: Headers, limits: Limits) -> list[File]:
    async def stream() -> AsyncIterator[bytes]:
        for piece in _pieces(body):
            yield piece

    parser = _InMemory(headers, stream(), max_files=limits.pictures + 1, max_fields=1, max_part_size=MEBI)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it has no valid boundary"
        if "Too many files" in reason:
            raise too_large(f"Expected at most {limits.pictures} pictures, got more") from None
        raise Problem(400, f"The body is not a valid form: {reason}") from None
    found = []
    for name, part in form.multi_items():
        if not isinstance(part, UploadFile):
            raise Problem(422, f"Expected files only, got the field {name[:100]!r}: options belong into the query")
        kind = media_type(part.headers)
        if kind not in (*FORMATS, CROPS, ""):
            raise Problem(415, f"Expected pictures, got a file of type {kind[:100]}", "UnsupportedMediaTypeError")
        found.append(File(await part.read(), FORMATS.get(kind)))
    if not found:
        raise Problem(422, "Expected a form with at least one picture, got none")
    return found


def _pieces(body: bytes) -> Iterator[bytes]:
    yield from (body[start : start + MEBI] for start in range(0, len(body), MEBI))
