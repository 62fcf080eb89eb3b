"""What the gateway counts: metrics for Prometheus, and the last minute for people."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mien_client import MienError
from mien_client.contract import CANARY_LABEL, STABLE_LABEL
from mien_client.transports import Answer, Deadline, Pending, Request, Transport, VersionStatus
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48)


class Measures:
    """The metrics of one gateway. Any thread may use them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.last_minute = LastMinute()
        self._versions: dict[tuple[str, str | None], int] = {}
        self._models = Histogram(
            "mien_gateway_model_seconds",
            "Requests to a model server, by the version that answered and the label that was asked for",
            ["model", "version", "label", "outcome"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = Histogram(
            "mien_gateway_request_seconds",
            "Requests to the gateway",
            ["method", "path", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("mien_gateway_requests_in_flight", "Requests at the moment", registry=self.registry)
        self.faces = Counter("mien_gateway_faces", "Faces that were analysed", registry=self.registry)
        self.pictures = Counter("mien_gateway_pictures", "Pictures that were read", ["outcome"], registry=self.registry)
        self.detection = Histogram(
            "mien_gateway_detection_seconds",
            "Decoding a picture and finding its faces",
            ["size"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("mien_gateway_pictures_waiting", "Pictures that wait for a worker", registry=self.registry)
        self.workers_killed = Counter(
            "mien_gateway_workers_killed", "Workers that were killed, or died", ["reason"], registry=self.registry
        )
        self.frames = Counter("mien_gateway_frames", "Frames of streams", ["outcome"], registry=self.registry)
        self._canary = Gauge(
            "mien_gateway_canary_percent", "The canary's share of the calls", ["model"], registry=self.registry
        )

    def model_answered(self, request: Request, seconds: float, answer: Answer | MienError) -> None:
        """Count a request to a model server."""
        target = request.target
        known = (target.model, target.label)
        if isinstance(answer, MienError):
            outcome = type(answer).__name__
            # A number that is not served is the caller's own: it is not a version.
            named = None if outcome == "VersionNotFoundError" else target.version
            version = named if named is not None else self._versions.get(known)
        else:
            outcome, version = "ok", answer.version
            self._versions[known] = version
        label = target.label if target.label in (STABLE_LABEL, CANARY_LABEL) else ""
        self._models.labels(target.model, "" if version is None else version, label, outcome).observe(seconds)
        if version is not None and outcome != "VersionNotFoundError":
            self.last_minute.add(target.model, version, seconds, ok=outcome == "ok")

    def page(self, canary_percent: Mapping[str, float]) -> bytes:
        """Return all metrics as Prometheus reads them: the gateway's, the client's and the process's.

        Args:
            canary_percent: The canary's share of the calls to each model at the moment.
        """
        for model, percent in canary_percent.items():
            self._canary.labels(model).set(percent)
        return generate_latest(self.registry) + generate_latest(REGISTRY)


class MeasuredTransport(Transport):
    """Measure the requests that another transport carries.

    Args:
        transport: The other transport.
        report: Called with each request, its seconds, and its answer or error.
    """

    def __init__(self, transport: Transport, report: Callable[[Request, float, Answer | MienError], None]) -> None:
        self.endpoint = transport.endpoint
        self._transport = transport
        self._report = report

    def predict(self, request: Request) -> Pending[Answer]:
        """See `Transport.predict`."""
        return _Measured(self._transport.predict(request), request, self._report)

    def status(self, model: str, deadline: Deadline) -> Pending[tuple[VersionStatus, ...]]:
        """See `Transport.status`."""
        return self._transport.status(model, deadline)

    def close(self) -> None:
        """See `Transport.close`."""
        self._transport.close()


class _Measured:
    """A request that was sent. The client reads the result of each that ends once; it is reported then."""

    def __init__(
        self, pending: Pending[Answer], request: Request, report: Callable[[Request, float, Answer | MienError], None]
    ) -> None:
        self._pending = pending
        self._request = request
        self._report = report
        self._started = time.perf_counter()
        self._seconds = math.nan

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        def ended(argument: Any) -> None:
            self._seconds = time.perf_counter() - self._started
            callback(argument)

        self._pending.add_done_callback(ended)

    def result(self) -> Answer:
        try:
            answer = self._pending.result()
        except MienError as error:
            self._report(self._request, self._seconds, error)
            raise
        self._report(self._request, self._seconds, answer)
        return answer

    def cancel(self) -> object:
        return self._pending.cancel()


_BINS_PER_DOUBLING: Final = 4
_FIRST_BIN_S: Final = 1e-4
_BINS: Final = 80  # up to 100 s
_SPAN_S: Final = 60


class LastMinute:
    """Rate, errors and latency of each version in the last minute, in a memory that does not grow with the requests.

    Each second has a histogram, whose bins are 19 % wide. Latencies are read from the middle of a bin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: dict[tuple[str, int], dict[int, list[int]]] = {}

    def add(self, model: str, version: int, seconds: float, *, ok: bool) -> None:
        """Count a request. Only answers have a latency."""
        now = int(self._clock())
        recent = self._seconds.setdefault((model, version), {})
        if now not in recent:
            for old in [second for second in recent if second <= now - _SPAN_S]:
                del recent[old]
            recent[now] = [0] * (_BINS + 1)
        place = _BINS
        if ok:
            doublings = math.log2(max(seconds, _FIRST_BIN_S) / _FIRST_BIN_S)
            place = min(_BINS - 1, int(doublings * _BINS_PER_DOUBLING))
        recent[now][place] += 1

    def document(self) -> dict[str, Any]:
        """Return a document of `documents.Live`."""
        oldest = int(self._clock()) - _SPAN_S
        versions = []
        for (model, version), recent in sorted(self._seconds.items()):
            rows = [counts for second, counts in list(recent.items()) if second > oldest]
            *answers, errors = (sum(column) for column in zip(*rows, strict=True)) if rows else [0] * (_BINS + 1)
            if not (total := sum(answers) + errors):
                continue
            versions.append(
                {
                    "model": model,
                    "version": version,
                    "requests_per_second": round(total / _SPAN_S, 3),
                    "error_share": round(errors / total, 6),
                    "p50_ms": _quantile_ms(answers, 0.5),
                    "p99_ms": _quantile_ms(answers, 0.99),
                }
            )
        return {"versions": versions}


def _quantile_ms(counts: list[int], share: float) -> float | None:
    """Return the latency below which a share of the answers lies, in milliseconds."""
    rank, seen = share * sum(counts), 0
    for place, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            return round(_FIRST_BIN_S * 2 ** ((place + 0.5) / _BINS_PER_DOUBLING) * 1000, 2)
    return None
