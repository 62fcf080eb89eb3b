"""What operators see: versions, the last minute, health, metrics, the journal."""

import json
import shutil

import pytest
from mien_gateway.measures import LastMinute

CROPS = "application/octet-stream"


def test_models_are_listed_with_their_versions_and_servers(gateway, model_server):
    document = gateway.get("/v1/models").json()
    assert document["servers"] == [
        {
            "address": model_server.grpc_address,
            "ready": True,
            "models": {
                model: [{"version": 1, "state": "AVAILABLE", "error": ""}] for model in ("emotion", "keypoints")
            },
        }
    ]
    for facts in document["models"].values():
        [version] = facts["versions"]
        assert version == {"version": 1, "state": "AVAILABLE", "labels": [], "manifest": None, "card": None}
        assert facts["canary_percent"] == 0


def test_a_server_that_is_gone_is_not_ready_and_the_others_answer(start_gateway, model_server, faces):
    gateway = start_gateway("--server", model_server.grpc_address, "127.0.0.1:1")
    document = gateway.get("/v1/models").json()
    assert [server["ready"] for server in document["servers"]] == [True, False]
    assert gateway.analyze(faces.tobytes(), CROPS).status_code == 200


@pytest.fixture(scope="module")
def repository(published, tmp_path_factory):
    """A repository that is not shared, since a journal is written beside it."""
    return shutil.copytree(published, tmp_path_factory.mktemp("repository") / "models")


@pytest.fixture(scope="module")
def journal(repository):
    path = repository.with_name("models.journal")
    entries = [{"time": f"2026-11-2{day}", "verb": "canary", "model": "emotion", "event": "done"} for day in range(5)]
    lines = [json.dumps(entry) for entry in entries]
    path.write_text("\n".join([*lines[:2], "cut sho", "[1]", *lines[2:]]) + "\n", encoding="utf-8")
    yield entries
    path.unlink()


@pytest.fixture(scope="module")
def informed(start_gateway, model_server, repository):
    return start_gateway("--server", model_server.grpc_address, "--repository", repository)


class TestRepository:
    def test_manifests_and_cards_come_from_the_repository(self, informed):
        for model, facts in informed.get("/v1/models").json()["models"].items():
            [version] = facts["versions"]
            assert "metrics" in version["manifest"]
            assert "sha256" not in version["manifest"], model

    def test_without_a_journal_it_is_empty(self, informed):
        assert informed.get("/v1/journal").json() == {"entries": []}

    def test_the_journal_has_the_newest_entry_first(self, informed, journal):
        assert informed.get("/v1/journal").json() == {"entries": journal[::-1]}
        assert informed.get("/v1/journal?limit=2").json() == {"entries": journal[:2:-1]}

    def test_without_a_repository_there_is_none(self, gateway, is_problem):
        is_problem(gateway.get("/v1/journal"), 501, "NotAvailableError")


def test_health_and_readiness(gateway):
    assert gateway.get("/healthz").json() == {"status": "ok"}
    assert gateway.get("/readyz").json() == {"status": "ready"}


def test_metrics_count_by_model_version_and_outcome(start_gateway, model_server, faces, portrait):
    gateway = start_gateway("--server", model_server.grpc_address)
    gateway.analyze(faces.tobytes(), CROPS)
    gateway.analyze(portrait, "image/jpeg")
    gateway.analyze(faces.tobytes(), CROPS, emotion="99")
    gateway.analyze(b"hello", "image/jpeg")
    for model in ("emotion", "keypoints"):
        labels = f'model="{model}",outcome="ok",version="1"'
        found = [line for line in gateway.get("/metrics").text.splitlines() if f'model="{model}"' in line]
        assert any('outcome="ok"' in line and 'version="1"' in line and "seconds_count" in line for line in found), (
            labels
        )
    text = gateway.get("/metrics").text
    assert any('outcome="VersionNotFoundError"' in line and 'version=""' in line for line in text.splitlines())
    assert gateway.metric("mien_gateway_faces_total") == len(faces) + 1
    assert gateway.metric('mien_gateway_pictures_total{outcome="ok"}') == 1
    assert gateway.metric('mien_gateway_pictures_total{outcome="refused"}') == 1
    assert gateway.metric('mien_gateway_detection_seconds_count{size="usual"}') == 2
    assert gateway.metric("mien_gateway_pictures_waiting") == 0
    assert gateway.metric('mien_gateway_request_seconds_count{method="POST",path="/v1/analyze",status="404"}') == 1
    assert gateway.metric('mien_gateway_canary_percent{model="emotion"}') == 0
    assert gateway.metric("process_resident_memory_bytes") > 0
    [emotion, keypoints] = gateway.get("/v1/live").json()["versions"]
    assert (emotion["model"], emotion["version"], keypoints["model"]) == ("emotion", 1, "keypoints")
    assert emotion["error_share"] == 0
    assert 0 < emotion["p50_ms"] <= emotion["p99_ms"]


def test_the_last_minute_forgets_and_tells_quantiles():
    now = 1000.0
    minute = LastMinute(lambda: now)
    for number in range(100):
        minute.add("emotion", 1, 0.010 if number < 90 else 0.100, ok=True)
    for _ in range(25):
        minute.add("emotion", 1, 5.0, ok=False)
    minute.add("emotion", 2, 5.0, ok=False)
    first, second = minute.document()["versions"]
    assert first["requests_per_second"] == pytest.approx(125 / 60, abs=1e-3)
    assert first["error_share"] == 0.2
    assert first["p50_ms"] == pytest.approx(10, rel=0.1)
    assert first["p99_ms"] == pytest.approx(100, rel=0.1)
    assert (second["error_share"], second["p50_ms"], second["p99_ms"]) == (1, None, None)
    now += 59
    minute.add("emotion", 1, 0.010, ok=True)
    assert len(minute.document()["versions"]) == 2
    now += 1
    [left] = minute.document()["versions"]
    assert left["requests_per_second"] == pytest.approx(1 / 60, abs=1e-3)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models/emotion", "/docs/nothing.js"])
def test_unknown_paths_are_problems_too(gateway, is_problem, path):
    is_problem(gateway.get(path), 404, "NotFoundError")


@pytest.mark.parametrize("host", ["[", "[x]:y", "a b", ""])
def test_they_are_whatever_host_is_named(gateway, is_problem, host):
    is_problem(gateway.get("/nowhere", headers={"host": host}), 404, "NotFoundError")


def test_so_are_other_methods(gateway, is_problem):
    response = gateway.get("/v1/analyze")
    is_problem(response, 405, "MethodNotAllowedError")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/docs", "/samples", "/v1/models", "/openapi.json", "/metrics", "/nowhere"])
def test_answers_have_safe_headers(gateway, path):
    headers = gateway.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_the_documentation_loads_nothing_from_other_hosts(gateway):
    page = gateway.get("/docs").text
    assert "://" not in page
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert gateway.get(f"/docs/{name}").status_code == 200
