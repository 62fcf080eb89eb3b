"""The settings of a gateway."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MEBI: Final = 2**20


def default_workers() -> int:
    """Return the number of processes that read pictures: as many as processors, but at least two."""
    return max(2, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for. What exceeds a limit is refused.

    Attributes:
        request_bytes: Maximum size of a request's body, and of a frame of a stream.
        buffered_bytes: Maximum size of all bodies that are in memory at the same time.
        pixels: Maximum number of pixels of a picture, checked before it is decoded.
        pictures: Maximum number of pictures in a request.
        faces: Maximum number of faces in a request.
        requests: Maximum number of requests at the same time, streams included.
        timeout_s: Default and maximum number of seconds for an analysis.
        picture_s: Maximum number of seconds of a processor for decoding a picture and finding its faces. By the clock
            it may take three times as long.
    """

    request_bytes: int = 32 * MEBI
    buffered_bytes: int = 256 * MEBI
    pixels: int = 64 * MEBI
    pictures: int = 16
    faces: int = 1024
    requests: int = 256
    timeout_s: float = 30.0
    picture_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a gateway is run.

    Attributes:
        servers: Addresses of the model servers, as `mien_client.Client` takes them.
        workers: Number of processes that decode pictures and find faces.
        limits: What a request may ask for.
        api_keys: A file of callers' keys; without it, anybody may call.
        operator_keys: A file of operators' keys; without it, nobody may change what is served.
        cors_origins: Origins whose web pages may call.
        config: The file ``models.config`` of `mien rollout`; ``split.json`` is next to it.
        repository: The model repository; the journal is next to it.
    """

    servers: Sequence[str]
    workers: int = field(default_factory=default_workers)
    limits: Limits = field(default_factory=Limits)
    api_keys: Path | None = None
    operator_keys: Path | None = None
    cors_origins: Sequence[str] = ()
    config: Path | None = None
    repository: Path | None = None
