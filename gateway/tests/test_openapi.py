"""The OpenAPI document: complete enough for tools that know nothing but it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mien_gateway.keys import new_key

HERE = Path(__file__).parent


def test_every_path_and_every_status_is_documented(gateway):
    document = gateway.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/v1/analyze",
        "/v1/models",
        "/v1/live",
        "/v1/journal",
        "/v1/rollout/shift",
        "/v1/rollout/promote",
        "/v1/rollout/rollback",
        "/v1/rollout/abort",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["operationId"]
            assert operation["description"], path
            for status, response in operation["responses"].items():
                [kind] = response["content"]
                assert kind == ("application/problem+json" if int(status) >= 400 else kind)


def test_every_reference_leads_somewhere(gateway):
    document = gateway.get("/openapi.json").json()
    text = json.dumps(document)
    names = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in names


def test_keys_are_in_the_document_where_they_are_asked_for(start_gateway, model_server, tmp_path):
    _, line = new_key("shop")
    (tmp_path / "keys").write_text(line, encoding="utf-8")
    gateway = start_gateway("--server", model_server.grpc_address, f"--api_keys={tmp_path / 'keys'}", wait=False)
    paths = gateway.get("/openapi.json").json()["paths"]
    assert paths["/v1/analyze"]["post"]["security"] == [{"key": []}, {"header": []}]
    assert "security" not in paths["/healthz"]["get"]


@pytest.mark.slow
def test_requests_that_a_tool_makes_up_from_the_document_meet_no_surprise(
    start_gateway, model_server, published, root, tmp_path
):
    """Schemathesis asks for what the document allows, and for what it does not: no 5xx, and nothing undocumented.

    It has an operator's key, but what it asks for changes nothing: no version has a label.
    """
    key, line = new_key("ada")
    (tmp_path / "operators").write_text(line, encoding="utf-8")
    config = shutil.copy(root / "models.config", tmp_path)
    repository = shutil.copytree(published, tmp_path / "models")
    places = [f"--config={config}", f"--repository={repository}", f"--operator_keys={tmp_path / 'operators'}"]
    gateway = start_gateway("--server", model_server.grpc_address, *places)
    # A caller's own timeout of a millisecond ends with 504, as it should.
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"query.timeout" = 30\n', encoding="utf-8")
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,unsupported_method"
    )
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{gateway.url}/openapi.json"]
    command += [f"--checks={checks}", "--phases=examples,coverage,fuzzing", "--max-examples=25", "--seed=1"]
    command += [f"--header=Authorization: Bearer {key}", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, encoding="utf-8", timeout=280)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr


@pytest.mark.slow
def test_a_generated_typescript_client_works(gateway, root, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    for path in (HERE / "typescript").iterdir():
        shutil.copy(path, tmp_path)

    def run(*command):
        environment = os.environ | {"MIEN_GATEWAY": gateway.url, "MIEN_PICTURE": str(root / "examples/astronaut.jpg")}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=250
        )

    installed = run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
    if installed.returncode:
        pytest.skip(f"npm cannot install the generator here: {installed.stderr.strip().splitlines()[-1:]}")
    for command in (
        ("npx", "openapi-typescript", f"{gateway.url}/openapi.json", "--output", "gateway.ts"),
        ("npx", "tsc", "--project", "."),
        ("node", "main.js"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["Happy of 1 face", "VersionNotFoundError is final", "2 crops"]
