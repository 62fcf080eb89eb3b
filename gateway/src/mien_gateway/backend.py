"""The model servers, as the gateway asks them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from mien_client import (
    Analysis,
    AsyncClient,
    MienError,
    ModelNotFoundError,
    VersionNotFoundError,
    VersionStatus,
)
from mien_client.contract import (
    CANARY_LABEL,
    EMOTION_MODEL,
    IMAGE_SIZE,
    KEYPOINT_MODEL,
    KEYPOINTS_OUTPUT,
    MANIFEST,
    MODEL_CARD,
    PROBABILITIES_OUTPUT,
    STABLE_LABEL,
)
from mien_client.reading import parse_json, read_file
from mien_client.security import security
from mien_client.split import SPLIT_FILE
from mien_client.transports import Answer, Deadline, Pending, Request, Target, Transport
from mien_client.transports.opening import open_transport
from numpy.typing import NDArray

from mien_gateway.measures import MeasuredTransport, Measures
from mien_gateway.settings import Settings

MODELS: Final = (EMOTION_MODEL, KEYPOINT_MODEL)

_FRESH_S: Final = 2.0
"""Seconds for which what is known about the servers is not asked again."""

_READY_S: Final = 1.0
"""The same for whether they are ready."""

_LOOK_S: Final = 2.0
"""Seconds that a server may take to say what it has."""

_STATES: Final = ("END", "UNLOADING", "START", "LOADING", "AVAILABLE")

R = TypeVar("R")


@dataclass(frozen=True)
class _Call:
    """The present call: its images, and what each model was asked for when it first answered."""

    images: NDArray[np.uint8]
    answered: dict[str, Target] = field(default_factory=dict)


_call: ContextVar[_Call] = ContextVar("call")

_BLACK_FACE: Final = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)


@dataclass(frozen=True)
class Asked:
    """What both models answered, and by which label each was asked; None if it was asked otherwise."""

    analysis: Analysis
    labels: dict[str, str | None]

    @property
    def keypoints(self) -> NDArray[np.float32] | None:
        """float32 [N, 15, 2], in pixels of the 48×48 images; None if the model did not answer."""
        return None if KEYPOINT_MODEL in self.analysis.errors else self.analysis.keypoints


class Backend:
    """Ask the model servers, with the share of calls for the canary that operators have set.

    Args:
        settings: The gateway's settings.
        measures: Receives how each request ended.
    """

    def __init__(self, settings: Settings, measures: Measures) -> None:
        self._settings = settings
        connection = security()
        self._transports = {address: open_transport(address, connection) for address in settings.servers}

        def report(request: Request, seconds: float, answer: Answer | MienError) -> None:
            call = _call.get(None)
            if call is None or not np.may_share_memory(request.images, call.images):
                return  # The client asks whether the server is ready.
            measures.model_answered(request, seconds, answer)
            if isinstance(answer, Answer):
                call.answered.setdefault(request.model, request.target)
                self._answered[request.model] = time.monotonic()

        self._client = AsyncClient(
            transport=[MeasuredTransport(transport, report) for transport in self._transports.values()],
            timeout=settings.limits.timeout_s,
            canary="auto" if settings.config else 0.0,
            split=settings.config.with_name(SPLIT_FILE) if settings.config else None,
        )
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self._look: asyncio.Task[None] | None = None
        self._document: dict[str, Any] = {}
        self._ready = (-math.inf, False)
        self._answered = dict.fromkeys(MODELS, -math.inf)

    async def close(self) -> None:
        """Close the connections."""
        if self._look is not None:
            self._look.cancel()
        await self._client.close()

    async def analyze(
        self,
        images: NDArray[np.uint8],
        *,
        versions: Mapping[str, int | str | None],
        key: str | None,
        timeout: float,
        partial: bool,
    ) -> Asked:
        """Ask both models about faces.

        Args:
            images: uint8 [N, 48, 48].
            versions: The version or label of each model that the caller asks for; None leaves it to the split.
            key: Whom the call is for; of calls with the same key, all ask for the canary or none does.
            timeout: Seconds.
            partial: Whether one model's answer is enough.

        Raises:
            MienError: As `AsyncClient.analyze`.
        """
        call = _Call(images)
        _call.set(call)
        analysis = await self._client.analyze(
            images,
            emotion_version=versions[EMOTION_MODEL],
            keypoint_version=versions[KEYPOINT_MODEL],
            timeout=timeout,
            partial=partial,
            key=key,
        )
        return Asked(analysis, {model: getattr(call.answered.get(model), "label", None) for model in MODELS})

    async def is_ready(self) -> bool:
        """Return whether a server has answered for both models within the last second."""
        async with self._looking:
            if time.monotonic() - min(self._answered.values()) < _READY_S:
                return True  # Callers got answers; servers that are busy with these need not answer more.
            at, ready = self._ready
            if time.monotonic() - at >= _READY_S:
                try:
                    await self._client.wait_ready(timeout=_LOOK_S)
                    ready = True
                except MienError:
                    ready = False
                self._ready = (time.monotonic(), ready)
            return ready

    async def models(self) -> dict[str, Any]:
        """Return a document of `documents.Models`. What it says of the servers is a few seconds old at most."""
        if time.monotonic() - self._looked_at >= _FRESH_S:
            self._looked_at = time.monotonic()
            self._look = asyncio.create_task(self._look_at_servers())
        if not self._document and self._look is not None:
            await asyncio.shield(self._look)
        for model, percent in self.canary_percent().items():
            self._document["models"][model]["canary_percent"] = percent
        return self._document

    def canary_percent(self) -> dict[str, float]:
        """Return the canary's share of the calls to each model, 0 to 100."""
        return {model: round(100 * self._client.canary_share(model), 6) for model in MODELS}

    async def _look_at_servers(self) -> None:
        addresses = list(self._transports)
        statuses = await asyncio.gather(*(_status(transport) for transport in self._transports.values()))
        wanted = [(model, label) for model in MODELS for label in (STABLE_LABEL, CANARY_LABEL)]
        labelled = dict(zip(wanted, await asyncio.gather(*(self._version(*one) for one in wanted)), strict=True))
        servers = [
            {
                "address": address,
                "ready": all(any(one.state == "AVAILABLE" for one in status.get(model, ())) for model in MODELS),
                "models": {
                    model: [{"version": one.version, "state": one.state, "error": one.error} for one in known]
                    for model, known in status.items()
                },
            }
            for address, status in zip(addresses, statuses, strict=True)
        ]
        models = {}
        for model in MODELS:
            states: dict[int, str] = {}
            for status in statuses:
                for one in status.get(model, ()):
                    states[one.version] = max(states.get(one.version, "END"), one.state, key=_rank)
            models[model] = {
                "versions": [
                    {
                        "version": version,
                        "state": states[version],
                        "labels": [
                            label for label in (STABLE_LABEL, CANARY_LABEL) if labelled[model, label] == version
                        ],
                        **await asyncio.to_thread(_described, self._settings.repository, model, version),
                    }
                    for version in sorted(states, reverse=True)
                ],
            }
        self._document = {"models": models, "servers": servers}

    async def _version(self, model: str, label: str) -> int | None:
        """Return the version that a label names, or None."""
        output = PROBABILITIES_OUTPUT if model == EMOTION_MODEL else KEYPOINTS_OUTPUT
        for transport in self._transports.values():
            try:
                request = Request(Target(model, label=label), _BLACK_FACE, output, Deadline(_LOOK_S))
                return (await _ended(transport.predict(request))).version
            except VersionNotFoundError:
                return None
            except MienError:
                continue
        return None


