"""``POST /v1/analyze``: pictures or crops in, the merged answer of both models out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from mien_gateway import bodies, documents
from mien_gateway.gateway import Caller, caller, gateway_of
from mien_gateway.options import Options, options, parameters
from mien_gateway.responses import json_response, refusals

router = APIRouter()

_BINARY = {"type": "string", "format": "binary"}

_BODY: dict[str, Any] = {
    "required": True,
    "description": "One picture as it is, several in a form or as base64, or ready crops: 48×48 pixels of one byte "
    "each, 0 black to 255 white, row by row, one crop after the other",
    "content": {
        **{kind: {"schema": _BINARY} for kind in bodies.FORMATS},
        bodies.FORM: {
            "schema": {
                "type": "object",
                "required": ["picture"],
                "properties": {"picture": {"type": "array", "items": _BINARY, "minItems": 1}},
                "additionalProperties": False,
            }
        },
        bodies.JSON: {"schema": {"$ref": "#/components/schemas/Pictures"}},
        bodies.CROPS: {"schema": _BINARY},
    },
}


@router.post(
    "/v1/analyze",
    operation_id="analyze",
    tags=["analysis"],
    summary="Find the faces in pictures, and read them",
    response_model=documents.Analysis,
    responses=refusals(400, 401, 404, 408, 413, 415, 422, 502, 503, 504),
    openapi_extra={"parameters": parameters(), "requestBody": _BODY},
)
async def analyze(
    request: Request, caller: Annotated[Caller, Depends(caller)], options: Annotated[Options, Depends(options)]
) -> Response:
    """Find the faces in pictures, and have both models read each of them.

    Every face has its place, emotion and key points in pixels of its own picture. The answer names the versions of the
    models. Sending a request again is safe: it changes nothing.
    """
    gateway = gateway_of(request)
    limits = gateway.settings.limits
    async with gateway.buffers.body(request) as body:
        if bodies.media_type(request.headers) == bodies.CROPS:
            document = await gateway.analyzer.crops(bodies.crops(body, limits), options)
        else:
            files = await bodies.files(body, request.headers, limits)
            document = await gateway.analyzer.pictures(files, options, caller.name)
    request.state.faces = len(document["faces"])
    return json_response(document)
