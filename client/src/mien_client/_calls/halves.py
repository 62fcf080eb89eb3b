"""The two halves of a call, one for each model: their requests, their answers, and the merged result."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._exceptions import MienError, UnexpectedResponseError, VersionNotFoundError
from mien_client.contract import EMOTIONS, KEYPOINTS, KEYPOINTS_OUTPUT, OTHER_OUTPUT, PROBABILITIES_OUTPUT
from mien_client.transports.base import Answer, Target

CHUNK_FACES = 256
"""Faces in one request. As base64 they stay under 1 MiB, the body size that proxies commonly accept."""

CHUNKS_IN_FLIGHT = 2
"""Requests to one model at the same time: one that it works on and one that waits. A server on two cores accepts
eight requests by default."""

_MISSING_SECONDS = 1.0
"""Seconds in which a label that a model lacks is not asked for again."""

_MAX_RESTARTS = 5
_SHAPES = {PROBABILITIES_OUTPUT: (len(EMOTIONS),), KEYPOINTS_OUTPUT: (len(KEYPOINTS), 2)}


class MissingLabels:
    """Remember for a moment which labels models lack, so that not every call asks for them. Any thread may use it."""

    def __init__(self) -> None:
        self._until: dict[Target, float] = {}

    def note(self, target: Target) -> None:
        """Note that a model lacks the label of ``target``."""
        self._until[target] = time.monotonic() + _MISSING_SECONDS

    def without(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Return ``targets`` without those whose label was missing a moment ago; the last one always stays."""
        now = time.monotonic()
        return [*(target for target in targets[:-1] if self._until.get(target, now) <= now), targets[-1]]


@dataclass(eq=False)
class Request:
    """One request to one model: the faces of one chunk. ``attempts`` counts how often it was sent."""

    half: Half
    target: Target
    output: str
    faces: slice
    start: int
    attempts: int = 0

    @property
    def size(self) -> int:
        """The number of faces."""
        return int(self.faces.stop - self.faces.start)


