"""What `Client` and `AsyncClient` share: everything except waiting."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._calls.call import Call
from mien_client._calls.flow import Flow, Wake, complete
from mien_client._calls.halves import Half, MissingLabels, merge, nothing
from mien_client._calls.health import Health
from mien_client._calls.latencies import Latencies
from mien_client._calls.pacing import Pacer
from mien_client._calls.replicas import Replicas
from mien_client._calls.retries import MAX_ATTEMPTS, Retries
from mien_client._calls.targets import checked_target, preferences
from mien_client._calls.telemetry import Telemetry
from mien_client._exceptions import ClientClosedError, ConfigurationError, MienError
from mien_client._images import as_images
from mien_client._options import checked_count, checked_hedge, checked_timeout
from mien_client._shares import open_shares
from mien_client.contract import CANARY_LABEL, EMOTION_MODEL, KEYPOINT_MODEL, KEYPOINTS_OUTPUT, PROBABILITIES_OUTPUT
from mien_client.security import Security, security
from mien_client.split import asks_canary, caller_place
from mien_client.transports.base import Deadline, Target, Transport
from mien_client.transports.opening import open_transport

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call may take."""

READY_TIMEOUT = 60.0
"""Seconds that `Client.wait_ready` waits."""

_log = logging.getLogger("mien_client")


@dataclass(frozen=True)
class Job:
    """One call to ``analyze``: its faces, uint8 [N, 48, 48], and what is to be done about them."""

    faces: NDArray[np.uint8]
    halves: Sequence[Half]
    call: Call
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

    def flow(self, wake: Wake) -> Flow[Analysis]:
        """Get the answers to all requests of the call, and merge them."""
        yield from complete(self.call, self.faces, wake)
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


class BaseClient:
    """How the clients are made, and how they prepare a call."""

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_attempts: int = MAX_ATTEMPTS,
        emotion_model: str = EMOTION_MODEL,
        keypoint_model: str = KEYPOINT_MODEL,
        emotion_version: int | str | None = None,
        keypoint_version: int | str | None = None,
        canary: float | str = 0.0,
        split: str | os.PathLike[str] | None = None,
        hedge: float | None = None,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        api_key: str | None = None,
        transport: Transport | Sequence[Transport] | None = None,
    ) -> None:
        connection = (tls, ca_file, cert_file, key_file, token, api_key)
        self._shares = open_shares(canary, split, partial(security, *connection))
        self._hedge = checked_hedge(hedge)
        self._latencies = Latencies()
        self._timeout = checked_timeout(timeout)
        if emotion_model == keypoint_model:
            raise ConfigurationError(f"Expected two different models, got {emotion_model!r} for both")
        self._targets = (
            checked_target(emotion_model, emotion_version),
            checked_target(keypoint_model, keypoint_version),
        )
        self._missing_labels = MissingLabels()
        self._retries = Retries(checked_count("max_attempts", max_attempts))
        self._pacer = Pacer()
        if transport is None:
            transports = _open_all(address, security(*connection))
        else:
            if address is not None or any(option is not None for option in connection):
                raise ConfigurationError(
                    "Expected either an address or a transport, got both: address, tls, ca_file, cert_file, key_file, "
                    "token and api_key do not go with transport"
                )
            transports = _checked_transports(transport)
        self._replicas = Replicas(transports)
        self._health = Health(self._replicas, self._retries, self._targets)
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._replicas.endpoint}{' (closed)' if self._closed else ''}>"

    def canary_share(self, model: str) -> float:
        """Return the share of calls, 0 to 1, that ask for a model's canary now.

        Args:
            model: The model's served name.
        """
        return self._shares.share(model)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("This client is closed: make a new one", endpoint=self._replicas.endpoint)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._retries.close()
            self._shares.close()
            for transport in self._replicas.transports:
                transport.close()

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else checked_timeout(timeout))

    def _job(
        self,
        images: NDArray[np.uint8],
        *,
        emotion_version: int | str | None,
        keypoint_version: int | str | None,
        deadline: Deadline,
        key: str | bytes | int | None,
        partial: bool,
    ) -> Job:
        self._check_open()
        faces = as_images(images)
        place = caller_place(key)
        outputs, versions = (PROBABILITIES_OUTPUT, KEYPOINTS_OUTPUT), (emotion_version, keypoint_version)
        halves = []
        for usual, version, output in zip(self._targets, versions, outputs, strict=True):
            targets = preferences(usual if version is None else checked_target(usual.model, version))
            if version is None and asks_canary(place, self._shares.share(usual.model)):
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


def _open_all(address: str | Sequence[str] | None, secured: Security) -> list[Transport]:
    if address is None:
        raise ConfigurationError("Expected an address such as 'localhost:8500', or a transport, got neither")
    if isinstance(address, (list, tuple)):
        if not address:
            raise ConfigurationError("Expected at least one address such as 'localhost:8500', got an empty list")
        return [open_transport(one, secured) for one in address]
    return [open_transport(address, secured)]  # type: ignore[arg-type]  # Opening anything else says what is wrong.


def _checked_transports(transport: Transport | Sequence[Transport]) -> list[Transport]:
    transports = [transport] if isinstance(transport, Transport) else list(transport)
    if not transports:
        raise ConfigurationError("Expected at least one transport, got an empty list")
    for one in transports:
        if not isinstance(one, Transport):
            raise ConfigurationError(f"Expected a Transport, got {type(one).__name__}")
    return transports
