"""What operators and their tools ask: versions, the last minute, the journal, health and metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from mien_gateway import documents
from mien_gateway.gateway import caller, gateway_of
from mien_gateway.journal import latest
from mien_gateway.problems import Problem, unavailable
from mien_gateway.responses import json_response, refusals

router = APIRouter()
keyed = APIRouter(dependencies=[Depends(caller)])


def _json(document: Any) -> Response:
    return json_response(document, {"cache-control": "no-store"})


@keyed.get(
    "/v1/models",
    operation_id="models",
    tags=["operations"],
    summary="List the models, their versions, and the servers that have them",
    response_model=documents.Models,
    responses=refusals(401),
)
async def models(request: Request) -> Response:
    """List the models with their versions, labels and manifests, the traffic split, and the servers."""
    return _json(await gateway_of(request).backend.models())


@keyed.get(
    "/v1/live",
    operation_id="live",
    tags=["operations"],
    summary="Tell how each version has answered in the last minute",
    response_model=documents.Live,
    responses=refusals(401),
)
async def live(request: Request) -> Response:
    """Tell rate, errors and latency of each version in the last minute, as this gateway has seen them."""
    return _json(gateway_of(request).measures.last_minute.document())


@keyed.get(
    "/v1/journal",
    operation_id="journal",
    tags=["operations"],
    summary="List the latest changes of what is served",
    response_model=documents.Journal,
    responses=refusals(401, 422, 501),
)
async def journal(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """List the latest entries of the journal of `mien rollout`, the newest first."""
    repository = gateway_of(request).settings.repository
    if repository is None:
        raise Problem(
            501, "This gateway does not know the journal: start it with --repository DIR", "NotAvailableError"
        )
    return _json({"entries": await asyncio.to_thread(latest, repository, limit)})


@router.get("/healthz", operation_id="health", tags=["health"], response_model=documents.Health)
async def health() -> Response:
    """Tell that the gateway answers, whatever the model servers do."""
    return _json({"status": "ok"})


@router.get("/readyz", operation_id="ready", tags=["health"], response_model=documents.Health, responses=refusals(503))
async def ready(request: Request) -> Response:
    """Tell whether both models answer, and pictures can be read."""
    gateway = gateway_of(request)
    if not gateway.pool.ready.is_set():
        raise unavailable("No worker for pictures has started yet")
    if not await gateway.backend.is_ready():
        raise unavailable("The models do not answer")
    return _json({"status": "ready"})


@router.get(
    "/metrics",
    operation_id="metrics",
    tags=["health"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics"}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics, as Prometheus reads them."""
    gateway = gateway_of(request)
    page = gateway.measures.page(gateway.backend.canary_percent())
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")
