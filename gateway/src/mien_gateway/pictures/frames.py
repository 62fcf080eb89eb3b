"""What a gateway and its workers say to each other: a JSON object, and bytes that belong to it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

_LENGTHS: Final = struct.Struct("!II")
_LONGEST_HEADER: Final = 2**20


def packed(header: Mapping[str, Any], content: bytes) -> bytes:
    """Return what comes before the content of a frame."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(content)) + text


def write_frame(stream: BinaryIO, header: Mapping[str, Any], content: bytes = b"") -> None:
    """Write a frame."""
    stream.write(packed(header, content))
    stream.write(content)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Return the next frame, or None at the end of the stream."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header, content = _LENGTHS.unpack(lengths)
    return json.loads(stream.read(header)), stream.read(content)


async def receive_frame(stream: asyncio.StreamReader, longest: int) -> tuple[dict[str, Any], bytes]:
    """Return the next frame from a worker.

    Args:
        stream: The worker's output.
        longest: Maximum size of the content in bytes.

    Raises:
        ValueError: It is not a valid frame.
        asyncio.IncompleteReadError: The worker has ended.
    """
    header, content = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    if header > _LONGEST_HEADER or content > longest:
        raise ValueError("the frame is too large")
    found = json.loads(await stream.readexactly(header))
    if not isinstance(found, dict):
        raise ValueError("the header is not an object")
    return found, await stream.readexactly(content)
