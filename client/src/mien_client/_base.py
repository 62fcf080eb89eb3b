"""What the clients share: everything that does no I/O."""

from __future__ import annotations

import hashlib
import logging
import math
import numbers
import operator
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._calls import Call
from mien_client._exceptions import ClientClosedError, ConfigurationError, MienError, UnavailableError
from mien_client._images import as_images
from mien_client._latencies import Latencies
from mien_client._merging import Half, MissingLabels, merge, nothing
from mien_client._pacing import Pacer
from mien_client._replicas import PROBE_TIMEOUT, Replicas, T
from mien_client._retries import MAX_ATTEMPTS, Retries
from mien_client._telemetry import Telemetry
from mien_client.contract import (
    CANARY_LABEL,
    EMOTION_MODEL,
    IMAGE_SIZE,
    KEYPOINT_MODEL,
    KEYPOINTS_OUTPUT,
    PROBABILITIES_OUTPUT,
    STABLE_LABEL,
)
from mien_client.security import Security, security
from mien_client.transports import Deadline, Target, VersionStatus

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call may take."""

_LONGEST_TIMEOUT = 1e8
"""Seconds, three years. The system's clocks do not count as far as some numbers that people say for never."""

BATCHES_IN_FLIGHT = 4
"""Of `Client.analyze_iter`. With a request to each model they are eight, which a server on two cores accepts."""

_log = logging.getLogger("mien_client")

LATEST = "latest"
"""In the place of a label: the newest version that is loaded, whatever labels say."""

PROBE_FACES = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