class Half:
    """One model's half of a call.

    All its answers come from one version. The version that answers the first chunk is asked by number for the rest. If
    it is unloaded before it has answered them all, the half starts again with the version that serves then.

    Args:
        targets: What to ask for, in order of preference: if a model lacks the label of a target, the next one is asked.
        output: The output to ask for.
        faces: The number of faces.
        missing: Remembers the labels that were missing.
    """

    def __init__(self, targets: Sequence[Target], output: str, faces: int, missing: MissingLabels) -> None:
        self.target, *self._others = missing.without(targets)
        self._missing = missing
        self.error: MienError | None = None
        self._output = output
        self._chunks = [slice(start, min(start + CHUNK_FACES, faces)) for start in range(0, faces, CHUNK_FACES)]
        self._restarts = 0
        self._in_flight = 0
        self.begun = False
        """Whether a request was sent for the present target."""
        self._start()

    def _start(self) -> None:
        self._pinned = self.target
        self._waiting = deque(self._chunks)
        self._sent = 0
        self._refused: dict[int, tuple[int, MienError]] = {}
        self._answers: dict[int, Answer] = {}

    @property
    def version(self) -> int:
        """The version that answered; to be read once there is an answer."""
        assert self._pinned.version is not None
        return self._pinned.version

    @property
    def values(self) -> NDArray[np.float32]:
        """The answers to all requests, in the order of the faces."""
        return np.concatenate([self._answers[chunk.start].values for chunk in self._chunks])

    @property
    def other(self) -> NDArray[np.float32] | None:
        """The output ``other`` of all requests, in the order of the faces; None if the version lacks it."""
        parts = [other for chunk in self._chunks if (other := self._answers[chunk.start].other) is not None]
        return np.concatenate(parts) if len(parts) == len(self._chunks) else None

    def has_next(self) -> bool:
        """Return whether there is a request to send now. If not, there may be one after the next answer."""
        settled = self._sent == 0 or self._pinned.version is not None
        return not self.error and settled and bool(self._waiting) and self._in_flight < CHUNKS_IN_FLIGHT

    @property
    def next_faces(self) -> int:
        """Number of faces in the request to send now."""
        return int(self._waiting[0].stop - self._waiting[0].start)

    def next_request(self, most: int = CHUNK_FACES) -> Request:
        """Return the request to send now, with at most ``most`` faces; the rest of its chunk comes next."""
        chunk = self._waiting.popleft()
        attempts, error = self._refused.pop(chunk.start, (0, None))
        if chunk.stop - chunk.start > most:
            first, rest = slice(chunk.start, chunk.start + most), slice(chunk.start + most, chunk.stop)
            place = self._chunks.index(chunk)
            self._chunks[place : place + 1] = [first, rest]
            self._waiting.appendleft(rest)
            if error is not None:
                self._refused[rest.start] = attempts, error
            chunk = first
        self.begun = True
        self._sent += 1
        self._in_flight += 1
        return Request(self, self._pinned, self._output, chunk, self._restarts, attempts)

    def refused(self, request: Request, error: MienError) -> None:
        """Take back a request that found a server full, to be sent again, perhaps in smaller pieces."""
        self._in_flight -= 1
        if self.wants(request):
            self._sent -= 1
            self._waiting.appendleft(request.faces)
            self._refused[request.faces.start] = request.attempts, error

    def give_up(self, late: MienError) -> None:
        """End the half if it has something to send: with the refusal of that, or with ``late`` if it was never sent."""
        if not self.error and self._waiting:
            attempts, self.error = max(self._refused.values(), default=(0, late), key=itemgetter(0))
            self.error.attempts = attempts

    def wants(self, request: Request) -> bool:
        """Return whether an answer to ``request`` is of use: the half has neither started again since, nor failed."""
        return request.start == self._restarts and not self.error

    def check(self, request: Request, answer: Answer, endpoint: str) -> UnexpectedResponseError | None:
        """Return what is wrong with the answer of the server at ``endpoint`` to one of the requests, or None."""
        problem = self._problem(request, answer)
        if problem is None:
            return None
        return UnexpectedResponseError(
            f"the answer of {request.target} at {endpoint} {problem}",
            endpoint=endpoint,
            model=self.target.model,
            version=answer.version,
            label=self.target.label,
        )

    def answered(self, request: Request, answer: Answer) -> None:
        """Take an answer, in which `check` finds nothing wrong, to one of the requests."""
        self._in_flight -= 1
        if not self.wants(request):
            return
        self._sent -= 1
        self._pinned = self.target.pinned(answer.version)
        self._answers[request.faces.start] = answer

    def failed(self, request: Request, error: MienError) -> None:
        """Take the failure of one of the requests."""
        self._in_flight -= 1
        if not self.wants(request):
            return
        self._sent -= 1
        not_served = isinstance(error, VersionNotFoundError)
        if not_served and error.version is not None and self.target.version is None and self._restarts < _MAX_RESTARTS:
            self._restart()
        elif not_served and error.version is None and self._others:
            self._missing.note(self.target)
            self.target, *self._others = self._others
            self._restart()
        else:
            self.error = error

    def _restart(self) -> None:
        self._restarts += 1
        self.begun = False
        self._start()

    def _problem(self, request: Request, answer: Answer) -> str | None:
        """Return what is wrong with an answer, as a clause, or None."""
        if request.target.version not in (None, answer.version):
            return f"comes from version {answer.version}"
        shape = (request.faces.stop - request.faces.start, *_SHAPES[self._output])
        values = answer.values
        if values.shape != shape:
            return f"has an output {self._output!r} of shape {values.shape}, not {shape}"
        if not np.isfinite(values).all():
            return f"has an output {self._output!r} with NaN or infinite values"
        if self._output == PROBABILITIES_OUTPUT and (values.min() < 0 or np.abs(values.sum(axis=1) - 1).max() > 0.01):
            return f"has an output {self._output!r} whose rows are not between 0 and 1 with the sum 1"
        other = answer.other
        if other is not None and other.shape != shape[:1]:
            return f"has an output {OTHER_OUTPUT!r} of shape {other.shape}, not {shape[:1]}"
        if other is not None and not ((other >= 0) & (other <= 1)).all():
            return f"has an output {OTHER_OUTPUT!r} that is not between 0 and 1"
        return None


def merge(halves: Sequence[Half], *, partial: bool = False) -> Analysis:
    """Return the result of a call whose emotion half and key point half have both ended.

    Args:
        halves: The halves.
        partial: Whether one of them is enough.

    Raises:
        MienError: One of the halves failed and both are needed, or both failed. The second error is a note on the
            first.
    """
    errors = {half.target.model: half.error for half in halves if half.error}
    if errors and (not partial or len(errors) == len(halves)):
        first, *others = errors.values()
        for other in others:
            first.add_note(f"and: {other}")
        raise first
    emotion, keypoint = (half.error or half.values for half in halves)
    versions = {half.target.model: half.version for half in halves if not half.error}
    return Analysis(emotion, keypoint, versions, errors, None if halves[0].error else halves[0].other)


def nothing() -> Analysis:
    """Return the result of a call without images, for which nothing is sent."""
    probabilities, keypoints = np.empty((0, len(EMOTIONS)), np.float32), np.empty((0, len(KEYPOINTS), 2), np.float32)
    return Analysis(probabilities, keypoints, versions={}, other=np.empty(0, np.float32))
