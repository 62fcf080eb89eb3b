"""Spans and counters, for programs that have loaded OpenTelemetry or Prometheus."""

import subprocess
import sys

import pytest
from mien_client import ServerError


@pytest.fixture
def spans(finished_spans):
    """Return a function that returns the finished spans by name."""
    return lambda: {name: [span for span in finished_spans() if span.name == name] for name in NAMES}


NAMES = ("mien.analyze", "mien.predict", "backend")


def test_a_span_for_the_call_and_one_for_each_request(client, backend, failure, spans):
    from opentelemetry import trace

    backend.adopt()
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full")]
    with trace.get_tracer("test").start_as_current_span("backend"):
        client.analyze(backend.faces(3))
    [call], requests, [parent] = spans().values()
    assert call.parent.span_id == parent.context.span_id
    assert dict(call.attributes) == {"mien.faces": 3}
    assert all(request.parent.span_id == call.context.span_id for request in requests)
    recorded = sorted((r.attributes["mien.model"], r.attributes["mien.attempt"], r.status.is_ok) for r in requests)
    assert recorded == [("emotion", 1, False), ("emotion", 2, True), ("keypoints", 1, True)]
    assert {r.attributes["server.address"] for r in requests} == {client._replicas.endpoint}
    assert {r.attributes.get("mien.version") for r in requests} == {1, None}


def test_a_call_that_fails_says_why(client, backend, failure, spans):
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    with pytest.raises(ServerError):
        client.analyze(backend.faces(1))
    [call] = spans()["mien.analyze"]
    assert call.status.description == "ServerError"
    assert not call.status.is_ok


def test_the_spans_of_a_stream_are_children_of_its_callers_span(client, backend, spans):
    from opentelemetry import trace

    with trace.get_tracer("test").start_as_current_span("backend"):
        assert len(list(client.analyze_iter(backend.faces(4), batch_size=2))) == 4
    calls, _, [parent] = spans().values()
    assert [call.parent.span_id for call in calls] == [parent.context.span_id] * 2


def test_counters(client, backend, failure):
    prometheus = pytest.importorskip("prometheus_client")

    def read(name, **labels):
        return prometheus.REGISTRY.get_sample_value(f"mien_client_{name}_total", labels or None) or 0

    def readings():
        return [
            read("calls", outcome="ok"),
            read("calls", outcome="ServerError"),
            read("faces"),
            read("requests", model="emotion", outcome="UnavailableError"),
            read("requests", model="emotion", outcome="ok"),
            read("requests", model="keypoints", outcome="ok"),
        ]

    before = readings()
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full")]
    client.analyze(backend.faces(5))
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    with pytest.raises(ServerError):
        client.analyze(backend.faces(2))
    assert [after - was for after, was in zip(readings(), before, strict=True)] == [1, 1, 5, 1, 1, 2]


def test_the_client_loads_neither_opentelemetry_nor_prometheus(grpc_address):
    code = """
import sys, numpy
from mien_client import Client
with Client(sys.argv[1]) as client: client.analyze(numpy.zeros((1, 48, 48), "uint8"))
assert not {"opentelemetry", "prometheus_client"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, grpc_address], check=True)
