"""The answers: JSON documents, and what the OpenAPI document lists besides the usual one."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from mien_gateway.documents import Problem
from mien_gateway.encoding import json_bytes
from mien_gateway.problems import MEDIA_TYPE

_DESCRIPTIONS = {
    400: "The request is malformed",
    401: "The key is missing or not valid",
    403: "The key is not an operator's",
    404: "The model, version, label or file does not exist",
    408: "The body did not arrive in time",
    409: "The change is not possible now",
    413: "The body, a picture, or the number of pictures or faces exceeds a limit",
    415: "The content type is not accepted, or is not that of the content",
    422: "The pictures or the options are invalid",
    501: "This gateway is not configured for that",
    502: "A model server gave no usable answer",
    503: "No model server can answer, or the gateway is full: try again after a moment",
    504: "There was no answer in time: try again after a moment",
}


def json_response(document: Any, headers: dict[str, str] | None = None) -> Response:
    """Return the answer that is a document."""
    return Response(json_bytes(document), media_type="application/json", headers=headers)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses with problems, for the OpenAPI document."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}},
        }
        for status in statuses
    }
