"""The public API of `mien_client`, for tests of its docstrings and of the page that documents it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import mien_client
from mien_client import pictures, split

CLASSES = (
    mien_client.Client,
    mien_client.AsyncClient,
    mien_client.Analysis,
    mien_client.Face,
    mien_client.PictureAnalysis,
    mien_client.PictureFace,
    mien_client.VersionStatus,
    mien_client.MockTransport,
    mien_client.Request,
    mien_client.Answer,
    mien_client.Transport,
    mien_client.MienError,
)
TRANSPORTS = (mien_client.MockTransport, mien_client.Request, mien_client.Transport)
"""Their members are explained by the example of the class."""
SPLIT = (split.Split, split.SplitFile, split.caller_place, split.asks_canary)
PICTURES = (pictures.read_picture, pictures.find_faces, pictures.Picture, pictures.FaceCrop)


def entries() -> dict[str, Any]:
    """Return every class, function and member whose docstring has an example, by name."""
    found: dict[str, Any] = {}
    for prefix, things in (("", CLASSES), ("split.", SPLIT), ("pictures.", PICTURES)):
        for thing in things:
            found[f"{prefix}{thing.__name__}"] = thing
            if isinstance(thing, type) and thing not in TRANSPORTS:
                found |= {f"{prefix}{thing.__name__}.{name}": member for name, member in _members(thing)}
    return found


def _members(cls: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member