POLL_SECONDS = 0.1
"""Between two looks at a server that is not ready."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """One call to ``analyze``: its faces, uint8 [N, 48, 48], and what is to be done about them."""

    faces: NDArray[np.uint8]
    halves: Sequence[Half]
    call: Call[T]
    partial: bool
    telemetry: Telemetry
    started_at: float

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.call.close()
        self.telemetry.finish(error)

    def result(self) -> Analysis:
        """Returns the result once the call has ended, or raises its error."""
        if not len(self.faces):
            return nothing()
        milliseconds = (time.monotonic() - self.started_at) * 1000
        try:
            analysis = merge(self.halves, partial=self.partial)
        except MienError as error:
            _log.debug("no answer for %d faces after %.1f ms: %s", len(self.faces), milliseconds, error)
            raise
        _log.debug("%r in %.1f ms", analysis, milliseconds)
        return analysis


class BaseClient(Generic[T]):
    """What `Client` and `AsyncClient` are made with, and how they prepare a call."""

    _open_transport: Callable[[str, Security], T]

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_attempts: int = MAX_ATTEMPTS,
        emotion_model: str = EMOTION_MODEL,
        keypoint_model: str = KEYPOINT_MODEL,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        canary: float = 0.0,
        hedge: float | None = None,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._canary = _checked_share(canary)
        self._hedge = _checked_hedge(hedge)
        self._latencies = Latencies()
        self._timeout = checked_timeout(timeout)
        if emotion_model == keypoint_model:
            raise ConfigurationError(f"{emotion_model!r} is said to be both models: each has a name of its own")
        self._targets = (_target(emotion_model, emotion_version), _target(keypoint_model, keypoint_version))
        self._missing_labels = MissingLabels()
        self._retries = Retries(checked_count("number of attempts", max_attempts))
        self._pacer = Pacer()
        secured = security(tls, ca_file, cert_file, key_file, token, api_key)
        self._replicas = Replicas([self._open_transport(one, secured) for one in _addresses(address)])
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._replicas.endpoint}{' (closed)' if self._closed else ''}>"

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("This client is closed: make a new one", endpoint=self._replicas.endpoint)

    def _job(
        self,
        images: Any,
        *,
        emotion_version: int | str | None,
        keypoint_version: int | str | None,
        timeout: float | None,
        key: str | bytes | int | None,
        partial: bool,
    ) -> Job[T]:
        self._check_open()
        faces = as_images(images)
        deadline = Deadline(self._timeout if timeout is None else checked_timeout(timeout))
        on_canary = canary_side(self._canary, key)
        outputs, versions = (PROBABILITIES_OUTPUT, KEYPOINTS_OUTPUT), (emotion_version, keypoint_version)
        halves = []
        for usual, version, output in zip(self._targets, versions, outputs, strict=True):
            targets = preferences(usual if version is None else _target(usual.model, version))
            if version is None and on_canary:
                targets = [Target(usual.model, label=CANARY_LABEL), *targets]
            halves.append(Half(targets, output, len(faces), self._missing_labels))
        telemetry = Telemetry(len(faces))
        call = Call(
            halves,
            self._replicas,
            deadline,
            self._retries,
            self._pacer,
            self._latencies,
            telemetry,
            partial=partial,
            hedge=self._hedge,
        )
        return Job(faces, halves, call, partial, telemetry, time.monotonic())

    def _probing_halves(self) -> list[Half]:
        """Return a call about one black face: what a server that was down must answer before it is asked again."""
        outputs = (PROBABILITIES_OUTPUT, KEYPOINTS_OUTPUT)
        usual = (preferences(Target(target.model, label=STABLE_LABEL)) for target in self._targets)
        return [Half(targets, output, 1, MissingLabels()) for targets, output in zip(usual, outputs, strict=True)]

    def _look(self, deadline: Deadline) -> Deadline:
        """Returns when a server must have said whether it is ready; one of several must not hold up the others."""
        longest = PROBE_TIMEOUT if len(self._replicas) > 1 else self._timeout
        return Deadline(max(POLL_SECONDS, min(longest, deadline.remaining())))

    def _not_ready(self, missing: dict[str, Target], timeout: float) -> UnavailableError:
        """Returns the error for a server that is not ready in time; ``missing``: why, and which model lacks."""
        target = next(iter(missing.values()))
        return UnavailableError(
            f"{self._replicas.endpoint} is not ready after {timeout:g} s: {'; '.join(missing)}",
            endpoint=self._replicas.endpoint,
            model=target.model,
            version=target.version,
            label=target.label,
        )


def canary_side(share: float, key: str | bytes | int | None) -> bool:
    """Returns whether a call is one of the ``share`` (0 to 1) that goes to the canary.

    Which, is up to chance; but calls with the same ``key`` all go there or none of them does, with any client and in
    any process. A greater share takes further keys there, and none away.
    """
    if key is None:
        return random.random() < share  # noqa: S311
    if not isinstance(key, (str, bytes, int)):
        raise ConfigurationError(f"{key!r} is no key of a caller: say a text, bytes or a whole number")
    text = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) < share * 2**64


def _checked_share(share: float) -> float:
    if not (isinstance(share, numbers.Real) and 0 <= share <= 1):
        raise ConfigurationError(f"{share!r} is no share of calls for the canary: say a number from 0 to 1")
    return share


def _checked_hedge(share: float | None) -> float | None:
    if share is not None and not (isinstance(share, numbers.Real) and 0.5 <= share < 1):
        raise ConfigurationError(f"{share!r} is no share of answers to wait for: say a number from 0.5 to 1, as 0.95")
    return share


def checked_count(name: str, count: int) -> int:
    """Returns ``count`` if it is a whole number above 0."""
    if not isinstance(count, numbers.Integral) or count < 1:
        raise ConfigurationError(f"{count!r} is no {name}: say a whole number above 0")
    return int(count)


def states(target: Target, versions: Sequence[VersionStatus]) -> str:
    """Returns the states of a model's versions, none of which is the one that ``target`` names, as a clause."""
    told = (f"version {v.version} is {v.state}{v.error and f' ({v.error})'}" for v in versions)
    return f"{target}: {', '.join(told)}"


def _addresses(address: str | Sequence[str]) -> Sequence[str]:
    if isinstance(address, (list, tuple)):
        if not address:
            raise ConfigurationError("there is no address in the list: say at least one, such as 'localhost:8500'")
        return address
    return [address]  # type: ignore[list-item]  # Whatever else it is, opening it says what is wrong.


def preferences(target: Target) -> list[Target]:
    """Return what to ask for, in order: a model without the label ``stable`` is asked for its newest version."""
    return [target, Target(target.model)] if target.label == STABLE_LABEL else [target]


def _target(model: str, version: int | str | None) -> Target:
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"{model!r} is no model's name")
    if version is None:
        return Target(model, label=STABLE_LABEL)
    if isinstance(version, str) and version == LATEST:
        return Target(model)
    if isinstance(version, str) and version:
        return Target(model, label=version)
    try:
        number = operator.index(version)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise ConfigurationError(f"{version!r} is no version of a model: say a number, or a label such as 'stable'")
    return Target(model, version=number)


def checked_timeout(timeout: float) -> float:
    """Returns ``timeout`` if it is a number of seconds that can be meant."""
    if not (isinstance(timeout, numbers.Real) and 0 < timeout < math.inf):
        raise ConfigurationError(f"{timeout!r} is no timeout: say a number of seconds above 0")
    return min(float(timeout), _LONGEST_TIMEOUT)