def _rank(state: str) -> int:
    return _STATES.index(state) if state in _STATES else 0


async def _status(transport: Transport) -> dict[str, tuple[VersionStatus, ...]]:
    """Return the states of all versions on a server; nothing if it does not answer."""
    found: dict[str, tuple[VersionStatus, ...]] = {}
    for model in MODELS:
        try:
            found[model] = await _ended(transport.status(model, Deadline(_LOOK_S)))
        except ModelNotFoundError:
            found[model] = ()
        except MienError:
            return {}
    return found


async def _ended(pending: Pending[R]) -> R:
    """Return the answer to what was sent."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    pending.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
    return pending.result()


def _described(repository: Path | None, model: str, version: int) -> dict[str, Any]:
    """Return a version's ``manifest``, without the checksums, and its ``card``; None if they are not known."""
    found: dict[str, Any] = {"manifest": None, "card": None}
    if repository is None:
        return found
    folder = repository / model / str(version)
    with contextlib.suppress(OSError, ValueError):
        document = parse_json(read_file(folder / MANIFEST))
        if isinstance(document, dict):
            found["manifest"] = {name: fact for name, fact in document.items() if name != "sha256"}
    with contextlib.suppress(OSError, ValueError):
        found["card"] = read_file(folder / MODEL_CARD).decode()
    return found
