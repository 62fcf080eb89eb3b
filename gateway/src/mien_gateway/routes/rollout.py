"""``POST /v1/rollout/…``: operators change what is served, by the verbs of `mien rollout`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from mien_gateway import documents
from mien_gateway.gateway import Caller, gateway_of, operator
from mien_gateway.responses import json_response, refusals
from mien_gateway.verbs import run

router = APIRouter(prefix="/v1/rollout", tags=["rollout"])

_ROUTE: dict[str, Any] = {
    "response_model": documents.Outcome,
    "responses": refusals(400, 401, 403, 409, 422, 501),
}

Operator = Annotated[Caller, Depends(operator)]


async def _run(verb: str, request: Request, operator: Caller, change: documents.Change) -> Response:
    settings = gateway_of(request).settings
    outcome = await asyncio.to_thread(run, verb, settings, operator.name, change)
    return json_response(outcome)


@router.post("/shift", operation_id="shift", summary="Change the canary's share of the calls", **_ROUTE)
async def shift(request: Request, operator: Operator, change: documents.ShiftChange) -> Response:
    """Set the percentage of a model's calls that the canary answers. Every gateway follows within two seconds."""
    return await _run("shift", request, operator, change)


@router.post("/promote", operation_id="promote", summary="Make the canary stable", **_ROUTE)
async def promote(request: Request, operator: Operator, change: documents.PromoteChange) -> Response:
    """Make the canary of a model the stable version, for all callers."""
    return await _run("promote", request, operator, change)


@router.post("/rollback", operation_id="rollback", summary="Make the previous version stable again", **_ROUTE)
async def rollback(request: Request, operator: Operator, change: documents.RollbackChange) -> Response:
    """Make the version of a model that was stable before stable again, and remove the canary."""
    return await _run("rollback", request, operator, change)


@router.post("/abort", operation_id="abort", summary="Remove the canary", **_ROUTE)
async def abort(request: Request, operator: Operator, change: documents.Change) -> Response:
    """Remove the canary of a model."""
    return await _run("abort", request, operator, change)
