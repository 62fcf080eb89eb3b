"""Ask stable and canary about the same faces."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from mien_client import MienError
from mien_client.contract import (
    CANARY_LABEL,
    EMOTION_MODEL,
    EMOTIONS,
    KEYPOINTS,
    KEYPOINTS_OUTPUT,
    PROBABILITIES_OUTPUT,
    STABLE_LABEL,
)
from mien_client.transports import Target
from numpy.typing import NDArray

from mien_serving.rollout.comparison.faces import Faces
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.fleet.server import FleetError, Server
from mien_serving.rollout.progress import Progress

WARM_UP: Final = 5
"""Requests for each label that are sent to a server first and not counted."""

_GIVE_UP: Final = 6
"""Consecutive failures after which a server is asked no more: each may have taken the whole timeout."""


@dataclass
class Side:
    """What the version of one label answered.

    Attributes:
        label: ``stable`` or ``canary``.
        version: The version that the label names.
        answers: float32 [N, 5] or [N, 15, 2]; NaN for faces without an answer.
        seconds: float64 [N], the duration of each request.
        errors: Why requests failed.
    """

    label: str
    version: int
    answers: NDArray[np.float32]
    seconds: NDArray[np.float64]
    errors: list[str] = field(default_factory=list)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which faces have an answer: bool [N]."""
        missing: NDArray[np.int64] = np.isnan(self.answers).sum(axis=tuple(range(1, self.answers.ndim)))
        return np.asarray(missing == 0)


def ask(
    servers: Sequence[Server],
    model: str,
    labels: Mapping[str, int],
    faces: Faces,
    timeout: float,
    progress: Progress,
) -> tuple[Side, Side]:
    """Ask both labels about every face: one request per face and label, both at the same server, taking turns.

    Each server has one request at a time, so that the durations are those of the model and not of a queue.

    Args:
        servers: The servers, which share the faces.
        model: The model.
        labels: The version that each label names.
        faces: The faces.
        timeout: Seconds for each request.
        progress: Receives how many faces have been asked about.

    Returns:
        What stable and canary answered.

    Raises:
        RolloutError: A label names another version on a server.
    """
    count = len(faces.images)
    shape = (count, len(EMOTIONS)) if model == EMOTION_MODEL else (count, len(KEYPOINTS), 2)
    sides = tuple(
        Side(label, labels[label], np.full(shape, np.nan, np.float32), np.full(count, np.nan))
        for label in (STABLE_LABEL, CANARY_LABEL)
    )

    done = itertools.count(1)

    def ask_server(position: int) -> None:
        server, failures = servers[position], 0
        for _ in range(WARM_UP):
            for side in sides:
                _request(server, model, side, faces.images[:1], -1, timeout)
        for index in range(position, count, len(servers)):
            order = sides if index % (2 * len(servers)) < len(servers) else sides[::-1]
            for side in order:
                there = _request(server, model, side, faces.images[index : index + 1], index, timeout)
                failures = 0 if there else failures + 1
            progress.count(next(done), count)
            if failures >= _GIVE_UP:
                return

    with ThreadPoolExecutor(min(len(servers), 16)) as pool:
        list(pool.map(ask_server, range(len(servers))))
    return sides[0], sides[1]


def _request(server: Server, model: str, side: Side, images: NDArray[np.uint8], index: int, timeout: float) -> bool:
    """Ask one label about one face; return whether it answered. The answer for face -1 is discarded."""
    output = PROBABILITIES_OUTPUT if model == EMOTION_MODEL else KEYPOINTS_OUTPUT
    started = time.perf_counter()
    try:
        answer = server.predict(Target(model, label=side.label), images, output, timeout)
        seconds = time.perf_counter() - started
        if answer.version != side.version:
            raise RolloutError(
                f"Label {side.label} names version {answer.version} on {server.address}, expected {side.version}; run "
                f"`mien rollout apply {model}`"
            )
        if index >= 0 and answer.values.shape == (1, *side.answers.shape[1:]):
            side.answers[index], side.seconds[index] = answer.values[0], seconds
        elif index >= 0:
            side.errors.append(f"version {side.version} answers with the shape {answer.values.shape}")
    except (FleetError, MienError) as error:
        if index >= 0:
            side.errors.append(f"{server.address} {error}" if isinstance(error, FleetError) else str(error))
        return False
    return True
