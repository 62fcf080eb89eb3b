"""Spans, for deployments with OpenTelemetry; and what an application that is embedded elsewhere does."""

import asyncio
import json

import pytest
from mien_gateway import Settings, create_app

TRACE, PARENT = "1" * 32, "2" * 16


@pytest.fixture
def spans(finished_spans):
    """Return a function that returns the finished spans by name."""
    return lambda: {span.name: span for span in finished_spans()}


def asked(address, body, **headers):
    """Ask an application in this process, as an ASGI server does; return status and document."""
    app = create_app(Settings(servers=[address], workers=1))
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/analyze",
        "raw_path": b"/v1/analyze",
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
    }

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    async def ask():
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(ask())
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def test_the_spans_of_a_request_are_below_that_of_its_caller(spans, model_server, faces):
    status, document = asked(
        model_server.grpc_address,
        faces.tobytes(),
        content_type="application/octet-stream",
        traceparent=f"00-{TRACE}-{PARENT}-01",
    )
    assert status == 200
    assert len(document["faces"]) == len(faces)
    request, call = spans()["POST /v1/analyze"], spans()["mien.analyze"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.attributes["http.response.status_code"] == 200
    assert call.parent.span_id == request.context.span_id


def test_a_failure_of_the_gateway_itself_is_a_problem_without_its_details(model_server, faces, monkeypatch, caplog):
    async def fail(*_, **__):
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr("mien_gateway.answers.Analyzer.crops", fail)
    status, document = asked(model_server.grpc_address, faces.tobytes(), content_type="application/octet-stream")
    assert status == 500
    assert document["type"] == "urn:mien:problem:ServerError"
    assert "secret" not in json.dumps(document)
    assert "a secret detail" in caplog.text
