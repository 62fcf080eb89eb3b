"""The options of an analysis, the same for requests and for streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Query
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL

from mien_gateway.problems import Problem

_LONGEST_VERSION = 18
"""Digits of a version number that surely fits into 64 bits."""

Version = Annotated[
    str | None,
    Query(
        max_length=100,
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="A version number, a label, or `latest`. By default the stable version answers, and the canary its "
        "share of the calls",
    ),
]


@dataclass(frozen=True)
class Options:
    """What a caller asks for.

    Attributes:
        detect: ``auto`` takes a picture of 48×48 pixels as a face, and searches larger ones; ``always`` searches every
            picture; ``never`` takes every picture as one face.
        key: Whom the call is for.
        partial: Whether one model's answer is enough.
        timeout: Seconds; None for the gateway's own limit.
        versions: The version number or label of each model; None leaves it to the traffic split.
    """

    detect: str
    key: str | None
    partial: bool
    timeout: float | None
    versions: dict[str, int | str | None]


async def options(
    detect: Annotated[
        Literal["auto", "always", "never"],
        Query(
            description="`auto`: a picture of 48×48 pixels is one face, and in others faces are searched for. "
            "`always`: search in every picture. `never`: every picture is one upright face"
        ),
    ] = "auto",
    key: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=256,
            description="Whom the call is for, such as a customer's number: calls with the same key are all answered "
            "by the canary, or none is",
        ),
    ] = None,
    partial: Annotated[bool, Query(description="Answer even if one of the models does not")] = False,
    timeout: Annotated[
        float | None,
        Query(ge=0.001, le=86400, description="Seconds that the analysis may take, at most the gateway's own limit"),
    ] = None,
    emotion: Version = None,
    keypoints: Version = None,
) -> Options:
    """Return the options in a query; FastAPI calls this."""
    versions = {EMOTION_MODEL: _version(emotion), KEYPOINT_MODEL: _version(keypoints)}
    return Options(detect, key, partial, timeout, versions)


def _version(text: str | None) -> int | str | None:
    if text is None or not text.isdecimal():
        return text
    if len(text) > _LONGEST_VERSION:
        raise Problem(
            422, f"Expected a version number of at most {_LONGEST_VERSION} digits, got {text}", "ConfigurationError"
        )
    return int(text)
