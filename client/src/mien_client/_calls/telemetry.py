"""Spans for OpenTelemetry and counters for Prometheus, for programs that have loaded these packages."""

from __future__ import annotations

import sys
import threading
from typing import Any

from mien_client._exceptions import MienError
from mien_client._forks import renew_in_children


class _Counters:
    """The counters in Prometheus' registry, by name."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`."""
        self._lock = threading.Lock()

    def get(self, prometheus: Any, name: str, labels: list[str]) -> Any:
        """Return a counter. It is made and registered when it is first needed."""
        with self._lock:
            if name not in self._made:
                self._made[name] = prometheus.Counter(f"mien_client_{name}", _COUNTED[name], labels)
            return self._made[name]


_COUNTED = {
    "calls": "Calls to analyze",
    "faces": "Faces in calls that were answered",
    "requests": "Requests that were sent",
}
_counters = _Counters()


class Telemetry:
    """Spans and counters of one call and of its requests.

    A span ``mien.analyze`` for the call, below whatever span is current, and below that one ``mien.predict`` for each
    time a request is sent. Counters ``mien_client_calls_total`` (by outcome), ``mien_client_faces_total`` and
    ``mien_client_requests_total`` (by model and outcome), where an outcome is ``ok``, the name of an error's class, or
    ``abandoned`` for a request whose answer was no longer needed.

    Args:
        faces: The number of faces in the call.
    """

    def __init__(self, faces: int) -> None:
        self._faces = faces
        self._trace: Any = sys.modules.get("opentelemetry.trace")
        self._call: Any = None
        self._requests: dict[object, tuple[Any, str]] = {}
        if self._trace:
            self._tracer = self._trace.get_tracer("mien_client")
            self._call = self._tracer.start_span("mien.analyze", attributes={"mien.faces": faces})

    def sent(self, attempt: object, model: str, endpoint: str, number: int) -> None:
        """Report that a request was sent; ``number`` counts its attempts from 1."""
        span = None
        if self._call:
            span = self._tracer.start_span(
                "mien.predict",
                context=self._trace.set_span_in_context(self._call),
                attributes={"mien.model": model, "server.address": endpoint, "mien.attempt": number},
            )
        self._requests[attempt] = span, model

    def ended(self, attempt: object, error: MienError | None, version: int | None = None) -> None:
        """Report how a request ended, and which version answered."""
        span, model = self._requests.pop(attempt)
        if span and version is not None:
            span.set_attribute("mien.version", version)
        self._end(span, error)
        _count("requests", model=model, outcome=_outcome(error))

    def finish(self, error: BaseException | None) -> None:
        """Report how the call ended."""
        for span, model in self._requests.values():
            if span:
                span.set_attribute("mien.abandoned", True)
                span.end()
            _count("requests", model=model, outcome="abandoned")
        self._requests.clear()
        self._end(self._call, error)
        _count("calls", outcome=_outcome(error))
        if error is None:
            _count("faces", self._faces)

    def _end(self, span: Any, error: BaseException | None) -> None:
        if span:
            if error is not None:
                span.record_exception(error)
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, type(error).__name__))
            span.end()


def _outcome(error: BaseException | None) -> str:
    return "ok" if error is None else type(error).__name__


def _count(name: str, amount: int = 1, **labels: str) -> None:
    prometheus: Any = sys.modules.get("prometheus_client")
    if prometheus is None:
        return
    counter = _counters.get(prometheus, name, list(labels))
    (counter.labels(**labels) if labels else counter).inc(amount)
